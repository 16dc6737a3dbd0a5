"""Which errors are the user's to fix, and print one line, and which are bugs, and keep their traceback."""

import argparse
import difflib
import functools
import itertools
import linecache
import sys
import traceback

from absl import app
from absl import flags

# The top-level modules of this repository; a program is __main__, and a config is loaded as __config__.
OURS = ('benchmarks', 'configs', 'input_pipeline', 'mixer', 'paper', 'tools', 'train', '__main__', '__config__')
DEBUG = '--debug'


def is_users(error: BaseException) -> bool:
  """Whether an error is of the command line, of the operating system, or raised by a check of this repository.

  A ValueError raised by another library, or by Python itself in a line of this repository, is a bug.
  """
  if isinstance(error, (OSError, app.UsageError, flags.Error)):
    return True
  if not isinstance(error, (ValueError, FloatingPointError)) or error.__traceback__ is None:
    return False
  *_, (frame, line) = traceback.walk_tb(error.__traceback__)
  ours = frame.f_globals.get('__name__', '').split('.')[0] in OURS
  return ours and 'raise ' in linecache.getline(frame.f_code.co_filename, line)


def line_of(error: BaseException, arguments: list[str] | None = None) -> str | None:
  """What to print instead of an error's traceback; None for a bug, or if the command line has --debug."""
  arguments = sys.argv if arguments is None else arguments
  return f'error: {error}' if DEBUG not in arguments and is_users(error) else None


class ArgumentParser(argparse.ArgumentParser):
  """A parser whose errors are one line, and which reports misspelt flags before missing ones."""

  def __init__(self, description: str):
    module = getattr(sys.modules['__main__'], '__spec__', None)  # as Python 3.14 does
    prog = f'python -m {module.name}' if module and module.name.startswith('tools.') else None
    super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    self.add_argument(DEBUG, action='store_true', help='show the traceback of an error')  # handled by in_one_line

  def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
    self.check_flags(sys.argv[1:] if arguments is None else arguments)
    return super().parse_args(arguments)

  def check_flags(self, arguments: list[str]):
    """Exits with an error if a flag is unknown, and suggests the nearest one."""
    known = list(self._option_string_actions)
    for argument in itertools.takewhile(lambda x: x != '--', arguments):
      flag = argument.split('=')[0]
      if flag.startswith('--') and not any(name.startswith(flag) for name in known):
        near = difflib.get_close_matches(flag, known, n=1)
        self.error(f'unknown flag {flag}' + (f'; did you mean {near[0]}?' if near else ''))

  def error(self, message: str):
    self.exit(2, f'{self.prog}: error: {message} (--help lists the flags)\n')


def in_one_line(main):
  """Decorates the main function of a program with argparse's flags, and handles --debug.

  An error of the user's exits with one line and the code 1, Ctrl-C with 130.
  """
  @functools.wraps(main)
  def guarded(arguments: list[str] | None = None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
      return main([argument for argument in arguments if argument != DEBUG])
    except BrokenPipeError:  # of | head
      raise
    except Exception as error:
      if (line := line_of(error, arguments)) is None:
        raise
      sys.exit(line)
    except KeyboardInterrupt:
      if DEBUG in arguments:
        raise
      print('interrupted', file=sys.stderr)
      sys.exit(130)
  return guarded
