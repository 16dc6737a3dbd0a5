"""Mixer-L/16 on ImageNet-1k, 300 epochs.

Paper: 71.76 % ImageNet, 77.08 % ReaL, 87.25 % Avg5 (Table 3, 300 epochs).
Ours: not yet run.
Cost: about 40 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_l16_i1k.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.imagenet('L/16', mixup=0.5, magnitude=15.)
