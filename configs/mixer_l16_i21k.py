"""Mixer-L/16 on ImageNet-21k, 300 epochs.

Paper: after fine-tuning at 224, 82.89 % ImageNet, 87.54 % ReaL, 93.63 % Avg5 (Table 3, 300 epochs).
Ours: not yet run.
Cost: about 410 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_l16_i21k.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.imagenet21k('L/16', mixup=0.5, magnitude=20.)
