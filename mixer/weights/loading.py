"""Weights of any origin, with what is known of them: published, of timm, or of a run of ours."""

from collections.abc import Sequence
import dataclasses
import difflib
import json
import os
import pathlib
import typing
import uuid

from etils import epath

from mixer import configuration
from mixer.data import class_names as class_names_lib
from mixer.data import crop_sizes
from mixer.data import export_crops
from mixer.data import pixel_permutations
from mixer import models
from mixer.run import checkpoint_integrity
from mixer.run import distributed
from mixer import safe_io
from mixer import storage
from mixer.training import losses
from mixer import trees
from mixer.weights import arrays
from mixer.weights import npz
from mixer.weights import pretrained_cfg
from mixer.weights import published
from mixer.weights import record
from mixer.weights import start_from as starting
from mixer.weights import timm

PUBLISHED_RESOLUTIONS = 224, 384, 448  # of Mixers and ViTs, whose crops were made for them


@dataclasses.dataclass(frozen=True)
class Weights:
  """A model's parameters and what is known of them.

  Attributes:
    params: nested dicts of float32 numpy arrays, with the names of `mixer.models`.
    model: the `model` section of a config that builds the model.
    resolution: the side in pixels of the square images that it takes; where any, that of its training, or 224.
    loss: 'softmax_xent' or 'sigmoid_xent', whose `losses.PROBABILITIES` say what the logits mean.
    class_names: of the logits, as data sets have them ('n01440764'), or None; `class_names.label` makes them readable.
    crop, resize: how its run prepared the images to evaluate, and for others (i) of the paper's App. C, or where they
      take images of a side that published ones do not, 'antialiased'; without `resize`: `crop_sizes.resize_for`.
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
    return (f'{models.describe(self.model)}, {classes}, {self.resolution} x {self.resolution} pixels, {self.crop} from '
            f'{self.with_crop().resize}: {self.source}')

  def with_crop(self, crop: str | None = None, resize: int | None = None) -> 'Weights':
    """The same, whose images are prepared as set, or else as theirs are; the side before the crop is then known."""
    crop = crop or self.crop
    return dataclasses.replace(self, crop=crop, resize=crop_sizes.resize_for(self.resolution, resize or self.resize, crop))

  def check_head(self, name: str):
    """Raises a ValueError unless there are logits; `name` is what was loaded, for the message."""
    if self.model['num_classes'] is None:
      raise ValueError(f'{name} has no head, and so knows no classes; give weights that have one')

  def check_images(self, name: str):
    """Raises a ValueError unless it takes images as they are; `name` is what was loaded, for the message."""
    if self.permutation is not None:
      raise ValueError(f'{name} was trained on permuted pixels (config.data.permutation is {self.permutation!r}), and takes '
                       'no images as they are; tools.evaluate scores it with the config of its run')


def load(name: str, mean: Sequence[float] | float | None = None, std: Sequence[float] | float | None = None) -> Weights:
  """The weights that a name or a path stands for.

  Of files, the number of classes says what the logits mean: the 21,843 of ImageNet-21k probabilities of each class by
  itself, any others those of one class among all. The authors trained both by sigmoid cross-entropy, but everyone reads
  ImageNet-1k results by softmax. Published weights also have class names, by WordNet id; a file is taken for published
  if it lies under the published name ('.../imagenet1k/Mixer-B_16.npz'). Files that `save` wrote say it all themselves.

  Of timm's files a config.json beside them, or their name, says how they take images (convert/pretrained_cfg.py). What
  is loaded takes pixels in [-1, 1] always: the first layer of the others is changed so that it does.

  Args:
    name: a published name ('imagenet21k/Mixer-B_16'), an .npz file (also gs://), a .safetensors file of timm, a folder
      of such a one as Hugging Face has them (model.safetensors, config.json), a run's work directory, for its latest
      checkpoint, or one of its checkpoints ('runs/digits/checkpoints/562', or 'runs/digits/interrupted/500').
    mean, std: of the pixels in [0, 1] that the file's model takes, three numbers or one, where nothing else says it or
      what does is wrong; 0.5 and 0.5 for those in [-1, 1].

  Raises:
    FileNotFoundError, OSError, ValueError: naming the file or address and what is the matter with it.
  """
  name = os.fspath(name)
  if (mean is None) != (std is None):
    raise ValueError(f'mean is {mean}, and std is {std}; set both or neither')
  pixels = None if mean is None else pretrained_cfg.Pixels(
      pretrained_cfg.triple(mean, 'mean'), pretrained_cfg.triple(std, 'std'), 'as set')
  if name in published.TABLE:
    return _of_file(published.fetch(name), npz.read, pixels)
  path = epath.Path(name).expanduser()
  with storage.translate_gcs_errors(path):
    return _of_path(path, pixels)


def _of_path(path, pixels):
  if path.suffix == '.npz':
    return _of_file(_there(path), npz.read, pixels)
  if path.suffix == '.safetensors':
    return _of_file(_there(path), timm.read, pixels)
  if path.parent.name not in checkpoint_integrity.FOLDERS and _there(path).is_dir() and not (path / 'checkpoints').exists():
    if (path / 'model.safetensors').exists():
      return _of_file(path / 'model.safetensors', timm.read, pixels)
    if pickles := [name for name in ('pytorch_model.bin', 'model.safetensors.index.json') if (path / name).exists()]:
      raise ValueError(f"{path} holds {pickles[0]} and no model.safetensors. PyTorch's own files are pickles, and parts of "
                       'a model are not put together; save the state_dict as model.safetensors in it')
  if pixels:
    raise ValueError(f'{path} is a run, whose model takes pixels in [-1, 1]; leave out mean and std')
  if path.parent.name in checkpoint_integrity.FOLDERS and path.name.isdecimal():
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


def _of_file(path, read, pixels) -> Weights:
  said, place = record.read(path)
  if said is not None:
    if pixels:
      raise ValueError(f'{place} says that {path.name} takes pixels in [-1, 1]; leave out mean and std')
    here = _check(said, place, 'the record of weights of this version')
    params = read(path)
    record.check_is_of(said, place, path)
    loaded = _made(params, said, here, place, path)
    if not isinstance(said['source'], str):
      raise ValueError(f'{place}: source is {safe_io.show(said["source"])}; it must be a string')
    return dataclasses.replace(loaded, source=', converted from '.join(filter(None, [str(path), said['source']])))
  if read is timm.read:
    pretrained_cfg.check_library(path)
  params = read(path)
  model, resolution = _sizes_of(params, path)
  resolution = resolution or models.LOADABLE[model['name']].default_resolution(model)
  name = published.name_of(path) if read is npz.read else None
  known = published.TABLE[name] if name else None
  if known and model['num_classes'] != known.num_classes:
    raise ValueError(f'{path} has {model["num_classes"]:,} classes, and {known.num_classes:,} were published under '
                     'that name; give it another name if it is another file')
  class_names = class_names_lib.wordnet_ids(known.num_classes) if known else None
  of_file = pretrained_cfg.Pixels(class_names=class_names)
  if read is timm.read:
    of_file = pretrained_cfg.of_file(path, model['num_classes'], resolution)
  if pixels:
    of_file = dataclasses.replace(of_file, mean=pixels.mean, std=pixels.std, said=pixels.said)
  source = f'{name}, {known.what}' if known else str(path)
  small = not known and resolution not in PUBLISHED_RESOLUTIONS
  return Weights(
      params=pretrained_cfg.fold(params, model['name'], of_file, path), model=model, resolution=resolution,
      loss='sigmoid_xent' if model['num_classes'] == 21843 else 'softmax_xent', class_names=of_file.class_names,
      crop=of_file.crop or ('antialiased' if small else 'paper_resize'), resize=of_file.resize,
      source=f'{source}; pixels of {of_file.describe()}' if pixels or read is timm.read else source)


def _sizes_of(params, place) -> tuple[dict, int | None]:
  """The model's section and the resolution, or None for any, read off the arrays' shapes."""
  try:
    model = models.config_from_params(params)
    resolution_of = models.LOADABLE[model['name']].resolution_of
    return model, resolution_of and resolution_of(params)
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from error


def _of_run(workdir, step=None, folder=None) -> Weights:
  path = workdir / 'config.json'
  if not path.exists():
    raise ValueError(f"{workdir} is not a run's work directory: there is no {path}")
  config, what = safe_io.read_json_object(path), 'the config of a run of this version'
  try:
    said = {'model': config['model'], 'resolution': config['data']['resolution'], 'loss': config['step']['loss'],
            'permutation': config['data'].get('permutation'), 'class_names': None,
            **_evaluated(config['evals'], config['data']['resolution'])}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is not {what}: {error!r}') from error
  here = _check(said, path, what)
  params, checked = checkpoint_integrity.read_params(workdir, step, folder)
  params = trees.nested(arrays.float32(trees.flat(params), checked))
  names = workdir / 'classes.txt'
  if names.exists():
    said['class_names'] = safe_io.text(names).removesuffix('\n').split('\n')
  loaded = _made(params, said, here, 'its config.json', checked, names)
  return dataclasses.replace(loaded, source=f'step {int(checked.name):,} of the run in {workdir}')


def _check(said, place, what) -> dict:
  """The sizes that the arrays must have by what a run or a file says of its model, after all of that is checked."""
  try:
    configuration.lookup('step', 'loss', said['loss'], losses.LOSSES)
    configuration.lookup('evals', 'crop', said['crop'], export_crops.CROPS)
    for field in ('resolution', 'resize'):
      if not (isinstance(said[field], int) and said[field] > 0 or field == 'resize' and said[field] is None):
        raise ValueError(f'{field} is {safe_io.show(said[field])}; it must be a number of pixels')
    crop_sizes.resize_for(said['resolution'], said['resize'], said['crop'])
    if said['permutation'] not in (None, *pixel_permutations.KINDS):
      raise ValueError(f'permutation is {safe_io.show(said["permutation"])}; it must be one of {pixel_permutations.KINDS}, or null')
    names = said['class_names']
    if not (names is None or isinstance(names, list) and all(isinstance(name, str) for name in names)):
      raise ValueError(f'class_names is {safe_io.show(names)}; it must be a list of strings, or null')
    # The model is not traced: of a config that claims a million blocks, that takes for ever.
    here = models.expected_config(said['model'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{place} is not {what}: {error!r}') from error
  if here is None:
    raise ValueError(f'{place}: model.name is {said["model"]["name"]!r}, and weights are read of {", ".join(models.LOADABLE)} '
                     'alone; train.py evaluates such a run itself')
  return here


def _made(params, said, here, place, params_place, names_place=None) -> Weights:
  """Weights of what is said of them, if it fits the arrays."""
  model, there = _sizes_of(params, params_place)
  found = dict(model, resolution=there or said['resolution'])
  if unlike := configuration.differences(found, dict(here, resolution=said['resolution']),
                                              'in the arrays', 'as stated'):
    raise ValueError(f'{params_place} does not fit {place}:' + ''.join(f'\n  {line}' for line in unlike))
  class_names = said['class_names']
  if class_names and len(class_names) != model['num_classes']:
    raise ValueError(f'{names_place or f"{place}: class_names"} has {len(class_names):,} lines, and the model '
                     f'{model["num_classes"] or 0:,} classes')
  dropped = models.LOADABLE[model['name']].training_only_fields
  kept = {field: value for field, value in said['model'].items() if field not in dropped}
  return Weights(params=params, model={**kept, **model}, resolution=said['resolution'], loss=said['loss'],
                 class_names=class_names, source='', crop=said['crop'], resize=said['resize'],
                 permutation=said['permutation'])


def _evaluated(evals, resolution):
  """The fields 'crop' and 'resize' of the first evaluation at the resolution of the training."""
  first = next((section for section in evals.values() if section['resolution'] == resolution), {})
  return {field: first.get(field, default) for field, default in (('crop', 'paper_resize'), ('resize', None))}


def start(wanted: dict, *, weights: str, head: typing.Literal['fresh', 'given'] = 'fresh',
          token_mixing: typing.Literal['block_diagonal', 'interpolated', None] = None,
          mean: Sequence[float] | float | None = None, std: Sequence[float] | float | None = None) -> dict:
  """The parameters that a run starts from: those that `weights` names, fitted to the fresh ones of its model.

  Args:
    wanted: the fresh parameters.
    weights: a published name, a file, a run's work directory or a checkpoint in one, as in `load`.
    mean, std: as in `load`.
    head, token_mixing: `convert.start.start`.
  """
  loaded = load(weights, mean, std)
  distributed.print_on_main_process(f'starts from {loaded.describe()}')
  return starting.start(loaded.params, wanted, head=head, token_mixing=token_mixing)


def files_of(path) -> list[pathlib.Path]:
  """The files that `save` may write for this path: itself, and what goes beside it, which it replaces, too."""
  path = pathlib.Path(path)
  beside = [record.beside(path)] if path.suffix == '.npz' else []
  if path.name == 'model.safetensors':
    beside = [path.with_name('config.json')]
  return [path, *map(pathlib.Path, beside)]


def check_can_save(path):
  """Raises a ValueError or FileNotFoundError if `save` could not write a file of this path, as far as can be foreseen."""
  path = pathlib.Path(path)
  if path.suffix not in ('.npz', '.safetensors'):
    raise ValueError(f'{path} has the suffix {path.suffix!r}; weights are written as .npz or .safetensors')
  if not path.parent.is_dir():
    raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to')
  for file in files_of(path):
    if file.is_dir():
      raise IsADirectoryError(f'{file} is a directory, and a file is written there; choose another name')
  if path.name == 'model.safetensors':
    pretrained_cfg.check_can_write(path)


def save(weights: Weights, path) -> list:
  """Writes an .npz file with the published names, or a .safetensors file of timm, by the suffix. -> paths written.

  `load` gives back all that is known of them (convert/record.py): a .safetensors file has it in its metadata, and its
  pretrained_cfg in the metadata of that name; for w.npz it is w.npz.json. Beside model.safetensors, of a model that timm
  has a name for, comes the config.json of Hugging Face and timm. Files appear when they are whole. After a kill between
  the two, `load` refuses w.npz, whose record does not fit; and reads model.safetensors, which says it all itself.
  """
  path = pathlib.Path(path)
  check_can_save(path)
  partial = path.with_name(f'{path.stem}.{uuid.uuid4().hex}.partial{path.suffix}')
  _, *beside = files_of(path)
  try:
    if path.suffix == '.npz':
      npz.write(weights.params, partial)
      storage.write(*beside, record.text(weights, partial))  # first, since w.npz alone would be read otherwise
      os.replace(partial, path)
    else:
      config = pretrained_cfg.of_weights(weights.with_crop())
      if beside and not config['architecture']:
        pretrained_cfg.check_can_write(path, named=False)
        beside = []
      timm.write(weights.params, partial, {record.KEY: record.text(weights),
                                           'pretrained_cfg': json.dumps(config['pretrained_cfg'])})
      os.replace(partial, path)
      for file in beside:
        storage.write(file, json.dumps(config, indent=2) + '\n')
  finally:
    partial.unlink(missing_ok=True)
  return [path, *beside]
