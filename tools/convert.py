"""Converts weights: published files, timm's or a run of ours, to an .npz or .safetensors file.

  python -m tools.convert imagenet21k/Mixer-B_16 mixer_b16_i21k.safetensors
  python -m tools.convert runs/b16 b16.npz
"""

import pathlib

from absl import app
from absl import flags
from absl import logging

from mixer import weights

OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Write the file though there is one already.')


def main(arguments):
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  if len(arguments) != 3:
    raise app.UsageError(f'IN and OUT are wanted, and {arguments[1:]} given: python -m tools.convert IN OUT')
  out = pathlib.Path(arguments[2]).expanduser()
  if out.exists() and not OVERWRITE.value:
    print(f'{out} is there already; give --overwrite, or another name')
    return 1
  try:
    loaded = weights.load(arguments[1])
    print(loaded.describe())
    weights.save(loaded, out)
  except (ValueError, OSError) as error:
    print(error)
    return 1
  print(f'written: {out}. It holds the parameters alone, neither class names nor what the logits mean')


if __name__ == '__main__':
  app.run(main)
