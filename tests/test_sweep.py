"""The choice of a field's value on the dev split, with runs that are as short as can be."""

import csv
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from mixer.run import distributed
from mixer.run import preemption
from tools import sweep

RUNS = {'learning_rate=0.1': 0.5, 'learning_rate=0.2': 0.75, 'learning_rate=0.3': 0.6, 'best,learning_rate=0.2': 0.9,
        'best,learning_rate=0.1': 0.9, 'best,learning_rate=0.3': 0.9}


@pytest.fixture
def command(tmp_path, monkeypatch):
  """Runs the sweep with a train.py that writes the results of RUNS; returns (exit code, trained runs)."""
  trained = []

  def fake(arguments):
    fields = dict(argument.removeprefix('--').partition('=')[::2] for argument in arguments[2:])
    workdir = pathlib.Path(fields['workdir'])
    trained.append((workdir.name, fields))
    if fake.dies == workdir.name:
      raise KeyboardInterrupt
    if workdir.name in fake.fails:
      return fake.code
    (workdir / 'config.json').write_text(json.dumps({'total_steps': 10}))
    rows = [{'step': 5, 'dev/top1': 1.0}, {'step': 10, 'train/loss': 1.0, 'dev/top1': RUNS[workdir.name], 'dev/examples': 7}]
    (workdir / 'records.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return 0

  monkeypatch.setattr(sweep, 'exit_code', fake)

  def run(*arguments, dies=None, fails=(), code=3):
    trained.clear()
    fake.dies, fake.fails, fake.code = dies, fails, code
    sweep.sweep(sweep.parse(['--config=c.py:x', f'--workdir={tmp_path}', *arguments]))
    return list(trained)

  return run


def test_the_best_on_the_dev_split_is_trained_on_the_whole(command, tmp_path, capsys):
  trained = command('--over=optimizer.learning_rate=0.1,0.2,0.3', '--set=seed=7')
  assert [name for name, _ in trained] == list(RUNS)[:4]
  assert [fields['config'] for _, fields in trained] == ['c.py:x,dev'] * 3 + ['c.py:x']
  assert trained[-1][1]['config.optimizer.learning_rate'] == '0.2'
  assert all(fields['config.seed'] == '7' for _, fields in trained)
  with open(tmp_path / 'sweep.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [(row['run'], float(row['dev/top1'])) for row in rows] == list(RUNS.items())[:4]
  assert rows[-1]['optimizer.learning_rate'] == '0.2' and rows[0]['dev/examples'] == '7'
  assert 'best: learning_rate=0.2, on the whole training set: dev/top1 0.9' in capsys.readouterr().out


def test_it_goes_on_where_it_was_stopped(command):
  over = '--over=optimizer.learning_rate=0.1,0.2,0.3'
  with pytest.raises(KeyboardInterrupt):
    command(over, dies='learning_rate=0.3')
  assert [name for name, _ in command(over)] == ['learning_rate=0.3', 'best,learning_rate=0.2']
  assert command(over) == []


def test_runs_of_other_flags_are_not_taken_for_these(command):
  command('--over=optimizer.learning_rate=0.1')
  with pytest.raises(ValueError, match=r'(?s)another command:.*--config.optimizer.learning_rate=0.1\n.*--config.seed=1 '):
    command('--over=optimizer.learning_rate=0.1', '--set=seed=1')


def test_a_dry_run_prints_the_commands_of_all_combinations(command, capsys, tmp_path):
  assert command('--over=a.b=1,2', '--over=c=x,y', '--dry_run', '--dev_config=d.py') == []
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == f"python train.py --config=d.py --workdir={tmp_path}/b=1,c=y --config.a.b=1 --config.c=y"
  assert lines[-1] == f'python train.py --config=c.py:x --workdir={tmp_path}/best,... --config.a.b=BEST --config.c=BEST'
  assert len(lines) == 5


def test_a_metric_may_be_named_and_an_unknown_one_lists_the_known_ones(command):
  with pytest.raises(ValueError, match='--metric is dev/top2; it must be a metric that is .* of dev/top1, dev/examples'):
    command('--over=optimizer.learning_rate=0.1,0.2', '--metric=dev/top2')
  with pytest.raises(ValueError, match='--metric is dev/loss; it must be a metric that is better when higher'):
    sweep.metric_of({'dev/top1': 1., 'dev/loss': 2.}, 'dev/loss')


@pytest.mark.parametrize('over, message', [
    (['learning_rate'], '--over=learning_rate is not FIELD=VALUE,VALUE'),
    (['a=1,,2'], '--over=a=1,,2 is not FIELD=VALUE,VALUE'),
    (['a=1', 'a=2'], '--over names a twice'),
])
def test_what_is_no_list_of_values_is_an_error(over, message):
  with pytest.raises(ValueError, match=message):
    sweep.grid(over)


def test_runs_that_fail_are_skipped(command, capsys):
  assert [name for name, _ in command('--over=optimizer.learning_rate=0.1,0.2,0.3', fails=['learning_rate=0.2'])] == [
      *list(RUNS)[:3], 'best,learning_rate=0.3']
  printed = capsys.readouterr()
  assert 'learning_rate=0.2 failed with exit code 3, and is skipped' in printed.err
  assert 'best: learning_rate=0.3' in printed.out
  with pytest.raises(ValueError, match='all 1 runs failed; see their errors above'):
    command('--over=optimizer.learning_rate=0.2', fails=['learning_rate=0.2'])


@pytest.mark.parametrize('code, ends_with, how', [
    (preemption.EXIT_PREEMPTED, 75, 'ended with exit code 75'), (distributed.EXIT_PEER_LOST, 76, 'ended with exit code 76'),
    (-signal.SIGKILL, 137, 'was ended by SIGKILL'), (-signal.SIGABRT, 134, 'was ended by SIGABRT'),
    (128 + signal.SIGTERM, 143, 'ended with exit code 143'),
])
def test_an_interrupted_run_stops_the_sweep_which_then_resumes(command, code, ends_with, how):
  over = '--over=optimizer.learning_rate=0.1,0.2,0.3'
  with pytest.raises(sweep.Stopped, match=f'learning_rate=0.2 {how}; run the same command to resume it and the sweep') as stopped:
    command(over, fails=['learning_rate=0.2'], code=code)
  assert stopped.value.code == ends_with
  with pytest.raises(sweep.Stopped):
    command(over, fails=['best,learning_rate=0.2'], code=code)
  assert [name for name, _ in command(over)] == ['best,learning_rate=0.2']


def test_a_sweep_that_stops_has_the_exit_code_of_its_run(monkeypatch, capsys):
  def stop(flags):
    raise sweep.Stopped('runs/x', preemption.EXIT_PREEMPTED)
  monkeypatch.setattr(sweep, 'sweep', stop)
  with pytest.raises(SystemExit) as ended:
    sweep.main(['--config=c.py:x', '--workdir=runs', '--over=a=1'])
  assert ended.value.code == preemption.EXIT_PREEMPTED
  assert 'the run in runs/x ended with exit code 75; run the same command to resume it and the sweep' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_notice_to_the_sweep_reaches_the_run_which_may_take_its_time(tmp_path, number):
  ready = tmp_path / 'ready'
  run = ('import pathlib, signal, sys, time\n'
         'def stop(*_): time.sleep(1); sys.exit(75)\n'
         f'signal.signal({int(number)}, stop)\n'
         f'pathlib.Path({str(ready)!r}).touch()\n'
         'time.sleep(60)')
  whole = f'import sys; from tools import sweep; sys.exit(sweep.exit_code([sys.executable, "-c", {run!r}]))'
  with subprocess.Popen([sys.executable, '-c', whole], cwd=ROOT) as process:
    while not ready.exists():
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(120) == preemption.EXIT_PREEMPTED


def test_what_is_set_in_all_runs_is_field_and_value(command, capsys):
  with pytest.raises(ValueError, match='--set=seed is not FIELD=VALUE; write --config.FIELD=VALUE, such as --config.seed=1'):
    command('--over=a=1', '--set=seed')
  unexpected = 'unexpected argument {}; a field of all runs is set by --config.FIELD=VALUE'
  misspelt = 'unknown flag --ovre; did you mean --over?'
  for word, message in (('--config.seed', unexpected), ('x', unexpected), ('--ovre=a=1', misspelt)):
    with pytest.raises(SystemExit):
      command('--over=a=1', word)
    assert message.format(word) in capsys.readouterr().err


def test_fields_of_all_runs_are_set_as_train_py_sets_them(command, capsys):
  command('--over=a=1', '--config.seed=7', '--set=data.fraction=0.5', '--config.b={"c": 1}', '--dry_run')
  runs = capsys.readouterr().out.splitlines()
  assert len(runs) == 2
  assert all("--config.data.fraction=0.5 --config.seed=7 '--config.b={\"c\": 1}' --config.a=" in run for run in runs)


def test_a_finished_sweep_can_be_extended(command, tmp_path):
  command('--over=optimizer.learning_rate=0.1')
  again = command('--over=optimizer.learning_rate=0.1,0.2', f'--workdir={tmp_path}/../{tmp_path.name}')
  assert [name for name, _ in again] == ['learning_rate=0.2', 'best,learning_rate=0.2']


def test_a_config_without_a_dev_split_is_told_at_once(command):
  with pytest.raises(ValueError, match='--config is c.py, which takes no ",dev"; pass --dev_config'):
    command('--over=optimizer.learning_rate=0.1', '--config=c.py')


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(SystemExit, match="^error: .*Not a directory: .*file"):
    sweep.main(['--config=configs/x.py:y', '--over=a=[1]', f'--workdir={tmp_path / "file"}'])
