"""What holds for the arrays of every file of weights."""

import ml_dtypes
import numpy as np


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
