"""Interrupts a run again and again, at any instant, and compares what it leaves with an uninterrupted run.

  python -m tests.torture --minutes=20
  python -m tests.torture --minutes=20 --processes=2

The run is train.py as people start it: a tiny Mixer on the embedded digits, on the CPU, with everything that draws
random numbers or keeps a state: crops, flips, RandAugment, mixup, dropout, stochastic depth, accumulation, evaluations and
checkpoints every few steps, the best one kept. A fault interrupts it, it is restarted, interrupted again ... until it
completes. Then each array of each checkpoint must equal the reference's bit for bit, and so must the steps of the
checkpoints, the records and the pictures; and the account of its time must add up. The first difference ends the program
and leaves both work directories.

A fault is SIGKILL or, for a share of them, SIGTERM: then the run must exit with the code preemption.EXIT_PREEMPTED, and
resume without losing a step. Of several processes, with two simulated devices each, one gets the signal: SIGTERM must
stop all of them in that way, and when one is killed, the others must exit on their own.

The faults cycle through the phases of a run (PHASES). Which phase a run is in is read from outside: from its output and
the files it leaves. --seed fixes the plan; which phase is hit also depends on the machine's timing, and the
table counts that.
"""

import argparse
import collections
from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from mixer import jsonl
from mixer.run import checkpoint_integrity
from mixer.run import goodput
from mixer.run import preemption
from mixer import trees
from mixer import user_errors

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVAL_EVERY = 58, 3
FIELDS = {
    'total_steps': STEPS, 'log_every_steps': 1, 'eval_every_steps': EVAL_EVERY, 'data.batch_size': 32,
    'data.flip': True, 'data.randaugment_magnitude': 10., 'step.accumulate': 2, 'model.dropout_rate': 0.1,
    'model.stochastic_depth': 0.2, 'model.num_blocks': 1, 'model.hidden_dim': 16, 'model.tokens_mlp_dim': 8,
    'model.channels_mlp_dim': 32, 'optimizer.schedule.warmup_steps': 5, 'evals.test.batch_size': 120,
    'checkpoint.every_steps': 4, 'checkpoint.keep_every_steps': 20, 'checkpoint.best': 'test/top1',
    'optimizer.learning_rate': 0.1}  # so high that the best checkpoint is not the last: later attempts must remember it

PHASES = {
    'start': 'before the work directory is initialised: imports, preparing the digits, tracing',
    'compilation': 'until the first step: compilation, restoring the checkpoint',
    'step': 'training',
    'evaluation': 'an evaluation',
    'save': 'a checkpoint is being written, while training goes on',
    'commit': 'a checkpoint has just been completed, and old ones are being deleted',
    'last commit': 'the same for the last one, after which no other save can tidy up',
    'pictures': 'after that'}
COMMIT_S = 0.02  # how long 'just' is
ANY = 'any instant'  # of plans only: uniformly over an attempt
RECURRING = ('step', 'evaluation', 'save', 'commit')

POLL_S = 0.001
LIMIT_S = 300  # a start takes 10 s on two cores
END_S = 60  # for what a fault did not end at once; more than JOIN_S and LOST_S
JOIN_S, LOST_S = 30, 10
MORE_STEPS = 5  # after SIGTERM; it is one or two, but reading from outside lags behind
# Top-level files that are not compared as bytes: they name folders, times and starts.
UNLIKE = ('finished.json', 'config.json', 'records.jsonl', 'history.jsonl', 'card.md', 'goodput.jsonl', 'goodput.png')


class Failure(Exception):
  """The program did what it must not, with the expected and the actual value."""


@dataclasses.dataclass(frozen=True)
class FaultPlan:
  """When to send which signal to which process.

  Attributes:
    phase: one of PHASES, or ANY.
    skipped: how many times the phase passes before.
    fraction: of the phase's usual duration that passes before.
    kind: SIGKILL or SIGTERM.
    process: the index of the process.
  """
  phase: str
  skipped: int
  fraction: float
  kind: signal.Signals = signal.SIGKILL
  process: int = 0


def fault_plans(seed: int, terminate: float = 0., processes: int = 1) -> Iterator[FaultPlan]:
  """An endless iterator that cycles through the phases, in a new order each round.

  Args:
    terminate: the share of SIGTERM.
    processes: their number.
  """
  rng = random.Random(seed)
  while True:
    for phase in rng.sample((*PHASES, ANY), len(PHASES) + 1):
      yield FaultPlan(phase, rng.randrange(3) if phase in RECURRING else 0, rng.random(),
                signal.SIGTERM if rng.random() < terminate else signal.SIGKILL, rng.randrange(processes))


