"""What `scan` and `remat` do to a training step: the time that it takes to compile, and its temporary memory.

  python -m benchmarks.depth --out=benchmarks/results/depth.md

Nothing is run, only compiled, for this machine's CPU; the compile times are those of this machine.
"""

import argparse
import functools
import itertools
import pathlib
import time

import jax
import tqdm

from mixer import models
from mixer import optim
from mixer import train_step

VARIANTS = ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')
WAYS = {'unrolled': {}, 'scan': dict(scan=True), 'scan, remat': dict(scan=True, remat='block')}
BATCH, RESOLUTION, CLASSES = 8, 224, 1000


def compiled(variant: str, dtype: str, **way) -> tuple[float, float]:
  """(seconds to compile, MiB of temporary memory) of a step of train.py."""
  model = models.build(name='mlp_mixer', variant=variant, num_classes=CLASSES, dtype=dtype, **way)
  optimizer, learning_rate = optim.build(name='adamw', learning_rate=1e-3, schedule=dict(name='cosine'),
                                         total_steps=1000, weight_decay=0.1, clip_norm=1.)
  init = functools.partial(train_step.init, model, optimizer, (RESOLUTION, RESOLUTION, 3), 0)
  update = train_step.parallel(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0,
                               loss='softmax_xent')
  batch = {'image': jax.ShapeDtypeStruct((1, BATCH, RESOLUTION, RESOLUTION, 3), 'uint8'),
           'label': jax.ShapeDtypeStruct((1, BATCH), 'int32')}
  began = time.monotonic()
  _, memory = train_step.prepared(update, train_step.replicated_shapes(init), batch)()
  return time.monotonic() - began, memory.temp_size_in_bytes / 2**20


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--variants', default=','.join(VARIANTS), help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, help='also write the table there')
  flags = parser.parse_args()
  jax.config.update('jax_enable_compilation_cache', False)
  cells = list(itertools.product(flags.variants.split(','), ('float32', 'bfloat16')))
  lines = [f'Batch {BATCH} at {RESOLUTION} x {RESOLUTION}, on {jax.devices()[0].device_kind}: seconds to compile / MiB of '
           'temporary memory.', '', f'| model | dtype | {" | ".join(WAYS)} |', '| --- ' * (2 + len(WAYS)) + '|']
  with tqdm.tqdm(total=len(cells) * len(WAYS), unit='step', disable=None) as bar:
    for variant, dtype in cells:
      found = []
      for way in WAYS.values():
        seconds, size = compiled(variant, dtype, **way)
        found.append(f'{seconds:.1f} / {size:,.0f}')
        bar.update()
      lines.append(f'| {variant} | {dtype} | {" | ".join(found)} |')
  table = '\n'.join(lines) + '\n'
  print(table, end='')
  if flags.out:
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(table)


if __name__ == '__main__':
  main()
