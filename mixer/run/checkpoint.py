"""Checkpoints of a run, with Orbax: asynchronous.

A work directory has them in two folders. `checkpoints` holds those that are due, and keeps some; `interrupted` holds
at most one, of a run that was told to stop, with all that was due after its step still to be done. So a run that was
interrupted leaves the same checkpoints as one that was not.
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
from mixer import safe_io
from mixer import storage
from mixer import trees

MANIFEST = 'manifest.ocdbt'  # of the arrays of all processes


def claim(workdir, resolved: dict, class_names: Sequence[str] | None = None):
  """Makes `workdir` and writes the resolved config there, as config.json, and the classes' names, as classes.txt.

  Returns:
    The storage.Lock of the work directory, in the first process; None in the others.

  Raises:
    ValueError: if a run of another config has begun there; it lists the fields that differ, with both sides.
    OSError: if the directory cannot be written, is in use, or is not the same one for all processes.
  """
  workdir = storage.path_of(workdir)
  path, text = workdir / 'config.json', json.dumps(resolved, indent=2) + '\n'
  lock = None
  try:
    with storage.translate_gcs_errors(workdir):
      if any(checkpoint_integrity.entries(workdir / folder) for folder in checkpoint_integrity.FOLDERS):
        if not path.exists():
          raise ValueError(f'{workdir} holds checkpoints and no config.json that says of which run. Choose another '
                           '--workdir')
        _same_run(workdir, _config_in(path), resolved)
      storage.check_name(workdir)
      _wait_for_all('claim')
      if jax.process_index() == 0:
        storage.make_folder(workdir)
        lock = storage.Lock(workdir)
        storage.write(path, text)
        if class_names is not None:
          storage.write(workdir / 'classes.txt', ''.join(f'{name}\n' for name in class_names))
      _wait_for_all('claimed')
      if not path.exists() or path.read_text() != text:
        raise OSError(f'process {jax.process_index()} does not find there what process 0 wrote; it must be on storage '
                      'that all processes share')
  except OSError as error:
    raise OSError(f'cannot write to the work directory {workdir}: {error}. Choose another --workdir') from error
  return lock


def _config_in(path):
  try:
    return safe_io.read_json_object(path)
  except ValueError as error:
    raise ValueError(f'{error}. It has {path.stat().length:,} bytes, and says of which run the checkpoints beside it '
                     'are. Put back what it was, which the same command writes into a new --workdir, or choose another '
                     '--workdir') from error


def _wait_for_all(name):
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _same_run(workdir, there, here):
  fields = configuration.differences(there, here)
  if not fields:
    if 'contents_sample' in here and 'contents_sample' not in there:
      distributed.print_on_main_process(
          f'the run in {workdir} was begun by an earlier version: from here on RandAugment and the rounding of resized '
          "pixels are those of the authors' code, which that version had otherwise")
    return
  listed = ''.join(f'\n  {line}' for line in fields)
  own = shlex.quote(str(storage.path_of(workdir) / 'config.json'))
  advice = f'Choose another --workdir, or go on with that run by its own config: --config={own}'
  if any(line.startswith('data.batch_size') for line in fields):
    advice += ('. A step of another batch size would not see the same examples; to fit a smaller memory at the same '
               'batch size, raise config.step.accumulate in a new work directory')
  if here.get('total_steps', 0) > there.get('total_steps', 0) > 0:
    advice += ('. The learning rate of a run ends at its last step. To train its weights for more, in a new work directory: '
               f'--config.start_from.weights={shlex.quote(str(workdir))} --config.start_from.head=given --workdir=NEW')
  raise ValueError(f'{workdir} holds the run of another config:{listed}\n{advice}')


class _Manager(ocp.CheckpointManager):
  """Orbax's, whose checkpoints outlast a power cut, and which leaves it to `restore` to find what is damaged."""

  def reached_preemption(self, step):
    return False  # preemption.PreemptionHandler asks it, with a count of its own

  def metrics(self, step):
    try:
      return super().metrics(step)
    except ValueError as error:  # damaged; the state beside them may be whole
      logging.warning('the metrics of the checkpoint %s cannot be read (%s)', self.directory / str(step), error)
      return None

  def _load_checkpoint_infos(self, skip_metadata_read=False):
    # Orbax also reads when each was completed, which nobody asks, and ends by an error where a bit of that is damaged.
    infos = super()._load_checkpoint_infos(skip_metadata_read=True)
    return [dataclasses.replace(info, metrics=self.metrics(info.step)) for info in infos]

  def _finalize_checkpoint(self, step):
    # The checkpoint has just got its name, and the ones that are not to be kept are deleted next. Of its files only
    # the arrays are on the disk for certain, by TensorStore.
    super()._finalize_checkpoint(step)
    path = self.directory / str(step)
    if jax.process_index() == 0:
      # Where Orbax does not see what the processes have written, it only warns, and nobody can read the arrays.
      if not (path / 'default' / MANIFEST).exists():
        path.rmtree(missing_ok=True)
        raise OSError(f'Orbax has not merged the arrays of step {step}: {path / "default" / MANIFEST} is missing')
      storage.sync(path)


