"""Mixers on ImageNet-1k from scratch by SAM, with crops and flips alone: mixer_sam.py:b16.

SAM on Mixers (Chen et al., arXiv 2106.01548), as Table 1 of GSAM's paper (arXiv 2203.08065) has it, in %:

  name  model        ImageNet  ReaL  V2    AdamW   rho
  s32   Mixer-S/32   66.7      73.8  52.4  63.9    0.1
  s16   Mixer-S/16   72.9      79.8  58.9  68.8    0.15
  s8    Mixer-S/8    75.9      82.5  62.3  70.2    0.2
  b32   Mixer-B/32   72.4      79.0  58.0  62.5    0.35
  b16   Mixer-B/16   77.4      83.5  63.9  66.4    0.6

The paper's appendix was not at hand: rho has not been checked against it, and the rest of the recipe is that of
mixer_gsam.py. Its ViT-B/16 (79.9 %) is left out, since its rho is not known here.
Ours: not yet run. Cost: two gradients a step, about twice mixer_b16_i1k.py.
Run: python train.py --config=configs/mixer_sam.py:b16 --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'

RHO = {'s32': 0.1, 's16': 0.15, 's8': 0.2, 'b32': 0.35, 'b16': 0.6}

PLANNED = tuple(RHO)


def get_config(name: str = 'b16'):
  if name not in RHO:
    raise ValueError(f'mixer_sam.py:{name} is none of {", ".join(RHO)}')
  return pretraining.sharpness_aware(name[0].upper() + '/' + name[1:], rho_max=RHO[name], rho_min=RHO[name])
