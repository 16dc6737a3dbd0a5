"""Asynchronous checkpoints of a run, with Orbax.

A work directory has them in two folders. `checkpoints` holds the scheduled ones; old ones are deleted. `interrupted`
holds at most one, saved when the run was asked to stop; the evaluation and checkpoint scheduled at its step are done
when the run resumes. So an interrupted run leaves the same checkpoints as one that was not interrupted.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import math
import shlex
import shutil
import types

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mixer import arguments
from mixer import configuration
from mixer.run import checkpoint_integrity
from mixer.run import distributed
from mixer.run import workdir as workdir_lib
from mixer import safe_io
from mixer import storage
from mixer import trees


def initialize_workdir(workdir, resolved: dict, class_names: Sequence[str] | None = None):
  """Creates and locks `workdir`, and writes the resolved config (config.json) and the class names (classes.txt) to it.

  Returns:
    The storage.Lock of the work directory in the first process; None in the others.

  Raises:
    ValueError: if it holds the checkpoints of another config; the message lists the fields that differ.
    OSError: if the directory is not writable, is in use, or is not shared by all processes.
  """
  workdir = storage.path_of(workdir)
  path, text = workdir / 'config.json', json.dumps(resolved, indent=2) + '\n'
  lock = None
  try:
    with storage.translate_gcs_errors(workdir):
      if any(checkpoint_integrity.entries(workdir / folder) for folder in checkpoint_integrity.FOLDERS):
        if not path.exists():
          raise ValueError(f'{workdir} holds checkpoints and no config.json of their run. Choose another --workdir')
        _check_same_run(workdir, _read_config(path), resolved)
      storage.check_name(workdir)
      _sync_processes('initialize_workdir')
      if jax.process_index() == 0:
        storage.make_folder(workdir)
        lock = storage.Lock(workdir)
        storage.write(path, text)
        if class_names is not None:
          storage.write(workdir / 'classes.txt', ''.join(f'{name}\n' for name in class_names))
      _sync_processes('workdir_initialized')
      if not path.exists() or path.read_text() != text:
        raise OSError(f'process {jax.process_index()} does not see the files that process 0 wrote; it must be on '
                      'storage that all processes share')
  except OSError as error:
    raise OSError(f'cannot write to the work directory {workdir}: {error}. Choose another --workdir') from error
  return lock


def _read_config(path):
  try:
    return safe_io.read_json_object(path)
  except ValueError as error:
    raise ValueError(f'{error}. It has {path.stat().length:,} bytes, and identifies the run of these checkpoints. '
                     'Restore its content, which the same command writes into a new --workdir, or choose another '
                     '--workdir') from error


def _sync_processes(name):
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _check_same_run(workdir, saved, current):
  fields = configuration.differences(saved, current)
  if not fields:
    if 'contents_sample' in current and 'contents_sample' not in saved:
      distributed.print_on_main_process(
          f'the run in {workdir} was started by an earlier version: from now on, RandAugment and the rounding of '
          "resized pixels follow the authors' code, from which that version deviated")
    return
  listed = ''.join(f'\n  {line}' for line in fields)
  own = shlex.quote(str(storage.path_of(workdir) / 'config.json'))
  advice = f'Choose another --workdir, or resume that run with its own config: --config={own}'
  if any(line.startswith('data.batch_size') for line in fields):
    advice += ('. With another batch size, a step would not see the same examples; to fit into less memory at the same '
               'batch size, raise config.step.accumulate in a new work directory')
  if current.get('total_steps', 0) > saved.get('total_steps', 0) > 0:
    advice += ('. The learning rate schedule ends at the last step. To train the weights further, in a new work '
               f'directory: --config.start_from.weights={shlex.quote(str(workdir))} --config.start_from.head=given '
               '--workdir=NEW')
  raise ValueError(f'{workdir} holds the run of another config:{listed}\n{advice}')


class _Manager(ocp.CheckpointManager):
  """Orbax's, with checkpoints that survive a power cut; it leaves the detection of damage to `Checkpoints.restore`."""

  def reached_preemption(self, step):
    return False  # preemption.PreemptionHandler asks JAX, with its own counter

  def metrics(self, step):
    try:
      return super().metrics(step)
    except ValueError as error:  # damaged; the state may still be intact
      logging.warning('the metrics of the checkpoint %s cannot be read (%s)', self.directory / str(step), error)
      return None

  def _load_checkpoint_infos(self, skip_metadata_read=False):
    # Orbax would also read when each was completed, which is not used, and fail if a bit of that were damaged.
    infos = super()._load_checkpoint_infos(skip_metadata_read=True)
    return [dataclasses.replace(info, metrics=self.metrics(info.step)) for info in infos]

  def _finalize_checkpoint(self, step):
    # The checkpoint has just been renamed to its final name, and old ones are deleted next. Of its files, only the
    # arrays are known to be on the disk: TensorStore syncs them.
    super()._finalize_checkpoint(step)
    path = self.directory / str(step)
    if jax.process_index() == 0:
      # If Orbax does not see what the processes have written, it only warns, and the arrays are unreadable.
      if not (manifest := workdir_lib.arrays_manifest(path)).exists():
        path.rmtree(missing_ok=True)
        raise OSError(f'Orbax has not merged the arrays of step {step}: {manifest} is missing')
      storage.sync(path)


