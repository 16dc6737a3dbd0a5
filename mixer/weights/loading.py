"""Loading weights of any origin, with their metadata: published, of timm, or of a run of this program."""

from collections.abc import Sequence
import dataclasses
import difflib
import functools
import os

from etils import epath
import flax.linen as nn

from mixer import configuration
from mixer.data import class_names as class_names_lib
from mixer.data import crop_sizes
from mixer.data import crops
from mixer.data import pixel_permutations
from mixer import models
from mixer.run import checkpoint_integrity
from mixer import safe_io
from mixer import storage
from mixer.training import losses
from mixer import trees
from mixer.weights import arrays
from mixer.weights import hugging_face
from mixer.weights import inference
from mixer.weights import npz
from mixer.weights import pretrained_cfg
from mixer.weights import published
from mixer.weights import record
from mixer.weights import timm

PUBLISHED_RESOLUTIONS = 224, 384, 448  # of Mixers and ViTs, whose crops were made for them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Weights:
  """A model's parameters and their metadata.

  Attributes:
    params: nested dicts of float32 numpy arrays, with the names of `mixer.models`; not to be changed in place. Running
      statistics, which models with batch norm have, are those of the name 'batch_stats'.
    model: the `model` section of a config that builds the model.
    resolution: the side in pixels of the square images that it takes; where it takes any, that of its training, or 224.
    loss: 'softmax_xent' or 'sigmoid_xent', whose `losses.PROBABILITIES` say what the logits mean.
    class_names: of the logits, as data sets have them ('n01440764'), or None; `class_names.label` makes them readable.
    crop, resize: how its run preprocessed images for evaluation; for others (i) of the paper's App. C, or 'antialiased'
      where the published models take no images of that side. Without `resize`: `crop_sizes.resize_for`.
    source: where it comes from and what it is, for messages.
    permutation: of the pixels of its run's images (`pixel_permutations.draw`), or None.
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
    """A copy with another crop or resize, or its own where it is None. The copy's `resize` is always set."""
    crop = crop or self.crop
    return dataclasses.replace(self, crop=crop, resize=crop_sizes.resize_for(self.resolution, resize or self.resize, crop))

  def __repr__(self):
    return f'<Weights: {self.describe()}>'

  def __getstate__(self):  # without compiled functions
    return {name: value for name, value in self.__dict__.items() if name != 'inference'}

  def build(self) -> tuple[nn.Module, dict]:
    """The Flax module and its parameters: model.apply({'params': params}, images), images [B, H, W, 3] in [-1, 1].

    Running statistics of batch norm are among them: then it is model.apply(mixer.trees.variables(params), images).
    """
    return models.build(**self.model), self.params

  def predict(self, images, top: int = 5) -> list[list[inference.Prediction]]:
    """The `top` classes of each image, most probable first.

    Args:
      images: a path, an image of Pillow or a uint8 array [H, W, 3], of any size, or a sequence of them, [B, H, W, 3]; or
        floats as of `logits`. They are prepared by `prepare`.
      top: how many classes, at least 1.

    Raises:
      OSError, ValueError: naming the file, or the place in the sequence, of what cannot be read; and for weights without
        a head or of permuted pixels.
    """
    self.check_head(self.source)
    if top < 1:
      raise ValueError(f'top is {top}; it must be at least 1')
    return self.inference.predict(images, top)

  def prepare(self, images):
    """Images of any size to [B, R, R, 3] uint8 as the model takes them: upright, resized and cropped by `crop`.

    Images as of `predict`, without floats.
    """
    return self.inference.as_pixels(images)

  def logits(self, images):
    """The head's outputs. [B, R, R, 3] uint8, or floats in [-1, 1], R of `resolution` -> [B, K] float32 of NumPy.

    Arrays are taken as they are; paths and images of Pillow go through `prepare`.

    Raises:
      ValueError: for images of another shape, type or range, and for weights without a head.
    """
    self.check_head(self.source)
    return self.inference.logits(images)

  def features(self, images, tokens: bool = False):
    """What the head is applied to, [B, C], or with `tokens` what it is the mean of: [B, S, C]. Images as of `logits`.

    The tokens are those after the last normalization, of S patches row by row; a ViT's class token comes first.

    Raises:
      ValueError: as `logits`, and for tokens of a model that has none, a BiT-ResNet or a HaloNet.
    """
    return self.inference.features(images, tokens)

  @functools.cached_property
  def inference(self) -> inference.Inference:
    """The model at work, its parameters on the device."""
    self.check_images(self.source)
    return inference.Inference(self)

  def check_head(self, name: str):
    """Raises a ValueError unless the model has a head; `name` is what was loaded, for the message."""
    if self.model['num_classes'] is None:
      raise ValueError(f'{name} has no head, and so no classes; pass weights with a head')

  def check_images(self, name: str):
    """Raises a ValueError if its pixels are permuted; `name` is what was loaded, for the message."""
    if self.permutation is not None:
      raise ValueError(f'{name} was trained on permuted pixels (config.data.permutation is {self.permutation!r}), and '
                       'takes no ordinary images; tools.evaluate scores it with the config of its run')


