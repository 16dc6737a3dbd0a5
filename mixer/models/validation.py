"""What holds for the fields of several models. Each raises a ValueError that names the field of the config."""

from mixer import arguments
from mixer import configuration


def at_least_one(model, *fields: str):
  """Where they are not None."""
  _in_range(model, fields, at_least=1)


def probabilities(model, *fields: str):
  """Of dropping something, which may not be everything."""
  _in_range(model, fields, at_least=0, below=1)


def finite(model, *fields: str):
  """Numbers of any size."""
  _in_range(model, fields)


def _in_range(model, fields, **bounds):
  with configuration.named('config.model'):
    arguments.check({field: getattr(model, field) for field in fields}, **bounds)


def patches_tile(model, height: int, width: int):
  """Images of so many pixels."""
  if height % model.patch_size or width % model.patch_size:
    raise ValueError(f'the images are {height} x {width} pixels, which patches of {model.patch_size} x '
                     f'{model.patch_size} do not tile; choose data.resolution as a multiple of model.patch_size')
