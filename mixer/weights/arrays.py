"""Steps of loading that all files of weights share: dropping a common prefix of names, and conversion to float32."""

import re

from absl import logging
import ml_dtypes
import numpy as np

# Prefixes of the parameters in big_vision's checkpoints, which also hold the optimizer's arrays: see load_params in
# big_vision/utils.py.
PARAMETERS = ('params/', 'opt/target/')


def without_prefix(arrays: dict[str, np.ndarray], first_layer: str, source) -> dict[str, np.ndarray]:
  """{name: array} without what all names begin with, such as 'module.', 'model.', '_orig_mod.' or 'params/', logged.

  Of a checkpoint of big_vision only the parameters are kept.

  Args:
    arrays: by name.
    first_layer: a pattern of the name of the first layer's kernel; what comes before it is the prefix.
    source: the file, for messages.

  Raises:
    ValueError: if the arrays belong to several models.
  """
  matches = (re.fullmatch(f'(?P<prefix>.*[./])?({first_layer})', name) for name in arrays)
  prefixes = {match['prefix'] or '' for match in matches if match}
  if not prefixes or '' in prefixes:
    return arrays
  prefix = next((prefix for prefix in PARAMETERS if prefix in prefixes), min(prefixes))
  if prefix in PARAMETERS:
    below = {name: array for name, array in arrays.items() if name.startswith(prefix)}
  elif len(prefixes) > 1:
    raise ValueError(f'{source} holds several models, whose names begin with '
                     f'{" and ".join(map(repr, sorted(prefixes)))}; save the arrays of one model to a separate file')
  else:
    below = arrays
  left_out = f'; {len(arrays) - len(below):,} other arrays are ignored' if len(below) < len(arrays) else ''
  logging.warning('%s: dropped the prefix %r of array names%s', source, prefix, left_out)
  return {name.removeprefix(prefix): array for name, array in below.items()}


def float32(arrays: dict[str, np.ndarray], source) -> dict[str, np.ndarray]:
  """{name: array} in float32, copied only where it is of another type.

  NumPy files have no name for bfloat16, and hold it as two bytes of type void.

  Raises:
    ValueError: naming `source` and the array, if it is of no floating-point type, or not finite.
  """
  converted = {}
  for name, array in arrays.items():
    if array.dtype == np.dtype('V2'):
      array = array.view(ml_dtypes.bfloat16)
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16):
      raise ValueError(f'{source}: array {name!r} is of type {array.dtype}; parameters are floating-point numbers')
    with np.errstate(over='ignore'):
      array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
      invalid = array.size - np.count_nonzero(np.isfinite(array))
      raise ValueError(f'{source}: array {name!r} has {invalid:,} values of {array.size:,} that are NaN or infinite')
    converted[name] = array
  return converted
