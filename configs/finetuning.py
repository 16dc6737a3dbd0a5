"""The fine-tuning recipes that the configs of all models share: the paper's (section 3, App. C) and BiT-HyperRule.

What the papers leave open, and what stands here for it: docs/deviations.md.
"""

import pathlib

import ml_collections
from ml_collections.config_dict import placeholder


def _task(steps, dev_train='train', dev='val', train='train', test='test', size='large'):
  """A row. `size` is that of the images, as in configs/vtab.py."""
  return dict(train=train, dev_train=dev_train, dev=dev, test=test, steps=steps, size=size)


# Splits as TFDS writes them. The dev splits are 10 % of Pets and Flowers, 2 % of CIFAR and 1 % of ImageNet (ViT, App.
# B.1.1). Its 2,040 training images of Flowers are those that TFDS calls train and validation.
TASKS = {
    'imagenet2012': _task(20_000, 'train[:99%]', 'train[99%:]', test='validation'),
    'cifar10': _task(10_000, 'train[:98%]', 'train[98%:]', size='small'),
    'cifar100': _task(10_000, 'train[:98%]', 'train[98%:]', size='small'),
    'oxford_iiit_pet': _task(500, 'train[:90%]', 'train[90%:]'),
    'oxford_flowers102': _task(500, 'train[:90%]+validation[:90%]', 'train[90%:]+validation[90%:]', 'train+validation'),
}


def row_of(task: str) -> dict:
  """The row of one of TASKS, or else of an image folder: its folders test and, for dev, val or validation.

  Without one for dev, 10 % of the training images, chosen by content, are held out for dev; and without test, what dev
  holds out is scored, by the name that it has as a split.
  """
  if task in TASKS:
    return TASKS[task]
  root = pathlib.Path(task).expanduser()
  has = lambda name: not root.is_dir() or (root / name).is_dir()
  val = next((name for name in ('val', 'validation') if has(name)), None)
  row = _task(500, dev=val) if val else _task(500, 'train[:90%]', 'train[90%:]')
  if not has('test'):
    row.update(train=row['dev_train'], test=row['dev'], scored=val or 'dev')
  return row


def recipe(row: dict, dev: bool, resolution: int, **data):
  """The paper's fine-tuning, which is ViT's (App. B.1.1), but for the sections `model` and `start_from`.

  Args:
    row: its splits 'train' and 'test', 'dev_train' and 'dev', and 'steps'; 'scored' names 'test' in another way.
    dev: whether to train on 'dev_train' and score 'dev'.
    **data: which dataset and label.
  """
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = row['steps']
  config.log_every_steps = 50
  config.eval_every_steps = max(250, row['steps'] // 10)
  shared = dict(data, data_dir=placeholder(str), batch_size=512, resolution=resolution)
  config.data = dict(shared, split=row['dev_train' if dev else 'train'], resize=resolution * 8 // 7)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='sgd', momentum=0.9, learning_rate=0.03, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_steps=500 if row['steps'] > 500 else 100))
  config.checkpoint = dict(every_steps=config.eval_every_steps, keep_latest=1)
  # These fields are one in both sections: what is set in one is set in the other. Table 3, at 224, is scored by (ii) of
  # App. C, and Table 2, at more, by (i).
  evaluation = dict({field: config.data.get_ref(field) for field in shared},
                    crop='paper_crop' if resolution == 224 else 'paper_resize')
  name, split = ('dev', row['dev']) if dev else (row.get('scored', 'test'), row['test'])
  config.evals = {name: dict(evaluation, split=split)}
  return config


def hyperrule(row: dict, dev: bool, resize: int, resolution: int, **data):
  """BiT-HyperRule (arXiv 1912.11370, section 3.3), but for the sections `model` and `start_from`.

  A random crop of `resolution` pixels out of `resize`; the whole image, resized to `resolution`, is scored. The arguments
  are as in `recipe`.
  """
  config = recipe(row, dev, resolution, **data)
  few = row['steps'] == 500  # for fewer than 20,000 examples; 10,000 steps below 500,000, and 20,000 above
  # Warmup, and drops of the shortest schedule after 200, 300 and 400 steps: bit_hyperrule.py of big_transfer.
  config.optimizer = dict(name='sgd', momentum=0.9, learning_rate=0.003,
                          schedule=dict(name='steps', warmup_steps=100 if few else 500,
                                        drops=(0.4, 0.6, 0.8) if few else (0.3, 0.6, 0.9)))
  if not few:
    config.step.mixup = 0.1
  config.data.resize = resize
  for evaluation in config.evals.values():
    evaluation.update(crop='paper_resize', resize=resolution)
  return config


def parse(file: str, which: str, models, side: str = 'SIDE') -> tuple[str, str, int | None, bool]:
  """The parts of MODEL,TASK[,SIDE][,dev], the options in any order: model, task, resolution if any, whether on the dev split.

  Args:
    file: of the config, for messages.
    models: the names that MODEL may have.
    side: the one number of pixels that SIDE may be; 'SIDE' for any.

  Raises:
    ValueError: if `which` is not of this form; the text lists what MODEL and TASK may be.
  """
  model, _, rest = which.partition(',')
  task, *options = rest.split(',')
  sides = [option for option in options if option != 'dev']
  known = model in models and (task in TASKS or '/' in task) and len(sides) < 2 and options.count('dev') < 2
  if not known or any(one != side if side != 'SIDE' else not one.isdecimal() or int(one) == 0 for one in sides):
    pixels = '; SIDE a number of pixels' if side == 'SIDE' else ''
    raise ValueError(f'{file}:{which} is not MODEL,TASK[,{side}][,dev]: MODEL is one of {", ".join(models)}; TASK one of '
                     f'{", ".join(TASKS)}, or the path of an image folder, with a slash and no comma in it{pixels}')
  return model, task, int(sides[0]) if sides else None, 'dev' in options
