"""What `scan` and `remat` do to a training step: the time that it takes to compile, and its temporary memory.

  python -m benchmarks.depth --out=benchmarks/results/depth.md

Nothing is run, only compiled, for this machine's CPU; the compile times are those of this machine.
"""

import argparse
import itertools
import pathlib
import time

import jax
import tqdm

from benchmarks import ours
from benchmarks import workloads
from mixer.training import train_step

WAYS = {'unrolled': {}, 'scan': dict(scan=True), 'scan, remat': dict(scan=True, remat='block')}
BATCH = 8


def compiled(variant: str, dtype: str, **way) -> tuple[float, float]:
  """(seconds to compile, MiB of temporary memory) of a step of train.py."""
  config = workloads.config(variant, BATCH, dtype=dtype, **way)
  data = ours.data_of(config)
  init, p_train_step = ours.build(config, data.image_shape)
  state = jax.eval_shape(init)
  began = time.monotonic()
  _, memory = train_step.compile_ahead(p_train_step, state, data.shapes)()
  return time.monotonic() - began, memory.temp_size_in_bytes / 2**20


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--variants', default=','.join(workloads.VARIANTS), help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, help='a file to write the table to')
  flags = parser.parse_args()
  for variant in flags.variants.split(','):
    if variant not in workloads.VARIANTS:
      parser.error(f'--variants has {variant!r}; it must be one of {", ".join(workloads.VARIANTS)}')
  jax.config.update('jax_enable_compilation_cache', False)
  cells = list(itertools.product(flags.variants.split(','), ('float32', 'bfloat16')))
  lines = [f'Batch {BATCH} at 224 x 224, on {jax.devices()[0].device_kind}: seconds to compile / MiB of '
           'temporary memory.', '', f'| model | dtype | {" | ".join(WAYS)} |', '| --- ' * (2 + len(WAYS)) + '|']
  with tqdm.tqdm(total=len(cells) * len(WAYS), unit='step', disable=None) as bar:
    for variant, dtype in cells:
      columns = []
      for way in WAYS.values():
        seconds, size = compiled(variant, dtype, **way)
        columns.append(f'{seconds:.1f} / {size:,.0f}')
        bar.update()
      lines.append(f'| {variant} | {dtype} | {" | ".join(columns)} |')
  table = '\n'.join(lines) + '\n'
  print(table, end='')
  if flags.out:
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(table)


if __name__ == '__main__':
  main()