class RunAttempt:
  """One start of the run, observed from outside. A context manager: no process outlives it.

  `folder` gets the run's work directory, its data and the output of each process.
  """

  def __init__(self, folder: pathlib.Path, attempt: int, processes: int = 1):
    """Starts the processes."""
    self.workdir = folder / 'run'
    self.logs = [folder / f'attempt-{attempt:02}-process-{index}.log' for index in range(processes)]
    folder.mkdir(parents=True, exist_ok=True)
    self.committed, interrupted = (latest(self.workdir, name) for name in checkpoint_integrity.FOLDERS)
    self.resumable, self._unfinished = max(self.committed, interrupted), interrupted > self.committed
    self.first = self.reached = None  # the first and the last step that it took
    self.fault = None  # the FaultPlan that was injected
    self._doing, self._line, self._commit = 'start', b'', -1.
    self._began = time.time()
    fields = {**FIELDS, 'data.data_dir': folder / 'data', 'evals.test.data_dir': folder / 'data'}
    devices = '--xla_force_host_platform_device_count=2' if processes > 1 else ''
    environment = dict(os.environ, JAX_PLATFORMS='cpu', XLA_FLAGS=devices, JAX_ENABLE_COMPILATION_CACHE='false')
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      joined = [f'--coordinator=127.0.0.1:{free.getsockname()[1]}', f'--num_processes={processes}',
                f'--join_timeout={JOIN_S}', f'--lost_timeout={LOST_S}']
    self._processes = []
    for index, path in enumerate(self.logs):
      with path.open('wb') as log:
        self._processes.append(subprocess.Popen(
            [sys.executable, 'train.py', '--config=configs/mixer_digits.py', f'--workdir={self.workdir}',
             *([*joined, f'--process_id={index}'] if processes > 1 else []),
             *(f'--config.{field}={value}' for field, value in fields.items())],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))
    self._log = self.logs[0].open('rb')  # only process 0 logs the run's progress

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    for process in self._processes:
      _send(process, signal.SIGKILL)
      process.wait()
    self._log.close()

  def phase(self, now: float) -> str:
    """What the run is doing at the time `now`."""
    *lines, self._line = (self._line + self._log.read()).split(b'\n')
    for line in lines:
      self._parse_line(line.decode(errors='replace'))
    if self._doing == 'start' and _modified(self.workdir / 'config.json') > self._began:
      self._doing = 'compilation'
    if self._doing in ('start', 'compilation'):
      return self._doing  # an unfinished save of an earlier attempt may remain
    if (committed := latest(self.workdir, 'checkpoints')) != self.committed:
      self.committed, self._commit = committed, now
    if any('.orbax-checkpoint-tmp' in name for name in os.listdir(self.workdir / 'checkpoints')):
      return 'save'
    if now < self._commit + COMMIT_S:
      return 'last commit' if committed == STEPS else 'commit'
    return self._doing

  def _parse_line(self, line):
    if line.startswith('memory '):  # the last line that it logs before the first step
      resumes_evaluation = self._unfinished or self.resumable == STEPS
      self._doing = _after(self.resumable) if resumes_evaluation else 'step'
    elif taken := re.match(r'step (\d+) of ', line):
      self.reached = int(taken[1])
      self.first = self.first or self.reached
      self._doing = _after(self.reached)
    elif evaluated := re.match(r'step (\d+), ', line):
      self._doing = 'pictures' if int(evaluated[1]) == STEPS else 'step'

  def ended(self) -> bool:
    return None not in self.codes()

  def codes(self) -> list[int | None]:
    """The exit code of each process, None where it has not ended."""
    return [process.poll() for process in self._processes]

  def inject_fault(self, plan: FaultPlan):
    """Sends the signal and waits until all processes have ended. Raises a Failure if they do not."""
    self.fault = plan
    self._step_then = self.reached or self.resumable
    # The others' output is not read, but none takes a step before all are ready.
    self._ready_then = self._doing not in ('start', 'compilation') if plan.process == 0 else self.first is not None
    _send(self._processes[plan.process], plan.kind)
    until = time.monotonic() + END_S
    while not self.ended():
      if time.monotonic() > until:
        raise Failure(f'{self._name()}: {plan.kind.name} to process {plan.process}, and after {END_S} s the exit '
                      f'codes are {self.codes()}{self._output()}')
      time.sleep(POLL_S)
    self.phase(time.monotonic())  # the rest of its output

  def lost(self) -> int:
    """The number of steps that must be repeated."""
    return max(0, (self.reached or 0) - latest(self.workdir))

  def check(self):
    """Raises a Failure unless the run, which has ended, resumed at the right step and ended with the right codes."""
    if self.first not in (None, self.resumable + 1):
      raise Failure(f'{self._name()}: it resumed at step {self.first}, and the latest checkpoint was of step '
                    f'{self.resumable}')
    codes, cause = self.codes(), 'without a fault'
    if self.fault:
      cause = f'after {self.fault.kind.name} to process {self.fault.process} at step {self._step_then}'
    if not self._right(codes):
      raise Failure(f'{self._name()}: {cause} it ended with the exit codes {codes}{self._output()}')
    if self.fault and self.fault.kind == signal.SIGTERM:
      if (self.reached or self.resumable) > self._step_then + MORE_STEPS:
        raise Failure(f'{self._name()}: {cause} it went on to step {self.reached}')
      if preemption.EXIT_PREEMPTED in codes and self.lost():
        raise Failure(f'{self._name()}: {cause} it stopped at step {self.reached}, and saved step '
                      f'{latest(self.workdir)}')
    check_records(self.workdir, latest(self.workdir))

  def _right(self, codes):
    over = self._doing == 'pictures'  # past the last moment at which it handles SIGTERM
    if not self.fault:
      return not any(codes)
    if not any(codes):
      return over  # the fault came too late
    if self.fault.kind == signal.SIGTERM:
      if preemption.EXIT_PREEMPTED in codes:
        return set(codes) == {preemption.EXIT_PREEMPTED}
      if self._ready_then and not over:
        return False
    others = [code for index, code in enumerate(codes) if index != self.fault.process]
    return codes[self.fault.process] == -self.fault.kind and (all(others) or over)

  def _name(self):
    return self.logs[0].with_name(self.logs[0].name.partition('-process')[0])

  def _output(self):
    return ''.join(f'\n{log}:\n{log.read_text(errors="replace")[-3000:]}' for log in self.logs)


