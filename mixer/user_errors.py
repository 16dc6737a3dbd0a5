"""Which errors are the user's to fix, and end in one line, and which are bugs, and keep their traceback."""

import functools
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


def line_of(error: BaseException) -> str | None:
  """What to print of an error instead of its traceback; None where it is a bug, or the command line has --debug."""
  return f'error: {error}' if DEBUG not in sys.argv and is_users(error) else None


def in_one_line(main):
  """A decorator of the main function of a program whose flags are argparse's: it takes --debug, too."""
  @functools.wraps(main)
  def guarded(arguments: list[str] | None = None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
      return main([argument for argument in arguments if argument != DEBUG])
    except Exception as error:
      if (line := line_of(error)) is None:
        raise
      sys.exit(line)
  return guarded
