"""Contenders take turns: A B C, A B C, ..., each in its own process, which waits during the others' turns.

So other load on the machine affects all alike, and the ratio of samples in one round is more reliable than the samples.
`contender.py` defines what a contender's process reads and prints.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).parent.parent


class Failed(Exception):
  """A contender's process ended, or took too long; the message is its last error."""


class Contender:
  """One process, `python -m benchmarks.ARGUMENTS`. A context manager, which ends the process."""

  def __init__(self, arguments: tuple[str, ...], timeout: float):
    """`timeout`: how many seconds a turn may take."""
    self.name = ' '.join(arguments)
    self._arguments, self._timeout = arguments, timeout

  def __enter__(self):
    self._errors = tempfile.TemporaryFile('w+')
    # On a CPU, as all others; the threads of those who wait must not spin.
    environment = dict(os.environ, JAX_PLATFORMS='cpu', TF_CPP_MIN_LOG_LEVEL='2', OMP_WAIT_POLICY='passive')
    self._process = subprocess.Popen([sys.executable, '-m', f'benchmarks.{self._arguments[0]}', *self._arguments[1:]],
                                     cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self._errors, text=True)
    return self

  def turn(self) -> list[dict]:
    """The samples of the next turn. The first turn prepares, and has none.

    Raises:
      Failed: if the process has ended or exceeds its timeout.
    """
    late = threading.Timer(self._timeout, self._process.kill)
    late.start()
    samples, line = [], ''
    try:
      self._process.stdin.write('\n')
      self._process.stdin.flush()
      while (line := self._process.stdout.readline()).strip():
        samples.append(json.loads(line))
    except (BrokenPipeError, json.JSONDecodeError):
      line = ''
    finally:
      timed_out = not late.is_alive()
      late.cancel()
    if not line:
      raise Failed(f'took longer than {self._timeout:.0f} s' if timed_out else self._reason())
    return samples

  def _reason(self) -> str:
    self._process.kill()
    code = self._process.wait()
    self._errors.seek(0)
    return reason(self._errors.read()) or f'ended with {code}'

  def __exit__(self, *error):
    self._process.kill()
    self._process.wait()
    for file in (self._process.stdin, self._process.stdout, self._errors):
      with contextlib.suppress(BrokenPipeError):
        file.close()


def reason(errors: str) -> str:
  """The line of stderr that says why a process ended: that of the exception, or else the last one."""
  lines = [line.strip() for line in errors.splitlines() if line.strip()]
  raised = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Exit|Interrupt)\b', line)]
  return (raised or lines or [''])[-1]


@dataclasses.dataclass(frozen=True)
class Group:
  """Contenders that take turns with one another, as the arguments of their processes."""
  name: str
  contenders: tuple[tuple[str, ...], ...]
  rounds: int = 5

  @property
  def turns(self) -> int:
    return len(self.contenders) * (self.rounds + 1)


def take_turns(group: Group, timeout: float, report: Callable[[str], object]) -> Iterator[dict]:
  """The samples of a group, in the order in which they are taken; each has the 'group' and the 'round', from 1.

  A contender that fails takes no further turns: in place of samples it yields {'failed': its arguments, 'why': ...}.

  Args:
    report: called before each turn with its contender.
  """
  with contextlib.ExitStack() as processes:
    contenders = [processes.enter_context(Contender(arguments, timeout)) for arguments in group.contenders]
    for number in range(group.rounds + 1):
      for contender in list(contenders):
        turn = f', round {number}:' if number else ': prepare'
        report(f'{group.name}{turn} {contender.name}')
        try:
          for sample in contender.turn():
            yield {**sample, 'group': group.name, 'round': number}
        except Failed as error:
          contenders.remove(contender)
          yield {'failed': contender.name, 'why': str(error), 'group': group.name, 'round': number}
