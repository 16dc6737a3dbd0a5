"""Stops a run again and again, at any instant, and holds what it leaves against a run that nobody stopped.

  python -m tools.torture --minutes=20
  python -m tools.torture --minutes=20 --processes=2

The run is train.py as people start it: a tiny Mixer on the embedded digits, on the CPU, with all that draws random
numbers or keeps a state: crops, flips, RandAugment, mixup, dropout, stochastic depth, accumulation, evaluations and
checkpoints every few steps, the best one kept. A blow stops it, it is started again, stopped again ... until it ends
by itself. Then each array of each checkpoint must equal the reference's bit for bit, and so must the steps of the
checkpoints, the records and the pictures. The first difference ends it, and leaves both work directories.

A blow is SIGKILL or, for a share of them, SIGTERM: then the run must end with preemption.EXIT_PREEMPTED, and go on
without a step lost. Of several processes, with two simulated devices each, one gets the blow: SIGTERM must stop all of
them in that way, and when one is killed, the others must end by themselves.

The blows take turns in what they aim at (PHASES). Where the run is, is read from outside: from what it says and from
the files it leaves. --seed fixes the aims; what they hit also depends on the machine's timing, and the table counts
that.
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
    'optimizer.learning_rate': 0.1}  # so high that the best checkpoint is not the last: later lives must remember it

PHASES = {
    'start': 'before the work directory is claimed: imports, the digits prepared, tracing',
    'compilation': 'until the first step: compilation, the checkpoint restored',
    'step': 'training',
    'evaluation': 'an evaluation',
    'save': 'a checkpoint is being written, while training goes on',
    'commit': 'a checkpoint has just been completed, and old ones are being deleted',
    'last commit': 'the same for the last one, after which no other save can tidy up',
    'pictures': 'after that'}
COMMIT_S = 0.02  # how long 'just' is
ANY = 'any instant'  # an aim only: uniformly over a life
RECURRING = ('step', 'evaluation', 'save', 'commit')

POLL_S = 0.001
LIMIT_S = 300  # a start takes 10 s on two cores
END_S = 60  # for what a blow did not end at once; more than JOIN_S and LOST_S
JOIN_S, LOST_S = 30, 10
MORE_STEPS = 5  # taken after SIGTERM; it is one or two, but what is read from outside lags behind
# Top-level files that are not compared as bytes: they name folders, times and starts.
UNLIKE = ('finished.json', 'config.json', 'records.jsonl', 'history.jsonl', 'card.md')


class Fault(Exception):
  """The program did what it must not: with both sides."""


@dataclasses.dataclass(frozen=True)
class Aim:
  """Where a blow is to fall: into the phase when it has come so often, after a part of its usual duration.

  The blow is a signal of a kind, to one of the processes.
  """
  phase: str
  skipped: int
  part: float
  kind: signal.Signals = signal.SIGKILL
  process: int = 0


def aims(seed: int, terminate: float = 0., number: int = 1) -> Iterator[Aim]:
  """Without an end. The phases take turns, in a new order each round.

  Args:
    terminate: the share of SIGTERM.
    number: of processes.
  """
  rng = random.Random(seed)
  while True:
    for phase in rng.sample((*PHASES, ANY), len(PHASES) + 1):
      yield Aim(phase, rng.randrange(3) if phase in RECURRING else 0, rng.random(),
                signal.SIGTERM if rng.random() < terminate else signal.SIGKILL, rng.randrange(number))


class Life:
  """One start of the run, seen from outside. Use it as a context: leaving it leaves no process behind.

  `folder` gets the run's work directory, its data and what each process says.
  """

  def __init__(self, folder: pathlib.Path, life: int, number: int = 1):
    """Starts `number` processes."""
    self.workdir = folder / 'run'
    self.logs = [folder / f'life-{life:02}-process-{index}.log' for index in range(number)]
    folder.mkdir(parents=True, exist_ok=True)
    self.committed, interrupted = (latest(self.workdir, name) for name in checkpoint_integrity.FOLDERS)
    self.resumable, self._unfinished = max(self.committed, interrupted), interrupted > self.committed
    self.first = self.reached = self.blow = None  # the steps that it took
    self._doing, self._line, self._commit = 'start', b'', -1.
    self._began = time.time()
    fields = {**FIELDS, 'data.data_dir': folder / 'data', 'evals.test.data_dir': folder / 'data'}
    devices = '--xla_force_host_platform_device_count=2' if number > 1 else ''
    environment = dict(os.environ, JAX_PLATFORMS='cpu', XLA_FLAGS=devices, JAX_ENABLE_COMPILATION_CACHE='false')
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      joined = [f'--coordinator=127.0.0.1:{free.getsockname()[1]}', f'--num_processes={number}',
                f'--join_timeout={JOIN_S}', f'--lost_timeout={LOST_S}']
    self._processes = []
    for index, path in enumerate(self.logs):
      with path.open('wb') as log:
        self._processes.append(subprocess.Popen(
            [sys.executable, 'train.py', '--config=configs/mixer_digits.py', f'--workdir={self.workdir}',
             *([*joined, f'--process_id={index}'] if number > 1 else []),
             *(f'--config.{field}={value}' for field, value in fields.items())],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))
    self._log = self.logs[0].open('rb')  # process 0 alone tells how the run goes

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
      self._hear(line.decode(errors='replace'))
    if self._doing == 'start' and _modified(self.workdir / 'config.json') > self._began:
      self._doing = 'compilation'
    if self._doing in ('start', 'compilation'):
      return self._doing  # an unfinished save may still lie there from a life before
    if (committed := latest(self.workdir, 'checkpoints')) != self.committed:
      self.committed, self._commit = committed, now
    if any('.orbax-checkpoint-tmp' in name for name in os.listdir(self.workdir / 'checkpoints')):
      return 'save'
    if now < self._commit + COMMIT_S:
      return 'last commit' if committed == STEPS else 'commit'
    return self._doing

  def _hear(self, line):
    if line.startswith('memory '):  # the last line of what it says before the first step
      due = self._unfinished or self.resumable == STEPS
      self._doing = _after(self.resumable) if due else 'step'
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

  def strike(self, aim: Aim):
    """The blow, and what follows until all processes have ended. Raises a Fault if they do not."""
    self.blow = aim
    self._step_then = self.reached or self.resumable
    # Of the other processes nothing is heard, but none takes a step before all are ready.
    self._ready_then = self._doing not in ('start', 'compilation') if aim.process == 0 else self.first is not None
    _send(self._processes[aim.process], aim.kind)
    until = time.monotonic() + END_S
    while not self.ended():
      if time.monotonic() > until:
        raise Fault(f'{self._name()}: {aim.kind.name} to process {aim.process}, and after {END_S} s the exit codes '
                    f'are {self.codes()}{self._words()}')
      time.sleep(POLL_S)
    self.phase(time.monotonic())  # the rest of what it said

  def lost(self) -> int:
    """How many steps that it took are to be taken again."""
    return max(0, (self.reached or 0) - latest(self.workdir))

  def check(self):
    """Raises a Fault unless a run that has ended left with the right codes, and went on where it could."""
    if self.first not in (None, self.resumable + 1):
      raise Fault(f'{self._name()}: it went on at step {self.first}, and the checkpoint of step {self.resumable} lay '
                  'there')
    codes, told = self.codes(), 'by itself'
    if self.blow:
      told = f'after {self.blow.kind.name} to process {self.blow.process} at step {self._step_then}'
    if not self._right(codes):
      raise Fault(f'{self._name()}: {told} it ended with the exit codes {codes}{self._words()}')
    if self.blow and self.blow.kind == signal.SIGTERM:
      if (self.reached or self.resumable) > self._step_then + MORE_STEPS:
        raise Fault(f'{self._name()}: {told} it went on to step {self.reached}')
      if preemption.EXIT_PREEMPTED in codes and self.lost():
        raise Fault(f'{self._name()}: {told} it stopped at step {self.reached}, and saved step {latest(self.workdir)}')
    check_records(self.workdir, latest(self.workdir))

  def _right(self, codes):
    over = self._doing == 'pictures'  # past the last moment at which it heeds SIGTERM
    if not self.blow:
      return not any(codes)
    if not any(codes):
      return over  # the blow came too late
    if self.blow.kind == signal.SIGTERM:
      if preemption.EXIT_PREEMPTED in codes:
        return set(codes) == {preemption.EXIT_PREEMPTED}
      if self._ready_then and not over:
        return False
    others = [code for index, code in enumerate(codes) if index != self.blow.process]
    return codes[self.blow.process] == -self.blow.kind and (all(others) or over)

  def _name(self):
    return self.logs[0].with_name(self.logs[0].name.partition('-process')[0])

  def _words(self):
    return ''.join(f'\n{log}:\n{log.read_text(errors="replace")[-3000:]}' for log in self.logs)


def _send(process, number):
  """A signal to a process with all that it has started."""
  if process.poll() is None:
    os.killpg(process.pid, number)


def _after(step):
  return 'evaluation' if step % EVAL_EVERY == 0 or step == STEPS else 'step'


def latest(workdir, *folders: str) -> int:
  """The step of the latest checkpoint in `folders`, by default in all that a run can go on from; 0 for none."""
  paths = [workdir / name for name in folders or checkpoint_integrity.FOLDERS]
  return max((int(name) for path in paths if path.exists() for name in os.listdir(path) if name.isdecimal()), default=0)


def _modified(path):
  try:
    return path.stat().st_mtime
  except FileNotFoundError:
    return 0.


def check_records(workdir, least: int):
  """Raises a Fault unless the records' whole lines are those of the steps 1, 2, ..., at least up to `least`."""
  path = workdir / 'records.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []  # what follows the last newline is unfinished
  for number, line in enumerate(lines, 1):
    try:
      step = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      step = None
    if step != number:
      raise Fault(f'{path}: line {number} must be the record of step {number}: {line}')
  if len(lines) < least:
    raise Fault(f'{path} ends with step {len(lines)}, and there is a checkpoint of step {least}')


