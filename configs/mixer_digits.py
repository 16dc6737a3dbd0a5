"""A small Mixer on scikit-learn's handwritten digits: the demo, less than a minute on two cores.

Run: make demo, or
  python train.py --config=configs/mixer_digits.py --workdir=runs/digits
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_epochs = 50.
  config.log_every_epochs = 2.
  config.eval_every_epochs = 2.
  config.model = dict(name='mlp_mixer', num_classes=10, patch_size=4, num_blocks=2, hidden_dim=64, tokens_mlp_dim=32,
                      channels_mlp_dim=256)
  config.data = dict(dataset='digits', split='train', batch_size=128, resolution=8, pad=1, min_area=0.64, flip=False)
  config.step = dict(loss='softmax_xent', mixup=0.3)
  config.optimizer = dict(name='adamw', learning_rate=3e-3, weight_decay=0.3, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_epochs=5.))
  config.checkpoint = dict(every_epochs=25., keep_latest=2)
  config.evals = dict(test=dict(dataset='digits', split='test', batch_size=360, resolution=8, resize=8))
  return config
