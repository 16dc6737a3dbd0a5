"""Preprocessing of timm's weights: its pretrained_cfg, from the config.json next to a file, or by the file's name.

Our models take pixels z in [-1, 1]; timm's take x = (p - mean) / std of p = (z + 1) / 2 in [0, 1], of each channel. The
first layer of a Mixer, a ViT or a ResMLP is linear and pads nothing, so `fold` puts that into it, up to the rounding of float32:

  W x + b = W' z + b',  W' = W / (2 std),  b' = b + sum_W (0.5 - mean) / std

and everything downstream (training, evaluation, export) takes pixels of one range. A fine-tuning run starts from the
same function; its optimizer sees the first layer in these coordinates.
"""

from collections.abc import Sequence
import dataclasses
import math
import re

from etils import epath
import numpy as np

from mixer.data import class_names
from mixer import models
from mixer import safe_io

OURS = (0.5, 0.5, 0.5)  # the mean and std of pixels in [-1, 1]
# For files of timm without their config.json: patterns of file names and their pretrained_cfg (timm 1.0.31).
BY_NAME = {pattern: cfg for family in models.LOADABLE.values() if family.timm for pattern, cfg in family.timm.pixels.items()}
DEFAULT_CROP_PCT = 0.875  # timm/data/constants.py
# Ours: timm's nearest. Others of a timm config are read as 'timm'.
CROPS = {'timm': ('bicubic', 'center'), 'antialiased': ('bilinear', 'center'), 'paper_resize': ('bilinear', 'squash')}


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The preprocessing that weights expect.

  Attributes:
    mean, std: three numbers each, of pixels in [0, 1].
    origin: where these values come from, for messages.
    crop, resize: as of `weights.Weights`; None if unknown.
    class_names: of the logits, or None.
  """
  mean: Sequence[float] = OURS
  std: Sequence[float] = OURS
  origin: str = 'assumed'
  crop: str | None = None
  resize: int | None = None
  class_names: list[str] | None = None

  def describe(self) -> str:
    """'mean 0, std 1 (config.json)'."""
    one = lambda numbers: ', '.join(f'{x:g}' for x in (numbers if len(set(numbers)) > 1 else numbers[:1]))
    return f'mean {one(self.mean)}, std {one(self.std)} ({self.origin})'


def check_library(path):
  """Raises a ValueError if the config.json next to a .safetensors file is of another library than timm."""
  config = epath.Path(path).parent / 'config.json'
  config_json = safe_io.read_json_object(config) if config.exists() else {}
  if 'architectures' in config_json and 'architecture' not in config_json:
    raise ValueError(f'{config} is of the transformers library ({safe_io.show(config_json["architectures"])}), whose '
                     "array names are not supported; use timm's version of these weights, or the authors' .npz")


def of_file(path, num_classes: int | None, resolution: int) -> Pixels:
  """The preprocessing by the config.json next to a file of timm, or else by its name; Pixels() if neither is known.

  Args:
    path: of a .safetensors file.
    num_classes, resolution: of its model, in pixels.

  Raises:
    ValueError: naming the config.json, and the field if it is one.
  """
  path = epath.Path(path)
  config = path.parent / 'config.json'
  config_json = safe_io.read_json_object(config) if config.exists() else {}
  if 'architecture' in config_json or 'pretrained_cfg' in config_json:
    cfg = config_json.get('pretrained_cfg', config_json)  # before timm 0.8 the fields were at the top level
    if not isinstance(cfg, dict):
      raise ValueError(f'{config}: pretrained_cfg is {safe_io.show(cfg)}; it must be an object')
    config_classes = config_json.get('num_classes', cfg.get('num_classes'))
    if config_classes not in (None, num_classes or 0):
      raise ValueError(f'{config} is of a model of {safe_io.show(config_classes)} classes, and {path.name} next to it '
                       f'has {num_classes or 0:,}; move the file to a folder without this config.json, or with its own')
    names = config_json.get('label_names')
    if names is not None and not (isinstance(names, list) and len(names) == num_classes and _all(str, names)):
      raise ValueError(f'{config}: label_names is {safe_io.show(names)}; it must be {num_classes} strings')
    tag = f'{config_json.get("architecture")}.{cfg.get("tag")}'
    return _pixels(cfg, config, tag, 'config.json', names, num_classes, resolution)
  by_name = next((cfg for pattern, cfg in BY_NAME.items() if re.search(pattern, path.stem)), None)
  if by_name is None:
    return Pixels(origin='assumed: no config.json', class_names=_class_names(path.stem, num_classes))
  return _pixels(by_name, path, path.stem, 'by its name', None, num_classes, resolution)


def _pixels(cfg, place, tag, origin, names, num_classes, resolution):
  mean, std = (triple(cfg.get(field, OURS), f'{place}: {field}') for field in ('mean', 'std'))
  crop_pct = DEFAULT_CROP_PCT if cfg.get('crop_pct') is None else cfg['crop_pct']
  if not (_all((int, float), [crop_pct]) and 0.01 <= crop_pct <= 1):
    raise ValueError(f'{place}: crop_pct is {safe_io.show(crop_pct)}; it must be a number above 0, and 1 at most')
  crop = 'antialiased' if cfg.get('interpolation') == 'bilinear' else 'timm'
  for field, ours in zip(('interpolation', 'crop_mode'), CROPS[crop]):
    if cfg.get(field, ours) != ours:
      origin += f'; {field} {safe_io.show(cfg[field])} is replaced by {ours!r}'
  return Pixels(mean, std, origin, crop, math.floor(resolution / crop_pct), names or _class_names(tag, num_classes))


def _class_names(tag, num_classes):
  """ImageNet's, where timm's name of the weights implies them: 'mixer_b16_224.goog_in21k_ft_in1k'."""
  of_imagenet = {1000: r'(_|\.)in1k$', 21843: r'(_|\.)in21k$'}.get(num_classes)
  return class_names.wordnet_ids(num_classes) if of_imagenet and re.search(of_imagenet, tag) else None


def triple(numbers, place: str) -> tuple[float, ...]:
  """The mean or std of pixels in [0, 1]: three numbers, or one for all channels. `place` ends in 'mean' or 'std'.

  Raises:
    ValueError: naming the place, if they are anything else, such as those of pixels in [0, 255].
  """
  least = 1e-3 if place.endswith('std') else 0
  several = list(numbers) if isinstance(numbers, Sequence) and not isinstance(numbers, str) else [numbers]
  if len(several) not in (1, 3) or not (_all((int, float), several) and all(least <= x <= 1 for x in several)):
    raise ValueError(f'{place} is {safe_io.show(numbers)}; it must be three numbers, or one for all channels, of pixels in '
                     f'[0, 1]: between {least:g} and 1')
  return tuple(map(float, several * (3 // len(several))))


def _all(types, values):
  return all(isinstance(x, types) and not isinstance(x, bool) for x in values)


def fold(params: dict, name: str, pixels: Pixels, source) -> dict:
  """Converts parameters for pixels of another mean and std to parameters for pixels in [-1, 1]; see above. Types stay.

  Args:
    params: nested, of a model of this name (models.LOADABLE).
    source: what was loaded, for the message.

  Raises:
    ValueError: for a model whose first layer pads its images, unless it takes pixels in [-1, 1] already.
  """
  if (pixels.mean, pixels.std) == (OURS, OURS):
    return params
  family = models.LOADABLE[name]
  if not family.stem_is_linear:
    raise ValueError(f'{source} takes pixels of {pixels.describe()}, and only those in [-1, 1], mean 0.5 and std 0.5, are '
                     f'supported for {name}: its first layer pads images with zeros, so that it cannot scale them itself')
  kernel, bias = (params[family.stem][part] for part in ('kernel', 'bias'))
  mean, std = (np.array(x)[:, None] for x in (pixels.mean, pixels.std))
  wide = kernel.astype(np.float64)
  layer = {'kernel': (wide / (2 * std)).astype(kernel.dtype),
           'bias': (bias + (wide * ((0.5 - mean) / std)).sum((0, 1, 2))).astype(bias.dtype)}
  return {**params, family.stem: layer}


def check_can_write(path, named: bool = True):
  """Raises a ValueError if the config.json next to model.safetensors belongs to something else, such as a run.

  Args:
    named: whether timm has a name for the model, without which no config.json is written.
  """
  config = epath.Path(path).parent / 'config.json'
  if config.exists() and 'pretrained_cfg' not in safe_io.read_json_object(config):
    raise ValueError(f'{config} is not of timm, and model.safetensors gets its own config.json; choose another folder')
  if config.exists() and not named:
    raise ValueError(f'{config} is of another model, and timm has no name for this one; choose another folder')


def of_weights(weights) -> dict:
  """The config.json of `weights.Weights`, with their `resize`, for timm, whose crop is timm's nearest to theirs.

  Its architecture is None where timm has no name for the model.
  """
  resolution, model = weights.resolution, weights.model
  family = models.LOADABLE[model['name']]
  interpolation, crop_mode = CROPS.get(weights.crop, ('bilinear', 'center'))
  crop_pct = resolution / weights.resize
  if math.floor(resolution / crop_pct) != weights.resize:  # as timm computes it
    crop_pct = resolution / (weights.resize + 0.5)
  cfg = dict(input_size=[3, resolution, resolution], fixed_input_size=True, mean=list(OURS), std=list(OURS),
             interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct, num_classes=model['num_classes'] or 0,
             first_conv=family.timm and family.timm.first_conv, classifier='head')
  config = {'architecture': _architecture(model), 'num_classes': model['num_classes'] or 0, 'pretrained_cfg': cfg,
            'model_args': {'img_size': resolution}}
  return config | ({'label_names': weights.class_names} if weights.class_names else {})


def _architecture(model):
  """timm's name of a model, 'mixer_b16_224', or None."""
  family = models.LOADABLE[model['name']]
  return family.timm and family.timm.architecture(family.variant_of(model) or '')
