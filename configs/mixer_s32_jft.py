"""Mixer-S/32 on JFT-like data, 5 epochs.

Paper: after fine-tuning at 224, 68.70 % ImageNet, 75.83 % ReaL, 87.13 % Avg5 (Table 3, 5 epochs).
Ours: not yet run.
Cost: about 10 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_s32_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('S/32', learning_rate=3e-3, total_epochs=5)
