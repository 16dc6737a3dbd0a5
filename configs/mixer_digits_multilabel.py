"""A small Mixer on digits with several weighted labels each, through the JFT-like data path: a minute on two cores.

A digit is also even or odd, prime, has a loop or straight lines only (tools/experiments/digits_manifest.py).
Run:
  python -m tools.digits_manifest runs/manifest
  python -m tools.prepare multilabel --manual_dir=runs/manifest
  python train.py --config=configs/mixer_digits_multilabel.py
"""

from configs import mixer_digits


def get_config():
  config = mixer_digits.get_config()
  config.model.num_classes = 15
  config.model.head_bias_init = -1.  # about a quarter of the classes are an example's
  config.step.loss = 'sigmoid_xent'
  config.data.update(dataset='multilabel', split='train')
  config.evals = dict(val={**config.evals.test, 'dataset': 'multilabel', 'split': 'validation'})
  return config
