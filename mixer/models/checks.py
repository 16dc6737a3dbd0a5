"""What holds for the fields of several models. Each raises a ValueError that names the field of the config."""


def at_least_one(model, *fields: str):
  """Where they are not None."""
  for field in fields:
    if getattr(model, field) is not None and getattr(model, field) < 1:
      raise ValueError(f'config.model.{field} is {getattr(model, field)}; it must be at least 1')


def probabilities(model, *fields: str):
  """Of dropping something, which may not be everything."""
  for field in fields:
    if not 0 <= getattr(model, field) < 1:
      raise ValueError(f'config.model.{field} is {getattr(model, field)}; it must be at least 0, and below 1')


def patches_tile(model, height: int, width: int):
  """Images of so many pixels."""
  if height % model.patch_size or width % model.patch_size:
    raise ValueError(f'the images are {height} x {width} pixels, which patches of {model.patch_size} x '
                     f'{model.patch_size} do not tile; choose data.resolution as a multiple of model.patch_size')
