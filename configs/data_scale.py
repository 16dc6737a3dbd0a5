"""The role of data scale (section 3.3, Fig. 2 right): data_scale.py:MODEL,DATA,FRACTION, all of equal steps.

FRACTION is 0.03, 0.1, 0.3 or 1 of the training images, chosen by content. On jft, JFT-like data, MODEL is mixer_b32,
mixer_l32, mixer_l16, vit_b32, vit_l32, vit_l16 or bit_r152x2, as in the paper; on cifar10 and mnist5k it is
mixer_s, mixer, mixer_l, vit or bit. The score is the linear 5-shot top-1, on cifar10 the test split's top-1, where the
upstream validation is best.

Paper: figure only. On the smallest part all Mixers overfit strongly; BiT plateaus; L/16 gains most from more data, and
comes nearer to ViT-L/16.
TFDS downloads CIFAR-10; a folder with its images, train/CLASS and test/CLASS, goes as well: --config.data.dataset=FOLDER.
Ours: docs/reproducing.md, on mnist5k; not yet run on cifar10 and JFT-like data.
Cost: half a minute on two cores on mnist5k; on JFT-like data 50 to 230 TPUv3 core-days of the Mixers (Table 3, which has no others
of 7 epochs).
Run: python -m tools.experiment data_scale
     python train.py --config=configs/data_scale.py:mixer_b32,jft,0.03 --workdir=WORKDIR
"""

from configs import bit
from configs import mixer_jft_subset
from configs import small_images
from configs import vit

SLICE = 'v3:8x8'  # as of ViT

FRACTIONS = tuple(mixer_jft_subset.EPOCHS)
JFT = {  # of the fraction; the epochs make the steps equal
    **{f'mixer_{size}': (lambda fraction, size=size: mixer_jft_subset.get_config(f'{size},{fraction}'))
       for size in mixer_jft_subset.LEARNING_RATES},
    **{f'vit_{size}': (lambda fraction, name=f'{size}_jft': _part(vit.get_config(name), fraction))
       for size in ('b32', 'l32', 'l16')},
    'bit_r152x2': lambda fraction: _part(bit.get_config('r152x2_jft'), fraction),
}
PLANNED = tuple(f'{model},jft,1' for model in JFT)  # with every fraction the steps take the same


def get_config(which: str = 'mixer,cifar10,0.1'):
  models = JFT if ',jft,' in which else small_images.MODELS
  datasets = ('jft', 'cifar10', 'mnist5k')
  model, data, fraction = small_images.parse('data_scale.py', which, models, datasets, FRACTIONS)
  if data == 'jft':
    return JFT[model](fraction)
  config = small_images.train(data, small_images.model(model, data))
  config.data.fraction = float(fraction)
  config.checkpoint.update(best='val/top1', every_steps=config.eval_every_steps)  # early stopping, as in the paper
  return config


def _part(config, fraction):
  """A part of the data of a config of JFT, for the steps of Fig. 2."""
  config.total_epochs = float(mixer_jft_subset.EPOCHS[fraction])
  config.data.fraction = float(fraction)
  config.checkpoint.best = 'val/precision_at_1'
  return config
