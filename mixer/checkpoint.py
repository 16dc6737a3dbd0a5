"""Checkpoints of a run, with Orbax: asynchronous, of the state without its axis of devices."""

from collections.abc import Sequence
import json
import os
import pathlib
import shutil

from absl import logging
import flax.jax_utils
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mixer import configuration
from mixer import trees


def claim(workdir, resolved: dict, class_names: Sequence[str] | None = None):
  """Makes `workdir` and writes the resolved config there, as config.json, and the classes' names, as classes.txt.

  Raises:
    ValueError: if a run of another config has begun there; it lists the fields that differ, with both sides.
    OSError: if the directory cannot be written.
  """
  if '://' in str(workdir):
    raise ValueError(f'the work directory {workdir} is not on a disk of this machine. Choose a local --workdir')
  workdir = pathlib.Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / 'config.json'
    begun = (workdir / 'checkpoints').exists() and any((workdir / 'checkpoints').iterdir())
    if begun and path.exists():
      _same_run(workdir, json.loads(path.read_text()), resolved)
    if jax.process_index() == 0:
      _write(path, json.dumps(resolved, indent=2) + '\n')
      if class_names is not None:
        _write(workdir / 'classes.txt', ''.join(f'{name}\n' for name in class_names))
  except OSError as error:
    raise OSError(f'cannot write to the work directory {workdir}: {error}. Choose another --workdir') from error


def _write(path, text):
  partial = path.with_suffix('.partial')
  partial.write_text(text)
  os.replace(partial, path)


def _same_run(workdir, there, here):
  fields = configuration.differences(there, here)
  if not fields:
    return
  listed = ''.join(f'\n  {line}' for line in fields)
  advice = 'Choose another --workdir, or go back to these values to go on with that run.'
  if any(line.startswith('data.batch_size') for line in fields):
    advice += (' A step of another batch size would not see the same examples; to fit a smaller memory at the same '
               'batch size, raise config.step.accumulate in a new work directory.')
  raise ValueError(f'{workdir} holds the run of another config:{listed}\n{advice}')