class Checkpoints:
  """The checkpoints of one run in its work directory. Use it as a context: leaving it waits for the last save.

  Kept are the latest, those at multiples of `keep_every_steps` and the one with the best metric.
  """

  def __init__(self, *, workdir, run: dict, metrics: Sequence[str], every_steps: int,
               class_names: Sequence[str] | None = None, keep_latest: int = 2, keep_every_steps: int | None = None,
               best: str | None = None):
    """Claims `workdir` for a run.

    Args:
      workdir: of the run, on a disk or in a bucket.
      run: the run's resolved config.
      metrics: the names that `best` may have.
      every_steps: how often a checkpoint is due; at least 1.
      class_names: of the model's classes, for those who use its parameters.
      keep_latest: how many of the latest to keep; at least 1.
      keep_every_steps: those at multiples of it are kept too; at least 1, or None.
      best: the name of a metric, such as 'test/top1'; the checkpoint where it is highest is kept too.

    Raises:
      ValueError, OSError: as `claim` does, or if a field has no sense.
    """
    arguments.check(dict(every_steps=every_steps, keep_latest=keep_latest, keep_every_steps=keep_every_steps), at_least=1)
    if best is not None:
      configuration.lookup('checkpoint', 'best', best, dict.fromkeys(metrics))
    self._lock = claim(workdir, run, class_names)
    self.every_steps = every_steps
    self._workdir = storage.path_of(workdir)
    keep, score = [preservation_policy.LatestN(n=keep_latest)], None
    if keep_every_steps:
      keep.append(preservation_policy.EveryNSteps(interval_steps=keep_every_steps))
    if best:
      score = lambda metrics: metrics.get(best, -math.inf)
      keep.append(preservation_policy.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False))
    self._kept, self._by_score = preservation_policy.AnyPreservationPolicy(keep), bool(best)
    self._due = self._manager('checkpoints', self._kept, score)
    self._interrupted = self._manager('interrupted', preservation_policy.LatestN(n=1))

  def _manager(self, folder, policy, score=None):
    # What is kept is the policy's matter alone, but without a best_fn Orbax writes no metrics, and a run that goes on
    # would not know which checkpoint was the best.
    # Where a folder that is made meanwhile cannot be made, Orbax's threads wait for it 20 minutes before the end.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy, best_fn=score, cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False))
    with storage.translate_gcs_errors(self._workdir):
      # Compressed, float32 weights become smaller by 8 %, and a save takes five times as much of the processors.
      return _Manager(self._workdir / folder, item_handlers=ocp.PyTreeCheckpointHandler(use_compression=False),
                      options=options)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    try:
      with self._explained():
        self._due.wait_until_finished()
        if error is None:
          self._delete_stale()
        self._due.close()
        self._interrupted.close()
    except OSError as failure:
      if error is None:
        raise
      logging.error('%s', failure)
    finally:
      if self._lock:
        self._lock.close()

  def save(self, step: int, state, metrics: dict | None = None):
    """Saves a replicated state, while training goes on.

    Args:
      metrics: those measured at this step, if any.

    Raises:
      OSError: if it, or the one before, cannot be written; the checkpoints before are left as they are.
    """
    self._save(self._due, step, state, metrics)

  def save_interrupted(self, step: int, state):
    """Saves a replicated state after whose step nothing that was due has been done. Raises as `save` does."""
    self._save(self._interrupted, step, state, None)

  def _save(self, manager, step, state, metrics):
    host = jax.device_get(state)
    with storage.translate_gcs_errors(self._workdir):
      if not (self._workdir / 'config.json').exists():
        raise OSError(f'the work directory {self._workdir} is gone, and with it what this run has written')
      if self._lock:
        self._lock.check()
    with self._explained():
      self._due.wait_until_finished()
      self._delete_stale()
      self._check_room(step, host)
      manager.save(step, args=ocp.args.PyTreeSave(host), metrics=metrics or {},
                   custom_metadata={'crc32': checkpoint_integrity.checksums(host)})

  def _delete_stale(self):
    """Deletes what was saved when the run was told to stop, once a later checkpoint, or one as late, is complete."""
    if (stale := self._interrupted.latest_step()) is not None and stale <= (self._due.latest_step() or -1):
      self._interrupted.delete(stale)

  def _check_room(self, step, host):
    if storage.in_bucket(self._workdir):
      return
    size, free = sum(x.nbytes for x in jax.tree.leaves(host)), shutil.disk_usage(self._workdir).free
    if free < size:
      raise OSError(f'no room for the checkpoint of step {step}: it takes {size / 2**20:,.0f} MiB, and '
                    f'{self._workdir} has {free / 2**20:,.0f} MiB left')

  @contextlib.contextmanager
  def _explained(self):
    """Errors of a save as an OSError that says what is left."""
    try:
      yield
    except Exception as error:  # Orbax raises many kinds, also for the save before this one.
      if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
        raise  # another process is lost, and no disk
      way_out = storage.gcs_advice(error, self._workdir)
      try:
        left = f'step {max((step for step, _ in self._steps()), default=0)}'
      except Exception:  # which are as many when there is no asking
        left = 'its latest checkpoint'
      raise OSError(f'cannot write a checkpoint to {self._workdir}: {storage.first_line(error) if way_out else error}. '
                    f'{way_out or "Mend that"}. Start again then: the run goes on from {left}') from error

  def _steps(self) -> list:
    """(step, manager) of what is there, the best to go on from first."""
    found = []
    with storage.translate_gcs_errors(self._workdir):
      for manager in (self._due, self._interrupted):
        manager.reload()
        found += [(step, manager) for step in manager.all_steps()]
    return sorted(found, key=lambda entry: (entry[0], entry[1] is self._due), reverse=True)

  def restore(self, state) -> tuple:
    """(the latest state that can be read, on the host, whether the run was interrupted there, and so work is still due).

    Where there is no checkpoint, it is (None, False). A checkpoint that cannot be read, or is not what was saved, is set
    aside with a warning, and the one before it is taken.

    Args:
      state: a tree of the shapes and types to restore.

    Raises:
      ValueError: if the checkpoint's arrays have other names or shapes than `state`, or no checkpoint can be read.
      OSError: if the disk, or the bucket, cannot be read. Nothing is set aside then.
    """
    found, damaged = self._steps(), []
    for step, manager in found:
      try:
        with storage.translate_read_errors(manager.directory / str(step)):
          error, restored = None, self._read(manager, step, state)
      except (_DoesNotFit, storage.Unreachable):
        raise
      except Exception as raised:  # Orbax raises many kinds for damaged files.
        error = raised
      if _in_all(error is None):
        self._set_aside(damaged, step)
        self._tidy()
        return restored, manager is self._interrupted
      damaged.append((manager.directory / str(step), error or 'another process cannot read it'))
    if found:
      steps = ', '.join(str(step) for step, _ in found)
      raise ValueError(f'none of the checkpoints in {self._workdir} can be read (steps {steps}); the latest: '
                       f'{damaged[0][1]}\nMove the folder away to start anew')
    return None, False

  def _read(self, manager, step, state):
    path = manager.directory / str(step)
    there = trees.shapes(manager.item_metadata(step))
    if not there:
      raise ValueError('it holds no arrays')
    if unlike := trees.compare(there, trees.shapes(state), 'checkpoint', 'config'):
      raise _DoesNotFit(f'the checkpoint {path} does not fit the model of this config:{unlike}\n'
                        'Use the config it was made with, or another --workdir')
    restore_args = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), state)
    restored = manager.restore(step, args=ocp.args.PyTreeRestore(state, restore_args=restore_args))
    checkpoint_integrity.check(restored, path)
    return restored

  def _set_aside(self, damaged, good):
    for path, error in damaged:
      aside = self._workdir / 'damaged' / f'{path.parent.name}-{path.name}'
      logging.warning('the checkpoint of step %s cannot be read (%s); it is now %s, and the run goes on from step %d',
                      path.name, str(error).split('\n')[0], aside, good)
      if jax.process_index() == 0:
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
          aside.rmtree()
        path.rename(aside)
    if damaged:
      _wait_for_all('set_aside')
      self._steps()  # without those

  def _tidy(self):
    """Deletes what is not to be kept: of a run that was killed before its last save had done so, no save will."""
    there = [types.SimpleNamespace(step=step, metrics=self._due.metrics(step)) for step in self._due.all_steps()]
    if self._by_score and any(checkpoint.metrics is None for checkpoint in there):
      return  # of a run from before metrics were saved, whose best one cannot be told
    kept = self._kept.should_preserve(there, context=preservation_policy.PreservationContext())
    for checkpoint, keep in zip(there, kept):
      if not keep:
        self._due.delete(checkpoint.step)


class _DoesNotFit(ValueError):
  """A checkpoint that can be read has other arrays than the run."""


def _in_all(here: bool) -> bool:
  """Whether something holds in all processes."""
  return here if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(here)).all())
