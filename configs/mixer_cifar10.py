"""Mixer-nano on CIFAR-10 or CIFAR-100 from scratch: mixer_cifar10.py:DATASET[,randaugment][,dev].

DATASET is cifar10 or cifar100. The recipe is that of omihub777/MLP-Mixer-CIFAR (MIT), whose README reports 90.83 % on
CIFAR-10 and 67.51 % on CIFAR-100 after 300 epochs: 4 pixels around, a random crop, a flip, AutoAugment, CutMix in half
of the steps, label smoothing. Its Adam has a learning rate of 1e-3, weight decay in the gradient, 5e-5, and it does not
clip gradients; here the learning rate is 3e-3, weight decay is AdamW's, and gradients are clipped at 1. On the dev part,
after 6 epochs, 3e-3 reaches 61.9 % and 1e-3 57.6 % (with --config.total_epochs=6
--config.optimizer.schedule.warmup_epochs=1, one seed).

The model has the 0.67 million parameters of that README, in other widths: 8 blocks of 128 channels, D_S 128 and D_C 256,
which take two thirds of the FLOPs. The README's count is that of D_S 512 and D_C 64; its table of settings and its
training script have these two the other way round, with which there are 1.13 million, and it does not say which of the
two models the accuracies are of. Either: --config.model.tokens_mlp_dim= and --config.model.channels_mlp_dim=.

With `randaugment`, two operations of RandAugment at CIFAR's sizes and Cutout stand for AutoAugment; their magnitude, 4,
is not tuned. TFDS downloads the images; a folder with them, train/CLASS/*.png and test/CLASS/*.png, goes as well:
--config.data.dataset=FOLDER. With `dev`, 90 % of the training images are trained on and the others scored, to choose
fields on (tools.sweep does).
Ours, on CIFAR-10: 86.18 % after 100 of the 300 epochs, with --config.total_epochs=100 --config.eval_every_epochs=100
--config.step.accumulate=8; and 72.61 % after 15, with --config.total_epochs=15
--config.optimizer.schedule.warmup_epochs=2 --config.model.dtype=float32. Both are of one seed, 0, and of a copy whose images are
JPEGs (paper/ours/mixer_cifar10.jsonl); the 300 epochs were not yet run whole.
Cost: the 100 epochs took 2.5 hours on two cores with bfloat16 instructions, with other work beside them. On a CPU
--config.step.accumulate=8 makes steps faster, whose activations then stay in the caches.
Run: python train.py --config=configs/mixer_cifar10.py --workdir=WORKDIR
"""

import ml_collections
from ml_collections.config_dict import placeholder

CUTOUT = {'cifar10': 16, 'cifar100': 8}  # arXiv 1708.04552, section 4.2


def get_config(which: str = 'cifar10'):
  dataset, *options = which.split(',')
  if dataset not in CUTOUT or options not in ([], ['dev'], ['randaugment'], ['randaugment', 'dev']):
    raise ValueError(f'mixer_cifar10.py:{which} is not DATASET[,randaugment][,dev]: DATASET is {" or ".join(CUTOUT)}')
  dev = 'dev' in options
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_epochs = 300.
  config.log_every_steps = 50
  config.eval_every_epochs = 10. if dev else 300.  # of test once, after the last step
  config.model = dict(name='mlp_mixer', num_classes=placeholder(int), patch_size=4, num_blocks=8, hidden_dim=128,
                      tokens_mlp_dim=128, channels_mlp_dim=256, dtype='bfloat16')
  config.data = dict(dataset=dataset, data_dir=placeholder(str), split='train[:90%]' if dev else 'train',
                     batch_size=128, resolution=32, resize=32, pad=4)
  if 'randaugment' in options:
    config.data.update(randaugment_magnitude=4., randaugment_translate=10., randaugment_cutout=10.,
                       cutout=CUTOUT[dataset])
  else:
    config.data.autoaugment = 'cifar10'
  config.step = dict(loss='softmax_xent', label_smoothing=0.1, cutmix=1., cutmix_probability=0.5)
  config.optimizer = dict(name='adamw', learning_rate=3e-3, b2=0.99, weight_decay=0.1, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_epochs=5., end=1e-6))
  config.checkpoint = dict(every_epochs=1., keep_latest=2)
  # What is set in `data` is set here.
  shared = {field: config.data.get_ref(field) for field in ('dataset', 'data_dir', 'resolution', 'resize')}
  evaluation = dict(shared, batch_size=500, crop='antialiased')
  config.evals = {'dev': dict(evaluation, split='train[90%:]')} if dev else {'test': dict(evaluation, split='test')}
  return config
