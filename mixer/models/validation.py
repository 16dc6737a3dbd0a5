"""Checks of the attributes of several models. Each raises an ArgumentError, which names the attribute."""

from collections.abc import Iterable

from mixer import arguments


def at_least_one(model, *fields: str):
  """Of those that are not None."""
  arguments.check({field: getattr(model, field) for field in fields}, at_least=1)


def probabilities(model, *fields: str):
  """Of dropping something, which may not be everything."""
  arguments.check({field: getattr(model, field) for field in fields}, at_least=0, below=1)


def finite(model, *fields: str):
  """Numbers of any size."""
  arguments.check({field: getattr(model, field) for field in fields})


def one_of(model, field: str, values: Iterable[str]):
  """Whether the value of a field is one of these."""
  arguments.check_choice(field, getattr(model, field), values)


def patches_tile(model, height: int, width: int):
  """Whether patches tile images of so many pixels."""
  if height % model.patch_size or width % model.patch_size:
    raise arguments.ArgumentError(
        f'patch_size is {model.patch_size}; patches of {model.patch_size} x {model.patch_size} pixels must tile the images, '
        f'which are {height} x {width} pixels. Choose a resolution that is a multiple of it')
