"""Mixer-B/32 on JFT-like data, 7 epochs.

Paper: after fine-tuning at 224, 75.53 % ImageNet, 81.94 % ReaL, 90.99 % Avg5 (Table 3, 7 epochs).
Ours: not yet run.
Cost: about 50 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_b32_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('B/32', learning_rate=3e-3, total_epochs=7)
