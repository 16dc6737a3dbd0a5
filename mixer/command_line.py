"""The flag --config, as train.py and the tools take it."""

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from mixer import configuration

CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment; --config.FIELD=VALUE sets a field of it.',
                                         lock_config=False, accept_new_attributes=True)


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
