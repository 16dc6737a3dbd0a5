"""Weights of timm's models as .safetensors files: PyTorch's names and axes.

Dense kernels are transposed, and the stem's is [C, 3, P, P] in timm and [P, P, 3, C] here. timm computes GELU exactly,
where the Mixer's authors and this code take its tanh form, so that the logits of the same weights differ slightly. Names, and
what is particular to a family of models, are in its `TimmNames`.
"""

import os
import pathlib
import re

import numpy as np
import safetensors
import safetensors.numpy

from mixer import models
from mixer import trees
from mixer.weights import arrays

NAMES = [family.timm for family in models.LOADABLE.values() if family.timm]
FIRST_LAYER = rf"({'|'.join(sorted({re.escape(names.first_conv) for names in NAMES}))})\.weight"


def metadata(path) -> dict[str, str]:
  """The strings that a .safetensors file holds in addition to its arrays. Errors are those of `read`."""
  return _open(path, lambda file: file.metadata() or {})


def read(path) -> dict:
  """Nested parameters of a .safetensors file, as float32 whatever its floating-point type.

  Arrays whose names are not those of a model of timm keep their names; a prefix of all is dropped.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: naming the file, if it is no .safetensors file, truncated, holds other values than finite numbers,
      several models, or is of a ViT of an unknown number of heads.
  """
  # How often batch norm saw a batch is an integer, which nothing needs.
  tensors = lambda file: {name: file.get_tensor(name) for name in file.keys() if not name.endswith('.num_batches_tracked')}
  loaded, metadata = _open(path, lambda file: (tensors(file), file.metadata() or {}))
  loaded = arrays.float32(arrays.without_prefix(loaded, FIRST_LAYER, path), path)
  names = max(NAMES, key=lambda names: any(re.match(names.pattern, name) for name in loaded))
  try:
    loaded = names.from_timm(loaded, metadata)
    ours = {timms: name for name, timms in names.names(_count(loaded, names.block_pattern)).items()}
    return trees.nested({ours.get(name, name): _transposed(ours[name], array, (2, 3, 1, 0)) if name in ours else array
                         for name, array in loaded.items()})
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _open(path, get):
  try:
    with safetensors.safe_open(os.fspath(path), framework='np') as file:
      return get(file)
  except FileNotFoundError:
    raise
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is no .safetensors file, or it is truncated ({error}); download it again') from error
  except (AttributeError, TypeError, ValueError) as error:  # a type or a shape that NumPy lacks
    raise ValueError(f'{path} holds arrays of an unsupported type or shape: {error}') from error


def write(params: dict, path, metadata: dict[str, str] | None = None):
  """Writes nested parameters as float32, so that timm's model of the same sizes loads them, and strings as metadata.

  Raises:
    OSError: naming the file, if it cannot be written.
    ValueError: naming the arrays that timm's models do not have.
  """
  params = trees.flat(params)
  family = models.family_of(params)
  arrays_out, metadata, timms = params, {'format': 'pt', **(metadata or {})}, {}
  if family.timm:
    arrays_out, family_metadata = family.timm.to_timm(params)
    metadata |= family_metadata
    timms = family.timm.names(_count(arrays_out, family.block_pattern))
  if unknown := [name for name in arrays_out if name not in timms and name in params]:
    more = ' and others' if unknown[3:] else ''
    raise ValueError(f"timm's model does not have {', '.join(unknown[:3])}{more}; write an .npz file")
  try:
    pathlib.Path(path).touch()
    mode = os.stat(path).st_mode  # the library's own file would be its owner's alone
    safetensors.numpy.save_file(
        {timms.get(name, name): _transposed(name, np.asarray(array, np.float32, order='C'), (3, 2, 0, 1))
         for name, array in arrays_out.items()}, os.fspath(path), metadata=metadata)
    os.chmod(path, mode)
  except (safetensors.SafetensorError, OSError) as error:
    raise OSError(f'{path} cannot be written: {error}') from error


def _count(names, block):
  return len({match[1] for name in names if (match := re.match(block, name))})


def _transposed(name, array, axes_of_stem):
  if not name.endswith('/kernel'):
    return array
  return np.ascontiguousarray(array.transpose(axes_of_stem if array.ndim == 4 else None))
