"""Detects from its files, before anything slow is imported, that the run of a command line is complete.

finished.json in the work directory holds the config as it was requested, before epochs became steps, and the results.
"""

import json

from absl import flags
from etils import epy

from mixer import configuration
from mixer.run import config_flags
from mixer.run import records
from mixer.run import sanity
from mixer.run import workdir as workdir_lib
from mixer import safe_io
from mixer import storage

with epy.lazy_imports():
  import jax

FILE, FORMAT = 'finished.json', 1


def save(workdir, config, results: dict, described: str):
  """Writes finished.json in the main process. `described` is a line about the results."""
  if jax.process_index():
    return
  storage.write(storage.path_of(workdir) / FILE, json.dumps(
      {'format': FORMAT, 'config': _plain(config), 'results': results, 'described': described}, indent=2))


def load(workdir, config) -> str | None:
  """What to print of a complete run of this config; None if any of its files is missing or disagrees."""
  folder = storage.path_of(workdir)
  saved = safe_io.read_json_object(folder / FILE)
  if saved.get('format') != FORMAT or saved.get('config') != _plain(config):
    return None
  total = safe_io.read_json_object(folder / 'config.json')['total_steps']
  last = [line for line in records.read(folder / 'records.jsonl')][-1]
  parts = ['card.md', 'learning_curves.png', *(f'predictions_{name}.png' for name in config.evals),
           workdir_lib.arrays_manifest(folder / 'checkpoints' / str(total))]
  complete = last['step'] == total and saved['results'].items() <= last.items() and all(
      (folder / part).exists() for part in parts)
  if not complete:
    return None
  warnings = [line.removeprefix(sanity.CARD_PREFIX) for line in (folder / 'card.md').read_text().splitlines()
              if line.startswith(sanity.CARD_PREFIX)]
  return '\n'.join([f'all {total:,} steps are done', *(f'WARNING: {line}' for line in warnings), saved['described']])


def results(workdir) -> dict:
  """The results of a complete run, {'test/top1': 0.9, ...}; {} where there are none."""
  path = storage.path_of(workdir) / FILE
  saved = safe_io.read_json_object(path).get('results') if path.exists() else None
  numbers = isinstance(saved, dict) and all(isinstance(value, int | float) for value in saved.values())
  return saved if numbers else {}


def load_for_command_line(arguments: list[str]) -> str | None:
  """What to print of the complete run of a command line; None if it is not complete, or has other flags."""
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  config_flags.define(values)
  for name in ('profile_steps', 'wandb'):  # of a run that still trains
    flags.DEFINE_string(name, None, '', flag_values=values)
  try:
    if len(config_flags.parse(arguments, values)) > 1:
      return None
    workdir = values.workdir or config_flags.default_workdir(values.config)
    folder = storage.path_of(workdir)
    if storage.in_bucket(folder) or not (folder / FILE).exists():
      return None  # before running the config, which is a program: train.py will run it
    config = config_flags.load(values.config)
    configuration.set_fields(config, values.config_field)
    results = load(workdir, config)
    return results and f'{results}\nrecords, checkpoints and plots: {workdir}'
  except Exception:  # of any kind: the program itself will report it
    return None


def _plain(config) -> dict:
  return json.loads(json.dumps(config.to_dict(), default=str))
