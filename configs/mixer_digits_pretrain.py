"""A small Mixer on the digits 0 to 4 alone, to be fine-tuned on all ten: half a minute on two cores.

Run: python train.py --config=configs/mixer_digits_pretrain.py
Then configs/mixer_digits_transfer.py.
"""

from configs import mixer_digits


def get_config():
  config = mixer_digits.get_config()
  config.model.num_classes = 5
  config.data.dataset = 'few_digits'
  config.evals.test.dataset = 'few_digits'
  return config
