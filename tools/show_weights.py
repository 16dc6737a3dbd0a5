"""Draws a model's weights as the paper's Figures 5 to 7 do.

  python -m tools.show_weights --weights=imagenet21k/Mixer-B_16 --out=runs/weights
  python -m tools.show_weights --weights=runs/digits --out=runs/digits/weights --blocks=0,1

stem.png has the filters of the first layer as colours, sorted by frequency (Figure 7). token_mixing_0.png and so on, of
Mixers, have the hidden units of a block's token-mixing MLP, the rows of W1 in eq. 1, as maps over the patches, sorted
by frequency and each followed by its nearest inverse (Figures 5 and 6): see mixer/weights/filter_frequencies.py.
"""

import pathlib
import sys

import numpy as np
import tqdm

from mixer import models
from mixer.run import plots
from mixer import user_errors
from mixer import weights as weights_lib
from mixer.weights import filter_frequencies
from tools import weights_flags

SHOWN = 3  # blocks, as in Figure 5


def stem(weights: weights_lib.Weights):
  """The first layer's filters, sorted by frequency. -> [C, P, P, 3]."""
  filters = np.moveaxis(weights.params[models.LOADABLE[weights.model['name']].stem]['kernel'], -1, 0)
  return filters[np.argsort(filter_frequencies.frequency(filters), kind='stable')]


def token_mixing(weights: weights_lib.Weights, block: int):
  """The hidden units of a block's token mixing, in order and pairs, and the pairs' cosines. -> [D_S, h, w], [D_S]."""
  side = weights.resolution // weights.model['patch_size']
  maps = models.LOADABLE[weights.model['name']].token_filters(weights.params, block).reshape(-1, side, side)
  order = filter_frequencies.paired(maps)
  return maps[order], filter_frequencies.inverses(maps)[1][order]


def chosen(text: str | None, weights: weights_lib.Weights) -> list[int]:
  """The blocks of --blocks, by default the first three. Raises a ValueError if the model lacks one."""
  if not models.LOADABLE[weights.model['name']].token_filters:
    if text:
      raise ValueError(f'--blocks is {text}, and a model of the kind {weights.model["name"]!r} has no token-mixing '
                       'MLPs; drop it')
    return []
  number = weights.model['num_blocks']
  if text is None:
    return list(range(min(SHOWN, number)))
  for block in text.split(','):
    if not block.isdecimal() or int(block) >= number:
      raise ValueError(f'--blocks has {block!r}; this model has the blocks 0 to {number - 1}')
  return list(dict.fromkeys(map(int, text.split(','))))


@user_errors.in_one_line
def main(arguments: list[str]):
  parser = user_errors.ArgumentParser(__doc__)
  weights_flags.add(parser)
  parser.add_argument('--out', required=True, type=pathlib.Path, help='the folder for the pictures')
  parser.add_argument('--blocks', help=f'of a model that mixes tokens, from 0: 0,1,2; default: the first {SHOWN}')
  flags = parser.parse_args(arguments)
  weights = weights_flags.load(flags)
  blocks = chosen(flags.blocks, weights)
  flags.out = flags.out.expanduser()
  flags.out.mkdir(parents=True, exist_ok=True)
  print(weights.describe(), file=sys.stderr)
  source = weights.source
  with tqdm.tqdm(total=1 + len(blocks), unit='picture', dynamic_ncols=True, disable=None) as bar:
    def tell(path, text):
      bar.update()
      bar.write(f'{path}: {text}', file=sys.stdout)

    filters = stem(weights)
    text = '{} filters of {} x {} pixels'.format(*filters.shape[:3])
    plots.tiles(filters, f'{source}: {text}, by frequency', flags.out / 'stem.png')
    tell(flags.out / 'stem.png', text)
    for block in blocks:
      maps, cosines = token_mixing(weights, block)
      text = '{} units of {} x {} patches'.format(*maps.shape)
      path = flags.out / f'token_mixing_{block}.png'
      plots.tiles(maps, f'{source}: token mixing of block {block}, {text}, by frequency, each before its nearest '
                  'inverse', path)
      tell(path, f'{text}; the median cosine with the nearest inverse is {np.median(cosines):.2f}')


if __name__ == '__main__':
  main()
