"""Which row of the paper a run belongs to, by what its config says and by nothing else."""

import ast
from collections.abc import Iterator
import functools
import pathlib
import re

from mixer.run.records import EMA
from mixer import wording
from paper import records

MODELS = pathlib.Path(__file__).parent.parent / 'mixer' / 'models'

# What data.dataset, a TFDS name, is called in the paper's tables, if there are as many images, at least and at most:
# all of ImageNet's 1,281,167, or all but a hundredth; 12.4 to 14.2 M of ImageNet-21k, as duplicates are merged or not;
# and 303 M of JFT-like data (Dosovitskiy et al., arXiv 2010.11929).
PRETRAINING = {'imagenet2012': ('imagenet', 1.26e6, 1.29e6), 'imagenet21k': ('imagenet21k', 12e6, 14.5e6),
               'multilabel': ('jft300m', 290e6, 310e6)}
# Published weights by the folder of their name: (pre-training data, epochs), of Table 3.
PUBLISHED = {'imagenet1k': ('imagenet', 300), 'imagenet21k': ('imagenet21k', 300)}
# What Table 2 calls its HaloNet, and what distinguishes it from the H4 of HaloNet's own paper, which is in no table.
VARIANTS = {'HaloNet-H4': 'HaloNet-H4-base128-conv12'}
EPOCHS_APART = 0.02  # as a part: durations are in whole steps, and ImageNet's last 1 % may be left out of training

# Fields that no variant sets, and that make another model of it than the paper's.
OTHER_MODEL = ('base_width', 'heads', 'conv_stages', 'stem', 'root', 'position_embeddings', 'offsets')

DEFAULT_CROP = 'paper_resize'  # of input_pipeline.eval_batches


