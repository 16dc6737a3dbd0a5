"""When a run was active, on what hardware and with which code: history.jsonl in its work directory, two lines a start.

  {"format": 1, "event": "start", "step": 0, "time": "2025-01-31T12:00:00+00:00", "commit": "0123abc",
   "versions": {...}, "device": "TPU v3", "devices": 32, "hosts": 4, "machine": "96 x Intel(R) Xeon(R) CPU, 335 GiB"}
  {"format": 1, "event": "end", "step": 562, ..., "seconds": 41.5}

The first is written when the training loop begins, the second when it ends, be it by a signal or an error; a run that
is killed writes none. `step` is the number of steps taken, `seconds` the wall time since the start event: the steps,
the evaluations and what the loop waits for checkpoints, but not what precedes it, such as imports and, with one
process, the compilation of the step. `devices` counts JAX's devices of all hosts: on a TPU v3 they are its cores. `machine` is the
first host. `commit` ends in '+' if files differ from it, and is 'unknown' without git.
"""

import dataclasses
import json
import time

import jax

from mixer.run import provenance
from mixer.run import records
from mixer import storage
from mixer.wording import counted

FORMAT = 1
FILE = 'history.jsonl'


def read(workdir) -> list[dict]:
  """The events of a run in their order, or []. Damaged lines and other formats are skipped."""
  events = records.read(storage.path_of(workdir) / FILE)
  return [event for event in events if event.get('format') == FORMAT and event.get('event') in ('start', 'end')]


class History:
  """Writes the events of one start of a run, in the main process."""

  def __init__(self, workdir, first_step: int, total_steps: int):
    """Starts at `first_step`. A run that is complete adds nothing: it is only evaluated again."""
    self._path = storage.path_of(workdir) / FILE
    last = (read(workdir) or [{}])[-1]
    complete = first_step >= total_steps and last.get('event') == 'end'
    self._writes = jax.process_index() == 0 and not complete
    self._start = time.monotonic()
    if self._writes:
      self._environment = dict(
          commit=provenance.commit(), versions=provenance.versions(), device=jax.devices()[0].device_kind,
          devices=jax.device_count(), hosts=jax.process_count(), machine=provenance.machine())
      self._write('start', first_step)

  def end(self, step: int):
    """Writes the end event, after `step` steps."""
    if self._writes:
      self._write('end', step, seconds=round(time.monotonic() - self._start, 3))

  def _write(self, event, step, **more):
    storage.append(self._path, json.dumps({'format': FORMAT, 'event': event, 'step': step, 'time': provenance.now(),
                                           **self._environment, **more}))


@dataclasses.dataclass(frozen=True)
class RunTotals:
  """Totals over all starts of a run.

  Attributes:
    starts: number of starts.
    unended: number of starts without an end event: killed, or still running. Their time is unknown.
    first_step: of the first start; the steps before it are not in the history.
    seconds: wall time of all starts with an end event.
    core_hours: the same in hours, times the devices.
    hardware: descriptions of all that was used, in order of first use; so are commits and versions.
  """
  starts: int
  unended: int
  first_step: int
  seconds: float
  core_hours: float
  hardware: list[str]
  commits: list[str]
  versions: list[str]


def totals(events: list[dict]) -> RunTotals:
  """Totals of events, of which at least one must be a start."""
  starts, ends = ([event for event in events if event['event'] == kind] for kind in ('start', 'end'))
  followers = [event['event'] for event in events[1:]] + [None]
  unended = sum(event['event'] == 'start' and follower != 'end' for event, follower in zip(events, followers))
  unique = lambda describe: list(dict.fromkeys(map(describe, starts)))
  return RunTotals(
      starts=len(starts), unended=unended, first_step=starts[0]['step'],
      seconds=sum(event['seconds'] for event in ends),
      core_hours=sum(event['seconds'] * event['devices'] for event in ends) / 3600,
      hardware=unique(lambda event: f'{event["devices"]} x {event["device"]} on {counted(event["hosts"], "host")} '
                                    f'({event["machine"]})'),
      commits=unique(lambda event: event['commit']),
      versions=unique(lambda event: ', '.join(f'{name} {version}' for name, version in event['versions'].items())))