def watch(life: Life, aim: Aim | None, durations: dict[str, float]) -> tuple[str | None, dict[str, list[float]]]:
  """Looks on until the run ends, or stops it at `aim`.

  Args:
    durations: of the phases, in seconds, for the aim's part.

  Returns:
    The phase that was hit, None if the run ended before; and how long each phase took each time, in seconds.
  """
  began = entered = time.monotonic()
  spans, now_in, times, at = collections.defaultdict(list), None, 0, None
  if aim and aim.phase == ANY:
    at = began + aim.part * durations[ANY]
  while not life.ended():
    now = time.monotonic()
    if (phase := life.phase(now)) != now_in:
      if now_in:
        spans[now_in].append(now - entered)
      now_in, entered = phase, now
      times += bool(aim and phase == aim.phase)
      if times and times > aim.skipped and not at:
        at = now + aim.part * durations[phase]
    if at and now >= at:
      life.strike(aim)
      return phase, spans
    if now > began + LIMIT_S:
      raise Fault(f'{life.logs[0]}: no end after {LIMIT_S} s; the exit codes are {life.codes()}, and the last that was '
                  f'seen of it was: {phase}')
    time.sleep(POLL_S)
  now = time.monotonic()
  life.phase(now)
  spans[now_in].append(now - entered)
  spans[ANY].append(now - began)
  return None, spans


