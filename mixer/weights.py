"""Weights of any origin, with what is known of them: published, of timm, or of a run of ours."""

import dataclasses
import difflib
import importlib.util
import os
import pathlib
import sys
import typing
import uuid

from etils import epath

from mixer import checkpoint
from mixer import configuration
from mixer import crops
from mixer import files
from mixer import losses
from mixer import models
from mixer import storage
from mixer import trees
from mixer.convert import arrays
from mixer.convert import npz
from mixer.convert import published
from mixer.convert import start as starting
from mixer.convert import timm

# The side in pixels of the images that BiT-ResNets, which take any size, are evaluated on, by their root: that of the
# paper's Table 3, and what is usual for small ones.
USUAL_RESOLUTION = {'large': 224, 'small': 32}

PUBLISHED_RESOLUTIONS = 224, 384, 448  # of Mixers and ViTs, whose crops were made for them

# Fields of a run's `model` section that its parameters tell, or that count in training alone.
NOT_KEPT = ('variant', 'tiles', 'dropout_rate', 'stochastic_depth', 'stochastic_depth_rule', 'head_bias_init',
            'param_dtype', 'scan', 'remat', 'platform')


@dataclasses.dataclass(frozen=True)
class Weights:
  """A model's parameters and what is known of them.

  Attributes:
    params: nested dicts of float32 numpy arrays, with the names of `mixer.models`.
    model: the `model` section of a config that builds the model.
    resolution: the side in pixels of the square images that it takes; where any, that of its training, or 224.
    loss: 'softmax_xent' or 'sigmoid_xent', whose `losses.PROBABILITIES` say what the logits mean.
    class_names: of the logits, or None.
    crop, resize: how its run prepared the images to evaluate, and for others (i) of the paper's App. C, or where they
      take images of a side that published ones do not, 'antialiased'; without `resize`: `crops.side_before`.
    source: where it comes from and what it is, for people.
    permutation: of the pixels of its run's images (`permutations.draw`), or None.
  """
  params: dict
  model: dict
  resolution: int
  loss: str
  class_names: list[str] | None
  source: str
  crop: str = 'paper_resize'
  resize: int | None = None
  permutation: str | None = None

  def describe(self) -> str:
    """One line for people: 'Mixer-B/16, 1,000 classes, 224 x 224 pixels, ...'."""
    classes = f'{self.model["num_classes"]:,} classes' if self.model['num_classes'] else 'no head'
    resize = crops.side_before(self.resolution, self.resize, self.crop)
    return (f'{models.describe(self.model)}, {classes}, {self.resolution} x {self.resolution} pixels, {self.crop} from '
            f'{resize}: {self.source}')

  def check_head(self, name: str):
    """Raises a ValueError unless there are logits; `name` is what was loaded, for the message."""
    if self.model['num_classes'] is None:
      raise ValueError(f'{name} has no head, and so knows no classes; give weights that have one')

  def check_images(self, name: str):
    """Raises a ValueError unless it takes images as they are; `name` is what was loaded, for the message."""
    if self.permutation is not None:
      raise ValueError(f'{name} was trained on permuted pixels (config.data.permutation is {self.permutation!r}), and takes '
                       'no images as they are; tools.evaluate scores it with the config of its run')


def load(name: str) -> Weights:
  """The weights that a name or a path stands for.

  Of files, the number of classes says what the logits mean: the 21,843 of ImageNet-21k probabilities of each class by
  itself, any others those of one class among all. The authors trained both by sigmoid cross-entropy, but everyone reads
  ImageNet-1k results by softmax. Published ImageNet-1k weights also have class names, by WordNet id; a file is taken
  for published if it lies under the published name ('.../imagenet1k/Mixer-B_16.npz').

  Args:
    name: a published name ('imagenet21k/Mixer-B_16'), an .npz file (also gs://), a .safetensors file of timm, a run's
      work directory, for its latest checkpoint, or one of its checkpoints ('runs/digits/checkpoints/562', or
      'runs/digits/interrupted/500').

  Raises:
    FileNotFoundError, OSError, ValueError: naming the file or address and what is the matter with it.
  """
  name = os.fspath(name)
  if name in published.TABLE:
    return _of_file(published.fetch(name), npz.read)
  path = epath.Path(name).expanduser()
  with storage.reached(path):
    return _of_path(path)


def _of_path(path):
  if path.suffix == '.npz':
    return _of_file(_there(path), npz.read)
  if path.suffix == '.safetensors':
    return _of_file(_there(path), timm.read)
  if path.parent.name in checkpoint.FOLDERS and path.name.isdecimal():
    return _of_run(path.parent.parent, int(path.name), path.parent.name)
  if _there(path).is_dir():
    return _of_run(path)
  advice = ''
  if path.suffix in ('.pth', '.pt', '.bin'):
    advice = " PyTorch's own files are pickles, which are not read; save the state_dict as .safetensors there."
  raise ValueError(f'{path} is neither .npz nor .safetensors, nor a directory.{advice}')


