"""HaloNet's arrays as timm names them, in its halonet_h1 and models of the same parts."""

import re

from mixer.models import family

# timm's layers, of a unit or of the model, and ours.
NORMS = {'stem.conv1.bn': 'norm_stem', 'conv1_1x1.bn': 'norm_in', 'post_attn': 'norm_mixing', 'conv3_1x1.bn': 'norm_out',
         'shortcut.bn': 'norm_shortcut', 'final_conv.bn': 'norm_final'}
CONVS = {'stem.conv1.conv': 'stem', 'conv1_1x1.conv': 'conv_in', 'self_attn.q': 'attention/query', 'conv3_1x1.conv': 'conv_out',
         'shortcut.conv': 'conv_shortcut', 'final_conv.conv': 'conv_final'}
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
    elif norm := NORMS.get(layer):
      kind = NORM.get(part, part)
      ours[f'{"batch_stats/" if kind in ("mean", "var") else ""}{place}{norm}/{kind}'] = array
    elif conv := CONVS.get(layer):
      ours[f'{place}{conv}/kernel'] = _conv(array)
    elif layer == 'self_attn.pos_embed':
      ours[f'{place}attention/{ {"height_rel": "rows", "width_rel": "columns"}.get(part, part)}'] = array
    elif layer == 'head.fc':
      ours[f'head/{"kernel" if part == "weight" else part}'] = array.T
    else:
      ours[name] = array
  return ours


def _conv(array):
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


TIMM = family.TimmNames(
    pattern=r'stages\.\d+\.\d+\.self_attn\.|stage\d+_unit\d+/', names=lambda blocks: {}, first_conv='stem.conv1.conv',
    architecture=lambda variant: None, from_timm=from_timm, fields=FIELDS,
    pixels={'^(se|eca_)?halo': family.IMAGENET_PIXELS})
