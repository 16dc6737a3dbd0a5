"""What holds for the arrays of every file of weights."""

import re

from absl import logging
import ml_dtypes
import numpy as np

# Where big_vision's checkpoints have the parameters, among the optimizer's arrays: load_params in big_vision/utils.py.
PARAMETERS = ('params/', 'opt/target/')


def without_prefix(arrays: dict[str, np.ndarray], first_layer: str, source) -> dict[str, np.ndarray]:
  """{name: array} without what all names begin with, such as 'module.', 'model.', '_orig_mod.' or 'params/', logged.

  What a checkpoint of big_vision holds beside the parameters is left out.

  Args:
    arrays: by name.
    first_layer: a pattern of the name that the first layer's kernel has; what comes before it is the prefix.
    source: the file, for messages.

  Raises:
    ValueError: if there are several models.
  """
  matches = (re.fullmatch(f'(?P<prefix>.*[./])?({first_layer})', name) for name in arrays)
  found = {match['prefix'] or '' for match in matches if match}
  if not found or '' in found:
    return arrays
  prefix = next((prefix for prefix in PARAMETERS if prefix in found), min(found))
  if prefix in PARAMETERS:
    below = {name: array for name, array in arrays.items() if name.startswith(prefix)}
  elif len(found) > 1:
    raise ValueError(f'{source} holds several models, whose names begin with {" and ".join(map(repr, sorted(found)))}; '
                     'keep the arrays of one in a file of their own')
  else:
    below = arrays
  left_out = f'; {len(arrays) - len(below):,} arrays beside them are left out' if len(below) < len(arrays) else ''
  logging.warning('%s: the names of its arrays are read without their prefix %r%s', source, prefix, left_out)
  return {name.removeprefix(prefix): array for name, array in below.items()}


def float32(arrays: dict[str, np.ndarray], source) -> dict[str, np.ndarray]:
  """{name: array} in float32, where it is not so already a copy.

  NumPy files have no name for bfloat16: there it is two bytes of type void.

  Raises:
    ValueError: naming `source` and the array, if it is of no floating-point type, or not finite.
  """
  found = {}
  for name, array in arrays.items():
    if array.dtype == np.dtype('V2'):
      array = array.view(ml_dtypes.bfloat16)
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16):
      raise ValueError(f'{source}: array {name!r} is of type {array.dtype}; parameters are floating-point numbers')
    with np.errstate(over='ignore'):
      array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
      wrong = array.size - np.count_nonzero(np.isfinite(array))
      raise ValueError(f'{source}: array {name!r} has {wrong:,} values of {array.size:,} that are NaN or infinite')
    found[name] = array
  return found
