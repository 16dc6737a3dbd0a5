"""Mixer-L/32 on JFT-like data, 7 epochs.

Paper: after fine-tuning at 224, 80.67 % ImageNet, 85.62 % ReaL, 93.24 % Avg5 (Table 3, 7 epochs).
Ours: not yet run.
Cost: about 120 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_l32_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('L/32', learning_rate=1e-3, total_epochs=7)
