"""Mixers and ViTs on ImageNet-1k from scratch by GSAM, with crops and flips alone: mixer_gsam.py:b16.

GSAM (arXiv 2203.08065), Table 1, ImageNet, ReaL and V2 in %, and Table 4. The same without it is AdamW's column.

  name     model        ImageNet  ReaL  V2    AdamW   rho_max  rho_min  alpha
  s32      Mixer-S/32   68.6      75.8  55.0  63.9    0.5      0.0      0.2
  s16      Mixer-S/16   75.0      81.7  61.9  68.8    0.5      0.0      0.6
  s8       Mixer-S/8    76.8      83.4  64.0  70.2    0.5      0.1      0.1
  b32      Mixer-B/32   73.6      80.2  59.9  62.5    0.7      0.2      0.05
  b16      Mixer-B/16   77.8      84.0  64.9  66.4    0.5      0.2      0.01
  vit_b32  ViT-B/32                                   0.6      0.1      0.6
  vit_b16  ViT-B/16     81.0      86.5  69.2  74.6    0.6      0.2      0.4

The authors perturbed by the images of one device; of 4,096 images on 64 cores, 64 each (google-research/big_vision#8).
Ours: not yet run. Cost: two gradients a step, about twice mixer_b16_i1k.py.
Run: python train.py --config=configs/mixer_gsam.py:b16 --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'

RECIPES = {  # name: model, variant, rho_max, rho_min, alpha
    's32': ('mlp_mixer', 'S/32', 0.5, 0., 0.2), 's16': ('mlp_mixer', 'S/16', 0.5, 0., 0.6),
    's8': ('mlp_mixer', 'S/8', 0.5, 0.1, 0.1), 'b32': ('mlp_mixer', 'B/32', 0.7, 0.2, 0.05),
    'b16': ('mlp_mixer', 'B/16', 0.5, 0.2, 0.01),
    'vit_b32': ('vit', 'B/32', 0.6, 0.1, 0.6), 'vit_b16': ('vit', 'B/16', 0.6, 0.2, 0.4),
}

PLANNED = tuple(RECIPES)


def get_config(name: str = 'b16'):
  if name not in RECIPES:
    raise ValueError(f'mixer_gsam.py:{name} is none of {", ".join(RECIPES)}')
  model, variant, rho_max, rho_min, alpha = RECIPES[name]
  config = pretraining.sharpness_aware(variant, name=model, rho_max=rho_max, rho_min=rho_min, alpha=alpha)
  if model == 'vit':
    config.model.pool = 'mean'
  return config
