"""Mixer-B/16 on JFT-like data, 7 epochs.

Paper: after fine-tuning at 224, 80.00 % ImageNet, 85.56 % ReaL, 92.60 % Avg5 (Table 3, 7 epochs).
Ours: not yet run.
Cost: about 80 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_b16_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('B/16', learning_rate=3e-3, total_epochs=7)
