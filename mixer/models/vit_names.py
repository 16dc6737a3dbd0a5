"""The names and axes of a ViT's arrays in timm; .npz files have our names.

In timm Q, K and V are one matrix, which concatenates their rows, each by heads. timm's files do not
record the number of heads: those that this program writes do, in their metadata, and for others it follows from the
width, as in timm's own models.
timm has no hidden layer in the head.
"""

import re

import numpy as np

from mixer.models import family

# Channels: heads. timm/models/vision_transformer.py, the models vit_{tiny,small,medium,base,large,huge,giant,gigantic}.
HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

ATTENTION = 'MultiHeadDotProductAttention_1'
PARTS = {'weight': 'kernel', 'bias': 'bias'}


def names(num_blocks: int) -> dict[str, str]:
  """{our name: timm's} of the arrays that correspond one to one."""
  norms, layers = {'Transformer/encoder_norm': 'norm'}, {'embedding': 'patch_embed.proj', 'head': 'head'}
  for i in range(num_blocks):
    ours, theirs = f'Transformer/encoderblock_{i}', f'blocks.{i}'
    norms |= {f'{ours}/LayerNorm_0': f'{theirs}.norm1', f'{ours}/LayerNorm_2': f'{theirs}.norm2'}
    layers |= {f'{ours}/MlpBlock_3/Dense_{k}': f'{theirs}.mlp.fc{k + 1}' for k in (0, 1)}
  return {'cls': 'cls_token', 'Transformer/posembed_input/pos_embedding': 'pos_embed',
          **family.timm_names(norms, layers)}


def is_timm_vit(names) -> bool:
  """Whether the arrays of a file are those of timm's VisionTransformer."""
  return 'pos_embed' in names


def heads_of(width: int, metadata_heads: str | None) -> int:
  """The number of heads of a model; `metadata_heads` is what its file's metadata say.

  Raises:
    ValueError: if the number of heads is unknown, or does not divide the width.
  """
  if metadata_heads is None and width not in HEADS:
    raise ValueError(f'the number of heads is unknown: the width {width} is none of {", ".join(map(str, HEADS))}. '
                     "Put it into the file's metadata: num_heads")
  heads = HEADS.get(width) if metadata_heads is None else int(metadata_heads) if metadata_heads.isdecimal() else 0
  if heads < 1 or width % heads:
    raise ValueError(f"the file's metadata say num_heads {metadata_heads}; it must be a number that divides the width "
                     f'{width}')
  return heads


def attention_to_ours(arrays: dict[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
  """{our name: array} of timm's attention layers, whose kernels become [C, heads, C/heads] or its reverse.

  Arrays of other names, or of a shape that attention does not have, stay as they are.
  """
  ours = {}
  for name, array in arrays.items():
    match = re.fullmatch(r'blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)', name)
    rows, thirds = (len(array) if array.ndim else 0), ('query', 'key', 'value')
    if not match or rows == 0 or rows % ((3 if match[2] == 'qkv' else 1) * heads):
      ours[name] = array
      continue
    place, part = f'Transformer/encoderblock_{match[1]}/{ATTENTION}', PARTS[match[3]]
    if match[2] == 'qkv':
      for third, of_third in zip(thirds, np.split(array, 3)):
        ours[f'{place}/{third}/{part}'] = of_third.T.reshape(*of_third.shape[1:], heads, -1)
    else:
      ours[f'{place}/out/{part}'] = array.T.reshape(heads, -1, rows) if part == 'kernel' else array
  return ours


def attention_to_timms(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{timm's name: array} of our attention layers; all other arrays stay as they are."""
  theirs, thirds = {}, {}
  for name, array in arrays.items():
    match = re.fullmatch(rf'Transformer/encoderblock_(\d+)/{ATTENTION}/(query|key|value|out)/(kernel|bias)', name)
    if not match:
      theirs[name] = array
      continue
    part = 'weight' if match[3] == 'kernel' else 'bias'
    if match[2] == 'out':
      whole = array.reshape(-1, array.shape[-1]).T if part == 'weight' else array
      theirs[f'blocks.{match[1]}.attn.proj.{part}'] = whole
    else:
      whole = array.reshape(*array.shape[:-2], -1).T
      thirds.setdefault(f'blocks.{match[1]}.attn.qkv.{part}', {})[match[2]] = whole
  return theirs | {name: np.concatenate([of[third] for third in ('query', 'key', 'value')])
                   for name, of in thirds.items()}


def from_timm(arrays: dict, metadata: dict) -> dict:
  """Arrays of a file, of which those of attention have our names and shapes."""
  if not is_timm_vit(arrays):
    return arrays
  width = arrays['pos_embed'].shape[-1] if arrays['pos_embed'].ndim else 0
  return attention_to_ours(arrays, heads_of(width, metadata.get('num_heads')))


def to_timm(arrays: dict) -> tuple[dict, dict]:
  """Arrays of which those of attention have timm's names and shapes, and the file's metadata: the number of heads."""
  heads = next(array.shape[-2] for name, array in arrays.items() if name.endswith(f'{ATTENTION}/query/kernel'))
  return attention_to_timms(arrays), {'num_heads': str(heads)}


def architecture(variant: str) -> str | None:
  """'B/16' -> 'vit_base_patch16_224', of timm 1.0.31."""
  return {'B/32': 'vit_base_patch32_224', 'B/16': 'vit_base_patch16_224', 'B/8': 'vit_base_patch8_224',
          'L/32': 'vit_large_patch32_224', 'L/16': 'vit_large_patch16_224', 'H/14': 'vit_huge_patch14_224'}.get(variant)


TIMM = family.TimmNames(
    pattern='pos_embed$', names=names, first_conv='patch_embed.proj', architecture=architecture, from_timm=from_timm,
    to_timm=to_timm, pixels={r'^deit|[._](dino|mae)\b': family.IMAGENET_PIXELS})
