"""Mixer-B/16 on ImageNet-21k, 300 epochs.

Paper: after fine-tuning at 224, 80.64 % ImageNet, 85.80 % ReaL, 92.50 % Avg5 (Table 3, 300 epochs).
Ours: not yet run.
Cost: about 150 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_b16_i21k.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.imagenet21k('B/16', mixup=0.2, magnitude=10.)
