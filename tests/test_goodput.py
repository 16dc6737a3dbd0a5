"""The account of a run's time: planted waits come out where they were planted, over kills and restarts."""

import subprocess
import sys
import types

import pytest

from conftest import ROOT
from mixer.run import goodput
from mixer.run import plots


@pytest.fixture
def wait(monkeypatch):
  """A function that lets time pass; nothing else does. A new start of the process comes with `goodput.Clock()`."""
  now = [1_000.]
  monkeypatch.setattr(goodput, 'time', types.SimpleNamespace(monotonic=lambda: now[0] - 500., time=lambda: now[0]))
  monkeypatch.setattr(goodput, '_AGE', iter([2.]))  # the process is 2 s old

  def wait(seconds):
    now[0] += seconds
  return wait


def batches(wait, number, seconds):
  for _ in range(number):
    wait(seconds)
    yield None


def test_each_second_is_of_the_kind_in_which_it_was_waited(tmp_path, wait):
  clock = goodput.Clock()
  wait(3)
  with clock.of('compilation'):
    wait(5)
  wait(1)
  with clock.loop(tmp_path, 0, 10):
    wait(1)
    for step, _ in enumerate(clock.each(batches(wait, 10, 0.5)), 1):
      wait(2)
      if step % 5 == 0:
        with clock.of('evaluation'):
          wait(4)
        with clock.of('checkpoints'):
          wait(1.5)
    clock.count('checkpoints')
    wait(2)
  account = goodput.account(goodput.read(tmp_path))
  assert account.seconds == dict(training=20., starting=7., compilation=5., input=5., checkpoints=5., evaluation=8., repeated=0.,
                                 down=0.)
  assert (account.starts, account.total) == (1, 50.) and account.goodput == 0.4
  assert str(account) == ('goodput 40.0% of 50 s since the first start; evaluation 16.0%, starts 14.0%, waiting for images 10.0%, '
                          'compilation 10.0%, checkpoints 10.0%')


class Killed(Exception):
  pass


def start(workdir, wait, resumed, last, total=20, before=0.):
  """A start that resumes at a step and saves every 5 steps, until it is killed in step `last`, after `before` seconds."""
  wait(before)
  clock = goodput.Clock()
  wait(1)
  loop = clock.loop(workdir, resumed, total)
  loop.__enter__()
  for step, _ in enumerate(clock.each(batches(wait, total - resumed, 0)), resumed + 1):
    wait(2)
    if step == last < total:
      clock._file = None  # a killed process writes nothing
      return
    if step % 5 == 0:
      with clock.of('checkpoints'):
        wait(0.25)
  loop.__exit__(None, None, None)


def test_steps_that_are_taken_again_and_the_time_between_starts_are_lost(tmp_path, wait):
  start(tmp_path, wait, 0, last=13)  # its last line is that before the checkpoint of step 10
  start(tmp_path, wait, 5, last=17, before=100)  # the checkpoint of step 10 was not complete; this one saves 10 and 15
  start(tmp_path, wait, 15, last=20, before=10)
  account = goodput.account(goodput.read(tmp_path))
  # To the start after it, each start is down from its last line on: in a checkpoint, and in the steps after that line.
  assert account.seconds == dict(
      training=2. * (5 + 10 + 5), repeated=2. * 5, starting=2. + 3, compilation=0., input=0., evaluation=0.,
      checkpoints=0.25 + 0.25 + 0.25, down=(0.25 + 3 * 2 + 100) + (0.25 + 2 * 2 + 10))
  assert sum(account.seconds.values()) == account.total
  assert account.starts == 3 and str(account).endswith('; 3 starts') and 'steps taken again 5.7%' in str(account)


def test_steps_after_a_damaged_checkpoint_are_taken_again_whoever_took_them(tmp_path, wait):
  start(tmp_path, wait, 0, last=13)
  start(tmp_path, wait, 10, last=14)
  start(tmp_path, wait, 5, last=20)  # the checkpoint of step 10 is damaged
  account = goodput.account(goodput.read(tmp_path))
  assert (account.seconds['training'], account.seconds['repeated']) == (2. * (5 + 15), 2. * 5)