def _send(process, number):
  """Sends a signal to a process and all that it has started."""
  if process.poll() is None:
    os.killpg(process.pid, number)


def _after(step):
  return 'evaluation' if step % EVAL_EVERY == 0 or step == STEPS else 'step'


def latest(workdir, *folders: str) -> int:
  """The step of the latest checkpoint in `folders`, by default in all that a run can resume from; 0 for none."""
  paths = [workdir / name for name in folders or checkpoint_integrity.FOLDERS]
  return max((int(name) for path in paths if path.exists() for name in os.listdir(path) if name.isdecimal()), default=0)


def _modified(path):
  try:
    return path.stat().st_mtime
  except FileNotFoundError:
    return 0.


def check_records(workdir, least: int):
  """Raises a Failure unless the complete lines of the records are those of steps 1, 2, ..., at least to `least`."""
  path = workdir / 'records.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []  # what follows the last newline is unfinished
  for number, line in enumerate(lines, 1):
    try:
      step = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      step = None
    if step != number:
      raise Failure(f'{path}: line {number} must be the record of step {number}: {line}')
  if len(lines) < least:
    raise Failure(f'{path} ends with step {len(lines)}, and a checkpoint is of step {least}')


def watch(attempt: RunAttempt, plan: FaultPlan | None,
          durations: dict[str, float]) -> tuple[str | None, dict[str, list[float]]]:
  """Polls the run until it ends, and injects the fault when the plan says so.

  Args:
    durations: usual seconds of the phases, for the plan's fraction.

  Returns:
    The phase that was hit, None if the run ended before; and the seconds that each phase took each time.
  """
  began = entered = time.monotonic()
  spans, now_in, times, at = collections.defaultdict(list), None, 0, None
  if plan and plan.phase == ANY:
    at = began + plan.fraction * durations[ANY]
  while not attempt.ended():
    now = time.monotonic()
    if (phase := attempt.phase(now)) != now_in:
      if now_in:
        spans[now_in].append(now - entered)
      now_in, entered = phase, now
      times += bool(plan and phase == plan.phase)
      if times and times > plan.skipped and not at:
        at = now + plan.fraction * durations[phase]
    if at and now >= at:
      attempt.inject_fault(plan)
      return phase, spans
    if now > began + LIMIT_S:
      raise Failure(f'{attempt.logs[0]}: no end after {LIMIT_S} s; the exit codes are {attempt.codes()}, and the '
                    f'last phase seen was: {phase}')
    time.sleep(POLL_S)
  now = time.monotonic()
  attempt.phase(now)
  spans[now_in].append(now - entered)
  spans[ANY].append(now - began)
  return None, spans