def load(name: str | os.PathLike, mean: Sequence[float] | float | None = None,
         std: Sequence[float] | float | None = None, average: bool = False) -> Weights:
  """Loads the weights of a name or a path.

  For files, the number of classes decides what the logits mean: with the 21,843 of ImageNet-21k a sigmoid gives the
  probability of each class on its own; any others go through a softmax. The authors trained both by sigmoid
  cross-entropy, but everyone reads ImageNet-1k results by softmax. Published weights also have class names, by WordNet
  id; a file counts as published if its path ends in the published name ('.../imagenet1k/Mixer-B_16.npz'). Files that
  `save` wrote hold all of this as metadata.

  The preprocessing of timm's files comes from a config.json next to them, or from their name (weights/pretrained_cfg.py).
  Loaded weights always take pixels in [-1, 1]: the first layer of models for others is converted.

  Args:
    name: a published name ('imagenet21k/Mixer-B_16'), an .npz file (also gs://), a .safetensors file of timm, a folder
      as on Hugging Face (model.safetensors, config.json), a model there ('hf-hub:timm/mixer_b16_224.goog_in21k'), a run's
      work directory, for its latest checkpoint, or one of its checkpoints ('runs/digits/checkpoints/562', or
      'runs/digits/interrupted/500').
    mean, std: of the pixels in [0, 1] that the file's model takes, three numbers or one, where its config.json
      lacks them or is wrong; 0.5 and 0.5 for those in [-1, 1].
    average: whether to load a run's average of its parameters, which it keeps with config.step.ema, instead of the
      parameters themselves.

  Raises:
    FileNotFoundError, OSError, ValueError: naming the file or address and the problem.
  """
  name = os.fspath(name)
  if (mean is None) != (std is None):
    raise ValueError(f'mean is {mean}, and std is {std}; set both or neither')
  pixels = None if mean is None else pretrained_cfg.Pixels(
      pretrained_cfg.triple(mean, 'mean'), pretrained_cfg.triple(std, 'std'), 'as set')
  if average and (name in published.TABLE or name.startswith(hugging_face.PREFIX)):
    raise _no_average(name)
  if name in published.TABLE:
    return _of_file(published.fetch(name), npz.read, pixels)
  storage.check_no_url(name)
  if name.startswith(hugging_face.PREFIX):
    folder, commit = hugging_face.fetch(name)
    _check_holds_safetensors(folder, name)
    return _of_file(folder / 'model.safetensors', timm.read, pixels, f'{name}, commit {commit[:12]}')
  path = epath.Path(name).expanduser()
  with storage.translate_gcs_errors(path):
    return _of_path(path, pixels, average)


def _no_average(name):
  return ValueError(f'{name} is no run of config.step.ema, but one set of weights; leave out average')


def _of_path(path, pixels, average):
  if path.suffix in ('.npz', '.safetensors'):
    if average:
      raise _no_average(path)
    return _of_file(_existing(path), npz.read if path.suffix == '.npz' else timm.read, pixels)
  if (path.parent.name not in checkpoint_integrity.FOLDERS and _existing(path).is_dir()
      and not (path / 'checkpoints').exists()):
    if (path / 'model.safetensors').exists():
      if average:
        raise _no_average(path)
      return _of_file(path / 'model.safetensors', timm.read, pixels)
    if pickles := [name for name in ('pytorch_model.bin', 'model.safetensors.index.json') if (path / name).exists()]:
      _check_holds_safetensors(path, f'{path}, which holds {pickles[0]},')
  if pixels:
    raise ValueError(f'{path} is a run, whose model takes pixels in [-1, 1]; leave out mean and std')
  if path.parent.name in checkpoint_integrity.FOLDERS and path.name.isdecimal():
    return _of_run(path.parent.parent, average, int(path.name), path.parent.name)
  if _existing(path).is_dir():
    return _of_run(path, average)
  advice = ''
  if path.suffix in ('.pth', '.pt', '.bin'):
    advice = " PyTorch's own files are pickles, which are not read; save the state_dict as .safetensors instead."
  raise ValueError(f'{path} is neither .npz nor .safetensors, nor a directory.{advice}')


