"""The published .npz files: flat arrays with the names of our parameters, '/' between the parts.

Of Mixers there are two generations of names. The files of gs://mixer_models have those of the paper's code, which are
ours (`linen`). The authors' trainer before it had others, which their big_vision still read in 2022; they have a top
key `Mixer`. Both are read; only the first is written, and vision_transformer reads it.

The ViTs of gs://vit_models have our names; those of the BiT-ResNets of gs://bit_models are in bit_npz.py.
"""

import re

from etils import epath
import numpy as np

from mixer import safe_io
from mixer import trees
from mixer.weights import arrays
from mixer.weights import bit_npz

OLDER = [  # (pattern, ours) of the older names; the LayerNorms are numbered afterwards
    (r'embedding/(\w+)', r'stem/\1'),
    (r'Mixer/encoder_norm/(\w+)', r'pre_head_layer_norm/\1'),
    (r'Mixer/encoderblock_(\d+)/(token|channel)_mixing_phase_0/(kernel|bias)1', r'MixerBlock_\1/\2_mixing/Dense_0/\3'),
    (r'Mixer/encoderblock_(\d+)/(token|channel)_mixing_phase_0/(kernel|bias)2', r'MixerBlock_\1/\2_mixing/Dense_1/\3'),
    (r'Mixer/encoderblock_(\d+)/(LayerNorm_\d+/\w+)', r'MixerBlock_\1/\2'),
]
FIRST_LAYER = r'(stem|embedding)/kernel|resnet/root_block/standardized_conv2d(_\d+)?/kernel'


def read(path) -> dict:
  """Nested parameters of an .npz file on this machine or in a bucket (gs://), as float32. Nothing is unpickled.

  Raises:
    FileNotFoundError, ValueError: as `files.arrays` and `arrays.without_prefix` do, or if an array holds other things than
      finite numbers.
  """
  found = arrays.float32(arrays.without_prefix(safe_io.arrays(path), FIRST_LAYER, path), path)
  try:
    return trees.nested(bit_npz.ours(found) if bit_npz.is_published(found) else _renamed(found))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _renamed(found):
  """Our names for {name: array} of either generation of Mixers; others stay."""
  if not any(name.startswith('Mixer/') for name in found):
    return found
  renamed = {}
  for name, array in found.items():
    for pattern, ours in OLDER:
      if match := re.fullmatch(pattern, name):
        name = match.expand(ours)
        # Their two layers were one function with leading axes of 1.
        array = array.squeeze() if '_mixing/' in name else array
        break
    renamed[name] = array
  # There, a block's parts were counted together: LayerNorm_0 and LayerNorm_2.
  norms = {}
  for name in renamed:
    if match := re.match(r'(MixerBlock_\d+)/LayerNorm_(\d+)/', name):
      norms.setdefault(match[1], set()).add(int(match[2]))
  number = lambda m: f'{m[1]}/LayerNorm_{sorted(norms[m[1]]).index(int(m[2]))}/'
  return {re.sub(r'^(MixerBlock_\d+)/LayerNorm_(\d+)/', number, name): array for name, array in renamed.items()}


def write(params: dict, path):
  """Writes nested parameters as float32, under the published names."""
  found = {name: np.asarray(array, np.float32) for name, array in trees.flat(params).items()}
  with epath.Path(path).open('wb') as file:
    np.savez(file, **(bit_npz.theirs(found) if bit_npz.is_ours(found) else found))
