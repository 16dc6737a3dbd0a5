"""Mixer-S/16 on JFT-like data, 5 epochs.

Paper: after fine-tuning at 224, 73.83 % ImageNet, 80.60 % ReaL, 89.50 % Avg5 (Table 3, 5 epochs).
Ours: not yet run.
Cost: about 30 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_s16_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('S/16', learning_rate=3e-3, total_epochs=5)
