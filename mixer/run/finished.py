"""Whether the run that a command line asks for is complete: told from its files, before anything slow is imported.

finished.json in the work directory holds the config as it was asked for, before epochs became steps, and the results.
"""

import json

from absl import flags
import jax

from mixer import configuration
from mixer.run import config_flags
from mixer.run import records
from mixer.run import sanity
from mixer import safe_io
from mixer import storage

FILE, FORMAT = 'finished.json', 1


def record(workdir, config, results: dict, described: str):
  """Writes, once for all processes, that the run of a config is complete, with its results also in words."""
  if jax.process_index():
    return
  storage.write(storage.path_of(workdir) / FILE, json.dumps(
      {'format': FORMAT, 'config': _plain(config), 'results': results, 'described': described}, indent=2))


def results_of(workdir, config) -> str | None:
  """The results in words if all that the run of this config leaves is there; None if anything is missing or differs."""
  folder = storage.path_of(workdir)
  kept = safe_io.read_json_object(folder / FILE)
  if kept.get('format') != FORMAT or kept.get('config') != _plain(config):
    return None
  total = safe_io.read_json_object(folder / 'config.json')['total_steps']
  last = [line for line in records.read(folder / 'records.jsonl')][-1]
  parts = ['card.md', 'learning_curves.png', *(f'predictions_{name}.png' for name in config.evals),
           f'checkpoints/{total}/default/manifest.ocdbt']
  whole = last['step'] == total and kept['results'].items() <= last.items() and all(
      (folder / part).exists() for part in parts)
  if not whole:
    return None
  warnings = [line.removeprefix(sanity.ON_CARD) for line in (folder / 'card.md').read_text().splitlines()
              if line.startswith(sanity.ON_CARD)]
  return '\n'.join([f'all {total:,} steps are done', *(f'WARNING: {line}' for line in warnings), kept['described']])


def results_asked_for(arguments: list[str]) -> str | None:
  """What to print of the complete run that a command line asks for; None for any other, and with any other flags."""
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  config_flags.define(values)
  try:
    if len(config_flags.parse(arguments, values)) > 1:
      return None
    workdir = values.workdir or config_flags.default_workdir(values.config)
    folder = storage.path_of(workdir)
    if storage.in_bucket(folder) or not (folder / FILE).exists():
      return None  # before the config, which is a program, is run: train.py runs it again
    config = config_flags.load(values.config)
    configuration.set_fields(config, values.config_field)
    found = results_of(workdir, config)
    return found and f'{found}\nrecords, checkpoints and pictures: {workdir}'
  except Exception:  # whatever is wrong, the program itself tells it
    return None


def _plain(config) -> dict:
  return json.loads(json.dumps(config.to_dict(), default=str))
