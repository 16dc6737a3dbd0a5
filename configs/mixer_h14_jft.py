"""Mixer-H/14 on JFT-like data, 14 epochs.

Paper: after fine-tuning at 224, 86.32 % ImageNet, 89.14 % ReaL, 95.49 % Avg5 (Table 3, 14 epochs).
Ours: not yet run.
Cost: about 1010 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_h14_jft.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:8x8'


def get_config():
  return pretraining.jft('H/14', learning_rate=1e-3, total_epochs=14)
