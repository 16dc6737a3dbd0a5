"""Tries values of a config's fields on the dev split, then trains with the best ones on the whole training set.

The paper chooses each fine-tuning's learning rate so (section 3):

  python -m tools.sweep --config=configs/mixer_finetune.py:b16_i21k,cifar10 --workdir=runs/sweep \\
    --over=optimizer.learning_rate=0.003,0.01,0.03,0.06

--config.FIELD=VALUE sets a field in all runs. Several --over make a grid. Each run has its own folder in the work
directory: to resume an interrupted sweep, repeat the command; finished runs are skipped. The table is sweep.csv in the
work directory. SIGTERM and Ctrl-C stop the current run as they stop train.py, and then the sweep with the same exit
code.
"""

import argparse
import contextlib
import csv
import itertools
import os
import pathlib
import shlex
import signal
import subprocess
import sys

from mixer.run import distributed
from mixer.run import preemption
from mixer.run import records
from mixer import safe_io
from mixer import user_errors

ROOT = pathlib.Path(__file__).parent.parent


class Stopped(Exception):
  """A run was interrupted, not by its values, and can be resumed. `code` is the exit code of the sweep."""

  def __init__(self, workdir, code: int):
    how = f'was ended by {signal.Signals(-code).name}' if code < 0 else f'ended with exit code {code}'
    super().__init__(f'the run in {workdir} {how}; run the same command to resume it and the sweep')
    self.code = 128 - code if code < 0 else code  # as in a shell


def grid(over: list[str]) -> list[dict[str, str]]:
  """Each combination of values: ['a=1,2', 'b=3'] -> [{'a': '1', 'b': '3'}, {'a': '2', 'b': '3'}]."""
  fields = {}
  for text in over:
    field, _, values = text.partition('=')
    if not field or not values or '' in values.split(','):
      raise ValueError(f'--over={text} is not FIELD=VALUE,VALUE,...: --over=optimizer.learning_rate=0.003,0.01')
    if field in fields:
      raise ValueError(f'--over names {field} twice')
    fields[field] = values.split(',')
  return [dict(zip(fields, values)) for values in itertools.product(*fields.values())]


def command(config: str, workdir: pathlib.Path, fields: dict[str, str]) -> list[str]:
  """The command line of a run."""
  return ['python', 'train.py', f'--config={config}', f'--workdir={workdir}',
          *(f'--config.{field}={value}' for field, value in fields.items())]


def result(workdir: pathlib.Path) -> dict[str, float] | None:
  """The last evaluations of a finished run, else None."""
  path = workdir / 'config.json'
  if not path.exists():
    return None
  last = None
  for last in records.read(workdir / 'records.jsonl'):
    pass
  if last is None or last['step'] < safe_io.read_json_object(path)['total_steps']:
    return None
  scores = {name: value for name, value in last.items() if not name.startswith('train/') and '/' in name}
  return scores or None


def metric_of(scores: dict[str, float], metric: str | None) -> str:
  """The metric to choose by: `metric`, by default the first top-1 or precision@1."""
  if metric is None:
    metric = next((name for name in scores if name.endswith(('/top1', '/precision_at_1'))), None)
  if metric not in scores or metric.endswith(('/loss', 'examples')):
    raise ValueError(f'--metric is {metric}; it must be a metric that is better when higher, of {", ".join(scores)}')
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
  """Runs train.py to its end, unless the run is finished. Returns its last evaluations.

  Raises:
    subprocess.CalledProcessError: if it fails.
    Stopped: if it was interrupted, has lost another process, or was killed by a signal.
  """
  arguments = command(config, workdir, fields)
  print(shlex.join(arguments), file=sys.stderr)
  # Without the folder, which can be written in several ways.
  line, kept = shlex.join([part for part in arguments if not part.startswith('--workdir=')]), workdir / 'command.txt'
  if kept.exists() and kept.read_text() != line:
    raise ValueError(f'{workdir} holds the run of another command:\n  {kept.read_text()}\n  instead of\n  {line}\n'
                     'Choose another --workdir, or pass the same flags')
  workdir.mkdir(parents=True, exist_ok=True)
  kept.write_text(line)
  if result(workdir) is None:
    code = exit_code([sys.executable, str(ROOT / 'train.py'), *arguments[2:]])
    if code < 0 or code > 128 or code in (preemption.EXIT_PREEMPTED, distributed.EXIT_PEER_LOST):
      raise Stopped(workdir, code)
    if code:
      raise subprocess.CalledProcessError(code, arguments)
  return result(workdir)


