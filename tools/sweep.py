"""Tries values of a config's fields on the dev split, then trains with the best ones on the whole training set.

The paper chooses each fine-tuning's learning rate so (section 3):
  python -m tools.sweep --config=configs/mixer_finetune.py:b16_i21k,cifar10 --workdir=runs/sweep \
    --over=optimizer.learning_rate=0.003,0.01,0.03,0.06
Several --over are combined in all ways. Each run has a folder of its own in the work directory: a sweep that was stopped
goes on with the same command, and passes over what is finished. The table is sweep.csv there.
"""

import csv
import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys

from absl import app
from absl import flags

from mixer import records

ROOT = pathlib.Path(__file__).parent.parent

CONFIG = flags.DEFINE_string('config', None, 'The config of the last run, on the whole training set.', required=True)
DEV_CONFIG = flags.DEFINE_string('dev_config', None, 'The config of the runs to choose by; by default that of --config '
                                 'with ",dev" after it.')
OVER = flags.DEFINE_multi_string('over', None, 'FIELD=VALUE,VALUE,...: what to try.', required=True)
SET = flags.DEFINE_multi_string('set', [], 'FIELD=VALUE: what to set in all runs.')
METRIC = flags.DEFINE_string('metric', None, 'What to choose by, the higher the better; by default the first evaluation\'s '
                             'top-1 or precision@1.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the folders of the runs.', required=True)
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the commands and run none.')


def grid(over: list[str]) -> list[dict[str, str]]:
  """Each combination of values: ['a=1,2', 'b=3'] -> [{'a': '1', 'b': '3'}, {'a': '2', 'b': '3'}]."""
  fields = {}
  for text in over:
    field, _, values = text.partition('=')
    if not field or not values or '' in values.split(','):
      raise app.UsageError(f'--over={text} is not FIELD=VALUE,VALUE,...: --over=optimizer.learning_rate=0.003,0.01')
    if field in fields:
      raise app.UsageError(f'--over names {field} twice')
    fields[field] = values.split(',')
  return [dict(zip(fields, values)) for values in itertools.product(*fields.values())]


def command(config: str, workdir: pathlib.Path, fields: dict[str, str]) -> list[str]:
  """The command line of a run."""
  return ['python', 'train.py', f'--config={config}', f'--workdir={workdir}',
          *(f'--config.{field}={value}' for field, value in fields.items())]


def result(workdir: pathlib.Path) -> dict[str, float] | None:
  """The evaluations at the end of a finished run; None where there is none."""
  path = workdir / 'config.json'
  if not path.exists():
    return None
  last = None
  for last in records.read(workdir / 'records.jsonl'):
    pass
  if last is None or last['step'] < json.loads(path.read_text())['total_steps']:
    return None
  scores = {name: value for name, value in last.items() if not name.startswith('train/') and '/' in name}
  return scores or None


def metric_of(scores: dict[str, float], metric: str | None) -> str:
  """The name of what to choose by."""
  if metric is None:
    metric = next((name for name in scores if name.endswith(('/top1', '/precision_at_1'))), None)
  if metric not in scores:
    raise app.UsageError(f'--metric is {metric}, and the runs have {", ".join(scores)}')
  return metric


def write_table(path: pathlib.Path, rows: list[dict]):
  """Writes rows of the same or different columns as CSV."""
  columns = list(dict.fromkeys(column for row in rows for column in row))
  partial = path.with_suffix('.partial')
  with partial.open('w', newline='') as file:
    writer = csv.DictWriter(file, columns, restval='')
    writer.writeheader()
    writer.writerows(rows)
  os.replace(partial, path)


def train(config: str, workdir: pathlib.Path, fields: dict[str, str]) -> dict[str, float]:
  """Runs train.py to its end, unless it has been there. Returns its last evaluations."""
  arguments = command(config, workdir, fields)
  line, kept = shlex.join(arguments), workdir / 'command.txt'
  print(line, file=sys.stderr)
  if kept.exists() and kept.read_text() != line:
    raise app.UsageError(f'{workdir} holds the run of another command:\n  {kept.read_text()} there\n  {line} here\n'
                         'Choose another --workdir, or give the same flags')
  workdir.mkdir(parents=True, exist_ok=True)
  kept.write_text(line)
  if result(workdir) is None:
    subprocess.run([sys.executable, str(ROOT / 'train.py'), *arguments[2:]], check=True)
  return result(workdir)


def main(arguments):
  if arguments[1:]:
    raise app.UsageError(f'nothing reads {" ".join(arguments[1:])}')
  root = pathlib.Path(WORKDIR.value).expanduser()
  always = dict(text.partition('=')[::2] for text in SET.value)
  dev_config = DEV_CONFIG.value or f'{CONFIG.value},dev'
  name = lambda fields: ','.join(f'{field.split(".")[-1]}={value}' for field, value in fields.items()).replace('/', '_')
  runs = [(fields, root / name(fields)) for fields in grid(OVER.value)]
  if DRY_RUN.value:
    for fields, workdir in runs:
      print(shlex.join(command(dev_config, workdir, {**always, **fields})))
    print(shlex.join(command(CONFIG.value, root / 'best', {**always, **{field: 'BEST' for field in runs[0][0]}})))
    return

  rows = []
  for fields, workdir in runs:
    scores = train(dev_config, workdir, {**always, **fields})
    rows.append({'run': workdir.name, **fields, **scores})
    write_table(root / 'sweep.csv', rows)
  metric = metric_of(scores, METRIC.value)
  best = max(rows, key=lambda row: row[metric])
  chosen = {field: best[field] for field in runs[0][0]}
  scores = train(CONFIG.value, root / 'best', {**always, **chosen})
  write_table(root / 'sweep.csv', [*rows, {'run': 'best', **chosen, **scores}])
  for row in rows:
    print(f'{row["run"]:<40} {metric} {row[metric]:.4f}')
  print(f'best: {name(chosen)}, on the whole training set: '
        + ', '.join(f'{key} {value:,.4g}' for key, value in scores.items()) + f'\ntable: {root / "sweep.csv"}')


if __name__ == '__main__':
  app.run(main)
