"""The paper's pre-training recipes (section 3, App. B, Table 4), shared by the configs of its models.

What the paper leaves open, and what stands here for it: docs/deviations.md.
"""

import ml_collections


def imagenet(variant: str, mixup: float, magnitude: float | None):
  """300 epochs of ImageNet-1k, 1.28 M images: 300 * 1,268,355 / 4,096 = 92.9 k steps on the first 99 %."""
  config = _regularised(variant, mixup, magnitude)
  # -log(1000): every class starts at a probability of 1/1000.
  config.model.update(num_classes=1000, head_bias_init=-6.9)
  config.data.update(dataset='imagenet2012', split='train[:99%]')
  config.evals = dict(minival=_evaluation('imagenet2012', 'train[99%:]'),
                      val=_evaluation('imagenet2012', 'validation'))
  return config


def imagenet21k(variant: str, mixup: float, magnitude: float):
  """300 epochs of ImageNet-21k, about 14.2 M images: 300 * 14.2 M / 4,096 = 1.04 M steps."""
  config = _regularised(variant, mixup, magnitude)
  # The synsets of the release of fall 2011. -10 is the ViT authors' choice for so many classes.
  config.model.update(num_classes=21_841, head_bias_init=-10.)
  config.data.update(dataset='imagenet21k', split='train')
  config.evals = dict(val=_evaluation('imagenet21k', 'validation'))
  return config


def jft(variant: str, learning_rate: float, total_epochs: int):
  """5, 7 or 14 epochs of JFT-300M, about 303 M images: 0.37, 0.52 or 1.04 M steps. No regularisation but decay."""
  config = _common(variant, learning_rate=learning_rate, weight_decay=0.03, stochastic_depth=0.)
  config.total_epochs = float(total_epochs)
  # JFT-300M has some 18 thousand classes; set it to those of your data.
  config.model.update(num_classes=18_000, head_bias_init=-10.)
  config.data.update(dataset='multilabel', split='train')
  # Figs. 2 and 4 follow the linear 5-shot top-1 on ImageNet. --config.probes={} goes without.
  few_shot = dict(dataset='imagenet2012', batch_size=2048, resolution=224, crop='paper_resize', resize=256)
  config.probes = dict(imagenet=dict(train=dict(few_shot, split='train[:65000]'),
                                     test=dict(few_shot, split='validation'), shots=(5,)))
  config.evals = dict(val=_evaluation('multilabel', 'validation'))
  return config


def sharpness_aware(variant: str, *, name: str = 'mlp_mixer', **sam):
  """300 epochs of ImageNet-1k by SAM or GSAM with crops and flips alone: neither mixup, RandAugment nor stochastic depth.

  GSAM's Table 4 (arXiv 2203.08065): learning rate 3e-3, linearly down to 3e-5, and weight decay 0.3. Batch size, clipping,
  loss and first bias, and the ViT's mean over tokens, are of its authors' config of a ViT (big_vision,
  vit_i1k_gsam_no_aug.py).
  """
  config = imagenet(variant, mixup=0., magnitude=None)
  config.model.update(name=name, stochastic_depth=0., head_bias_init=-10.)
  config.step = dict(loss='sigmoid_xent', sam=dict(sam, images_per_perturbation=64))
  config.optimizer.update(learning_rate=3e-3, weight_decay=0.3,
                          schedule=dict(name='linear', warmup_steps=10_000, end_factor=0.01))
  return config


def _regularised(variant, mixup, magnitude):
  """What Table 4 gives alike for ImageNet-1k and ImageNet-21k."""
  config = _common(variant, learning_rate=1e-3, weight_decay=0.1, stochastic_depth=0.1)
  config.total_epochs = 300.
  config.step.mixup = mixup
  config.data.randaugment_magnitude = magnitude
  return config


def _common(variant, learning_rate, weight_decay, stochastic_depth):
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.log_every_steps = 50
  config.eval_every_steps = 5_000
  config.model = dict(name='mlp_mixer', variant=variant, stochastic_depth=stochastic_depth, dtype='bfloat16')
  config.data = dict(batch_size=4096, resolution=224)
  config.step = dict(loss='sigmoid_xent')
  config.optimizer = dict(name='adamw', learning_rate=learning_rate, weight_decay=weight_decay, clip_norm=1.,
                          schedule=dict(name='linear', warmup_steps=10_000, end_factor=1e-5))
  config.checkpoint = dict(every_steps=1_000, keep_latest=2, keep_every_steps=100_000)
  return config


def _evaluation(dataset, split):
  return dict(dataset=dataset, split=split, batch_size=2048, resolution=224, crop='paper_crop', resize=256)
