"""The flag --config, as train.py and the tools take it."""

import contextlib
import sys
import traceback

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from mixer import configuration

CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment; --config.FIELD=VALUE sets a field of it.',
                                         lock_config=False, accept_new_attributes=True)


def run(main):
  """Runs a program as absl's app.run does, and tells of a field that cannot be set as of any other wrong flag."""
  def parse(arguments):
    try:
      with wrong_fields():
        return flags.FLAGS(arguments)
    except flags.Error as error:
      sys.exit(f'FATAL Flags parsing error:\n  {error}\nPass --helpshort or --helpfull to see help on flags.')

  app.run(main, flags_parser=parse)


@contextlib.contextmanager
def wrong_fields():
  """Makes one kind of error of the many that ml_collections raises for a field that cannot be set."""
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
    if any(frame.name in ('get_config', '<module>') for frame in traceback.extract_tb(error.__traceback__)):
      raise  # in the config itself
    told = f'there is no {error}' if isinstance(error, KeyError) else str(error).replace('\n', ' ')
    raise flags.IllegalFlagValueError(f'a --config.FIELD=VALUE cannot be set: {told}') from error


def config(arguments: list[str]) -> ml_collections.ConfigDict:
  """The config that the flags name, with the fields that they set. Warnings are shown, and nothing below them.

  Raises:
    app.UsageError: if there is none, or `arguments`, what is left of the command line, holds more than its name.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  if arguments[1:]:
    raise app.UsageError(f'nothing reads {" ".join(arguments[1:])}; a field of the config is set by '
                         '--config.FIELD=VALUE')
  if CONFIG.value is None:
    raise app.UsageError('--config is missing: --config=configs/mixer_digits.py; python train.py --list names them all')
  configuration.prefer(CONFIG.value, config_flags.get_override_values(flags.FLAGS['config']))
  return CONFIG.value


def given() -> list[str]:
  """The flags that make the config again: ['--config=configs/mixer_digits.py', '--config.seed=1'], or []."""
  flag = flags.FLAGS['config']
  if not flag.present:
    return []
  return [f'--config={flag.config_filename}',
          *(f'--config.{field}={value}' for field, value in flag.override_values.items())]
