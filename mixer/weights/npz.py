"""The published .npz files: flat arrays with '/' between the parts of their names.

Each family of models has its published names in its own file; most are ours.
"""

from etils import epath
import numpy as np

from mixer import models
from mixer import safe_io
from mixer import trees
from mixer.weights import arrays

FIRST_LAYER = '|'.join(family.npz.first_layer or f'{family.stem}/kernel' for family in models.LOADABLE.values())


def read(path) -> dict:
  """Nested parameters of an .npz file on this machine or in a bucket (gs://), as float32. Nothing is unpickled.

  Raises:
    FileNotFoundError, ValueError: as `safe_io.arrays` and `arrays.without_prefix` do, or if an array holds values that
      are not finite numbers.
  """
  loaded = arrays.float32(arrays.without_prefix(safe_io.arrays(path), FIRST_LAYER, path), path)
  try:
    for family in models.LOADABLE.values():
      loaded = family.npz.from_npz(loaded)
    return trees.nested(loaded)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def write(params: dict, path):
  """Writes nested parameters as float32, under the published names."""
  flat = {name: np.asarray(array, np.float32) for name, array in trees.flat(params).items()}
  with epath.Path(path).open('wb') as file:
    np.savez(file, **models.family_of(flat).npz.to_npz(flat))