def test_a_clock_that_is_set_back_leaves_no_part_below_nothing(tmp_path, wait):
  start(tmp_path, wait, 0, last=13)
  start(tmp_path, wait, 10, last=20, before=-500)
  account = goodput.account(goodput.read(tmp_path))
  assert min(account.seconds.values()) == 0 and sum(account.seconds.values()) == account.total and account.goodput < 1


def test_an_old_run_says_where_its_record_begins(tmp_path, wait):
  start(tmp_path, wait, 10, last=20)
  assert ' since step 10, where the record begins; ' in str(goodput.account(goodput.read(tmp_path)))


def test_of_several_processes_the_first_step_compiles(tmp_path, wait, monkeypatch):
  monkeypatch.setattr(goodput.jax, 'process_count', lambda: 2)
  start(tmp_path, wait, 0, last=20)
  seconds = goodput.account(goodput.read(tmp_path)).seconds
  assert (seconds['compilation'], seconds['training']) == (2., 2. * 19)


@pytest.mark.parametrize('in_bucket', [False, True])
def test_a_line_a_minute_is_added_on_a_disk(tmp_path, wait, monkeypatch, in_bucket):
  monkeypatch.setattr(goodput.storage, 'in_bucket', lambda path: in_bucket)
  monkeypatch.setattr(goodput.storage, 'append', lambda path, line: lines.append(line))
  lines, clock = [], goodput.Clock()
  with clock.loop(tmp_path, 0, 200):
    for _ in clock.each(batches(wait, 200, 0)):
      wait(1)
  assert len(lines) == 2 if in_bucket else len(lines) == 2 + 3


def test_a_start_that_ends_by_an_error_writes_its_last_line(tmp_path, wait):
  clock = goodput.Clock()
  with pytest.raises(Killed), clock.loop(tmp_path, 0, 10):
    for step, _ in enumerate(clock.each(batches(wait, 10, 0.5)), 1):
      wait(1)
      if step == 3:
        raise Killed
  last = goodput.read(tmp_path)[-1]
  assert (last['step'], last['training'], last['input']) == (3, 3., 1.5)


def test_a_complete_run_that_is_evaluated_again_adds_nothing(tmp_path, wait):
  start(tmp_path, wait, 0, last=20)
  before = (tmp_path / 'goodput.jsonl').read_bytes()
  start(tmp_path, wait, 20, last=20)
  assert (tmp_path / 'goodput.jsonl').read_bytes() == before


def test_damaged_lines_are_skipped_and_an_old_run_has_no_account(tmp_path, wait):
  assert goodput.account(goodput.read(tmp_path)) is None
  start(tmp_path, wait, 0, last=20)
  expected = goodput.account(goodput.read(tmp_path))
  text = (tmp_path / 'goodput.jsonl').read_text()
  (tmp_path / 'goodput.jsonl').write_text('{"start": 1}\n[]\n' + text + '{"start": 99, "ti')
  assert goodput.account(goodput.read(tmp_path)) == expected


def test_the_picture_of_several_starts(tmp_path, wait):
  start(tmp_path, wait, 0, last=13)
  start(tmp_path, wait, 5, last=20, before=20)
  plots.goodput(goodput.read(tmp_path), tmp_path / 'goodput.png')
  assert (tmp_path / 'goodput.png').stat().st_size > 5_000


def test_a_process_counts_from_its_start_on_and_once():
  program = ('import time; time.sleep(1.5)\n'
             'from mixer.run import goodput\n'
             'first, second = goodput.Clock(), goodput.Clock()\n'
             'print(time.time() - first._start, time.time() - second._start)')
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
  first, second = map(float, done.stdout.split())
  assert (first >= 1.5 or sys.platform != 'linux') and second < 1
