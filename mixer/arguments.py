"""Checks of the ranges of numeric arguments."""

import math


class ArgumentError(ValueError):
  """An invalid value of an argument. The text begins with the argument's name, so that a caller can prefix its path."""


def check(values: dict, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None,
          below: float | None = None):
  """Raises an ArgumentError unless each number of {name: value}, where it is not None, is finite and in the range."""
  bounds = [(at_least, 'at least', lambda value: value >= at_least), (above, 'above', lambda value: value > above),
            (at_most, 'at most', lambda value: value <= at_most), (below, 'below', lambda value: value < below)]
  bounds = [(f'{words} {_show(bound)}', holds) for bound, words, holds in bounds if bound is not None]
  for name, value in values.items():
    if value is not None and not (-math.inf < value < math.inf and all(holds(value) for _, holds in bounds)):
      expected = ' and '.join(words for words, _ in bounds)
      finite = '' if -math.inf < value < math.inf and bounds else 'a finite number' + ', ' * bool(bounds)
      raise ArgumentError(f'{name} is {value}; it must be {finite}{expected}')


def check_choice(name: str, value, choices):
  """Raises an ArgumentError unless the value is one of the choices."""
  if value not in choices:
    raise ArgumentError(f'{name} is {value!r}; it must be one of {", ".join(map(repr, choices))}')


def _show(bound):
  """A number for people: 2**63 - 1 rather than 19 digits."""
  for beyond in (0, 1):
    if isinstance(bound, int) and abs(bound) >= 2**31 - 1 and (size := abs(bound) + beyond) & (size - 1) == 0:
      return f'{"-" * (bound < 0)}2**{size.bit_length() - 1}' + ' - 1' * beyond
  return str(bound) if isinstance(bound, int) else f'{bound:g}'
