"""What the time of a run went to, over all its starts: goodput.jsonl in its work directory.

  {"start": 1764518400.1, "time": 1764518520.3, "step": 120, "starting": 4.1, "compilation": 6.0, "input": 0.9, ...}

A line holds the seconds of each kind of KINDS since a process started; they add up to `time` - `start`. Lines are added
when the training loop begins, before each checkpoint, on a disk each minute, and when the loop ends. Time is that of the
main process, which writes the file: what it does not spend on another kind is 'training', as it then waits for the devices
or logs; and while it waits for input, the devices may still be computing. Of several processes, which compile the step at
its first call, that step is 'compilation'.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import itertools
import json
import math
import os
import time

import jax

from mixer import jsonl
from mixer import storage
from mixer.wording import counted
from mixer.wording import duration

FILE = 'goodput.jsonl'
EVERY_S = 60  # seconds between lines
KINDS = {'training': 'steps', 'starting': 'starts', 'compilation': 'compilation', 'input': 'waiting for images',
         'checkpoints': 'checkpoints', 'evaluation': 'evaluation'}
LOST = {'repeated': 'steps taken again', 'down': 'down'}  # known only when the run has started again


class Clock:
  """Counts the seconds of a run's start by kind, first those of 'starting'.

  The first clock of a process counts from the start of the process on, a later one from its own.
  """

  def __init__(self):
    age = next(_AGE, 0.)
    self._start, self._since = time.time() - age, time.monotonic() - age
    self._kind, self._seconds = 'starting', dict.fromkeys(KINDS, 0.)
    self._file, self._step, self._noted = None, 0, self._since

  @contextlib.contextmanager
  def loop(self, workdir, first_step: int, total_steps: int):
    """The training loop, which continues after `first_step`. A complete run, which is only evaluated again, adds no lines."""
    self._step = first_step
    if jax.process_index() == 0 and not (first_step >= total_steps and any(line['step'] >= total_steps for line in read(workdir))):
      self._file = storage.path_of(workdir) / FILE
    self._note()
    try:
      yield
    finally:
      self._note()

  @contextlib.contextmanager
  def of(self, kind: str):
    before = self._kind
    self.count(kind)
    if kind == 'checkpoints':
      self._note()
    try:
      yield
    finally:
      self.count(before)

  def count(self, kind: str):
    """From now on time is of this kind."""
    now = time.monotonic()
    self._seconds[self._kind] += now - self._since
    self._kind, self._since = kind, now

  def each(self, batches: Iterable) -> Iterator:
    """The batches of the steps; the time until each comes is of 'input'."""
    batches, first = iter(batches), True
    while True:
      with self.of('input'):
        try:
          batch = next(batches)
        except StopIteration:
          return
      self._step += 1
      self.count('compilation' if first and jax.process_count() > 1 else 'training')
      first = False
      if time.monotonic() - self._noted > EVERY_S and not (self._file and storage.in_bucket(self._file)):
        self._note()
      yield batch

  def _note(self):
    """Adds a line to the file."""
    self._noted = time.monotonic()
    if self._file is not None:
      self.count(self._kind)
      seconds = {kind: round(value, 3) for kind, value in self._seconds.items()}
      storage.append(self._file, json.dumps({'start': round(self._start, 3), 'time': round(self._start + sum(seconds.values()), 3),
                                             'step': self._step, **seconds}))


def _age() -> Iterator[float]:
  """Seconds since this process was started, once; 0 where that is not known."""
  try:
    with open('/proc/self/stat') as file:
      started = int(file.read().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
    yield max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.)
  except (OSError, AttributeError, ValueError, IndexError):  # not Linux
    yield 0.


_AGE = _age()


@dataclasses.dataclass(frozen=True)
class Account:
  """Where the time of a run went.

  Attributes:
    starts: how many of them are in the file.
    first_step: of the first of them.
    seconds: by kind, those of KINDS and LOST.
  """
  starts: int
  first_step: int
  seconds: dict[str, float]

  @property
  def total(self) -> float:
    return sum(self.seconds.values())

  @property
  def goodput(self) -> float:
    """The part of the total that went to steps that were not taken again."""
    return self.seconds['training'] / self.total

  def __str__(self):
    others = sorted(((value, kind) for kind, value in self.seconds.items() if kind != 'training'), reverse=True)
    words = ', '.join(f'{(KINDS | LOST)[kind]} {value / self.total:.1%}' for value, kind in others if value >= 0.0005 * self.total)
    since = f'step {self.first_step:,}, where the record begins' if self.first_step else 'the first start'
    return (f'goodput {self.goodput:.1%} of {duration(self.total)} since {since}' + (f'; {words}' if words else '')
            + (f'; {counted(self.starts, "start")}' if self.starts > 1 else ''))


def read(workdir) -> list[dict]:
  """The lines of a run, in order; damaged ones are skipped."""
  numbers = ('start', 'time', 'step', *KINDS)
  return [line for _, line in jsonl.read(storage.path_of(workdir) / FILE)
          if all(isinstance(line.get(name), int | float) for name in numbers)]


def account(lines: list[dict]) -> Account | None:
  """The account of a run's lines, of which the last may be any; None without lines.

  Steps beyond the one at which a later start resumed were taken in vain ('repeated'), and from its last line to the next
  start the run was 'down': what a killed process did after its last line counts as that. Where the machine's clock was set
  back meanwhile, it was down for no time.
  """
  starts = [list(group) for _, group in itertools.groupby(lines, lambda line: line['start'])]
  if not starts or not any(line['time'] > line['start'] for line in lines):
    return None
  seconds, resumed = dict.fromkeys([*KINDS, *LOST], 0.), math.inf  # the least step at which a later start resumed
  for these, following in reversed([*itertools.zip_longest(starts, starts[1:])]):
    last = these[-1]
    if following:
      resumed = min(resumed, following[0]['step'])
      seconds['down'] += max(following[0]['start'] - last['time'], 0.)
    for kind in KINDS:
      seconds[kind] += last[kind]
    in_vain = last['training'] - max((line['training'] for line in these if line['step'] <= resumed), default=0.)
    seconds['repeated'] += in_vain
    seconds['training'] -= in_vain
  return Account(len(starts), int(lines[0]['step']), seconds)
