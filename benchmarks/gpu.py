"""The memory of the training step on a GPU, as XLA compiles it for one, without a GPU.

  python -m benchmarks.gpu --out=benchmarks/results/gpu.md

Mixers of 21,843 classes in bfloat16, Adam, clipped, pmapped over eight H100s, at two numbers of images a GPU. The line
through the two gives what an image takes and what a step takes besides, and so the largest batch for cards of other
sizes too; XLA saves a little more on smaller cards, and a little less on larger ones. Forms: `plain` is the paper's
listing as XLA differentiates it, `ours` what train.py runs on a GPU, and `remat` the latter with model.remat=block. It
needs the extra cuda and some minutes a row.
"""

import argparse
import pathlib
import sys

import jax
import tqdm

from benchmarks import tpu
from mixer.run import accelerators
from tools.planning import arithmetic
from tools.planning import compiler

TOPOLOGY, IMAGES = 'h100:8', (64, 128)
CARDS = ('a100-40', 'h100', 'h200')
FORMS = {'plain': dict(platform='any'), 'ours': dict(platform='gpu'), 'remat': dict(platform='gpu', remat='block')}


def bytes_of(variant: str, form: dict, slice_: accelerators.Slice, images: int) -> int:
  """The memory of a GPU in a training step of so many images a GPU."""
  lowered = tpu.ours(compiler.devices_of(slice_), images, variant, **form)
  return compiler.compiled(lowered, slice_.device, counted_once=False)['peak_bytes']


def row(variant: str, form: str, sizes: tuple[int, int]) -> str:
  """Of the table: what an image takes, what is taken besides, and the largest batch on each card, in steps of 8."""
  of_image = (sizes[1] - sizes[0]) / (IMAGES[1] - IMAGES[0])
  besides = sizes[0] - of_image * IMAGES[0]
  largest = (max(int((accelerators.GPUS[card].usable * arithmetic.GIB - besides) // of_image) // 8 * 8, 0) for card in CARDS)
  return (f'| {variant} | {form} | {of_image / 2**20:.1f} MiB | {besides / arithmetic.GIB:.2f} GiB | '
          f'{" | ".join(f"{number:,}" for number in largest)} |')


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--variants', default='B/16,L/16,H/14', help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, help='a file to write the table to')
  flags = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')  # nothing is run
  slice_ = accelerators.slice_of(TOPOLOGY)
  try:
    versions = compiler.versions(slice_.device)
  except ValueError as error:  # without the compiler
    sys.exit(str(error))
  titles = ' | '.join(accelerators.GPUS[card].title for card in CARDS)
  lines = [f'{tpu.CLASSES:,} classes, bfloat16, {tpu.RESOLUTION} x {tpu.RESOLUTION}, compiled for {slice_} with {IMAGES[0]} and '
           f'{IMAGES[1]} images a GPU by {", ".join(f"{name} {version}" for name, version in versions.items())}; the largest batch a GPU '
           f'in {accelerators.MEM_FRACTION:.0%} of its memory.', '',
           f'| model | form | an image takes | besides | {titles} |', '| --- ' * (4 + len(CARDS)) + '|']
  variants = flags.variants.split(',')
  with tqdm.tqdm(total=len(variants) * len(FORMS), unit='row', disable=None) as bar:
    for variant in variants:
      for name, form in FORMS.items():
        lines.append(row(variant, name, tuple(bytes_of(variant, form, slice_, number) for number in IMAGES)))
        bar.write(lines[-1])
        bar.update()
        if flags.out:
          flags.out.parent.mkdir(parents=True, exist_ok=True)
          flags.out.write_text('\n'.join(lines) + '\n')
  if not flags.out:
    print('\n'.join(lines))


if __name__ == '__main__':
  main()
