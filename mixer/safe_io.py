"""Reads untrusted files: within limits, and without running anything in them.

Every error is a ValueError, or an OSError if the file does not exist, and names the file.
"""

import json
import math
import reprlib
import zipfile

from etils import epath
import numpy as np

MAX_TEXT = 2**24  # bytes of a vocabulary, a run's config or the like: hundreds of times their usual size
MAX_VALUES = 1_000_000  # in JSON: each takes up to thirty times its bytes in memory
MAX_DEPTH = 100  # of nested lists and objects in JSON
MAX_EXPANSION = 100  # of weights in memory relative to the disk; trained ones hardly compress
ALWAYS_ALLOWED = 2**20  # bytes in memory in any case, since constants compress a thousandfold


def below(folder, name: str):
  """The path of `name` relative to a folder; absolute paths and addresses must lie in it, too. Symlinks are followed.

  Raises:
    ValueError: if it leads out of the folder.
  """
  folder = epath.Path(folder)
  try:
    # From Python 3.12 on epath takes 'gs://a' / '/b' for 'gs://a/b', where earlier ones take '/b'.
    path = epath.Path(name) if '://' in name or name.startswith('/') else folder / name
  except KeyError as error:
    raise ValueError(f'{show(name)} is not supported; expected a local path, gs:// or s3://') from error
  check_below(folder, path, name)
  return path


def check_below(folder, path, name: str | None = None):
  """Raises a ValueError, which shows `name`, unless a path lies below a folder."""
  folder, path = epath.Path(folder), epath.Path(path)
  if not path.is_relative_to(folder) or '..' in path.relative_to(folder).parts:
    raise ValueError(f'{show(name or str(path))} does not lie below {folder}')


def text(path) -> str:
  """A file's text in UTF-8, of at most MAX_TEXT bytes."""
  with epath.Path(path).open('rb') as file:
    data = file.read(MAX_TEXT + 1)
  if len(data) > MAX_TEXT:
    raise ValueError(f'{path} has more than {MAX_TEXT:,} bytes; expected a smaller text file')
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text: {error.reason} at byte {error.start}') from error


def parse_json(text: str | bytes, place):
  """Parses a JSON value. `place` is where it comes from, for the error."""
  marks = ',[{' if isinstance(text, str) else (b',', b'[', b'{')
  if sum(map(text.count, marks)) > MAX_VALUES:
    raise ValueError(f'{place} has more than {MAX_VALUES:,} values')
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError(f'{place}: {TOO_DEEP}') from None
  except ValueError as error:
    raise ValueError(f'{place}: not JSON, {error}') from error


def read_json_object(path) -> dict:
  """Reads the object in a JSON file."""
  return parse_json_object(text(path), path)


def parse_json_object(text: str, place) -> dict:
  """Parses a JSON object. `place` is where it comes from, for the error."""
  value = parse_json(text, place)
  if not isinstance(value, dict):
    raise ValueError(f'{place}: {show(value)} is not an object, {{...}}')
  level, depth = [value], 0
  while level:
    depth += 1
    if depth > MAX_DEPTH:
      raise ValueError(f'{place}: {TOO_DEEP}')
    level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)
             if isinstance(part, dict | list)]
  return value


def show(value) -> str:
  """A value for a message, shortened if it is long."""
  return _SHORT.repr(value)


TOO_DEEP = f'lists and objects are nested more than {MAX_DEPTH} deep'
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 300, 100, 100


def check_unpacked(place, packed: int, unpacked: int):
  """Raises a ValueError if a file, or a folder, would take too much memory. Both sizes are in bytes."""
  limit = max(ALWAYS_ALLOWED, MAX_EXPANSION * packed)
  if unpacked > limit:
    raise ValueError(f'{place} would take {unpacked / 2**20:,.0f} MiB in memory; at most {limit / 2**20:,.0f} MiB are '
                     f'allowed for its {packed / 2**20:,.2f} MiB: {MAX_EXPANSION} times as much')


def arrays(path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file on this machine or in a bucket (gs://). Nothing is unpickled.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: naming the file, and the array if it is about one, if it is not an .npz file, truncated, damaged, holds
      anything but arrays, or would take more memory than `check_unpacked` allows.
  """
  path = epath.Path(path)
  with path.open('rb') as file:
    try:
      archive = zipfile.ZipFile(file)
    except Exception as error:  # of many kinds, for damaged files
      raise ValueError(f'{path} is not an .npz file, or truncated; download it again') from error
    with archive:
      members = archive.infolist()
      check_unpacked(path, file.seek(0, 2), sum(member.file_size for member in members))
      result = {}
      for member in members:
        name = member.filename.removesuffix('.npy')
        if name in result:
          raise ValueError(f'{path}: two arrays are named {show(name)}')
        result[name] = _array(archive, member, f'{path}: array {show(name)}')
  return result


def _array(archive, member, place):
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may allocate in advance
    raise ValueError(f'{place} is compressed in a way that NumPy does not write')
  try:
    with archive.open(member) as file:
      problem = _problem(file, member)
      if not problem:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
  except Exception as error:  # of many kinds, for damaged files
    reason = str(error).split('\n')[0] or type(error).__name__
    raise ValueError(f'{place} is damaged ({reason}); download the file again') from error
  raise ValueError(f'{place} {problem}')


def _problem(file, member) -> str | None:
  """Why a member of an .npz file is not read, though it may be intact."""
  if not member.filename.endswith('.npy'):
    return 'is not an array; the file is not an .npz of parameters'
  shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
  if dtype.hasobject:
    return 'holds Python objects, which are not read, since unpickling them could run any code'
  claimed, left = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
  if claimed != left:
    return f'claims {claimed:,} bytes, of shape {show(shape)} and type {dtype}, and has {left:,}'
  return None
