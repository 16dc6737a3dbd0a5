"""Reads the arrays of a run's checkpoints, and verifies their checksums. Nothing is written."""

from collections.abc import Iterator
from concurrent import futures
import math
import pathlib
import zlib

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from mixer import safe_io
from mixer import storage

FOLDERS = ('checkpoints', 'interrupted')


def entries(folder) -> list:
  """The paths in a folder; [] if it does not exist."""
  return list(folder.iterdir()) if folder.exists() else []


def checksums(state) -> dict[str, int]:
  """{'params/stem/kernel': CRC-32} of a tree of numpy arrays.

  Orbax's own checksums do not cover all bytes of its files.
  """
  paths, arrays = zip(*jax.tree_util.tree_leaves_with_path(state))
  names = (jax.tree_util.keystr(path, simple=True, separator='/') for path in paths)
  with futures.ThreadPoolExecutor() as pool:  # a gigabyte takes a second on one core
    return dict(zip(names, pool.map(lambda x: zlib.crc32(np.ascontiguousarray(x)), arrays)))


def check(state, path):
  """Raises a ValueError if an array's checksum differs from that saved with the checkpoint at `path`."""
  metadata = path / '_CHECKPOINT_METADATA'
  if not metadata.exists():
    logging.warning('%s is missing, and with it the checkpoint\'s checksums', metadata)
    return
  saved = (safe_io.read_json_object(metadata).get('custom_metadata') or {}).get('crc32')
  if saved is None:
    logging.warning('the checkpoint %s was saved by an earlier version, without checksums; it is not verified', path)
    return
  for name, checksum in checksums(state).items():
    if saved.get(name) != checksum:
      raise ValueError(f'array {name} differs from what was saved: its checksum is {checksum}, and was '
                       f'{saved.get(name)}')


def read_params(workdir, step: int | None = None, folder: str | None = None,
                part: str = 'params') -> tuple[dict, epath.Path]:
  """The weights of a run's checkpoint, as `trees.weights`, in numpy arrays, and its path. Nothing is written.

  Args:
    part: 'params', or 'ema' for their average, which the run must have.
    step: None for the latest readable one.
    folder: one of FOLDERS; None for both.

  Raises:
    ValueError: if no checkpoint exists, or none can be read; it lists the steps in the folder.
    OSError: if the disk, or the bucket, cannot be read.
  """
  workdir = storage.path_of(workdir)
  paths = sorted(_finalized(workdir, [folder] if folder else FOLDERS),
                 key=lambda path: (int(path.name), path.parent.name == FOLDERS[0]), reverse=True)
  listing = (f'the steps in {workdir / folder if folder else workdir}: '
             f'{", ".join(path.name for path in paths) or "none"}')
  if step is not None and str(step) not in [path.name for path in paths]:
    raise ValueError(f'no checkpoint of step {step}; {listing}')
  damaged = []
  for path in paths:
    if step not in (None, int(path.name)):
      continue
    try:
      with storage.translate_read_errors(path):
        params = _read_params(path, part)
    except storage.Unreachable:
      raise
    except Exception as error:  # Orbax raises many types for damaged files.
      damaged.append((path.name, str(error).split('\n')[0]))
      continue
    for number, reason in damaged:
      logging.warning('the checkpoint of step %s cannot be read (%s); using step %s', number, reason, path.name)
    return params, path
  reason = f' (step {damaged[0][0]}: {damaged[0][1]})' if damaged else ''
  raise ValueError(f'no checkpoint can be read{reason}; {listing}')


def _finalized(workdir, folders) -> Iterator:
  for folder in folders:
    yield from (path for path in entries(workdir / folder)
                if path.name.isdecimal() and ocp.utils.is_checkpoint_finalized(path))


def _read_params(path, part):
  handler = ocp.PyTreeCheckpointHandler()
  try:
    tree = handler.metadata(path / 'default').tree
    parts = [part, 'batch_stats'] if part == 'params' and tree.get('batch_stats') else [part]  # an average has its own
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), {name: tree[name] for name in parts})
    if not storage.in_bucket(path):
      safe_io.check_unpacked(path, sum(file.stat().st_size for file in pathlib.Path(path).rglob('*') if file.is_file()),
                             sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(target)))
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), target)
    restored = handler.restore(path / 'default', args=ocp.args.PyTreeRestore(
        target, restore_args=restore_args, partial_restore=True))
    check(restored, path)
    return {**restored.pop(part), **restored}
  finally:
    handler.close()
