"""When a run was at work, on what and by which code: history.jsonl in its work directory, two lines for each start.

  {"format": 1, "event": "start", "step": 0, "time": "2025-01-31T12:00:00+00:00", "commit": "0123abc",
   "versions": {...}, "device": "TPU v3", "devices": 32, "hosts": 4, "machine": "96 x Intel(R) Xeon(R) CPU, 335 GiB"}
  {"format": 1, "event": "end", "step": 562, ..., "seconds": 41.5}

The first is written when the loop begins, the second when it ends, also by a notice or an error; a run that is killed
leaves none. `step` is how many steps have been taken, `seconds` the wall time since the start event: the steps, the
evaluations and what the loop waits for checkpoints, but nothing of what is before it, as imports are and, with one
process, the compilation of the step. `devices` counts all of JAX's, of all hosts: on a TPU v3 they are its cores.
`machine` is the first host. `commit` ends in '+' if files differ from it, and is 'unknown' without git.
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
  """The events of a run in their order, [] where there are none. Damaged lines and other formats are passed over."""
  found = records.read(storage.path_of(workdir) / FILE)
  return [event for event in found if event.get('format') == FORMAT and event.get('event') in ('start', 'end')]


class History:
  """Writes the events of one start of a run. Only the first process writes."""

  def __init__(self, workdir, first_step: int, total_steps: int):
    """Begins at `first_step`. A run that has ended before adds nothing: it only scores again."""
    self._path = storage.path_of(workdir) / FILE
    last = (read(workdir) or [{}])[-1]
    ended = first_step >= total_steps and last.get('event') == 'end'
    self._writes = jax.process_index() == 0 and not ended
    self._began = time.monotonic()
    if self._writes:
      self._about = dict(
          commit=provenance.commit(), versions=provenance.versions(), device=jax.devices()[0].device_kind,
          devices=jax.device_count(), hosts=jax.process_count(),
          machine=provenance.machine())
      self._write('start', first_step)

  def end(self, step: int):
    """Ends after `step` steps."""
    if self._writes:
      self._write('end', step, seconds=round(time.monotonic() - self._began, 3))

  def _write(self, event, step, **more):
    storage.append(self._path, json.dumps({'format': FORMAT, 'event': event, 'step': step, 'time': provenance.now(),
                                           **self._about, **more}))


@dataclasses.dataclass(frozen=True)
class Work:
  """What the events of a run add up to.

  Attributes:
    starts: how many there were.
    unended: of these, the ones without an end: killed, or still at work. Their time is not known.
    first_step: of the first start; the steps before it are not in the history.
    seconds: of wall time, over all starts with an end.
    core_hours: the same in hours, times the devices.
    hardware, commits, versions: each that there was, in their order, for people.
  """
  starts: int
  unended: int
  first_step: int
  seconds: float
  core_hours: float
  hardware: list[str]
  commits: list[str]
  versions: list[str]


def work(events: list[dict]) -> Work:
  """Sums up events; at least one must be a start."""
  starts, ends = ([event for event in events if event['event'] == kind] for kind in ('start', 'end'))
  followers = [event['event'] for event in events[1:]] + [None]
  unended = sum(event['event'] == 'start' and then != 'end' for event, then in zip(events, followers))
  each = lambda tell: list(dict.fromkeys(map(tell, starts)))
  return Work(
      starts=len(starts), unended=unended, first_step=starts[0]['step'],
      seconds=sum(event['seconds'] for event in ends),
      core_hours=sum(event['seconds'] * event['devices'] for event in ends) / 3600,
      hardware=each(lambda event: f'{event["devices"]} x {event["device"]} on {counted(event["hosts"], "host")} '
                                  f'({event["machine"]})'),
      commits=each(lambda event: event['commit']),
      versions=each(lambda event: ', '.join(f'{name} {version}' for name, version in event['versions'].items())))
