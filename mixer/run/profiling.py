"""Traces of some steps by JAX's profiler, for TensorBoard and Perfetto."""

from collections.abc import Callable
import pathlib
import re
import tempfile

import jax

from mixer import storage

FOLDER = 'profile'  # in the work directory


def parse(steps: str) -> tuple[int, int] | None:
  """(100, 105) for '100:105', which are steps 100 to 104; None if it is not of that form."""
  match = re.fullmatch(r'(\d+):(\d+)', steps)
  first, end = map(int, match.groups()) if match else (0, 0)
  return (first, end) if 0 < first < end else None


def trace(train_step: Callable, steps: str | None, workdir, first_step: int, total_steps: int) -> Callable:
  """`train_step`, the call of whose step `first_step` + 1 is the next, with a trace of some of its steps.

  The trace is of this process alone, and lies in WORKDIR/profile: for TensorBoard with its plugin xprof, and as
  perfetto_trace.json.gz for ui.perfetto.dev. The steps are named in it: 'train', with their number. Only the main process
  traces. A resumed run traces those of the steps that are left.

  Args:
    steps: as for `parse`; None for no trace.

  Raises:
    ValueError: if the run has no such steps.
  """
  if steps is None:
    return train_step
  first, end = parse(steps) or (0, 0)
  if not first < end <= total_steps + 1:
    raise ValueError(f'--profile_steps is {steps}; it must be FIRST:END of the steps 1 to {total_steps}, END not included, such as '
                     f'1:{min(6, total_steps + 1)}')
  first = max(first, first_step + 1)
  return _traced(train_step, first, end, workdir, first_step) if first < end and jax.process_index() == 0 else train_step


def _traced(train_step, first, end, workdir, step):
  temporary = tempfile.TemporaryDirectory()

  def traced(*arguments):
    nonlocal step
    step += 1
    if step == first:
      jax.profiler.start_trace(temporary.name, create_perfetto_trace=True)
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      result = train_step(*arguments)
    if step == end - 1:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      _keep(pathlib.Path(temporary.name), storage.path_of(workdir) / FOLDER)
      temporary.cleanup()
    return result
  return traced


def _keep(folder: pathlib.Path, destination):
  for path in filter(pathlib.Path.is_file, folder.rglob('*')):
    target = destination / path.relative_to(folder)
    if not storage.in_bucket(target):
      target.parent.mkdir(parents=True, exist_ok=True)
    storage.write(target, path.read_bytes())
