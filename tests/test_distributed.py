"""Runs of several processes on loopback, two or four simulated devices each, and notices to stop."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import ROOT
from mixer.run import distributed
from mixer.run import preemption
from test_train import last_state
from test_train import records_of
from test_train import same

STEPS = 24
FIELDS = {'total_steps': STEPS, 'log_every_steps': 2, 'eval_every_steps': 8, 'checkpoint.every_steps': 8,
          'optimizer.schedule.warmup_steps': 2, 'data.batch_size': 32, 'data.flip': True, 'evals.test.batch_size': 120,
          'step.accumulate': 2, 'model.dropout_rate': 0.1, 'model.stochastic_depth': 0.2, 'model.num_blocks': 1,
          'model.hidden_dim': 16, 'model.tokens_mlp_dim': 8, 'model.channels_mlp_dim': 32}
pytestmark = pytest.mark.timeout(900)
LIMIT_S = 240  # a loaded machine takes a minute to start two


class Fleet:
  """The processes of a run. Use it as a context: leaving it leaves none behind."""

  def __init__(self, workdir, data_dir, number=2, devices=2, flags=lambda index: []):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    fields = {**FIELDS, 'data.data_dir': data_dir, 'evals.test.data_dir': data_dir}
    environment = dict(os.environ, XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}')
    self.logs = [workdir.parent / f'{workdir.name}-{index}-{time.time()}.log' for index in range(number)]
    self.processes = []
    for index, log in enumerate(self.logs):
      joined = [f'--coordinator=127.0.0.1:{port}', f'--num_processes={number}', f'--process_id={index}',
                '--lost_timeout=10', '--join_timeout=60'] if number > 1 else []
      with log.open('w') as file:
        self.processes.append(subprocess.Popen(
            [sys.executable, 'train.py', '--config=configs/mixer_digits.py', f'--workdir={workdir}', *joined,
             *(f'--config.{field}={value}' for field, value in fields.items()), *flags(index)],
            cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT))

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    for process in self.processes:
      with contextlib.suppress(ProcessLookupError):
        process.kill()
      process.wait()

  def said(self, index=0):
    return self.logs[index].read_text()

  def wait_for(self, text, index=0):
    until = time.monotonic() + LIMIT_S
    while text not in self.said(index):
      assert self.processes[index].poll() is None and time.monotonic() < until, self.said(index)
      time.sleep(0.01)

  def codes(self):
    return [process.wait(LIMIT_S) for process in self.processes]


def run(workdir, data_dir, number=2, devices=2, flags=lambda index: []):
  with Fleet(workdir, data_dir, number, devices, flags) as fleet:
    assert fleet.codes() == [0] * number, ''.join(map(fleet.said, range(number)))
  return last_state(workdir), records_of(workdir)


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory):
  """The work directory of a run of two processes, of two devices each, that nothing stopped."""
  workdir = tmp_path_factory.mktemp('processes') / 'whole'
  run(workdir, data_dir)
  return workdir


def near(one, other):
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
  return True


@pytest.mark.slow
@pytest.mark.parametrize('number, devices', [(1, 4), (2, 2), (2, 4)])
def test_several_processes_train_as_one_with_all_devices(whole, data_dir, tmp_path, number, devices):
  state, lines = run(tmp_path / 'run', data_dir, number, devices)
  if (number, devices) == (2, 2):
    assert same(state, last_state(whole)) and lines == records_of(whole)
  assert near(state, last_state(whole))
  assert [line['step'] for line in lines] == [line['step'] for line in records_of(whole)]
  for line, expected in zip(lines, records_of(whole)):
    assert line == pytest.approx(expected, rel=1e-4)
  assert lines[-1]['test/examples'] == 360


@pytest.mark.slow
def test_one_process_alone_writes_and_prints(whole):
  assert [line['step'] for line in records_of(whole)] == list(range(2, STEPS + 1, 2))
  assert len(list((whole / 'tensorboard').iterdir())) == 1
  first, second = (log.read_text() for log in sorted(whole.parent.glob('whole-*.log')))
  assert '\nstep 24, test: top-1' in first and 'devices  4 x cpu on 2 hosts' in first
  assert 'step ' not in second and 'top-1' not in second


@pytest.mark.slow
def test_processes_load_compiled_programs_from_the_work_directory(whole, data_dir, tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('JAX_EXPLAIN_CACHE_MISSES', '1')
  compiled = []
  for name in ('first', 'second'):
    with Fleet(tmp_path / name, data_dir) as fleet:
      assert fleet.codes() == [0, 0], fleet.said(0) + fleet.said(1)
      # Of CPUs, the first process alone loads: JAX's key has the number of the process, and the others write nothing.
      compiled.append("COMPILATION CACHE MISS for 'jit__fun'" in fleet.said(0))
    assert same(last_state(tmp_path / name), last_state(whole)) and records_of(tmp_path / name) == records_of(whole)
    if name == 'first':
      assert all(path.suffix == '.xla' for path in (tmp_path / 'first/xla').iterdir())
      shutil.copytree(tmp_path / 'first/xla', tmp_path / 'second/xla')
  assert compiled == [True, False]


@pytest.mark.slow
def test_a_notice_to_one_process_stops_all_after_one_step_and_the_run_goes_on_bit_for_bit(whole, data_dir, tmp_path):
  with Fleet(tmp_path / 'run', data_dir) as fleet:
    fleet.wait_for('step 4 of')
    fleet.processes[1].send_signal(signal.SIGTERM)
    assert fleet.codes() == [preemption.EXIT_PREEMPTED] * 2, fleet.said(0) + fleet.said(1)
  assert 'SIGTERM: stopping after this step and saving' in fleet.said(1)
  assert 'Interrupted. State saved; run the same command to resume' in fleet.said(0)
  step, = (path.name for path in (tmp_path / 'run/interrupted').iterdir())
  assert 4 <= int(step) < STEPS
  assert (same(run(tmp_path / 'run', data_dir)[0], last_state(whole)))
  assert records_of(tmp_path / 'run') == records_of(whole)


@pytest.mark.slow
def test_when_one_process_is_killed_the_others_end_and_other_numbers_of_processes_go_on(whole, data_dir, tmp_path):
  with Fleet(tmp_path / 'run', data_dir) as fleet:
    fleet.wait_for('step 10 of')
    fleet.processes[1].kill()
    survivor = fleet.processes[0].wait(LIMIT_S)
  assert survivor in (distributed.EXIT_PEER_LOST, -signal.SIGABRT)
  assert 'has lost another one' in fleet.said(0) or 'another task died' in fleet.said(0)
  state, lines = run(tmp_path / 'run', data_dir, number=1, devices=4)
  assert near(state, last_state(whole))
  assert [line['step'] for line in lines] == list(range(2, STEPS + 1, 2))


@pytest.mark.slow
def test_a_process_that_fails_ends_at_once_and_the_others_miss_it(data_dir, tmp_path):
  with Fleet(tmp_path / 'run', data_dir, flags=lambda index: ['--config.data.data_dir=/nowhere'] * index) as fleet:
    codes = fleet.codes()
  assert codes[1] == 1 and codes[0] not in (0, preemption.EXIT_PREEMPTED)
  assert "dataset 'digits'" in fleet.said(1) or '/nowhere' in fleet.said(1)
  assert 'process 1 of 2 exits because of this error' in fleet.said(1)


@pytest.mark.slow
def test_processes_of_different_configs_are_refused_by_all(data_dir, tmp_path):
  different = lambda index: [f'--config.seed={index}', f'--config.step.mixup=0.{index + 1}']
  with Fleet(tmp_path / 'run', data_dir, flags=different) as fleet:
    assert fleet.codes() == [1, 1]
  for index in (0, 1):
    assert ('the processes were started with different configs:\n  seed: 0 in process 0, 1 in process 1\n'
            '  step.mixup: 0.1 in process 0, 0.2 in process 1\nStart all of them') in fleet.said(index)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_process_whose_fellows_do_not_come_says_what_to_do(data_dir, tmp_path):
  with Fleet(tmp_path / 'run', data_dir, flags=lambda index: ['--join_timeout=4']) as fleet:
    fleet.processes[1].kill()
    assert fleet.processes[0].wait(LIMIT_S) == distributed.EXIT_PEER_LOST
  assert 'not all processes of the run connected within 4 s' in fleet.said(0)
  assert '--worker=all' in fleet.said(0) and '--num_processes=2' in fleet.said(0)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_notice_stops_one_process_too(data_dir, tmp_path, number):
  # One device takes hundreds of steps a second, and the notice should come before the last.
  fleet_of_one = dict(number=1, devices=1, flags=lambda index: [
      '--config.total_steps=600', '--config.eval_every_steps=200', '--config.checkpoint.every_steps=200'])
  with Fleet(tmp_path / 'run', data_dir, **fleet_of_one) as fleet:
    fleet.wait_for('step 2 of')
    fleet.processes[0].send_signal(number)
    assert fleet.codes() == [preemption.EXIT_PREEMPTED], fleet.said()
  run(tmp_path / 'run', data_dir, **fleet_of_one)
  assert [line['step'] for line in records_of(tmp_path / 'run')] == list(range(2, 601, 2))
  assert [line['step'] for line in records_of(tmp_path / 'run') if 'test/top1' in line] == [200, 400, 600]


def test_a_second_notice_leaves_at_once_whatever_the_main_thread_does():
  # A lock that is never free stands for a collective that never ends.
  waiting = ('import threading; from mixer.run import preemption\n'
             'with preemption.PreemptionHandler(): print("in", flush=True); lock = threading.Lock(); lock.acquire(); '
             'lock.acquire()')
  process = subprocess.Popen([sys.executable, '-c', waiting], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
  with process:
    assert process.stdout.readline() == 'in\n'
    process.terminate()
    assert 'SIGTERM: stopping after this step and saving' in process.stderr.readline()
    process.terminate()  # the same notice by another way
    time.sleep(2 * preemption.SIGNAL_DEBOUNCE_S)
    assert process.poll() is None
    process.terminate()
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert 'Second SIGTERM: exiting immediately' in process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize('stderr', ['full', 'closed', 'absent'])
def test_a_notice_is_heeded_and_a_second_one_leaves_at_once_though_stderr_is_blocked(stderr, tmp_path):
  # The first one is seen by the file that `check` has written, since the message cannot be printed.
  waiting = f'''
from mixer.run import preemption
import os, pathlib, sys, threading
stderr = {stderr!r}
if stderr == 'full':
  read, write = os.pipe()
  os.set_blocking(write, False)
  try:
    while True: os.write(write, b'x' * 4096)
  except BlockingIOError: os.set_blocking(write, True)
  os.dup2(write, 2)
elif stderr == 'closed': os.close(2)
else: sys.stderr = None
with preemption.PreemptionHandler() as notices:
  print('in', flush=True)
  while True:
    try: notices.check()
    except preemption.Preempted: break
  pathlib.Path({str(tmp_path / "signalled")!r}).touch()
  lock = threading.Lock(); lock.acquire(); lock.acquire()
'''
  process = subprocess.Popen([sys.executable, '-c', waiting], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == 'in\n'
    process.terminate()
    until = time.monotonic() + LIMIT_S
    while not (tmp_path / 'signalled').exists() and time.monotonic() < until:
      time.sleep(0.01)
    assert (tmp_path / 'signalled').exists()
    time.sleep(2 * preemption.SIGNAL_DEBOUNCE_S)
    process.terminate()
    assert process.wait(LIMIT_S / 4) == 128 + signal.SIGTERM
  finally:
    process.kill()
    process.communicate()


def test_a_batch_that_does_not_fit_is_no_lost_process_and_has_a_hint():
  # Without the devices' end nothing would be left to tell apart: a real allocation, of a petabyte.
  program = '''
from mixer.run import distributed
import sys, jax
sys.excepthook = distributed._excepthook
try: jax.numpy.zeros(2**50, 'uint8')
except jax.errors.JaxRuntimeError as error:
  distributed.add_oom_hint(error)
  raise
'''
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1, done.stderr
  assert 'RESOURCE_EXHAUSTED: ' in done.stderr and 'exits because of this error; the others will lose it' in done.stderr
  assert 'The batch does not fit into the memory of the devices. Raise config.step.accumulate' in done.stderr


def test_signals_mean_what_they_meant_when_there_are_no_more_notices():
  before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
  with preemption.PreemptionHandler() as notices:
    notices.check()
  assert {number: signal.getsignal(number) for number in preemption.SIGNALS} == before


@pytest.mark.parametrize('arguments, text', [
    (('h:1', None, None), '--coordinator without --num_processes: set all three, or --distributed alone'),
    (('h:1', 2, None), '--coordinator and --num_processes without --process_id'),
    ((None, None, 0), '--process_id without --coordinator'),
    (('h:1', 2, 2), '--process_id is 2, of --num_processes=2; it must be from 0 to 1'),
])
def test_half_of_an_address_is_refused(arguments, text):
  with pytest.raises(ValueError, match=text):
    distributed.initialize_distributed(False, *arguments)


@pytest.mark.parametrize('flags, environment, text', [
    (dict(coordinator='host', num_processes=2, process_id=0), {},
     r"--coordinator, or JAX_COORDINATOR_ADDRESS, is 'host'; it must be HOST:PORT of process 0, for example 10"),
    (dict(coordinator=':1', num_processes=2, process_id=0), {}, r"--coordinator, .* is ':1'; it must be HOST:PORT"),
    (dict(coordinator='host:99999', num_processes=2, process_id=0), {}, r"'host:99999'; it must be HOST:PORT"),
    (dict(coordinator='host:http', num_processes=2, process_id=0), {}, r"'host:http'; it must be HOST:PORT"),
    (dict(coordinator='h:1', num_processes=0, process_id=0), {},
     '--num_processes, or JAX_NUM_PROCESSES, is 0; it must be a whole number, at least 1'),
    (dict(coordinator='h:1', num_processes=2, process_id=-1), {},
     '--process_id, or JAX_PROCESS_ID, is -1; it must be a whole number, at least 0'),
    ({}, {'JAX_COORDINATOR_ADDRESS': 'h:1', 'JAX_NUM_PROCESSES': 'two', 'JAX_PROCESS_ID': '0'},
     "JAX_NUM_PROCESSES, is 'two'; it must be a whole number, at least 1"),
    ({}, {'JAX_COORDINATOR_ADDRESS': 'h:1', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0.5'},
     "JAX_PROCESS_ID, is '0.5'; it must be a whole number, at least 0"),
    (dict(join_timeout=0), {}, '--join_timeout is 0; it must be at least 1, in seconds'),
    (dict(lost_timeout=-5), {}, '--lost_timeout is -5; it must be at least 1, in seconds'),
])
def test_values_without_sense_are_named_with_what_they_must_be(flags, environment, text, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=text):
    distributed.initialize_distributed(False, **flags)


def test_variables_that_are_empty_say_nothing(monkeypatch):
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
    monkeypatch.setenv(name, '')
  distributed.initialize_distributed(False)


@pytest.mark.slow
def test_a_machine_of_no_cluster_says_what_to_set(tmp_path, data_dir):
  with Fleet(tmp_path / 'run', data_dir, number=1, flags=lambda index: ['--distributed']) as fleet:
    assert fleet.codes() == [1]
  assert '--distributed asks for several processes, and JAX cannot detect them here' in fleet.said()
  assert 'Set --coordinator=HOST:PORT' in fleet.said()


def test_processes_of_a_slice_that_are_not_connected_say_how_to_connect(monkeypatch):
  monkeypatch.setattr(distributed.jax, 'process_count', lambda: 4)
  with pytest.raises(ValueError, match='one of 4 processes of a slice, and they are not connected: .*--worker=all'):
    distributed.assert_equal_across_processes({})


@pytest.mark.parametrize('environment, said', [
    ({}, None), ({'SLURM_NTASKS': '4'}, None), ({'SLURM_STEP_NUM_TASKS': '1'}, None),
    ({'SLURM_STEP_NUM_TASKS': '4'}, 'SLURM_STEP_NUM_TASKS'), ({'OMPI_COMM_WORLD_SIZE': '2'}, 'OMPI_COMM_WORLD_SIZE'),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, None), ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'TPU_WORKER_HOSTNAMES'),
    ({'JAX_COORDINATOR_ADDRESS': 'h:1'}, 'JAX_COORDINATOR_ADDRESS'),
])
def test_the_environment_says_whether_there_are_others(environment, said, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert distributed.detect_distributed_env() == said