def run_reference(folder: pathlib.Path, number: int = 1) -> dict[str, float]:
  """The run of `number` processes that nobody stops. Returns the usual duration of each of its phases, in seconds."""
  with Life(folder, 1, number) as life:
    _, spans = watch(life, None, {})
    life.check()
  if life.first != 1 or life.reached != STEPS or not spans.keys() >= {*PHASES}:
    raise Fault(f'{life.logs[0]}: steps {life.first} to {life.reached} were seen, of {STEPS}, and the phases '
                f'{", ".join(spans)}, of {", ".join(PHASES)}; does train.py still say what it said?')
  return {phase: statistics.median(seconds) for phase, seconds in spans.items()}


def _counter():
  return dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass
class Tally:
  """What happened: the blows by what they aimed at and by what they hit, those of each kind apart."""
  aimed: collections.Counter = _counter()
  killed: collections.Counter = _counter()
  terminated: collections.Counter = _counter()
  lost: collections.Counter = _counter()  # steps to be taken again
  codes: collections.Counter = _counter()  # exit codes after SIGTERM, of the process that got it
  runs: int = 0

  def add(self, life: Life, hit: str):
    self.aimed[life.blow.phase] += 1
    self.lost[hit] += life.lost()
    if life.blow.kind == signal.SIGTERM:
      self.terminated[hit] += 1
      self.codes[life.codes()[life.blow.process]] += 1
    else:
      self.killed[hit] += 1

  def table(self) -> str:
    counted = (self.killed, self.terminated, self.lost)
    rows = [(phase, self.aimed[phase], *(counter[phase] for counter in counted)) for phase in PHASES]
    rows.append((ANY, self.aimed[ANY], '', '', ''))
    rows.append(('in all', *(counter.total() for counter in (self.aimed, *counted))))
    lines = ['| phase | aimed at | SIGKILL in | SIGTERM in | steps lost |', '| --- | --- | --- | --- | --- |']
    return '\n'.join(lines + [f'| {" | ".join(map(str, row))} |' for row in rows])

  def summary(self) -> str:
    ends = ', '.join(f'{times} times {code}' for code, times in sorted(self.codes.items()))
    return (f'{self.killed.total()} SIGKILL and {self.terminated.total()} SIGTERM (exit codes: {ends or "none"}) in '
            f'{self.runs} runs of {STEPS} steps')