def _there(path):
  if not path.exists():
    near = difflib.get_close_matches(str(path), published.TABLE, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise FileNotFoundError(f'there is no {path}, and no published file of that name.{hint} Published are '
                            f'{", ".join(published.TABLE)}')
  return path


def _of_file(path, read) -> Weights:
  params = read(path)
  model, resolution = _sizes_of(params, path)
  name = published.name_of(path) if read is npz.read else None
  known = published.TABLE[name] if name else None
  if known and model['num_classes'] != known.num_classes:
    raise ValueError(f'{path} has {model["num_classes"]:,} classes, and {known.num_classes:,} were published under '
                     'that name; give it another name if it is another file')
  resolution = resolution or USUAL_RESOLUTION[model['root']]
  small = {} if known or resolution in PUBLISHED_RESOLUTIONS else {'crop': 'antialiased'}
  return Weights(
      params=params, model=model, resolution=resolution, **small,
      loss='sigmoid_xent' if model['num_classes'] == 21843 else 'softmax_xent',
      class_names=_wordnet_ids() if known and known.num_classes == 1000 else None,
      source=f'{name}, {known.what}' if known else str(path))


def _sizes_of(params, place) -> tuple[dict, int | None]:
  """The model's section and the resolution, or None for any, read off the arrays' shapes."""
  try:
    model = models.section_of(params)
    resolution_of = models.KINDS[model['name']].resolution_of
    return model, resolution_of and resolution_of(params)
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from error


def _wordnet_ids() -> list[str]:
  """The WordNet ids of ImageNet-1k's classes in their order, as TensorFlow Datasets carries them in a file."""
  # Looked up without being imported, which would take seconds.
  folder = pathlib.Path(importlib.util.find_spec('tensorflow_datasets').origin).parent
  return (folder / 'datasets' / 'imagenet2012' / 'labels.txt').read_text().split()


def _of_run(workdir, step=None, folder=None) -> Weights:
  path = workdir / 'config.json'
  if not path.exists():
    raise ValueError(f"{workdir} is not a run's work directory: there is no {path}")
  config = files.object_in(path)
  try:
    section, resolution = config['model'], config['data']['resolution']
    loss = config['step']['loss']
    configuration.choose('step', 'loss', loss, losses.LOSSES)
    # The model is not traced: of a config that claims a million blocks, that takes for ever.
    here = models.sizes_in_arrays(section)
    evaluated = _evaluated(config['evals'], resolution)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is not the config of a run of this version: {error!r}') from error
  if here is None:
    raise ValueError(f'{path}: model.name is {section["name"]!r}, and weights are read of {", ".join(models.KINDS)} '
                     'alone; train.py evaluates such a run itself')
  params, checked = checkpoint.read_params(workdir, step, folder)
  params = trees.nested(arrays.float32(trees.flat(params), checked))
  model, there = _sizes_of(params, checked)
  found = dict(model, resolution=there or resolution)
  if unlike := configuration.differences(found, dict(here, resolution=resolution)):
    raise ValueError(f'{checked} does not fit its config.json, here:' + ''.join(f'\n  {line}' for line in unlike))
  names = workdir / 'classes.txt'
  class_names = files.text(names).removesuffix('\n').split('\n') if names.exists() else None
  if class_names and len(class_names) != model['num_classes']:
    raise ValueError(f'{names} has {len(class_names):,} lines, and the model {model["num_classes"]:,} classes')
  kept = {field: value for field, value in section.items() if field not in NOT_KEPT}
  return Weights(params=params, model={**kept, **model}, resolution=resolution, loss=loss, class_names=class_names,
                 source=f'step {int(checked.name):,} of the run in {workdir}', permutation=config['data'].get('permutation'),
                 **evaluated)


def _evaluated(evals, resolution):
  """The fields 'crop' and 'resize' of the first evaluation at the resolution of the training."""
  first = next((section for section in evals.values() if section['resolution'] == resolution), {})
  configuration.choose('evals', 'crop', first.get('crop', 'paper_resize'), crops.CROPS)
  crops.side_before(resolution, first.get('resize'), first.get('crop', 'paper_resize'))
  return {field: first[field] for field in ('crop', 'resize') if field in first}


def start(wanted: dict, *, weights: str, head: typing.Literal['fresh', 'given'] = 'fresh',
          token_mixing: typing.Literal['block_diagonal', 'interpolated', None] = None) -> dict:
  """The parameters that a run starts from: those that `weights` names, fitted to the fresh ones of its model.

  Args:
    wanted: the fresh parameters.
    weights: as in `load`.
    head, token_mixing: `convert.start.start`.
  """
  loaded = load(weights)
  print(f'starts from {loaded.describe()}', file=sys.stderr)
  return starting.start(loaded.params, wanted, head=head, token_mixing=token_mixing)


WRITERS = {'.npz': npz.write, '.safetensors': timm.write}


def save(weights: Weights, path):
  """Writes the parameters to an .npz file with the published names, or a .safetensors file of timm, by the suffix.

  The file appears when it is whole. Class names and the loss have no place in it.
  """
  path = pathlib.Path(path)
  if path.suffix not in WRITERS:
    raise ValueError(f'{path} has the suffix {path.suffix!r}; weights are written as {" or ".join(WRITERS)}')
  if not path.parent.is_dir():
    raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to')
  partial = path.with_name(f'{path.stem}.{uuid.uuid4().hex}.partial{path.suffix}')
  try:
    WRITERS[path.suffix](weights.params, partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
