"""The names of the BiT-ResNets' published .npz files (gs://bit_models) and ours, one for one.

Some files number their convolutions, as in standardized_conv2d_1 (google-research/big_vision, models/bit_paper.py);
these are read, and written without the number. In them the head is a convolution, with a kernel of [1, 1, F, K].
"""

import re

import numpy as np

from mixer.models import family

NAMES = [  # (published, ours)
    ('resnet/root_block/standardized_conv2d/kernel', 'root_block/kernel'),
    ('resnet/{unit}/{part}/group_norm/gamma', '{unit}/{part}_norm/scale'),
    ('resnet/{unit}/{part}/group_norm/beta', '{unit}/{part}_norm/bias'),
    ('resnet/{unit}/{part}/standardized_conv2d/kernel', '{unit}/{part}/kernel'),
    ('resnet/{unit}/a/proj/standardized_conv2d/kernel', '{unit}/proj/kernel'),
    ('resnet/group_norm/gamma', 'norm/scale'),
    ('resnet/group_norm/beta', 'norm/bias'),
    ('resnet/head/conv2d/kernel', 'head/kernel'),
    ('resnet/head/conv2d/bias', 'head/bias'),
]
FIELDS = dict(unit=r'(?P<unit>block\d+/unit\d+)', part='(?P<part>[abc])')


def from_npz(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{our name: array} of {published name: array}. Unknown names stay.

  Raises:
    ValueError: if two names become one.
  """
  if not any(name.startswith('resnet/') for name in arrays):
    return arrays
  renamed = {}
  for name, array in arrays.items():
    new = _renamed(re.sub(r'/standardized_conv2d_\d+/', '/standardized_conv2d/', name), NAMES)
    if new in renamed:
      raise ValueError(f'two arrays are renamed to {new!r}; the second one is {name!r}')
    is_head = new == 'head/kernel' and array.shape[:-2] == (1, 1)
    renamed[new] = array.reshape(array.shape[2:]) if is_head else array
  return renamed


def to_npz(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{published name: array} of {our name: array}; the inverse of `from_npz`."""
  back = [(new, old) for old, new in NAMES]
  return {_renamed(name, back): array.reshape(1, 1, *array.shape) if name == 'head/kernel' else array
          for name, array in arrays.items()}


def _renamed(name, pairs):
  for old, new in pairs:
    if match := re.fullmatch(old.format(**FIELDS), name):
      return new.format(**match.groupdict())
  return name


NPZ = family.NpzNames(first_layer=r'resnet/root_block/standardized_conv2d(_\d+)?/kernel', from_npz=from_npz,
                      to_npz=to_npz)