def run_stopped(folder: pathlib.Path, aims: Iterator[Aim], durations: dict[str, float], tally: Tally, number: int = 1):
  """A run of `number` processes that each of `aims` may stop, until it ends by itself."""
  lives, codes = 0, None
  while codes is None or any(codes):
    lives += 1
    aim = next(aims, None)
    with Life(folder, lives, number) as life:
      hit, _ = watch(life, aim, durations)
      life.check()
    codes = life.codes()
    if hit:
      tally.add(life, hit)
      print(f'{folder.name}, life {lives}: aimed at {aim.phase}, {aim.kind.name} to process {aim.process} in {hit}, '
            f'exit codes {codes}, step {life.reached or life.resumable} of {STEPS}, {life.lost()} lost',
            file=sys.stderr)
  tally.runs += 1


def compare(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """The differences of two finished work directories, a line each, `one` first; none if they are the same run."""
  lines = []
  def check(what, left, right):
    if left != right:
      lines.append(f'{what}: {left} and {right}')
  names = [sorted(path.name for path in workdir.iterdir()) for workdir in (one, other)]
  check('files', *names)
  kept = [sorted(path.name for path in (workdir / 'checkpoints').iterdir()) for workdir in (one, other)]
  check('checkpoints', *kept)
  check('interrupted', *(sorted(os.listdir(workdir / 'interrupted')) for workdir in (one, other)))
  there, here = records_of(one), records_of(other)
  check('number of records', len(there), len(here))
  for left, right in zip(there, here):
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
  """All arrays of a checkpoint, and the metrics beside them, by name."""
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


def torture(folder: pathlib.Path, aims: Iterator[Aim], minutes: float, number: int = 1) -> Tally:
  """Stops runs of `number` processes, as many as begin within `minutes`, and compares each with the reference.

  Raises:
    Fault: at the first difference; `folder` then holds both work directories, and what the runs said.
  """
  until = time.monotonic() + 60 * minutes
  print('the reference, which nobody stops', file=sys.stderr)
  durations = run_reference(folder / 'reference', number)
  tally = Tally()
  while not tally.runs or time.monotonic() < until:
    place = folder / f'run-{tally.runs + 1:03}'
    run_stopped(place, aims, durations, tally, number)
    reference, workdir = folder / 'reference' / 'run', place / 'run'
    if differences := compare(reference, workdir):
      more = f'\n  and {len(differences) - trees.SHOWN} more' if len(differences) > trees.SHOWN else ''
      raise Fault(f'{reference} and {workdir} differ:\n  ' + '\n  '.join(differences[:trees.SHOWN]) + more)
    print(f'{place.name} equals the reference', file=sys.stderr)
    shutil.rmtree(place)
  shutil.rmtree(folder / 'reference')
  return tally


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--minutes', required=True, type=float, help='how long; the run in hand is finished')
  parser.add_argument('--workdir', type=pathlib.Path, help='a new folder; default: one among the temporary files')
  parser.add_argument('--seed', type=int, default=0, help='of the instants aimed at')
  parser.add_argument('--terminate', metavar='SHARE', type=float, default=0.25,
                      help='the share of SIGTERM among the blows, from 0 to 1; the others are SIGKILL (default: 0.25)')
  parser.add_argument('--processes', type=int, default=1,
                      help='how many the run has; of several, each has two devices, and one gets the blow (default: 1)')
  flags = parser.parse_args(arguments)
  if not 0 <= flags.terminate <= 1:
    parser.error(f'--terminate is {flags.terminate}; it must be from 0 to 1')
  if flags.processes < 1:
    parser.error(f'--processes is {flags.processes}; it must be at least 1')
  return flags


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  flags = parse(arguments)
  jax.config.update('jax_platforms', 'cpu')  # here, too, where checkpoints are read
  folder = flags.workdir or pathlib.Path(tempfile.mkdtemp(prefix='torture-'))
  folder = folder.expanduser().resolve()
  if folder.exists() and any(folder.iterdir()):
    sys.exit(f'--workdir={folder} is not empty; choose another')
  try:
    tally = torture(folder, aims(flags.seed, flags.terminate, flags.processes), flags.minutes, flags.processes)
  except Fault as fault:
    sys.exit(f'FAULT: {fault}')
  print(f'{tally.table()}\n\n{tally.summary()}: each ended with the checkpoints (bit for bit), records and pictures of '
        'the run that nobody stopped.')


if __name__ == '__main__':
  main()
