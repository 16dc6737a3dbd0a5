"""Files that may come from anyone, read within limits and without running anything in them.

Every error is a ValueError, or an OSError of a file that is not there, and names the file.
"""

import json
import math
import reprlib
import zipfile

from etils import epath
import numpy as np

MAX_TEXT = 2**24  # bytes of a vocabulary, a run's config or the like: hundreds of times what they have
MAX_VALUES = 1_000_000  # in JSON: each takes up to thirty times its bytes in memory
MAX_DEPTH = 100  # lists and objects in each other, in JSON
MAX_UNPACKED = 100  # times its size on the disk is what weights may become in memory; trained ones hardly shrink
ALWAYS_UNPACKED = 2**20  # bytes: as much as this they may become in any case, since constants shrink a thousandfold


def below(folder, name: str):
  """The path that `name` has from a folder on; absolute ones and addresses must lie in it, too. Links are followed.

  Raises:
    ValueError: if it leads out of the folder.
  """
  folder = epath.Path(folder)
  try:
    path = epath.Path(name) if '://' in name else folder / name
  except KeyError as error:
    raise ValueError(f'{show(name)} cannot be read from; local paths and gs:// and s3:// can') from error
  check_below(folder, path, name)
  return path


def check_below(folder, path, name: str | None = None):
  """Raises a ValueError unless a path, which is called `name`, leads to what is below a folder."""
  folder, path = epath.Path(folder), epath.Path(path)
  if not path.is_relative_to(folder) or '..' in path.relative_to(folder).parts:
    raise ValueError(f'{show(name or str(path))} does not lie below {folder}')


def text(path) -> str:
  """A file's text in UTF-8, of at most MAX_TEXT bytes."""
  with epath.Path(path).open('rb') as file:
    data = file.read(MAX_TEXT + 1)
  if len(data) > MAX_TEXT:
    raise ValueError(f'{path} has more than {MAX_TEXT:,} bytes; it is no file of text of ours')
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is no text in UTF-8: {error.reason} at byte {error.start}') from error


def parse_json(text: str | bytes, place):
  """A value from its JSON. `place` is where it stands, for the error."""
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
  """The object in a JSON file."""
  return parse_json_object(text(path), path)


def parse_json_object(text: str, place) -> dict:
  """An object from its JSON. `place` is where it stands, for the error."""
  value = parse_json(text, place)
  if not isinstance(value, dict):
    raise ValueError(f'{place}: {show(value)} is no object, {{...}}')
  level, depth = [value], 0
  while level:
    depth += 1
    if depth > MAX_DEPTH:
      raise ValueError(f'{place}: {TOO_DEEP}')
    level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)
             if isinstance(part, dict | list)]
  return value


def show(value) -> str:
  """A value for a message, cut short where it is long."""
  return _SHORT.repr(value)


TOO_DEEP = f'more than {MAX_DEPTH} lists and objects lie in each other'
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 300, 100, 100


def check_unpacked(place, packed: int, unpacked: int):
  """Raises a ValueError if a file, or a folder, would become too large in memory. Both in bytes."""
  limit = max(ALWAYS_UNPACKED, MAX_UNPACKED * packed)
  if unpacked > limit:
    raise ValueError(f'{place} would become {unpacked / 2**20:,.0f} MiB in memory, and {limit / 2**20:,.0f} MiB are '
                     f'taken of its {packed / 2**20:,.2f} MiB: {MAX_UNPACKED} times as much')


def arrays(path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file on this machine or in a bucket (gs://). Nothing is unpickled.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file, and the array if it is one, if it is no .npz file, cut off, damaged, holds other things
      than arrays, or they would take more memory than `check_unpacked` lets pass.
  """
  path = epath.Path(path)
  with path.open('rb') as file:
    try:
      archive = zipfile.ZipFile(file)
    except Exception as error:  # of many kinds, for damaged files
      raise ValueError(f'{path} is no .npz file, or it is cut off; get it anew') from error
    with archive:
      members = archive.infolist()
      check_unpacked(path, file.seek(0, 2), sum(member.file_size for member in members))
      found = {}
      for member in members:
        name = member.filename.removesuffix('.npy')
        if name in found:
          raise ValueError(f'{path}: there are two arrays {show(name)}')
        found[name] = _array(archive, member, f'{path}: array {show(name)}')
  return found


def _array(archive, member, place):
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may claim room in advance
    raise ValueError(f'{place} is compressed in a way that NumPy does not write')
  try:
    with archive.open(member) as file:
      wrong = _wrong(file, member)
      if not wrong:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
  except Exception as error:  # of many kinds, for damaged files
    told = str(error).split('\n')[0] or type(error).__name__
    raise ValueError(f'{place} is damaged ({told}); get the file anew') from error
  raise ValueError(f'{place} {wrong}')


def _wrong(file, member) -> str | None:
  """Why a member of an .npz file is not read, though it may be whole."""
  if not member.filename.endswith('.npy'):
    return 'is no array; the file is no .npz of parameters'
  shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
  if dtype.hasobject:
    return 'holds Python objects, which are not read, since unpickling them could run any code'
  claimed, left = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
  if claimed != left:
    return f'claims {claimed:,} bytes, of shape {show(shape)} and type {dtype}, and has {left:,}'
  return None