def exit_code(arguments: list[str]) -> int:
  """Runs a command and forwards the signals that stop it."""
  with subprocess.Popen(arguments) as process:
    # Python's own handling of Ctrl-C would kill it before it has saved.
    before = {number: signal.signal(number, lambda number, _: process.send_signal(number))
              for number in preemption.SIGNALS}
    try:
      return process.wait()
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--config', required=True, help='of the last run, on the whole training set')
  parser.add_argument('--dev_config', help='of the runs that choose; default: --config with ",dev" appended')
  parser.add_argument('--over', required=True, action='append', metavar='FIELD=VALUE,VALUE,...', help='what to try')
  parser.add_argument('--set', default=[], action='append', metavar='FIELD=VALUE', help='the same as --config.FIELD=VALUE')
  parser.add_argument('--metric', help="the metric that chooses, higher is better; default: the first evaluation's "
                      'top-1 or precision@1')
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='the parent of the folders of the runs')
  parser.add_argument('--dry_run', action='store_true', help='print the commands and run none')
  arguments = sys.argv[1:] if arguments is None else arguments
  parser.check_flags([word for word in arguments if not word.startswith('--config.')])
  flags, rest = parser.parse_known_args(arguments)
  for word in rest:
    if not word.startswith('--config.') or '=' not in word:
      parser.error(f'unexpected argument {word}; a field of all runs is set by --config.FIELD=VALUE')
    flags.set.append(word.removeprefix('--config.'))
  return flags


def sweep(flags: argparse.Namespace):
  """Trains all runs of the flags, and prints and writes the table."""
  root = flags.workdir.expanduser()
  always = dict(_assignment(text) for text in flags.set)
  if not flags.dev_config and '.py:' not in flags.config:
    raise ValueError(f'--config is {flags.config}, which takes no ",dev"; pass --dev_config, the config of the runs '
                     'that choose')
  dev_config = flags.dev_config or f'{flags.config},dev'
  name = lambda fields: ','.join(f'{field.split(".")[-1]}={value}' for field, value in fields.items()).replace('/', '_')
  runs = [(fields, root / name(fields)) for fields in grid(flags.over)]
  if flags.dry_run:
    for fields, workdir in runs:
      print(shlex.join(command(dev_config, workdir, {**always, **fields})))
    print(shlex.join(command(flags.config, root / 'best,...', {**always, **{field: 'BEST' for field in runs[0][0]}})))
    return

  rows = []
  for fields, workdir in runs:
    try:
      scores = train(dev_config, workdir, {**always, **fields})
    except subprocess.CalledProcessError as error:  # a learning rate may be too high
      print(f'{workdir} failed with exit code {error.returncode}, and is skipped', file=sys.stderr)
      scores = {}
    if scores:
      metric = metric_of(scores, flags.metric)  # before other runs are trained
    rows.append({'run': workdir.name, **fields, **scores})
    write_table(root / 'sweep.csv', rows)
  ended = [row for row in rows if len(row) > len(fields) + 1]
  if not ended:
    raise ValueError(f'all {len(rows)} runs failed; see their errors above')
  best = max(ended, key=lambda row: row[metric])
  chosen = {field: best[field] for field in runs[0][0]}
  workdir = root / f'best,{name(chosen)}'
  scores = train(flags.config, workdir, {**always, **chosen})
  write_table(root / 'sweep.csv', [*rows, {'run': workdir.name, **chosen, **scores}])
  for row in rows:
    print(f'{row["run"]:<40} ' + (f'{metric} {row[metric]:.4f}' if row in ended else 'failed'))
  print(f'best: {name(chosen)}, on the whole training set: '
        + ', '.join(f'{key} {value:,.4g}' for key, value in scores.items()) + f'\ntable: {root / "sweep.csv"}')


def _assignment(text):
  field, equals, value = text.partition('=')
  if not field or not equals:
    raise ValueError(f'--set={text} is not FIELD=VALUE; write --config.FIELD=VALUE, such as --config.seed=1')
  return field, value


@contextlib.contextmanager
def exit_if_stopped():
  """Ends the program with the exit code of a run that was stopped, or with an error if a run failed."""
  try:
    yield
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.code)
  except subprocess.CalledProcessError as error:
    sys.exit(f'error: {error}')


@user_errors.in_one_line
def main(arguments: list[str]):
  flags = parse(arguments)
  with exit_if_stopped():
    sweep(flags)


if __name__ == '__main__':
  main()