def run_reference(folder: pathlib.Path, processes: int = 1) -> dict[str, float]:
  """The uninterrupted run. Returns the usual seconds of each of its phases."""
  with RunAttempt(folder, 1, processes) as attempt:
    _, spans = watch(attempt, None, {})
    attempt.check()
  if attempt.first != 1 or attempt.reached != STEPS or not spans.keys() >= {*PHASES}:
    raise Failure(f'{attempt.logs[0]}: steps {attempt.first} to {attempt.reached} were seen, of {STEPS}, and the '
                  f'phases {", ".join(spans)}, of {", ".join(PHASES)}; does train.py still log what it did?')
  return {phase: statistics.median(seconds) for phase, seconds in spans.items()}


def _counter():
  return dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass
class Tally:
  """What happened: the faults by the phase planned and by the phase hit, by kind."""
  planned: collections.Counter = _counter()
  killed: collections.Counter = _counter()
  terminated: collections.Counter = _counter()
  lost: collections.Counter = _counter()  # steps to repeat
  codes: collections.Counter = _counter()  # exit codes after SIGTERM, of the process that got it
  runs: int = 0

  def add(self, attempt: RunAttempt, hit: str):
    self.planned[attempt.fault.phase] += 1
    self.lost[hit] += attempt.lost()
    if attempt.fault.kind == signal.SIGTERM:
      self.terminated[hit] += 1
      self.codes[attempt.codes()[attempt.fault.process]] += 1
    else:
      self.killed[hit] += 1

  def table(self) -> str:
    counted = (self.killed, self.terminated, self.lost)
    rows = [(phase, self.planned[phase], *(counter[phase] for counter in counted)) for phase in PHASES]
    rows.append((ANY, self.planned[ANY], '', '', ''))
    rows.append(('in all', *(counter.total() for counter in (self.planned, *counted))))
    lines = ['| phase | planned | SIGKILL in | SIGTERM in | steps lost |', '| --- | --- | --- | --- | --- |']
    return '\n'.join(lines + [f'| {" | ".join(map(str, row))} |' for row in rows])

  def summary(self) -> str:
    ends = ', '.join(f'{times} times {code}' for code, times in sorted(self.codes.items()))
    return (f'{self.killed.total()} SIGKILL and {self.terminated.total()} SIGTERM (exit codes: {ends or "none"}) in '
            f'{self.runs} runs of {STEPS} steps')


def run_interrupted(folder: pathlib.Path, plans: Iterator[FaultPlan], durations: dict[str, float], tally: Tally,
                    processes: int = 1):
  """A run that each of `plans` may interrupt, restarted until it completes."""
  attempts, codes = 0, None
  while codes is None or any(codes):
    attempts += 1
    plan = next(plans, None)
    with RunAttempt(folder, attempts, processes) as attempt:
      hit, _ = watch(attempt, plan, durations)
      attempt.check()
    codes = attempt.codes()
    if hit:
      tally.add(attempt, hit)
      print(f'{folder.name}, attempt {attempts}: planned {plan.phase}, {plan.kind.name} to process {plan.process} in '
            f'{hit}, exit codes {codes}, step {attempt.reached or attempt.resumable} of {STEPS}, {attempt.lost()} lost',
            file=sys.stderr)
  tally.runs += 1


