"""What a work directory tells of the times when its run was at work."""

import datetime
import json
import shutil
import subprocess
import types

from etils import epath
import jax
import pytest

from mixer.run import metric_logger
from mixer.run import preemption
from mixer.run import provenance
from mixer.run import run_history
from mixer import storage


def start(workdir, first_step=0, steps=(), total_steps=10, error=None):
  """One start of a run that takes some steps and ends, perhaps by an error."""
  metrics = {'loss': 1., 'grad_norm': 1., 'learning_rate': 0.1}
  with metric_logger.MetricLogger(workdir, first_step, total_steps, batch_size=8) as logger:
    for step in steps:
      logger.log_step(step, metrics)
    if error:
      raise error


def test_a_run_tells_its_start_and_its_end(tmp_path, monkeypatch):
  clock = iter([100., 141.5])
  monkeypatch.setattr(run_history, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
  monkeypatch.setattr(provenance, 'commit', lambda: '0123abc')  # that of the checkout may change meanwhile
  start(tmp_path, 0, [1, 2])
  first, last = map(json.loads, (tmp_path / 'history.jsonl').read_text().splitlines())
  times = [datetime.datetime.fromisoformat(event.pop('time')) for event in (first, last)]
  assert all(time.utcoffset() == datetime.timedelta(0) for time in times)
  assert abs(datetime.datetime.now(datetime.UTC) - times[0]) < datetime.timedelta(minutes=5)
  common = dict(format=1, commit='0123abc', versions=provenance.versions(), device='cpu', devices=8, hosts=1,
                machine=provenance.machine())
  assert first == {**common, 'event': 'start', 'step': 0}
  assert last == {**common, 'event': 'end', 'step': 2, 'seconds': 41.5}
  assert {'python', 'jax', 'flax', 'numpy'} <= set(common['versions'])


@pytest.mark.parametrize('error', [preemption.Preempted(), FloatingPointError('nan'), KeyboardInterrupt()])
def test_a_run_that_is_interrupted_or_fails_tells_its_end(tmp_path, error):
  with pytest.raises(type(error)):
    start(tmp_path, 0, [1, 2, 3], error=error)
  assert [(event['event'], event['step']) for event in run_history.read(tmp_path)] == [('start', 0), ('end', 3)]


def test_a_run_that_goes_on_adds_to_its_history_and_one_that_has_ended_does_not(tmp_path):
  run_history.History(tmp_path, 0, 10)  # and killed
  start(tmp_path, 4, range(5, 11))
  before = (tmp_path / 'history.jsonl').read_bytes()
  events = [(event['event'], event['step']) for event in run_history.read(tmp_path)]
  assert events == [('start', 0), ('start', 4), ('end', 10)]
  start(tmp_path, 10)
  assert (tmp_path / 'history.jsonl').read_bytes() == before
  start(tmp_path, 8, [9, 10])  # its last checkpoint was lost
  assert [event['step'] for event in run_history.read(tmp_path)] == [0, 4, 10, 8, 10]


def test_a_run_that_was_killed_at_its_very_end_tells_that_it_was_ended_later(tmp_path):
  run_history.History(tmp_path, 0, 10)
  start(tmp_path, 10)
  assert [event['event'] for event in run_history.read(tmp_path)] == ['start', 'start', 'end']


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run_history.History(tmp_path, 0, 10).end(3)
  assert not list(tmp_path.iterdir())


def event(kind, step, devices=4, seconds=None, **fields):
  return {'format': 1, 'event': kind, 'step': step, 'devices': devices, 'device': 'TPU v3', 'hosts': 1, 'machine': 'a',
          'commit': 'abc', 'versions': {'jax': '1'}, **({} if seconds is None else {'seconds': seconds}), **fields}


def test_totals_add_up_what_was_recorded_and_count_what_was_not():
  totals = run_history.totals([
      event('start', 0), event('end', 5, seconds=1800.), event('start', 5), event('start', 5, 8, commit='def'),
      event('end', 9, 8, seconds=900.), event('start', 9, 8, commit='def')])
  assert (totals.starts, totals.unended, totals.first_step) == (4, 2, 0)
  assert totals.seconds == 2700 and totals.core_hours == (1800 * 4 + 900 * 8) / 3600 == 4
  assert totals.commits == ['abc', 'def'] and totals.versions == ['jax 1']
  assert totals.hardware == ['4 x TPU v3 on 1 host (a)', '8 x TPU v3 on 1 host (a)']


def test_cut_lines_and_other_formats_are_passed_over_and_kept(tmp_path):
  path = tmp_path / 'history.jsonl'
  path.write_text(json.dumps({**event('start', 0), 'format': 2}) + '\n' + json.dumps(event('start', 1))
                  + '\n{"format": 1')
  storage.append(epath.Path(path), json.dumps(event('end', 3, seconds=1.)))
  assert path.read_text().split('\n')[2:] == ['{"format": 1', json.dumps(event('end', 3, seconds=1.)), '']
  assert [event['step'] for event in run_history.read(tmp_path)] == [1, 3]


def test_a_line_is_added_to_a_file_which_is_replaced_whole(tmp_path, monkeypatch):
  path = epath.Path(tmp_path / 'lines')
  storage.append(path, 'one')
  storage.append(path, 'two')
  assert path.read_text() == 'one\ntwo\n'

  def fail(path, content):
    raise OSError('no space')
  monkeypatch.setattr(storage, 'write', fail)
  with pytest.raises(OSError, match='no space'):
    storage.append(path, 'three')
  assert path.read_text() == 'one\ntwo\n'


@pytest.mark.skipif(not shutil.which('git'), reason='needs git')
def test_the_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
  git = lambda *arguments: subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments], cwd=tmp_path,
                                          check=True, capture_output=True, text=True).stdout.strip()
  git('init')
  (tmp_path / 'file').write_text('a')
  git('add', '.')
  git('commit', '-m', 'a')
  monkeypatch.setattr(provenance, 'ROOT', tmp_path)
  assert provenance.commit() == git('rev-parse', '--short', 'HEAD')
  (tmp_path / 'file').write_text('b')
  assert provenance.commit() == git('rev-parse', '--short', 'HEAD') + '+'
  monkeypatch.setenv('PATH', '')
  assert provenance.commit() == 'unknown'


def test_a_checkout_that_is_none_has_no_commit(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, 'ROOT', tmp_path)
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert provenance.commit() == 'unknown'


def test_equal_fields_have_one_digest_in_any_order():
  one = provenance.digest({'a': 1, 'b': [1, 2]})
  assert one == provenance.digest({'b': [1, 2], 'a': 1}) != provenance.digest({'a': 1, 'b': [2, 1]})
  # By definition: printf '{"a": 1, "b": [1, 2]}' | sha256sum
  assert one == 'e6f20bdc3757'
