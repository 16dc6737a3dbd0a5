"""The names of a Mixer's arrays in .npz files and in timm.

The .npz files have two generations of names. Those of gs://mixer_models have the names of the paper's code, which
are ours (`linen`). The authors' earlier trainer had others, which their big_vision still read in 2022; they have a
top-level key `Mixer`. Both are read; only the first is written, and vision_transformer reads it.
"""

import re

from mixer.models import family

OLDER = [  # (pattern, ours) of the older names; the LayerNorms are numbered afterwards
    (r'embedding/(\w+)', r'stem/\1'),
    (r'Mixer/encoder_norm/(\w+)', r'pre_head_layer_norm/\1'),
    (r'Mixer/encoderblock_(\d+)/(token|channel)_mixing_phase_0/(kernel|bias)1', r'MixerBlock_\1/\2_mixing/Dense_0/\3'),
    (r'Mixer/encoderblock_(\d+)/(token|channel)_mixing_phase_0/(kernel|bias)2', r'MixerBlock_\1/\2_mixing/Dense_1/\3'),
    (r'Mixer/encoderblock_(\d+)/(LayerNorm_\d+/\w+)', r'MixerBlock_\1/\2'),
]


def from_npz(arrays):
  """Our names for {name: array} of either generation of Mixers; others stay."""
  if not any(name.startswith('Mixer/') for name in arrays):
    return arrays
  renamed = {}
  for name, array in arrays.items():
    for pattern, ours in OLDER:
      if match := re.fullmatch(pattern, name):
        name = match.expand(ours)
        # Their two layers were one function with leading axes of 1.
        array = array.squeeze() if '_mixing/' in name else array
        break
    renamed[name] = array
  # The older names count a block's parts together: LayerNorm_0 and LayerNorm_2.
  norms = {}
  for name in renamed:
    if match := re.match(r'(MixerBlock_\d+)/LayerNorm_(\d+)/', name):
      norms.setdefault(match[1], set()).add(int(match[2]))
  number = lambda m: f'{m[1]}/LayerNorm_{sorted(norms[m[1]]).index(int(m[2]))}/'
  return {re.sub(r'^(MixerBlock_\d+)/LayerNorm_(\d+)/', number, name): array for name, array in renamed.items()}


def names(num_blocks: int) -> dict[str, str]:
  """{our name: timm's}."""
  norms, layers = {'pre_head_layer_norm': 'norm'}, {'stem': 'stem.proj', 'head': 'head'}
  for i in range(num_blocks):
    for k in (0, 1):
      norms[f'MixerBlock_{i}/LayerNorm_{k}'] = f'blocks.{i}.norm{k + 1}'
      layers[f'MixerBlock_{i}/token_mixing/Dense_{k}'] = f'blocks.{i}.mlp_tokens.fc{k + 1}'
      layers[f'MixerBlock_{i}/channel_mixing/Dense_{k}'] = f'blocks.{i}.mlp_channels.fc{k + 1}'
  return family.timm_names(norms, layers)


def architecture(variant: str) -> str | None:
  """'B/16' -> 'mixer_b16_224'. timm 1.0.31 has no H/14."""
  match = re.fullmatch(r'([SBL])/(16|32)', variant)
  return f'mixer_{match[1].lower()}{match[2]}_224' if match else None


NPZ = family.NpzNames(first_layer='(stem|embedding)/kernel', from_npz=from_npz)
TIMM = family.TimmNames(
    pattern=r'blocks\.\d+\.mlp_tokens\.', names=names, first_conv='stem.proj', architecture=architecture,
    pixels={r'(^|[._-])miil': dict(mean=(0., 0., 0.), std=(1., 1., 1.), crop_pct=0.875, interpolation='bilinear')})
