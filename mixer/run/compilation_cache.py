"""XLA's persistent compilation cache: what was compiled once is loaded at the next start.

JAX decides which programs are the same. Its key covers the computation, the compiler's version and flags, and the devices,
of a CPU its instructions, too. The files are written and read here instead of by JAX, which leaves half of one behind when it
is killed, and notices one of three flipped bits: with the others it would run whatever they make of the program.
"""

import contextlib
import hashlib
import os
import pathlib
import uuid

from absl import logging
import jax
from jax._src import compilation_cache
from jax._src import compilation_cache_interface
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from mixer import storage

FOLDER = '~/.cache/mixer/xla'
SUFFIX = '.xla'
MAX_BYTES = 2**30  # of a folder on a disk; JAX_COMPILATION_CACHE_MAX_SIZE is another limit
MIN_COMPILE_S = 0.1  # JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS is another limit


def enable(workdir=None):
  """Has JAX keep what it compiles in JAX_COMPILATION_CACHE_DIR, or FOLDER. Call it before anything is compiled.

  Args:
    workdir: of the run. If it is in a bucket, or the run has several processes, its folder 'xla' is the default: of several
      processes JAX writes in the first one alone, and all of them must see the files.
  """
  folder = jax.config.jax_compilation_cache_dir
  if folder is None:
    shared = workdir and (storage.in_bucket(workdir) or jax.process_count() > 1)
    folder = os.fspath(storage.path_of(workdir) / 'xla') if shared else os.path.expanduser(FOLDER)
  if not folder or folder.startswith('~'):
    return  # JAX_COMPILATION_CACHE_DIR is empty, or this user has no home directory
  jax.config.update('jax_compilation_cache_dir', folder)
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_COMPILE_S)
  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')  # further files, which XLA writes itself
  compilation_cache.get_file_cache = lambda path: (Programs(path), path)
  jax_cache.reset_cache()  # another one may be in use


class Programs(compilation_cache_interface.CacheInterface):
  """Compiled programs in a folder, which need not exist. JAX calls `get` before it compiles one, and `put` after it.

  A file ends with the SHA-256 of the rest. Errors are logged, and the program is compiled. On a disk, the least recently
  used files are deleted beyond a limit; a bucket's are those of one run.
  """

  def __init__(self, folder):
    self._path, self._writable = storage.path_of(folder), True

  def get(self, key: str) -> bytes | None:
    path = self._path / f'{key}{SUFFIX}'
    try:
      if not path.exists():
        return None
      content = path.read_bytes()
    except Exception as error:  # a bucket raises many types
      logging.warning('the compiled program %s cannot be read (%s), and is compiled again', path, error)
      return None
    value, digest = content[:-32], content[-32:]
    if hashlib.sha256(value).digest() != digest:
      logging.warning('the compiled program %s is damaged, and is compiled again', path)
      return None
    with contextlib.suppress(OSError):  # it may be somebody else's
      os.utime(path)
    return value

  def put(self, key: str, value: bytes):
    if not self._writable:
      return
    path, content = self._path / f'{key}{SUFFIX}', value + hashlib.sha256(value).digest()
    try:
      if storage.in_bucket(path):
        storage.write(path, content)
      else:
        _write(pathlib.Path(path), content)
        _prune(pathlib.Path(self._path))
    except Exception as error:
      self._writable = False  # one warning is enough
      logging.warning('compiled programs cannot be kept in %s (%s), and the next start compiles them again. Set '
                      'JAX_COMPILATION_CACHE_DIR to a folder for them, or --nocompilation_cache', self._path, error)


def _write(path, content):
  """Replaces a file. Another run may write the same one, and what a power cut leaves is noticed by its digest."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{uuid.uuid4().hex}{SUFFIX}')
  try:
    partial.write_bytes(content)
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def _prune(folder):
  limit = jax.config.jax_compilation_cache_max_size
  limit = MAX_BYTES if limit < 0 else limit
  with contextlib.suppress(FileNotFoundError):  # another run deletes some, too
    files = [(file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob(f'*{SUFFIX}')]
    total = 0
    for _, size, file in sorted(files, reverse=True):
      total += size
      if total > limit:
        file.unlink()