def _check_holds_safetensors(folder, name):
  if not (folder / 'model.safetensors').exists():
    raise ValueError(f"{name} has no model.safetensors. PyTorch's own files are pickles, and sharded models are not "
                     'supported; save the state_dict as model.safetensors')


def _existing(path):
  if not path.exists():
    near = difflib.get_close_matches(str(path), published.TABLE, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise FileNotFoundError(f'{path} does not exist, and is no published name.{hint} Published are '
                            f'{", ".join(published.TABLE)}')
  return path


def _of_file(path, read, pixels, title=None) -> Weights:
  metadata, place = record.read(path)
  if metadata is not None:
    if pixels:
      raise ValueError(f'{place} says that {path.name} takes pixels in [-1, 1]; leave out mean and std')
    expected = _check_metadata(metadata, place, 'the record of weights of this version')
    params = read(path)
    record.check_matches(metadata, place, path)
    loaded = _build(params, metadata, expected, place, path)
    if not isinstance(metadata['source'], str):
      raise ValueError(f'{place}: source is {safe_io.show(metadata["source"])}; it must be a string')
    return dataclasses.replace(loaded, source=', converted from '.join(filter(None, [title or str(path), metadata['source']])))
  if read is timm.read:
    pretrained_cfg.check_library(path)
  params = read(path)
  model, resolution = _sizes_of(params, path)
  family = models.LOADABLE[model['name']]
  resolution = resolution or family.default_resolution(model)
  if read is timm.read and family.timm:
    model = {**family.timm.fields, **model}
  required = (field.name for field in dataclasses.fields(family.model) if field.default is dataclasses.MISSING)
  if hidden := [name for name in required if name not in model]:
    raise ValueError(f"{path}: the arrays of a {family.title} do not show {' and '.join(hidden)}, and {place}, which says them, is "
                     'missing; copy it beside the file, or convert the run again: python -m tools.convert WORKDIR FILE.npz')
  name = published.name_of(path) if read is npz.read else None
  known = published.TABLE[name] if name else None
  if known and model['num_classes'] != known.num_classes:
    raise ValueError(f'{path} has {model["num_classes"]:,} classes, and {known.num_classes:,} were published under '
                     'that name; rename it if it is another file')
  class_names = class_names_lib.wordnet_ids(known.num_classes) if known else None
  file_pixels = pretrained_cfg.Pixels(class_names=class_names)
  if read is timm.read:
    file_pixels = pretrained_cfg.of_file(path, model['num_classes'], resolution)
    if title and not pixels and file_pixels.origin.startswith('assumed'):
      raise ValueError(f'{title} has no config.json that says how its images are normalized; pass mean and std')
  if pixels:
    file_pixels = dataclasses.replace(file_pixels, mean=pixels.mean, std=pixels.std, origin=pixels.origin)
  source = f'{name}, {known.what}' if known else title or str(path)
  small = not known and resolution not in PUBLISHED_RESOLUTIONS
  return Weights(
      params=pretrained_cfg.fold(params, model['name'], file_pixels, path), model=model, resolution=resolution,
      loss='sigmoid_xent' if model['num_classes'] == 21843 else 'softmax_xent', class_names=file_pixels.class_names,
      crop=file_pixels.crop or ('antialiased' if small else 'paper_resize'), resize=file_pixels.resize,
      source=f'{source}; pixels of {file_pixels.describe()}' if pixels or read is timm.read else source)


def _sizes_of(params, place) -> tuple[dict, int | None]:
  """The model's section and the resolution, or None for any, read off the arrays' shapes."""
  try:
    model = models.config_from_params(params)
    resolution_of = models.LOADABLE[model['name']].resolution_of
    return model, resolution_of and resolution_of(params)
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from error


def _of_run(workdir, average, step=None, folder=None) -> Weights:
  path = workdir / 'config.json'
  if not path.exists():
    raise ValueError(f"{workdir} is not a run's work directory: {path} does not exist")
  config, what = safe_io.read_json_object(path), 'the config of a run of this version'
  try:
    metadata = {'model': config['model'], 'resolution': config['data']['resolution'], 'loss': config['step']['loss'],
                'permutation': config['data'].get('permutation'), 'class_names': None,
                **_eval_crop(config['evals'], config['data']['resolution'])}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is not {what}: {error!r}') from error
  expected = _check_metadata(metadata, path, what)
  if average and config['step'].get('ema') is None:
    raise ValueError(f'{workdir} has no average of its weights: {path} has no step.ema. Leave out average, or train with '
                     '--config.step.ema=0.9999')
  params, checked = checkpoint_integrity.read_params(workdir, step, folder, 'ema' if average else 'params')
  params = trees.nested(arrays.float32(trees.flat(params), checked))
  names = workdir / 'classes.txt'
  if names.exists():
    metadata['class_names'] = safe_io.text(names).removesuffix('\n').split('\n')
  loaded = _build(params, metadata, expected, 'its config.json', checked, names)
  what = 'the average of the weights up to step' if average else 'step'
  return dataclasses.replace(loaded, source=f'{what} {int(checked.name):,} of the run in {workdir}')


def _check_metadata(metadata, place, what) -> dict:
  """Checks the metadata of a run or a file. -> the `model` section that its arrays must have."""
  try:
    configuration.lookup('step', 'loss', metadata['loss'], losses.LOSSES)
    configuration.lookup('evals', 'crop', metadata['crop'], crops.CROPS)
    for field in ('resolution', 'resize'):
      if not ((isinstance(metadata[field], int) and metadata[field] > 0) or (field == 'resize' and metadata[field] is None)):
        raise ValueError(f'{field} is {safe_io.show(metadata[field])}; it must be a number of pixels')
    crop_sizes.resize_for(metadata['resolution'], metadata['resize'], metadata['crop'])
    if metadata['permutation'] not in (None, *pixel_permutations.KINDS):
      raise ValueError(f'permutation is {safe_io.show(metadata["permutation"])}; it must be one of '
                       f'{pixel_permutations.KINDS}, or null')
    names = metadata['class_names']
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
      raise ValueError(f'class_names is {safe_io.show(names)}; it must be a list of strings, or null')
    # The model is not traced: with a config that claims a million blocks, that would take forever.
    expected = models.expected_config(metadata['model'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{place} is not {what}: {error!r}') from error
  if expected is None:
    raise ValueError(f'{place}: model.name is {metadata["model"]["name"]!r}, and only weights of '
                     f'{", ".join(models.LOADABLE)} can be loaded; train.py evaluates such a run itself')
  return expected


def _build(params, metadata, expected, place, params_place, names_place=None) -> Weights:
  """Weights of the parameters and their metadata, after a check that they fit."""
  model, resolution = _sizes_of(params, params_place)
  loaded = dict(model, resolution=resolution or metadata['resolution'])
  if unlike := configuration.differences(loaded, dict(expected, resolution=metadata['resolution']), 'in the arrays',
                                         'as stated'):
    raise ValueError(f'{params_place} does not fit {place}:' + ''.join(f'\n  {line}' for line in unlike))
  class_names = metadata['class_names']
  if class_names and len(class_names) != model['num_classes']:
    raise ValueError(f'{names_place or f"{place}: class_names"} has {len(class_names):,} lines, and the model '
                     f'{model["num_classes"] or 0:,} classes')
  family, stated = models.LOADABLE[model['name']], metadata['model']
  # A variant has fields that the arrays may not show.
  stated = {**(family.variant_fields(stated['variant']) if stated.get('variant') else {}), **stated}
  kept = {field: value for field, value in stated.items() if field not in family.training_only_fields}
  return Weights(params=params, model={**kept, **model}, resolution=metadata['resolution'], loss=metadata['loss'],
                 class_names=class_names, source='', crop=metadata['crop'], resize=metadata['resize'],
                 permutation=metadata['permutation'])


def _eval_crop(evals, resolution):
  """The fields 'crop' and 'resize' of the first evaluation at the resolution of the training."""
  first = next((section for section in evals.values() if section['resolution'] == resolution), {})
  return {field: first.get(field, default) for field, default in (('crop', 'paper_resize'), ('resize', None))}
