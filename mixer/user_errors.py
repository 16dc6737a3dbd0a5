"""Which errors are the user's to fix, and end in one line, and which are bugs, and keep their traceback."""

import argparse
import difflib
import functools
import itertools
import linecache
import sys
import traceback

from absl import app
from absl import flags

# The top of what is ours; a config is loaded under the last name, a program under the one before it.
OURS = ('benchmarks', 'configs', 'input_pipeline', 'mixer', 'paper', 'tools', 'train', '__main__', '__config__')
DEBUG = '--debug'


def is_users(error: BaseException) -> bool:
  """Whether an error is one of the command line, of the operating system, or raised by a check of ours.

  A ValueError that another library raises, or Python itself in a line of ours, is a bug.
  """
  if isinstance(error, (OSError, app.UsageError, flags.Error)):
    return True
  if not isinstance(error, (ValueError, FloatingPointError)) or error.__traceback__ is None:
    return False
  *_, (frame, line) = traceback.walk_tb(error.__traceback__)
  ours = frame.f_globals.get('__name__', '').split('.')[0] in OURS
  return ours and 'raise ' in linecache.getline(frame.f_code.co_filename, line)


def line_of(error: BaseException, arguments: list[str] | None = None) -> str | None:
  """What to print of an error instead of its traceback; None where it is a bug, or the command line has --debug."""
  arguments = sys.argv if arguments is None else arguments
  return f'error: {error}' if DEBUG not in arguments and is_users(error) else None


class ArgumentParser(argparse.ArgumentParser):
  """A command line whose errors are one line, and name misspelt flags before missing ones."""

  def __init__(self, description: str):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    self.add_argument(DEBUG, action='store_true', help='show the traceback of an error')  # taken by in_one_line

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


def in_one_line(main):
  """A decorator of the main function of a program whose flags are argparse's: it takes --debug, too.

  An error of the user's ends it with one line and the exit code 1, Ctrl-C with 130.
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
