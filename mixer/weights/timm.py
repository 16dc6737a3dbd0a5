"""Weights of timm's MlpMixer and VisionTransformer as .safetensors files: PyTorch's names and axes.

Dense kernels are transposed, and the stem's is [C, 3, P, P] there and [P, P, 3, C] here. timm computes GELU exactly
where the authors' code and ours take its tanh form, so that the logits of the same weights differ slightly. What is
particular to ViTs is in timm_vit.py.
"""

import os
import re

import numpy as np
import safetensors
import safetensors.numpy

from mixer import trees
from mixer.weights import arrays
from mixer.weights import timm_vit


def names(num_blocks: int) -> dict[str, str]:
  """{our name: timm's} of a Mixer's arrays."""
  norms = {'pre_head_layer_norm': 'norm'}
  others = {'stem': 'stem.proj', 'head': 'head'}
  for i in range(num_blocks):
    for k in (0, 1):
      norms[f'MixerBlock_{i}/LayerNorm_{k}'] = f'blocks.{i}.norm{k + 1}'
      others[f'MixerBlock_{i}/token_mixing/Dense_{k}'] = f'blocks.{i}.mlp_tokens.fc{k + 1}'
      others[f'MixerBlock_{i}/channel_mixing/Dense_{k}'] = f'blocks.{i}.mlp_channels.fc{k + 1}'
  weights = {f'{ours}/scale': f'{theirs}.weight' for ours, theirs in norms.items()}
  weights |= {f'{ours}/kernel': f'{theirs}.weight' for ours, theirs in others.items()}
  return weights | {f'{ours}/bias': f'{theirs}.bias' for ours, theirs in (norms | others).items()}


def metadata(path) -> dict[str, str]:
  """The strings that a .safetensors file has beside its arrays. Errors are those of `read`."""
  return _open(path, lambda file: file.metadata() or {})


def read(path) -> dict:
  """Nested parameters of a .safetensors file, as float32 whatever its floating-point type.

  Arrays whose names are not those of timm's MlpMixer or VisionTransformer keep their names; a prefix of all is dropped.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file, if it is no .safetensors file, cut off, holds other things than finite numbers,
      several models, or is of a ViT of an unknown number of heads.
  """
  found, told = _open(path, lambda file: ({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}))
  found = arrays.float32(arrays.without_prefix(found, r'(stem|patch_embed)\.proj\.weight', path), path)
  try:
    of_vit = timm_vit.is_timms(found)
    if of_vit:
      width = found['pos_embed'].shape[-1] if found['pos_embed'].ndim else 0
      found = timm_vit.attention_to_ours(found, timm_vit.heads_of(width, told.get('num_heads')))
    count = _count(found, r'blocks\.(\d+)\.')
    ours = {theirs: name for name, theirs in (timm_vit.names(count) if of_vit else names(count)).items()}
    params = {ours.get(name, name): array for name, array in found.items()}
    return trees.nested({name: array if timm_vit.ATTENTION in name else _transposed(name, array, (2, 3, 1, 0))
                         for name, array in params.items()})
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _open(path, get):
  try:
    with safetensors.safe_open(os.fspath(path), framework='np') as file:
      return get(file)
  except FileNotFoundError:
    raise
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is no .safetensors file, or it is cut off ({error}); get it anew') from error
  except (AttributeError, TypeError, ValueError) as error:  # a type or a shape that NumPy does not have
    raise ValueError(f'{path} holds arrays of a type or a shape that is not read: {error}') from error


def write(params: dict, path, metadata: dict[str, str] | None = None):
  """Writes nested parameters as float32, so that timm's model of the same sizes loads them, and strings beside them.

  Raises:
    OSError: naming the file, if it cannot be written.
    ValueError: naming the arrays that timm's models have no place for.
  """
  found, metadata = trees.flat(params), {'format': 'pt', **(metadata or {})}
  theirs = names(_count(found, r'MixerBlock_(\d+)/'))
  if 'Transformer/posembed_input/pos_embedding' in found:
    theirs = timm_vit.names(_count(found, r'Transformer/encoderblock_(\d+)/'))
    metadata['num_heads'] = str(timm_vit.num_heads(found))
    found = timm_vit.attention_to_timms(found)
    theirs |= {name: name for name in found if '.attn.' in name}
  if unknown := [name for name in found if name not in theirs]:
    more = ' and others' if unknown[3:] else ''
    raise ValueError(f"timm's model has no place for {', '.join(unknown[:3])}{more}; write an .npz file")
  try:
    safetensors.numpy.save_file(
        {theirs[name]: _transposed(name, np.asarray(array, np.float32, order='C'), (3, 2, 0, 1))
         for name, array in found.items()}, os.fspath(path), metadata=metadata)
  except safetensors.SafetensorError as error:
    raise OSError(f'{path} cannot be written: {error}') from error


def _count(found, block):
  return len({match[1] for name in found if (match := re.match(block, name))})


def _transposed(name, array, axes_of_stem):
  if not name.endswith('/kernel'):
    return array
  return np.ascontiguousarray(array.transpose(axes_of_stem if array.ndim == 4 else None))
