"""Mixer-B/16 on ImageNet-1k, 300 epochs.

Paper: 76.44 % ImageNet, 82.36 % ReaL, 88.33 % Avg5 (Table 3, 300 epochs).
Ours: not yet run.
Cost: about 10 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_b16_i1k.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.imagenet('B/16', mixup=0.5, magnitude=15.)
