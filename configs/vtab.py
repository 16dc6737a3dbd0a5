"""The 19 tasks of VTAB-1k, 1,000 training examples each (Zhai et al., 2019, arXiv 1910.04867): data for configs.

Splits and labels are those of github.com/google-research/task_adaptation: 800 examples to train and 200 to choose a
learning rate by, and all 1,000 for the run that is scored on the whole test split. TFDS orders examples by a hash of
their names, so that the first 800 are the same everywhere, but for Caltech101, whose builder draws its split by the
order in which a directory is listed.

The columns of a row:

  group                 natural, specialized or structured; VTAB's figure is the mean accuracy of all tasks
  dataset, label        what TFDS calls the dataset and the feature, or a label of mixer/data/vtab_labels.py
  num_classes           of the label
  size                  'small' or 'large': RESOLUTIONS. BiT-HyperRule (Kolesnikov et al., 2019, arXiv 1912.11370) calls
                        an image small if it has less than 96 x 96 pixels; the paper (App. C) fine-tunes Mixers at
                        these resolutions instead of BiT's
  steps                 of training: BiT-HyperRule's for 1,000 examples
  train, test           the scored run
  dev_train, dev        the choice of a learning rate
  crop, flip            whether a random crop and a mirrored image keep the label: BiT-HyperRule crops and flips unless
                        that breaks it. Which does is as in github.com/google-research/scenic, vtab_plainvit_config.py:
                        a crop where the label is a number of objects, a distance or a place, a flip where it is a
                        direction or a horizontal place
"""

RESOLUTIONS = {'small': 224, 'large': 448}


def _task(group, dataset, num_classes, pixels, dev, test, label='label', crop=True, flip=True):
  """A row. `pixels` are an image's height and width; None for photographs of several sizes, all large."""
  small = pixels is not None and pixels[0] * pixels[1] < 96 * 96
  return dict(group=group, dataset=dataset, label=label, num_classes=num_classes, size='small' if small else 'large',
              steps=500, train=f'train[:800]+{dev}', dev_train='train[:800]', dev=dev, test=test, crop=crop, flip=flip)


TASKS = {
    'caltech101': _task('natural', 'caltech101', 102, None, 'train[2754:2954]', 'test'),
    'cifar100': _task('natural', 'cifar100', 100, (32, 32), 'train[45000:45200]', 'test'),
    'dtd': _task('natural', 'dtd', 47, None, 'validation[:200]', 'test'),
    'flowers102': _task('natural', 'oxford_flowers102', 102, None, 'validation[:200]', 'test'),
    'pets': _task('natural', 'oxford_iiit_pet', 37, None, 'train[2944:3144]', 'test'),
    'sun397': _task('natural', 'sun397/tfds', 397, None, 'validation[:200]', 'test'),
    'svhn': _task('natural', 'svhn_cropped', 10, (32, 32), 'train[65931:66131]', 'test'),

    'camelyon': _task('specialized', 'patch_camelyon', 2, (96, 96), 'validation[:200]', 'test'),
    'eurosat': _task('specialized', 'eurosat/rgb', 10, (64, 64), 'train[16200:16400]', 'train[21600:]'),
    'resisc45': _task('specialized', 'resisc45', 45, (256, 256), 'train[18900:19100]', 'train[25200:]'),
    # Images of at most 540 x 540 pixels.
    'retinopathy': _task('specialized', 'diabetic_retinopathy_detection/btgraham-300', 5, None, 'validation[:200]',
                         'test'),

    # CLEVR's own test split has no annotations.
    'clevr_count': _task('structured', 'clevr', 8, (320, 480), 'train[63000:63200]', 'validation',
                         label='clevr_count', crop=False),
    'clevr_distance': _task('structured', 'clevr', 6, (320, 480), 'train[63000:63200]', 'validation',
                            label='clevr_distance', crop=False),
    'dmlab': _task('structured', 'dmlab', 6, (360, 480), 'validation[:200]', 'test', crop=False),
    # About 375 x 1242 pixels.
    'kitti_distance': _task('structured', 'kitti', 4, None, 'validation[:200]', 'test', label='kitti_distance',
                            crop=False),
    'dsprites_location': _task('structured', 'dsprites', 16, (64, 64), 'train[589824:590024]', 'train[663552:]',
                               label='dsprites_location', crop=False, flip=False),
    'dsprites_orientation': _task('structured', 'dsprites', 16, (64, 64), 'train[589824:590024]', 'train[663552:]',
                                  label='dsprites_orientation', flip=False),
    'smallnorb_azimuth': _task('structured', 'smallnorb', 18, (96, 96), 'test[:200]', 'test[50%:]',
                               label='label_azimuth', flip=False),
    'smallnorb_elevation': _task('structured', 'smallnorb', 9, (96, 96), 'test[:200]', 'test[50%:]',
                                 label='label_elevation'),
}


def parse(file: str, which: str, models) -> tuple[str, dict, bool]:
  """The parts of MODEL,TASK[,dev]: model, the task's row, whether to choose a learning rate. `file` is the config's.

  Raises:
    ValueError: if `which` is not of this form; the text lists what MODEL and TASK may be.
  """
  model, _, rest = which.partition(',')
  task, _, dev = rest.partition(',')
  if model not in models or task not in TASKS or dev not in ('', 'dev'):
    raise ValueError(f'{file}:{which} is not MODEL,TASK[,dev]: MODEL is one of {", ".join(models)}; TASK one of '
                     f'{", ".join(TASKS)}')
  return model, TASKS[task], dev == 'dev'


def images_of(row: dict) -> dict:
  """The fields of sections of data that say which images and labels."""
  return dict(dataset=row['dataset'], label=row['label'])


def adapt(config, row: dict):
  """The recipe of a fine-tuning, for the classes of a task and without what changes its labels."""
  config.model.num_classes = row['num_classes']
  config.data.flip = row['flip']
  for evaluation in config.evals.values():
    evaluation.crop = 'paper_resize'  # at 224, too: VTAB is in Table 2
  if not row['crop']:  # nor in the evaluation: what the label is about may lie at the edge
    for section in (config.data, *config.evals.values()):
      section.resize = config.data.resolution
  return config
