"""What the commands that take weights share: the flags that name them, and errors as one message."""

import argparse
import contextlib
import difflib
import itertools
import sys

from mixer import weights


class Parser(argparse.ArgumentParser):
  """A command line whose errors are one line, and which names misspelt flags before missing ones."""

  def __init__(self, description: str):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

  def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
    known = list(self._option_string_actions)
    for argument in itertools.takewhile(lambda x: x != '--', sys.argv[1:] if arguments is None else arguments):
      flag = argument.split('=')[0]
      if flag.startswith('--') and not any(name.startswith(flag) for name in known):
        near = difflib.get_close_matches(flag, known, n=1)
        self.error(f'there is no flag {flag}' + (f'; did you mean {near[0]}?' if near else ''))
    return super().parse_args(arguments)

  def error(self, message: str):
    self.exit(2, f'{self.prog}: error: {message} (--help lists the flags)\n')


def add(parser: argparse.ArgumentParser, name: str = '--weights'):
  """Adds the weights, a flag or the name of a positional argument, --mean, --std and --debug to a command line."""
  parser.add_argument(name, **({'required': True} if name.startswith('-') else {}),
                      help='a published name, .npz, .safetensors, folder of Hugging Face, or work directory')
  of_pixels = ('of the pixels in [0, 1] that a file of timm takes, one number or three with commas, where no config.json '
               'beside it says so')
  parser.add_argument('--mean', type=_numbers, metavar='R,G,B', help=of_pixels)
  parser.add_argument('--std', type=_numbers, metavar='R,G,B', help='the same of their deviation')
  parser.add_argument('--debug', action='store_true', help='show the traceback of an error')


def _numbers(text):
  try:
    return [float(number) for number in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} must be one number, or three with commas between them') from None


def load(flags: argparse.Namespace) -> weights.Weights:
  """The weights that the flags name. Errors are those of `weights.load`."""
  pixels = {field: value for field in ('mean', 'std') if (value := getattr(flags, field)) is not None}
  return weights.load(flags.weights, **pixels)


@contextlib.contextmanager
def errors_in_short(debug: bool):
  """Ends the program with a message and exit code 1, or 130 for Ctrl-C, where a file or a flag is the matter."""
  try:
    yield
  except BrokenPipeError:  # of | head
    raise
  except (ValueError, OSError, RuntimeError) as error:
    if debug:
      raise
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    if debug:
      raise
    print('interrupted', file=sys.stderr)
    sys.exit(130)
