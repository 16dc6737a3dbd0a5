"""A short torture of a run, and that a difference would be detected."""

import itertools
import json
import shutil
import signal

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torture

from mixer.run import preemption


@pytest.mark.slow
@pytest.mark.timeout(900)  # six starts of the program
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path):
  durations = torture.run_reference(tmp_path / 'reference')
  targets = [torture.FaultPlan('evaluation', 1, 0.5), torture.FaultPlan('evaluation', 2, 0.5, signal.SIGTERM),
             torture.FaultPlan('save', 2, 0.5), torture.FaultPlan('last commit', 0, 0.)]
  tally = torture.Tally()
  torture.run_interrupted(tmp_path / 'interrupted', iter(targets), durations, tally)
  assert '| in all | 4 | 3 | 1 | ' in tally.table()
  assert tally.codes == {preemption.EXIT_PREEMPTED: 1}
  assert torture.compare(tmp_path / 'reference' / 'run', tmp_path / 'interrupted' / 'run') == []


def test_the_faults_cycle_through_the_phases_and_a_seed_fixes_them():
  number = len(torture.PHASES) + 1
  some = lambda seed, **shares: list(itertools.islice(torture.fault_plans(seed, **shares), 5 * number))
  first = some(0, terminate=0.3, processes=2)
  assert first == some(0, terminate=0.3, processes=2) != some(1, terminate=0.3, processes=2)
  assert {(plan.kind, plan.process) for plan in first} == {*itertools.product((signal.SIGKILL, signal.SIGTERM), (0, 1))}
  assert {(plan.kind, plan.process) for plan in some(0)} == {(signal.SIGKILL, 0)}
  for turn in range(0, len(first), number):
    assert {plan.phase for plan in first[turn:turn + number]} == {*torture.PHASES, torture.ANY}


def records(steps, speed=1.):
  return ''.join(json.dumps({'step': step, 'train/loss': 1 / step, 'images_per_s_per_core': speed}) + '\n'
                 for step in steps)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A work directory with all that is compared."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  for step in (4, 6):
    state = {'step': np.int32(step), 'params': {'w': np.arange(6, dtype='float32').reshape(2, 3)}}
    save(workdir, step, state)
  (workdir / 'records.jsonl').write_text(records(range(1, 7)))
  (workdir / 'learning_curves.png').write_bytes(b'a picture')
  (workdir / 'config.json').write_text('{}')
  (workdir / 'goodput.jsonl').write_text(json.dumps(
      dict(start=0, time=10, step=6, training=4, starting=3, compilation=2, input=1, checkpoints=0, evaluation=0)) + '\n')
  (workdir / 'interrupted').mkdir()
  return workdir


def save(workdir, step, state):
  shutil.rmtree(workdir / 'checkpoints' / str(step), ignore_errors=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(workdir / 'checkpoints' / str(step) / 'default', state)


def one_bit(workdir):
  w = np.arange(6, dtype='float32').reshape(2, 3)
  w[0, 0] = -0.
  save(workdir, 6, {'step': np.int32(6), 'params': {'w': w}})


def a_record_changed(workdir):
  path = workdir / 'records.jsonl'
  path.write_text(path.read_text().replace('0.25', '0.2500001'))


def metrics_left(workdir):
  metrics = workdir / 'checkpoints' / '4' / 'metrics' / 'metrics'
  metrics.parent.mkdir()
  metrics.write_text('{"test/top1": 0.5}')


@pytest.mark.parametrize('change, text', [
    (one_bit, 'checkpoint 6, params/w: 1 of 6 elements differ; the first: np.float32(0.0) and np.float32(-0.0)'),
    (lambda workdir: save(workdir, 4, {'step': np.int32(4)}),
     "checkpoint 4, what only one has: ['params/w'] and []"),
    (a_record_changed, 'record of step 4, train/loss: 0.25 and 0.2500001'),
    (lambda workdir: (workdir / 'records.jsonl').write_text(records(range(1, 6))), 'number of records: 6 and 5'),
    (lambda workdir: shutil.rmtree(workdir / 'checkpoints' / '4'), "checkpoints: ['4', '6'] and ['6']"),
    (lambda workdir: (workdir / 'checkpoints' / 'damaged-5').mkdir(),
     "checkpoints: ['4', '6'] and ['4', '6', 'damaged-5']"),
    (metrics_left, "checkpoint 4, what only one has: [] and ['metrics']"),
    (lambda workdir: (workdir / 'learning_curves.png').write_bytes(b'another'),
     'learning_curves.png: not the same bytes'),
    (lambda workdir: (workdir / 'interrupted' / '5').mkdir(), "interrupted: [] and ['5']"),
    (lambda workdir: (workdir / 'learning_curves.png').unlink(), 'files: '),
    (lambda workdir: (workdir / 'goodput.jsonl').write_text((workdir / 'goodput.jsonl').read_text().replace('4', '5')),
     'goodput.jsonl: its parts do not add up to 10 s: '),
])
def test_a_difference_is_reported_with_both_sides(finished, tmp_path, change, text):
  other = shutil.copytree(finished, tmp_path / 'run')
  change(other)
  lines = torture.compare(finished, other)
  assert len(lines) == 1 and lines[0].startswith(text)


def test_the_machines_speed_and_the_datas_place_are_no_difference(finished, tmp_path):
  other = shutil.copytree(finished, tmp_path / 'run')
  (other / 'records.jsonl').write_text(records(range(1, 7), speed=2.))
  (other / 'config.json').write_text('{"data": {"data_dir": "elsewhere"}}')
  assert torture.compare(finished, other) == []


@pytest.mark.parametrize('text, failure', [
    (records([1, 2, 3]) + '{"step": 4, "lo', None),
    (records([1, 2]), 'ends with step 2, and a checkpoint is of step 3'),
    (records([1, 3, 4]), 'line 2 must be the record of step 2: {"step": 3'),
    (records([1, 2, 2, 3]), 'line 3 must be the record of step 3: {"step": 2'),
    (records([1, 2]) + '{"step": 3, "lo\n' + records([4]), 'line 3 must be the record of step 3: {"step": 3, "lo$'),
])
def test_the_records_of_a_killed_run_are_whole_lines_of_each_step(tmp_path, text, failure):
  (tmp_path / 'records.jsonl').write_text(text)
  if failure is None:
    torture.check_records(tmp_path, 3)
  else:
    with pytest.raises(torture.Failure, match=failure):
      torture.check_records(tmp_path, 3)