class Checkpoints:
  """The checkpoints of one run in its work directory. Use it as a context: leaving it waits for the last save.

  Kept are the latest, those at multiples of `keep_every_steps` and the one with the best metric.
  """

  def __init__(self, *, workdir, run: dict, metrics: Sequence[str], every_steps: int,
               class_names: Sequence[str] | None = None, keep_latest: int = 2, keep_every_steps: int | None = None,
               best: str | None = None):
    """Claims `workdir` for a run.

    Args:
      workdir: of the run; the checkpoints lie in its folder `checkpoints`.
      run: the run's resolved config.
      metrics: the names that `best` may have.
      every_steps: how often a checkpoint is due.
      class_names: of the model's classes, for those who use its parameters.
      keep_latest: how many of the latest to keep.
      keep_every_steps: those at multiples of it are kept too.
      best: the name of a metric, such as 'test/top1'; the checkpoint where it is highest is kept too.

    Raises:
      ValueError, OSError: as `claim` does, or if a field has no sense.
    """
    if keep_latest < 1:
      raise ValueError(f'config.checkpoint.keep_latest is {keep_latest}; it must be at least 1')
    if best is not None:
      configuration.choose('checkpoint', 'best', best, dict.fromkeys(metrics))
    claim(workdir, run, class_names)
    self.every_steps = every_steps
    self._folder = pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'
    keep = [preservation_policy.LatestN(n=keep_latest)]
    if keep_every_steps:
      keep.append(preservation_policy.EveryNSteps(interval_steps=keep_every_steps))
    if best:
      keep.append(preservation_policy.BestN(get_metric_fn=lambda metrics: metrics[best], n=1,
                                            keep_checkpoints_without_metrics=False))
    self._manager = ocp.CheckpointManager(
        self._folder, item_handlers=ocp.StandardCheckpointHandler(),
        options=ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
                                             cleanup_tmp_directories=True))

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    self._manager.close()

  def save(self, step: int, state, metrics: dict | None = None):
    """Saves a replicated state, while training goes on.

    Args:
      metrics: those measured at this step, if any.

    Raises:
      OSError: if the disk has too little room; the checkpoints before are left as they are.
    """
    host = jax.tree.map(np.asarray, flax.jax_utils.unreplicate(state))
    size = sum(x.nbytes for x in jax.tree.leaves(host))
    free = shutil.disk_usage(self._folder).free
    if free < size:
      raise OSError(f'no room for the checkpoint of step {step}: it takes {size / 2**20:,.0f} MiB, and '
                    f'{self._folder} has {free / 2**20:,.0f} MiB left. Make room and start again: the run goes on '
                    f'from step {self._manager.latest_step() or 0}')
    self._manager.save(step, args=ocp.args.StandardSave(host), metrics=metrics or None)

  def restore(self, state):
    """The latest state that can be read, on the host; `state` itself where there is no checkpoint.

    A checkpoint that cannot be read is set aside with a warning, and the one before it is taken.

    Raises:
      ValueError: if the checkpoint's arrays have other names or shapes than `state`, or no checkpoint can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    damaged = []
    for step in steps:
      try:
        shapes = self._manager.item_metadata(step)
        there = trees.shapes(shapes)
        if not there:
          raise ValueError('it holds no arrays')
      except Exception as error:  # Orbax raises many kinds for damaged files.
        damaged.append((step, error))
        continue
      _check_shapes(self._folder / str(step), there, trees.shapes(state))
      try:
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(np.asarray, state)))
      except Exception as error:
        damaged.append((step, error))
        continue
      self._set_aside(damaged, step)
      return restored
    if steps:
      raise ValueError(f'none of the checkpoints in {self._folder} can be read (steps {", ".join(map(str, steps))}); '
                       f'the latest: {damaged[0][1]}\nMove the folder away to start anew')
    return state

  def _set_aside(self, damaged, good):
    for step, error in damaged:
      aside = self._folder / f'damaged-{step}'
      logging.warning('the checkpoint of step %d cannot be read (%s); it is now %s, and the run goes on from step %d',
                      step, str(error).split('\n')[0], aside, good)
      if jax.process_index() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self._folder / str(step), aside)
    if damaged:
      self._manager.reload()


def _check_shapes(path, there, here):
  if unlike := trees.compare(there, here, 'checkpoint', 'config'):
    raise ValueError(f'the checkpoint {path} does not fit the model of this config:{unlike}\n'
                     'Use the config it was made with, or another --workdir')


def read_params(workdir, step: int | None = None) -> tuple[dict, int]:
  """The parameters of a run's checkpoint as nested dicts of numpy arrays, and its step. Nothing is written.

  Args:
    step: None for the latest that can be read.

  Raises:
    ValueError: if there is no checkpoint, or none can be read; it names the folder and the steps there are.
  """
  folder = pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'
  steps = sorted((int(path.name) for path in folder.glob('*') if path.name.isdecimal()), reverse=True)
  there = f'the steps in {folder}: {", ".join(map(str, steps)) or "none"}'
  if step is not None and step not in steps:
    raise ValueError(f'there is no checkpoint of step {step}; {there}')
  damaged = []
  for candidate in steps if step is None else [step]:
    try:
      params = _read_params(folder / str(candidate))
    except Exception as error:  # Orbax raises many kinds for damaged files.
      damaged.append((candidate, str(error).split('\n')[0]))
      continue
    for number, reason in damaged:
      logging.warning('the checkpoint of step %d cannot be read (%s); step %d is taken', number, reason, candidate)
    return params, candidate
  reason = f' (step {damaged[0][0]}: {damaged[0][1]})' if damaged else ''
  raise ValueError(f'no checkpoint can be read{reason}; {there}')


def _read_params(path):
  handler = ocp.PyTreeCheckpointHandler()
  try:
    shapes = handler.metadata(path / 'default').tree['params']
    wanted = {'params': jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)}
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    return handler.restore(path / 'default', args=ocp.args.PyTreeRestore(
        wanted, restore_args=restore_args, partial_restore=True))['params']
  finally:
    handler.close()
