"""The recipes of the experiments on small real images: the paper's pre-training study, on two cores.

On digits, JFT-300M becomes the digits 0 to 4 (`few_...`), and ImageNet the digits 5 to 9 (`other_...`), on which a linear
5-shot probe scores the features. On CIFAR-10 the score is the accuracy on all ten classes of the test split. All
durations are in steps, whatever the model, the permutation and the part of the data.
"""

import ml_collections

DATASETS = {'digits': dict(resolution=8, patch_size=2, pad=1, root='small'),
            'mnist5k': dict(resolution=28, patch_size=7, pad=2, root='large'),
            'cifar10': dict(resolution=32, patch_size=8, pad=4, root='large')}

MODELS = {
    'mixer_s': dict(name='mlp_mixer', num_blocks=1, hidden_dim=32, tokens_mlp_dim=16, channels_mlp_dim=128),
    'mixer': dict(name='mlp_mixer', num_blocks=2, hidden_dim=64, tokens_mlp_dim=32, channels_mlp_dim=256),
    'mixer_l': dict(name='mlp_mixer', num_blocks=4, hidden_dim=96, tokens_mlp_dim=48, channels_mlp_dim=384),
    'vit': dict(name='vit', num_blocks=2, hidden_dim=64, mlp_dim=256, num_heads=4),
    'vit_l': dict(name='vit', num_blocks=3, hidden_dim=96, mlp_dim=384, num_heads=4),
    'bit': dict(name='bit_resnet', units=(1, 1, 1), width_factor=0.5),
}


def parse(file: str, which: str, *tables) -> list[str]:
  """The parts of `which`, between commas.

  Raises:
    ValueError: unless each is in its table; the text lists them.
  """
  parts = which.split(',')
  if len(parts) != len(tables) or any(part not in table for part, table in zip(parts, tables)):
    expected = ', a comma and '.join(f'one of {", ".join(table)}' for table in tables)
    raise ValueError(f'{file}:{which} is not {expected}')
  return parts


def model(name: str, dataset: str) -> dict:
  """The section `model` for the images of a dataset, but for the classes."""
  size = 'root' if name == 'bit' else 'patch_size'
  return {**MODELS[name], size: DATASETS[dataset][size]}


def train(dataset: str, section: dict):
  """The config of a dataset. `section` is that of the model, but for its classes."""
  return _cifar10(section) if dataset == 'cifar10' else _digits(dataset, section)


def _cifar10(section):
  """1,000 steps of 128 of the training images but for a tenth, which is `val`."""
  side, pad = DATASETS['cifar10']['resolution'], DATASETS['cifar10']['pad']
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1000
  config.log_every_steps = 50
  config.eval_every_steps = 250
  config.model = dict(section, num_classes=10)
  config.data = dict(dataset='cifar10', split='train[:90%]', batch_size=128, resolution=side, resize=side, pad=pad)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='adamw', learning_rate=3e-3, weight_decay=0.1, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_steps=100))
  config.checkpoint = dict(every_steps=500, keep_latest=1)
  # A folder that is set in `data` is set here.
  evaluation = dict(dataset=config.data.get_ref('dataset'), batch_size=500, resolution=side, crop='antialiased',
                    resize=side)
  config.evals = dict(val=dict(evaluation, split='train[90%:]'), test=dict(evaluation, split='test'))
  return config


def _digits(dataset, section):
  """400 steps of 64 of the digits 0 to 4."""
  side, pad = DATASETS[dataset]['resolution'], DATASETS[dataset]['pad']
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 400
  config.log_every_steps = 50
  config.eval_every_steps = 50
  config.model = dict(section, num_classes=5)
  config.data = dict(dataset=f'few_{dataset}', split='train', batch_size=64, resolution=side, pad=pad, min_area=0.64,
                     antialias=True, flip=False)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='adamw', learning_rate=3e-3, weight_decay=0.3, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_steps=50))
  config.checkpoint = dict(every_steps=200, keep_latest=1)
  evaluation = dict(split='test', batch_size=512, resolution=side, crop='antialiased', resize=side)
  other = dict(evaluation, dataset=f'other_{dataset}')
  config.evals = dict(val=dict(evaluation, dataset=f'few_{dataset}'))
  # 30 choices of the five examples of a class, where the paper's code has 3: they differ by much.
  config.probes = dict(other=dict(train=dict(other, split='train[:30%]'), test=other, shots=(5,), seeds=30))
  return config