class Checkpoints:
  """The checkpoints of one run in its work directory. Use it as a context manager: leaving it waits for the last save.

  It keeps the latest ones, those at multiples of `keep_every_steps`, and the one with the best metric.
  """

  def __init__(self, *, workdir, run: dict, metrics: Sequence[str], every_steps: int,
               class_names: Sequence[str] | None = None, keep_latest: int = 2, keep_every_steps: int | None = None,
               best: str | None = None):
    """Initializes `workdir` for a run.

    Args:
      workdir: of the run, on disk or in a bucket.
      run: the run's resolved config.
      metrics: the valid values of `best`.
      every_steps: how often to save a checkpoint; at least 1.
      class_names: of the model's classes, for users of its parameters.
      keep_latest: how many of the latest checkpoints to keep; at least 1.
      keep_every_steps: also keep those at multiples of it; at least 1, or None.
      best: the name of a metric, such as 'test/top1'; the checkpoint with its highest value is also kept.

    Raises:
      ValueError, OSError: as `initialize_workdir` does, or if a field is invalid.
    """
    arguments.check(dict(every_steps=every_steps, keep_latest=keep_latest, keep_every_steps=keep_every_steps),
                    at_least=1)
    if best is not None:
      configuration.lookup('checkpoint', 'best', best, dict.fromkeys(metrics))
    self._lock = initialize_workdir(workdir, run, class_names)
    self.every_steps = every_steps
    self._workdir = storage.path_of(workdir)
    keep, score = [preservation_policy.LatestN(n=keep_latest)], None
    if keep_every_steps:
      keep.append(preservation_policy.EveryNSteps(interval_steps=keep_every_steps))
    if best:
      score = lambda metrics: metrics.get(best, -math.inf)
      keep.append(preservation_policy.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False))
    self._policy, self._by_score = preservation_policy.AnyPreservationPolicy(keep), bool(best)
    self._scheduled = self._manager('checkpoints', self._policy, score)
    self._interrupted = self._manager('interrupted', preservation_policy.LatestN(n=1))

  def _manager(self, folder, policy, score=None):
    # The policy alone decides what is kept, but without a best_fn Orbax writes no metrics, and a resumed run would not
    # know which checkpoint was the best.
    # If a directory that it creates asynchronously cannot be created, Orbax waits 20 minutes before it fails.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy, best_fn=score, cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False))
    with storage.translate_gcs_errors(self._workdir):
      # Compression makes float32 weights 8 % smaller, and a save takes five times the CPU time.
      return _Manager(self._workdir / folder, item_handlers=ocp.PyTreeCheckpointHandler(use_compression=False),
                      options=options)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    try:
      with self._explain_errors():
        self._scheduled.wait_until_finished()
        if error is None:
          self._delete_stale()
        self._scheduled.close()
        self._interrupted.close()
    except OSError as failure:
      if error is None:
        raise
      logging.error('%s', failure)
    finally:
      if self._lock:
        self._lock.close()

  def save(self, step: int, state, metrics: dict | None = None):
    """Saves a replicated state in the background.

    Args:
      metrics: those measured at this step, if any.

    Raises:
      OSError: if it, or the previous one, cannot be written; earlier checkpoints are not touched.
    """
    self._save(self._scheduled, step, state, metrics)

  def save_interrupted(self, step: int, state):
    """Saves a replicated state whose step's scheduled evaluation and checkpoint were skipped. Raises as `save` does."""
    self._save(self._interrupted, step, state, None)

  def _save(self, manager, step, state, metrics):
    host = jax.device_get(state)
    with storage.translate_gcs_errors(self._workdir):
      if not (self._workdir / 'config.json').exists():
        raise OSError(f'the work directory {self._workdir} is gone, and with it all that this run has written')
      if self._lock:
        self._lock.check()
    with self._explain_errors():
      self._scheduled.wait_until_finished()
      self._delete_stale()
      self._check_room(step, host)
      manager.save(step, args=ocp.args.PyTreeSave(host), metrics=metrics or {},
                   custom_metadata={'crc32': checkpoint_integrity.checksums(host)})

  def _delete_stale(self):
    """Deletes the interrupted checkpoint once a scheduled one of that step or later is complete."""
    if (stale := self._interrupted.latest_step()) is not None and stale <= (self._scheduled.latest_step() or -1):
      self._interrupted.delete(stale)

  def _check_room(self, step, host):
    if storage.in_bucket(self._workdir):
      return
    size, free = sum(x.nbytes for x in jax.tree.leaves(host)), shutil.disk_usage(self._workdir).free
    if free < size:
      raise OSError(f'no room for the checkpoint of step {step}: it takes {size / 2**20:,.0f} MiB, and '
                    f'{self._workdir} has {free / 2**20:,.0f} MiB left')

  @contextlib.contextmanager
  def _explain_errors(self):
    """Turns errors of a save into an OSError that says where training resumes."""
    try:
      yield
    except Exception as error:  # Orbax raises many types, also for the previous save.
      if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
        raise  # another process is lost; the disk is fine
      fix = storage.gcs_advice(error, self._workdir)
      try:
        left = f'step {max((step for step, _ in self._steps()), default=0)}'
      except Exception:  # the storage cannot be listed either
        left = 'the latest checkpoint'
      raise OSError(f'cannot write a checkpoint to {self._workdir}: {storage.first_line(error) if fix else error}. '
                    f'{fix or "Fix this"}. Then restart; training resumes from {left}') from error

  def _steps(self) -> list:
    """(step, manager) of all checkpoints, the best one to resume from first."""
    steps = []
    with storage.translate_gcs_errors(self._workdir):
      for manager in (self._scheduled, self._interrupted):
        manager.reload()
        steps += [(step, manager) for step in manager.all_steps()]
    return sorted(steps, key=lambda entry: (entry[0], entry[1] is self._scheduled), reverse=True)

  def restore(self, state) -> tuple:
    """(the latest readable state, on the host, whether its step's scheduled evaluation and checkpoint are still to do).

    (None, False) if the run has no checkpoint. One that cannot be read, or differs from what was saved, is quarantined
    with a warning, and the previous one is restored.

    Args:
      state: a tree of the shapes and types to restore.

    Raises:
      ValueError: if the checkpoint's arrays have other names or shapes than `state`, or no checkpoint can be read.
      OSError: if the disk, or the bucket, cannot be read. Then nothing is quarantined.
    """
    candidates, damaged = self._steps(), []
    for step, manager in candidates:
      try:
        with storage.translate_read_errors(manager.directory / str(step)):
          error, restored = None, self._read(manager, step, state)
      except (_ShapeMismatch, storage.Unreachable):
        raise
      except Exception as raised:  # Orbax raises many types for damaged files.
        error = raised
      if _all_processes(error is None):
        self._quarantine(damaged, step)
        self._prune()
        return restored, manager is self._interrupted
      damaged.append((manager.directory / str(step), error or 'another process cannot read it'))
    if candidates:
      steps = ', '.join(str(step) for step, _ in candidates)
      raise ValueError(f'none of the checkpoints in {self._workdir} can be read (steps {steps}); the latest: '
                       f'{damaged[0][1]}\nMove the folder away to start from scratch')
    return None, False

  def _read(self, manager, step, state):
    path = manager.directory / str(step)
    shapes = trees.shapes(manager.item_metadata(step))
    if not shapes:
      raise ValueError('it holds no arrays')
    if differences := trees.compare(shapes, trees.shapes(state), 'checkpoint', 'config'):
      raise _ShapeMismatch(f'the checkpoint {path} does not fit the model of this config:{differences}\n'
                           'Use the config it was made with, or another --workdir')
    restore_args = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), state)
    # Partial, as a checkpoint of an earlier version lacks ema or batch_stats; that all arrays are there was compared above.
    restored = manager.restore(step, args=ocp.args.PyTreeRestore(state, restore_args=restore_args, partial_restore=True))
    checkpoint_integrity.check(restored, path)
    return restored

  def _quarantine(self, damaged, good_step):
    for path, error in damaged:
      target = self._workdir / 'damaged' / f'{path.parent.name}-{path.name}'
      logging.warning('the checkpoint of step %s cannot be read (%s); moved to %s, and training resumes from step %d',
                      path.name, str(error).split('\n')[0], target, good_step)
      if jax.process_index() == 0:
        target.parent.mkdir(exist_ok=True)
        if target.exists():
          target.rmtree()
        path.rename(target)
    if damaged:
      _sync_processes('quarantine')
      self._steps()  # which reloads the managers

  def _prune(self):
    """Deletes old checkpoints of a run that was killed before its last save did; no later save would."""
    checkpoints = [types.SimpleNamespace(step=step, metrics=self._scheduled.metrics(step))
                   for step in self._scheduled.all_steps()]
    if self._by_score and any(checkpoint.metrics is None for checkpoint in checkpoints):
      return  # of an earlier version, which saved no metrics: the best one is unknown
    kept = self._policy.should_preserve(checkpoints, context=preservation_policy.PreservationContext())
    for checkpoint, keep in zip(checkpoints, kept):
      if not keep:
        self._scheduled.delete(checkpoint.step)


class _ShapeMismatch(ValueError):
  """A readable checkpoint has other arrays than the run."""


def _all_processes(condition: bool) -> bool:
  """Whether a condition holds in all processes."""
  return condition if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(condition)).all())
