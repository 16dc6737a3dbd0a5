"""HaloNet's arrays as timm names them, in its halonet_h1 and models of the same parts."""

import re

from mixer.models import family

LAYERS = {'in': 'conv1_1x1', 'out': 'conv3_1x1', 'shortcut': 'shortcut'}
NORM = {'weight': 'scale', 'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}
# What timm's have and HaloNet's fields do not: see mixer/models/halonet.py.
FIELDS = dict(block_size=8, halo_size=3, heads=(8, 8, 8, 8), position_embeddings='summed', offsets='queries')


def from_timm(arrays: dict, metadata: dict) -> dict:
  """Arrays of a file, with our names and shapes; those that timm's models do not have stay."""
  del metadata
  if 'stem.conv1.conv.weight' not in arrays:
    return arrays
  ours = {}
  for name, array in arrays.items():
    module, _, part = name.rpartition('.')
    unit = re.fullmatch(r'stages\.(\d+)\.(\d+)\.(.+)', module)
    place = f'stage{int(unit[1]) + 1}_unit{int(unit[2]) + 1:02d}/' if unit else ''
    layer = unit[3] if unit else module
    if layer == 'self_attn.kv' and array.shape[0] % FIELDS['heads'][0] == 0:
      # Of each head the keys, and then the values; both are as wide as the queries.
      halves = array.reshape(FIELDS['heads'][0], 2, -1, *array.shape[1:])
      for i, kind in enumerate(('key', 'value')):
        ours[f'{place}attention/{kind}/kernel'] = _conv(halves[:, i].reshape(-1, *array.shape[1:]))
    elif norm := _norm_of(layer):
      kind = NORM.get(part, part)
      ours[f'{"batch_stats/" if kind in ("mean", "var") else ""}{place}{norm}/{kind}'] = array
    elif conv := _conv_of(layer):
      ours[f'{place}{conv}/kernel'] = _conv(array)
    elif layer == 'self_attn.pos_embed':
      ours[f'{place}attention/{ {"height_rel": "rows", "width_rel": "columns"}.get(part, part)}'] = array
    elif layer == 'head.fc':
      ours[f'head/{"kernel" if part == "weight" else part}'] = array.T
    else:
      ours[name] = array
  return ours


def _norm_of(layer):
  return {'stem.conv1.bn': 'norm_stem', 'post_attn': 'norm_mixing', 'final_conv.bn': 'norm_final'}.get(layer) or {
      f'{theirs}.bn': f'norm_{ours}' for ours, theirs in LAYERS.items()}.get(layer)


def _conv_of(layer):
  return {'stem.conv1.conv': 'stem', 'self_attn.q': 'attention/query', 'final_conv.conv': 'conv_final'}.get(layer) or {
      f'{theirs}.conv': f'conv_{ours}' for ours, theirs in LAYERS.items()}.get(layer)


def _conv(array):
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


TIMM = family.TimmNames(
    pattern=r'stages\.\d+\.\d+\.self_attn\.|stage\d+_unit\d+/', names=lambda blocks: {}, first_conv='stem.conv1.conv',
    block_pattern=r'stages\.(\d+)\.', architecture=lambda variant: None, from_timm=from_timm, fields=FIELDS,
    pixels={'^(se|eca_)?halo': family.IMAGENET_PIXELS})
