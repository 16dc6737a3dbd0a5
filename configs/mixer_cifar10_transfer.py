"""What pre-training on five classes of CIFAR-10 gains on the other five at twice the resolution: WAY[,dev].

`pretrain` trains a small Mixer at 32 x 32 pixels on airplane, bird, deer, frog and truck. `weights` fine-tunes it at
64 x 64 on automobile, cat, dog, horse and ship, 250 training images, with its token-mixing MLPs widened block by
block as in the paper's fine-tuning at 448 (App. C) and the recipe of configs/mixer_finetune.py: SGD with momentum, no
weight decay, a head that starts at zero. `nothing` trains the same model on the same images without the weights.

With `dev`, as many images are taken from 90 % of the training split, and the other 10 % scored, to choose the learning
rate on. TFDS downloads the images; a folder with train/CLASS and test/CLASS goes as well: --config.data.dataset=FOLDER.
Ours: docs/reproducing.md, with a learning rate chosen for each way.
Cost: some minutes for `pretrain` and one for each of the others, on a core.
Run: python -m tools.transfer_table
     python train.py --config=configs/mixer_cifar10_transfer.py:pretrain --workdir=runs/cifar10_pretrain
     python train.py --config=configs/mixer_cifar10_transfer.py:weights --workdir=WORKDIR
"""

import ml_collections
from ml_collections.config_dict import placeholder

WAYS = ('pretrain', 'weights', 'nothing')
BEFORE = ('airplane', 'bird', 'deer', 'frog', 'truck')  # animals and vehicles in both halves
AFTER = ('automobile', 'cat', 'dog', 'horse', 'ship')
FRACTION, DEV = 0.01, 0.9  # of the 25,000 images of AFTER; the part of these that dev leaves for training


def get_config(which: str = 'weights'):
  way, *dev = which.split(',')
  if way not in WAYS or dev not in ([], ['dev']):
    raise ValueError(f'mixer_cifar10_transfer.py:{which} is not WAY[,dev]: WAY is {", ".join(WAYS)}')
  first = way == 'pretrain'
  side = 32 if first else 64
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.log_every_steps = 50
  config.model = dict(name='mlp_mixer', num_classes=5, patch_size=4, num_blocks=4, hidden_dim=64, tokens_mlp_dim=64,
                      channels_mlp_dim=256, tiles=1 if first else 2, dtype='bfloat16')
  config.data = dict(dataset='cifar10', data_dir=placeholder(str), split=f'train[:{DEV:.0%}]' if dev else 'train',
                     classes=BEFORE if first else AFTER, batch_size=128 if first else 32, resolution=side, resize=side,
                     pad=side // 8)
  config.step = dict(loss='softmax_xent')
  if first:
    config.total_epochs = 8.
    config.optimizer = dict(name='adamw', learning_rate=3e-3, weight_decay=0.1, clip_norm=1.,
                            schedule=dict(name='cosine', warmup_epochs=1.))
    config.checkpoint = dict(every_epochs=4., keep_latest=1)
  else:
    config.total_steps = 300
    config.data.fraction = FRACTION / (DEV if dev else 1.)
    config.optimizer = dict(name='sgd', momentum=0.9, learning_rate=0.03, clip_norm=1.,
                            schedule=dict(name='cosine', warmup_steps=30))
    config.checkpoint = dict(every_steps=100, keep_latest=1)
  if way == 'weights':
    config.start_from = dict(weights='runs/cifar10_pretrain', head='fresh', token_mixing='block_diagonal')
  # Once, after the last step.
  config.update({'eval_every_epochs': config.total_epochs} if first else {'eval_every_steps': config.total_steps})
  # What is set in `data` is set here.
  shared = {field: config.data.get_ref(field) for field in ('dataset', 'data_dir', 'classes', 'resolution', 'resize')}
  evaluation = dict(shared, batch_size=500, crop='antialiased')
  config.evals = {'dev': dict(evaluation, split=f'train[{DEV:.0%}:]')} if dev else {'test': dict(evaluation, split='test')}
  return config