def compare(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """The differences of two finished work directories, a line each, `one` first; none if they equal."""
  lines = []
  def check(what, left, right):
    if left != right:
      lines.append(f'{what}: {left} and {right}')
  names = [sorted(path.name for path in workdir.iterdir()) for workdir in (one, other)]
  check('files', *names)
  for workdir in (one, other):
    times = goodput.read(workdir)
    account, wall = goodput.account(times), times[-1]['time'] - times[0]['start'] if times else 0.
    if not (account and abs(account.total - wall) < 0.005 * wall and min(account.seconds.values()) >= 0 and account.goodput > 0):
      lines.append(f'{goodput.FILE}: its parts do not add up to {wall} s: {account and account.seconds}')
  kept = [sorted(path.name for path in (workdir / 'checkpoints').iterdir()) for workdir in (one, other)]
  check('checkpoints', *kept)
  check('interrupted', *(sorted(os.listdir(workdir / 'interrupted')) for workdir in (one, other)))
  records = records_of(one), records_of(other)
  check('number of records', *map(len, records))
  for left, right in zip(*records):
    for name in {**left, **right}:
      check(f'record of step {left.get("step")}, {name}', left.get(name), right.get(name))
  for step in kept[0]:
    if step in kept[1]:
      left, right = (arrays_of(workdir / 'checkpoints' / step) for workdir in (one, other))
      check(f'checkpoint {step}, what only one has', sorted(left.keys() - right.keys()),
            sorted(right.keys() - left.keys()))
      for name in sorted(left.keys() & right.keys()):
        if difference := _array_difference(left[name], right[name]):
          lines.append(f'checkpoint {step}, {name}: {difference}')
  for name in names[0]:
    if name in names[1] and name not in UNLIKE and (one / name).is_file():
      if (one / name).read_bytes() != (other / name).read_bytes():
        lines.append(f'{name}: not the same bytes')
  return lines


def records_of(workdir) -> list[dict]:
  """The records, each line parsed, without what depends on the machine's speed."""
  return [{name: value for name, value in row.items() if name != 'images_per_s_per_core'}
          for _, row in jsonl.read(workdir / 'records.jsonl')]


def arrays_of(checkpoint) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint, and its metrics, by name."""
  with ocp.StandardCheckpointer() as checkpointer:
    arrays = {name: np.asarray(x) for name, x in trees.flat(checkpointer.restore(checkpoint / 'default')).items()}
  metrics = checkpoint / 'metrics' / 'metrics'
  return arrays | ({'metrics': np.asarray(metrics.read_text())} if metrics.exists() else {})


def _array_difference(one, other):
  if (one.dtype, one.shape) != (other.dtype, other.shape):
    return f'{one.dtype} {one.shape} and {other.dtype} {other.shape}'
  unlike = [x.tobytes() != y.tobytes() for x, y in zip(one.reshape(-1), other.reshape(-1))]
  if any(unlike):
    first = unlike.index(True)
    return (f'{sum(unlike)} of {len(unlike)} elements differ; the first: {one.reshape(-1)[first]!r} and '
            f'{other.reshape(-1)[first]!r}')
  return ''


def torture(folder: pathlib.Path, plans: Iterator[FaultPlan], minutes: float, processes: int = 1) -> Tally:
  """Interrupts runs, as many as begin within `minutes`, and compares each with the reference.

  Raises:
    Failure: at the first difference; `folder` then holds both work directories and the runs' output.
  """
  until = time.monotonic() + 60 * minutes
  print('the uninterrupted reference', file=sys.stderr)
  durations = run_reference(folder / 'reference', processes)
  tally = Tally()
  while not tally.runs or time.monotonic() < until:
    place = folder / f'run-{tally.runs + 1:03}'
    run_interrupted(place, plans, durations, tally, processes)
    reference, workdir = folder / 'reference' / 'run', place / 'run'
    if differences := compare(reference, workdir):
      more = f'\n  and {len(differences) - trees.SHOWN} more' if len(differences) > trees.SHOWN else ''
      raise Failure(f'{reference} and {workdir} differ:\n  ' + '\n  '.join(differences[:trees.SHOWN]) + more)
    print(f'{place.name} equals the reference', file=sys.stderr)
    shutil.rmtree(place)
  shutil.rmtree(folder / 'reference')
  return tally


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--minutes', required=True, type=float, help='how long; the current run is finished')
  parser.add_argument('--workdir', type=pathlib.Path, help='a new folder; default: one among the temporary files')
  parser.add_argument('--seed', type=int, default=0, help='of the plan of faults')
  parser.add_argument('--terminate', metavar='SHARE', type=float, default=0.25,
                      help='the share of SIGTERM among the faults, from 0 to 1; the others are SIGKILL (default: 0.25)')
  parser.add_argument('--processes', type=int, default=1,
                      help='of the run; of several, each has two devices, and one gets the signal (default: 1)')
  flags = parser.parse_args(arguments)
  if not 0 <= flags.terminate <= 1:
    parser.error(f'--terminate is {flags.terminate}; it must be from 0 to 1')
  if flags.processes < 1:
    parser.error(f'--processes is {flags.processes}; it must be at least 1')
  return flags


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  flags = parse(arguments)
  jax.config.update('jax_platforms', 'cpu')  # here, too: this process reads checkpoints
  folder = flags.workdir or pathlib.Path(tempfile.mkdtemp(prefix='torture-'))
  folder = folder.expanduser().resolve()
  if folder.exists() and any(folder.iterdir()):
    sys.exit(f'--workdir={folder} is not empty; choose another')
  try:
    plans = fault_plans(flags.seed, flags.terminate, flags.processes)
    tally = torture(folder, plans, flags.minutes, flags.processes)
  except Failure as failure:
    sys.exit(f'FAILURE: {failure}')
  print(f'{tally.table()}\n\n{tally.summary()}: each ended with the checkpoints (bit for bit), records and pictures of '
        'the uninterrupted run.')


if __name__ == '__main__':
  main()
