"""The images of ImageNet's tars by synset, read from front to back or one by one, without unpacking anything to disk.

A layout is a pattern for the names of the members that are read, with two groups: the split, and the WordNet id.
"""

import contextlib
import io
import itertools
import re
import tarfile
import zlib

from mixer.data import image_files

TARS = r'(?:.*/)?()(n\d{8})\.tar'  # a tar of each synset in the tar
FOLDERS = r'(?:.*/)?imagenet21k_(train|val)/(n\d{8})/[^/]+'  # a folder of each synset and split
END = bytes(2 * tarfile.BLOCKSIZE)  # what stands at the end of a tar
MAX_HEADER = 2**14  # bytes of what tells more of a member than its header does, such as a long name
MAX_MEMBER = 2**36  # bytes; ImageNet's tars of synsets are far smaller. To pass over more would take hours


def read(file, name, layout):
  """Yields for each synset in a tar: its split or None, its WordNet id, and (name, place, content) of each file.

  The place is where the file's header begins, in bytes from the start of the uncompressed tar. Of a file that is too
  large for `image_files.as_jpeg`, the content is its start.

  Args:
    file: a binary file, which may be compressed; it is read once, as a stream.
    name: of the tar, for messages.
    layout: TARS or FOLDERS.

  Raises:
    ValueError: if the tar or one in it is no tar, is cut off, or is damaged between its members.
  """
  for split, wnid, members in _runs(_members(file, name, 'r|*', _Member), layout):
    yield split, wnid, _images(members, name)


def is_compressed(file, name) -> bool:
  """Whether a tar is compressed, so that nothing in it can be read by its place. Raises as `read` if it is no tar."""
  try:
    next(_members(file, name, 'r:', _Member), None)
    return False
  except ValueError:
    file.seek(0)
    next(_members(file, name, 'r|*', _Member), None)
    return True


def read_at(file, name, place) -> tuple[str, bytes]:
  """(name, content) of the file in an uncompressed tar whose place `read` gave."""
  file.seek(place)
  members = _members(file, name, 'r:', _InnerMember)  # the tar is open as long as this exists
  tar, member = next(members)
  return _base(member), _content(tar, member)


def ranges(file, name, layout):
  """Yields for each synset in an uncompressed tar: its WordNet id, and (offset, size) of the part that holds it."""
  for _, wnid, members in _runs(_members(file, name, 'r:', _Member), layout):
    _, first = _, last = next(members)
    for _, last in members:
      pass
    end = last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    yield wnid, (first.offset, end - first.offset)


def read_range(file, name, layout, offset, size):
  """As `read`, of a part of an uncompressed tar, as `ranges` yields it. It is read into memory."""
  file.seek(offset)
  return read(io.BytesIO(file.read(size) + END), name, layout)


def _runs(members, layout):
  """Neighbours in a tar that belong to one synset: its split or None, its WordNet id, and the members."""
  def synset(member):
    match = re.fullmatch(layout, member[1].name)
    return match and ({'train': 'train', 'val': 'validation'}.get(match[1]), match[2])

  for folder, run in itertools.groupby(members, synset):
    if folder:
      yield *folder, run


def _images(members, name):
  for tar, member in members:
    place = f'{member.name} in {name}'
    with _named(place):
      if member.name.endswith('.tar'):
        for inner, image in _members(tar.extractfile(member), place, 'r|', _InnerMember):
          yield _base(image), member.offset_data + image.offset, _content(inner, image)
      else:
        yield _base(member), member.offset, _content(tar, member)


def _content(tar, member):
  return tar.extractfile(member).read(min(member.size, image_files.MAX_BYTES + 1))


def _base(member):
  return member.name.split('/')[-1]


def _members(file, name, mode, header):
  """The regular files in a tar, each with the open tar."""
  with _named(name), tarfile.open(fileobj=file, mode=mode, tarinfo=header, errors='replace', bufsize=2**15) as tar:
    while member := tar.next():
      tar.members.clear()  # tarfile would keep them all
      if member.isfile():
        yield tar, member


@contextlib.contextmanager
def _named(name):
  try:
    yield
  except (tarfile.TarError, EOFError, TypeError, zlib.error) as error:  # TypeError: a header of gzip is cut off
    raise ValueError(f'{name} cannot be read: {error}. It is no tar, or the tar is cut off or damaged') from error


class _Member(tarfile.TarInfo):
  """A member's header. Where tarfile takes a damaged or missing one for the end of the tar, this one raises.

  So it does where a few bytes would keep the reader busy without end, or fill the memory: sizes below zero and beyond
  reason, and sparse files.
  """

  ENDS = (tarfile.EOFHeaderError,)

  @classmethod
  def frombuf(cls, buf, encoding, errors):
    try:
      return super().frombuf(buf, encoding, errors)
    except cls.ENDS:
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(str(error)) from error

  def _proc_member(self, tar):
    tells_more = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                               tarfile.SOLARIS_XHDTYPE)
    self._check_size(MAX_HEADER if tells_more else MAX_MEMBER)
    try:
      member = super()._proc_member(tar)
    except (tarfile.InvalidHeaderError, ValueError, OverflowError, RecursionError) as error:
      raise tarfile.ReadError(f'a damaged header at {self.name!r}, {error}') from error
    member._check_size(MAX_MEMBER)  # what tells more may tell another one
    return member

  def _check_size(self, limit):
    if not 0 <= self.size <= limit:
      raise tarfile.ReadError(f'{self.name!r} claims {self.size:,} bytes; the limit is {limit:,}')

  def _no_sparse(self, *unused):
    raise tarfile.ReadError(f'{self.name!r} is a sparse file')

  _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _no_sparse


class _InnerMember(_Member):
  """As _Member, but the tar may lack its mark at the end: its length is known from the outer one."""

  ENDS = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)