@functools.cache
def titles() -> dict[str, str]:
  """{config.model.name: what people call the models} of every ModelFamily, read in the source: importing it needs JAX."""
  calls = (node for path in sorted(MODELS.glob('*.py')) for node in ast.walk(ast.parse(path.read_text()))
           if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'ModelFamily')
  texts = ({word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
           for call in calls)
  return {text['name']: text['title'] for text in texts}


def label(model: dict) -> str:
  """The name of a config's model: 'Mixer-B/16', 'BiT-R50x1, root small', or 'Mixer, 2 blocks, 64 wide, patch 4'."""
  name = family(model)
  if model.get('variant'):
    changed = [f'{field} {model[field]}' for field in sorted(model) if field in OTHER_MODEL and model[field] is not None]
    return ', '.join([f'{name}-{model["variant"]}', *changed])
  known = {'num_blocks': '{} blocks', 'units': 'units {}', 'hidden_dim': '{} wide', 'width_factor': 'width x {}',
           'patch_size': 'patch {}', 'groups': '{} groups', 'tokens': 'tokens {}'}
  show = lambda value: '-'.join(map(str, value)) if isinstance(value, list) else value
  words = lambda field, words: words.removesuffix('s' * (model[field] == 1)).format(show(model[field]))
  return ', '.join([name, *(words(field, text) for field, text in known.items() if field in model)])


def of_row(row: dict) -> str:
  """The label of the model of a row of Table 2 or 3."""
  return VARIANTS.get(row['model'], row['model'])


def named(one: records.Throughput | records.Count) -> str:
  """The label of the model that was timed or counted."""
  return label({'name': one.model, 'variant': one.variant})


def family(model: dict) -> str:
  """'Mixer', 'ViT', 'BiT', or a model's own name."""
  return titles().get(model.get('name'), model.get('name', 'model'))


def dataset(section: dict) -> str:
  """The TFDS name of a section's data without version and config: 'imagenet21k/fall11' -> 'imagenet21k'."""
  return re.split('[/:]', section.get('dataset', ''))[0] or section.get('dataset', '')


def num_examples(config: dict) -> int | None:
  """The number of images that a run was trained on; None if its config does not have it."""
  match = re.search(r'(\d+) (?:examples|files)', str(config.get('contents', '')))
  return match and round(int(match[1]) * config['data'].get('fraction', 1.))


def epochs(config: dict) -> float | None:
  number = num_examples(config)
  return number and config['total_steps'] * config['data']['batch_size'] / number


def plain(config: dict) -> bool:
  """Whether the data are whole, neither permuted nor resized beforehand, and the recipe is not `beyond`."""
  data = config.get('data', {})
  return data.get('fraction', 1.) == 1. and not _altered(data) and not resized(config) and not beyond(config)


def _altered(section: dict) -> bool:
  """Whether a section of a config takes some of the classes alone, or permutes the pixels."""
  return bool(section.get('classes') or section.get('permutation'))


def resized(config: dict) -> str:
  """`wording.resized` of the training images."""
  return wording.resized(str(config.get('contents', '')))


def beyond(config: dict) -> bool:
  """Whether a recipe has what the paper does not have."""
  step, data, optimizer = (config.get(section, {}) for section in ('step', 'data', 'optimizer'))
  of_cifar = data.get('randaugment_translate', 100.) != 100. or data.get('randaugment_cutout', 40.) != 40.
  smoothed = step.get('label_smoothing') and family(config['model']) != 'HaloNet'  # as its own paper does
  return bool(smoothed or any(map(step.get, ('sam', 'cutmix')))
              or any(map(data.get, ('pad', 'autoaugment', 'cutout', 'random_erasing')))
              or (data.get('randaugment_magnitude') is not None and of_cifar)
              or optimizer.get('layer_decay') or optimizer.get('name') in ('lamb', 'lion'))


def pretraining(config: dict, origin: dict | None) -> tuple[str, float | None] | None:
  """(what a run's weights were pre-trained on, in the words of the tables, epochs); None if in no table."""
  if config.get('start_from'):
    if origin is None or config['start_from'].get('average'):
      return None
    if 'published' in origin:
      return PUBLISHED.get(origin['published'].split('/')[0])
    config = origin['config']
    if config.get('start_from'):
      return None  # it was fine-tuned twice
  if not plain(config) or dataset(config['data']) not in PRETRAINING:
    return None
  name, least, most = PRETRAINING[dataset(config['data'])]
  return (name, epochs(config)) if least <= (num_examples(config) or 0) <= most else None


def trained(run: records.Run) -> tuple[dict, dict | None]:
  """The config and the origin of the training that made a run's weights, which an evaluation has only read."""
  if run.kind == 'evaluation' and 'config' in (run.origin or {}):
    return run.origin['config'], run.origin['origin']
  return run.config, run.origin


def same_epochs(published: str, ours: float | None) -> bool:
  return ours is not None and abs(ours / float(published) - 1) < EPOCHS_APART


def scores(run: records.Run, of: str, metric: str, crop: str | None = None,
           split: str | None = None) -> Iterator[float]:
  """A run's scores on a dataset, of all classes and unpermuted, if `crop` and `split` are the evaluation's or None.

  Of a ViT that averages its weights they are the average's, as its authors' are; of all others the last weights'.
  """
  config, _ = trained(run)
  average = family(config['model']) == 'ViT' and config.get('step', {}).get('ema') is not None
  if run.kind == 'evaluation' and run.config['start_from'].get('average', False) != average:
    return
  for name, section in run.config.get('evals', {}).items():
    name = f'{name}{EMA}' if average and run.kind == 'run' else name
    if (dataset(section) == of and f'{name}/{metric}' in run.metrics
        and not _altered(section)
        and crop in (None, section.get('crop', DEFAULT_CROP)) and split in (None, section.get('split'))):
      yield run.metrics[f'{name}/{metric}']


def resolution(run: records.Run) -> int:
  """In pixels, of the images that a run was trained on or that were scored."""
  if run.kind == 'run':
    return run.config['data']['resolution']
  return next(iter(run.config['evals'].values()))['resolution']


def without(config: dict, *names: str, prefix: str = '') -> dict:
  """{path: value} of a config's leaves, but for those of which the last part, or the whole path, is in `names`."""
  leaves = {}
  for name, value in config.items():
    path = f'{prefix}{name}'
    if name in names or path in names:
      continue
    if isinstance(value, dict):
      leaves |= without(value, *names, prefix=f'{path}.')
    else:
      leaves[path] = value
  return leaves
