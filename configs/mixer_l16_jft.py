"""Mixer-L/16 on JFT-like data, 14 epochs.

Paper: after fine-tuning at 224, 84.82 % ImageNet, 88.48 % ReaL, 94.77 % Avg5 (Table 3, 14 epochs).
Ours: not yet run.
Cost: about 450 TPUv3 core-days (Table 3).
Run: python train.py --config=configs/mixer_l16_jft.py --workdir=WORKDIR
  7 epochs (84.05 % in the paper): --config.total_epochs=7
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  return pretraining.jft('L/16', learning_rate=1e-3, total_epochs=14)
