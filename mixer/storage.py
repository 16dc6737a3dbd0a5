"""Files of a work directory, on a disk or in a Google Cloud Storage bucket. Writes are atomic.

All differences between the two are handled here. In a bucket, TensorFlow reads and writes files, and Orbax checkpoints,
by TensorStore and google-cloud-storage.
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

SIGN_IN = ('Sign in with `gcloud auth application-default login`, and check that the account has the roles '
           'storage.objectAdmin and storage.legacyBucketReader on the bucket')
RETRY_LATER = 'All retries failed; the same command resumes when Google Cloud Storage is available again'
# Statuses of a request that are about the service rather than an object, and what to do. TensorStore's errors spell
# them like this; TensorFlow has an error class for each.
ADVICE = {**dict.fromkeys(('PERMISSION_DENIED', 'UNAUTHENTICATED'), SIGN_IN),
          **dict.fromkeys(('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED', 'ABORTED', 'INTERNAL', 'CANCELLED',
                           'UNKNOWN'), RETRY_LATER)}
# Errors about a file itself: it is missing, or of the wrong kind. All others are about the disk.
READ = ('gs://',)  # addresses that are read as files
FILE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG)


class Path(gpath.PosixGPath):
  """A path on a disk whose glob takes the path itself literally: etils' would read the folder 'lr[0.1]' as a pattern.

  Orbax keeps the class of the path that is passed to it, and globs below it.
  """

  def glob(self, pattern: str) -> Iterator['Path']:
    return super(Path, Path(glob.escape(os.fspath(self)))).glob(pattern)


def path_of(name) -> epath.Path:
  """The absolute path of a folder or a file, which may lie in a bucket (gs://).

  Raises:
    ValueError: if it is an address, but not of a bucket.
  """
  name = os.fspath(name)
  if in_bucket(name):
    try:
      return epath.Path(name)
    except KeyError as error:
      raise ValueError(f'{name} is neither on a disk nor in a bucket; expected a path, or an address gs://...') from error
  # After a symlink, '..' is the parent of the link's target, as it is for the system.
  resolve = os.path.realpath if '..' in pathlib.PurePath(name).parts else os.path.abspath
  return Path(resolve(os.path.expanduser(name)))


def check_no_url(path):
  """Raises a ValueError if a path that a person has given is an address that is not of a bucket."""
  scheme = re.match(r'([a-z][a-z0-9+.-]+)://|(data):', os.fspath(path), re.I)
  if scheme and scheme[0].lower() not in READ and not os.path.exists(path):
    raise ValueError(f'{os.fspath(path)[:200]} is a URL, which is not fetched; download it first (curl -O URL), and pass the '
                     'file')


def in_bucket(path) -> bool:
  """Whether a path is not on a disk of this machine."""
  return re.match(r'[\w+.-]+://', os.fspath(path)) is not None


def check_name(path: epath.Path):
  """Raises an OSError if a folder on a disk has a name that TensorStore, which writes checkpoints, does not support."""
  name = os.fspath(path)
  problem = ('a backslash' if '\\' in name else "a part 'gs:'" if 'gs:' in path.parts else
             'bytes that are not UTF-8' if re.search('[\ud800-\udfff]', name) else None)
  if problem and not in_bucket(path):
    raise OSError(f'its name has {problem}, which TensorStore, the writer of checkpoints, does not support')


def make_folder(path: epath.Path):
  """Makes a folder, and on a disk its parents.

  Raises:
    OSError: if it cannot be made, or the bucket does not exist.
  """
  if not in_bucket(path):
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
      _sync(folder.parent)
    return
  bucket = '/'.join(os.fspath(path).split('/')[:3])
  with translate_gcs_errors(path):
    try:  # Without parents, which a bucket does not need: TensorFlow would retry a missing bucket forever.
      path.mkdir(exist_ok=True)
    except FileNotFoundError as error:
      raise FileNotFoundError(f'bucket {bucket} does not exist; create it with `gcloud storage buckets create {bucket}`, '
                              'or correct its name') from error


def write(path: epath.Path, content: str | bytes):
  """Replaces a file atomically: a reader sees the old or the new content, also after a kill or a power cut."""
  content = content.encode() if isinstance(content, str) else content
  if in_bucket(path):  # an object appears when it is closed
    with translate_gcs_errors(path):
      path.write_bytes(content)
    return
  partial = path.with_name(f'{path.name}.partial')
  partial.write_bytes(content)
  _sync(partial)
  partial.replace(path)
  _sync(path.parent)


def append(path: epath.Path, line: str):
  """Appends a line to a file, which may be new, by replacing it. A truncated last line stays a line of its own."""
  with translate_gcs_errors(path):
    content = path.read_bytes() if path.exists() else b''
  ending = b'' if content[-1:] in (b'', b'\n') else b'\n'
  write(path, content + ending + line.encode() + b'\n')


def sync(folder: epath.Path):
  """Waits until a folder on a disk, its contents, and its name in its parent would survive a power cut."""
  if not in_bucket(folder):
    folder = pathlib.Path(folder)
    for path in (*folder.rglob('*'), folder, folder.parent):
      _sync(path)


def _sync(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a network file system without fsync
      raise
  finally:
    os.close(descriptor)


class Unreachable(OSError):
  """A disk or a bucket cannot be used, whatever it contains."""


def gcs_advice(error: BaseException, path) -> str | None:
  """What to do about an error of the service of `path`'s bucket; None for other errors."""
  if not in_bucket(path):
    return None
  # Imported here, since only buckets need them, which have loaded them already.
  from google.api_core import exceptions as storage_errors
  from google.auth import exceptions as auth_errors
  import tensorflow as tf
  if isinstance(error, (auth_errors.GoogleAuthError, storage_errors.Unauthorized, storage_errors.Forbidden)):
    return SIGN_IN
  if isinstance(error, (storage_errors.ServerError, storage_errors.RetryError, storage_errors.TooManyRequests)):
    return RETRY_LATER
  if isinstance(error, tf.errors.OpError):
    names = {getattr(tf.errors, name): name for name in ADVICE}
    return ADVICE.get(names.get(error.error_code))
  if isinstance(error, (ValueError, RuntimeError)):  # TensorStore's
    statuses = re.findall(rf'\b({"|".join(ADVICE)})\b', str(error))
    return ADVICE[statuses[-1]] if statuses else None
  return None


@contextlib.contextmanager
def translate_gcs_errors(path) -> Iterator[None]:
  """Raises errors of a bucket's service as an Unreachable that says what to do; others are raised as they are."""
  try:
    yield
  except Exception as error:
    if (fix := gcs_advice(error, path)) is None:
      raise
    raise Unreachable(f'{path} cannot be reached: {first_line(error)}. {fix}') from error


@contextlib.contextmanager
def translate_read_errors(path) -> Iterator[None]:
  """As `translate_gcs_errors`, and also raises errors of a disk, or of the network to it, as an Unreachable.

  Other errors are then about the content.
  """
  try:
    with translate_gcs_errors(path):
      yield
  except Unreachable:
    raise
  except Exception as error:
    if (fault := _disk_error(error)) is None:
      raise
    raise Unreachable(f'{path} cannot be read: {fault}. No checkpoint was touched; the same command resumes when the '
                      'disk can be read again') from error


def _disk_error(error):
  """The system's error about a disk in an error or its causes, or None."""
  while error is not None:
    if isinstance(error, OSError):
      code = error.errno
    else:  # TensorStore has it in its message
      match = re.search(r"os_error_code='(\d+)'", str(error))
      code = match and int(match[1])
    if code and code not in FILE_ERRNOS:
      return f'[Errno {code}] {os.strerror(code)}'
    error = error.__cause__ or error.__context__
  return None


def first_line(error: BaseException) -> str:
  """The first line of an error's text, without details that its library appends."""
  return str(error).split('\n')[0]


class Lock:
  """Limits a folder to one run at a time.

  On a disk a second run is refused until the first one ends, however it ends. A bucket cannot show whether a run is
  still alive: the later one is admitted, and the earlier one fails at its next `check`.
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
      raise OSError('another run is active in it') from None
    except OSError:  # a network file system without locks
      pass

  def check(self):
    """Raises an OSError if a later run has started in the same bucket folder."""
    if self._file is None and (owner := self._path.read_text()) != self._ours:
      raise OSError(f'another run is active in {self._path.parent}: {owner}. This one stops in favour of it')

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
