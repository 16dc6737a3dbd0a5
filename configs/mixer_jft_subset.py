"""Mixer-B/32, L/32 or L/16 on a part of JFT-like data, at equal total steps: the data-scale study (Fig. 2 right).

Paper: figure only. Below 10 % all Mixers overfit strongly; L/16 gains most from more data.
Ours: not yet run.
Cost: that of the whole data, 50 to 230 TPUv3 core-days (Table 3): the epochs make the steps of each part the same, to
within 1.5 % (section 3.3).
Run: python train.py --config=configs/mixer_jft_subset.py:b32,0.03 --workdir=WORKDIR
     (or a part of 0.1, 0.3 or 1)
"""

from configs import pretraining

SLICE = 'v3:8x8'  # as in data_scale.py

LEARNING_RATES = {'b32': 0.003, 'l32': 0.001, 'l16': 0.001}
EPOCHS = {'0.03': 233, '0.1': 70, '0.3': 23, '1': 7}


def get_config(which: str = 'b32,0.03'):
  name, _, fraction = which.partition(',')
  if name not in LEARNING_RATES or fraction not in EPOCHS:
    raise ValueError(f'mixer_jft_subset.py:{which} is none of the study: give one of {", ".join(LEARNING_RATES)}, a '
                     f'comma and one of {", ".join(EPOCHS)}')
  config = pretraining.jft(f'{name[0].upper()}/{name[1:]}', LEARNING_RATES[name], EPOCHS[fraction])
  config.data.fraction = float(fraction)
  config.checkpoint.best = 'val/precision_at_1'  # the paper stops early, by the upstream validation
  return config
