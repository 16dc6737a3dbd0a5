"""Files of a work directory, on a disk or in a bucket of Google Cloud Storage: each is there whole or not at all.

All that differs between the two stands here. TensorFlow reads and writes a bucket's files; Orbax its checkpoints, by
TensorStore and google-cloud-storage.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import glob
import os
import pathlib
import re
import socket
import tempfile
import time
import uuid

from etils import epath
from etils.epath import gpath

SIGN_IN = ('Sign in with `gcloud auth application-default login`, and see that the account has the roles '
           'storage.objectAdmin and storage.legacyBucketReader there')
LATER = 'Requests were repeated, in vain; the same command goes on when Google Cloud Storage answers again'
# Statuses of a request that tell nothing of what lies in the bucket, and what to do, as TensorStore spells them in its
# errors. TensorFlow has a kind of error for each.
ADVICE = {'PERMISSION_DENIED': SIGN_IN, 'UNAUTHENTICATED': SIGN_IN, 'UNAVAILABLE': LATER, 'DEADLINE_EXCEEDED': LATER,
          'RESOURCE_EXHAUSTED': LATER, 'ABORTED': LATER, 'INTERNAL': LATER, 'CANCELLED': LATER, 'UNKNOWN': LATER}
# What the system says of a file that is not what it should be, or is not there. All else that it says is of the disk.
OF_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG)


class Path(gpath.PosixGPath):
  """A path on a disk whose own characters are no pattern: for etils' glob, the folder 'lr[0.1]' is 'lr0', 'lr.' or 'lr1'.

  Orbax keeps the class of the path that it is handed, and globs below it.
  """

  def glob(self, pattern: str) -> Iterator['Path']:
    return super(Path, Path(glob.escape(os.fspath(self)))).glob(pattern)


def path_of(name) -> epath.Path:
  """The absolute path of a folder or a file, which may lie in a bucket (gs://).

  Raises:
    ValueError: if it begins as an address and is none of a bucket.
  """
  name = os.fspath(name)
  if in_bucket(name):
    try:
      return epath.Path(name)
    except KeyError as error:
      raise ValueError(f'{name} is neither on a disk nor in a bucket; expected a path, or an address gs://...') from error
  # After a link, '..' is the folder above what it leads to, as the system has it.
  resolve = os.path.realpath if '..' in pathlib.PurePath(name).parts else os.path.abspath
  return Path(resolve(os.path.expanduser(name)))


def in_bucket(path) -> bool:
  """Whether a path is not on a disk of this machine."""
  return re.match(r'[\w+.-]+://', os.fspath(path)) is not None


def check_name(path: epath.Path):
  """Raises an OSError if the name of a folder on a disk has what TensorStore, which writes the arrays, cannot take."""
  name = os.fspath(path)
  wrong = ('a backslash' if '\\' in name else "a part 'gs:'" if 'gs:' in path.parts else
           'bytes that are not UTF-8' if re.search('[\ud800-\udfff]', name) else None)
  if wrong and not in_bucket(path):
    raise OSError(f'its name has {wrong}, and TensorStore, which writes checkpoints, takes none')


def make_folder(path: epath.Path):
  """Makes a folder, and on a disk those above it.

  Raises:
    OSError: if it cannot be made, or there is no such bucket.
  """
  if not in_bucket(path):
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
      _sync(folder.parent)
    return
  bucket = '/'.join(os.fspath(path).split('/')[:3])
  with translate_gcs_errors(path):
    try:  # Without parents, which a bucket needs none of: TensorFlow would ask for a missing bucket without end.
      path.mkdir(exist_ok=True)
    except FileNotFoundError as error:
      raise FileNotFoundError(f'there is no bucket {bucket}; make it with `gcloud storage buckets create {bucket}`, or '
                              'mend its name') from error


def write(path: epath.Path, content: str | bytes):
  """Replaces a file. Whoever reads meanwhile, or after a kill or a power cut, sees the old content or the new one."""
  content = content.encode() if isinstance(content, str) else content
  if in_bucket(path):  # where an object appears when it is closed
    with translate_gcs_errors(path):
      path.write_bytes(content)
    return
  partial = path.with_name(f'{path.name}.partial')
  partial.write_bytes(content)
  _sync(partial)
  partial.replace(path)
  _sync(path.parent)


def append(path: epath.Path, line: str):
  """Adds a line to a file, new or not, which is replaced whole. A last line that was cut off stays one of its own."""
  with translate_gcs_errors(path):
    content = path.read_bytes() if path.exists() else b''
  ending = b'' if content[-1:] in (b'', b'\n') else b'\n'
  write(path, content + ending + line.encode() + b'\n')


def sync(folder: epath.Path):
  """Waits until a folder on a disk, all that is in it, and its name in the folder above outlast a power cut."""
  if not in_bucket(folder):
    folder = pathlib.Path(folder)
    for path in (*folder.rglob('*'), folder, folder.parent):
      _sync(path)


def _sync(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a network's file system that has no such thing
      raise
  finally:
    os.close(descriptor)


class Unreachable(OSError):
  """A disk, or the service of a bucket, does not do what it is asked, whatever lies there."""


def advice(error: BaseException, path) -> str | None:
  """What to do about an error in the use of `path` that is of its bucket's service; None if it is another one."""
  if not in_bucket(path):
    return None
  # Here, since a disk needs none of them, and a bucket has them all loaded.
  from google.api_core import exceptions as storage_errors
  from google.auth import exceptions as auth_errors
  import tensorflow as tf
  if isinstance(error, (auth_errors.GoogleAuthError, storage_errors.Unauthorized, storage_errors.Forbidden)):
    return SIGN_IN
  if isinstance(error, (storage_errors.ServerError, storage_errors.RetryError, storage_errors.TooManyRequests)):
    return LATER
  if isinstance(error, tf.errors.OpError):
    names = {getattr(tf.errors, name): name for name in ADVICE}
    return ADVICE.get(names.get(error.error_code))
  if isinstance(error, (ValueError, RuntimeError)):  # TensorStore's
    found = re.findall(rf'\b({"|".join(ADVICE)})\b', str(error))
    return ADVICE[found[-1]] if found else None
  return None


@contextlib.contextmanager
def translate_gcs_errors(path) -> Iterator[None]:
  """Raises errors of a bucket's service as an Unreachable that says what to do, and all others as they are."""
  try:
    yield
  except Exception as error:
    if (way_out := advice(error, path)) is None:
      raise
    raise Unreachable(f'{path} cannot be reached: {first_line(error)}. {way_out}') from error


@contextlib.contextmanager
def translate_read_errors(path) -> Iterator[None]:
  """As `reached`, and also raises errors of a disk, or of the way to it, as an Unreachable.

  All others are then of what was read.
  """
  try:
    with translate_gcs_errors(path):
      yield
  except Unreachable:
    raise
  except Exception as error:
    if (fault := _fault(error)) is None:
      raise
    raise Unreachable(f'{path} cannot be read: {fault}. No checkpoint was touched; the same command goes on when the '
                      'disk can be read again') from error


def _fault(error):
  """What the system says of a disk in an error or in what led to it; None if nothing."""
  while error is not None:
    if isinstance(error, OSError):
      code = error.errno
    else:  # TensorStore tells it in words
      found = re.search(r"os_error_code='(\d+)'", str(error))
      code = found and int(found[1])
    if code and code not in OF_FILES:
      return f'[Errno {code}] {os.strerror(code)}'
    error = error.__cause__ or error.__context__
  return None


def first_line(error: BaseException) -> str:
  """An error's text without what its library adds to it."""
  return str(error).split('\n')[0]


class Lock:
  """Keeps a folder to one run at a time.

  On a disk a second run is refused, until the first ends, however it does. What lies in a bucket cannot tell whether a
  run is still alive: there the later one is let in, and the earlier one told so at its next `check`.
  """

  def __init__(self, folder: epath.Path):
    self._path, self._file = folder / 'lock', None
    if in_bucket(folder):
      self._ours = f'process {os.getpid()} of {socket.gethostname()} since {time.ctime()} ({uuid.uuid4().hex})'
      write(self._path, self._ours)
      return
    self._file = open(self._path, 'w')
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.close()
      raise OSError('another run is at work in it') from None
    except OSError:  # a network's file system that has no locks
      pass

  def check(self):
    """Raises an OSError if another run has come since, in a bucket."""
    if self._file is None and (there := self._path.read_text()) != self._ours:
      raise OSError(f'another run is at work in {self._path.parent}: {there}. This one leaves it to that one')

  def close(self):
    if self._file:
      self._file.close()


class StagingDir:
  """A folder for a library that appends to its files, which in a bucket would upload the whole file each time.

  Attributes:
    path: where to write: a temporary folder, or the folder itself if it is on a disk.
  """

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._temporary = tempfile.TemporaryDirectory() if in_bucket(folder) else None
    self.path = epath.Path(self._temporary.name) if self._temporary else folder

  def upload(self):
    """Copies the files to the bucket."""
    if self._temporary:
      for path in self.path.iterdir():
        write(self._folder / path.name, path.read_bytes())

  def close(self):
    if self._temporary:
      self._temporary.cleanup()
