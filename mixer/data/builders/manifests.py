"""Manifests: lists of images and their labels, as multilabel.py reads them. In a folder lie

  classes.txt    the vocabulary, one class name a line
  train.jsonl    one image a line, and so for each split; or train.parquet; or shards, train-00000.jsonl, ...

A line of a manifest is

  {"image": "cats/1.jpg", "labels": ["cat", "animal"], "weights": [1, 0.5]}

`image` is a path below the folder, or below another one that whoever reads the manifest names; in its place `bytes` may
hold the file itself, in base64 or as a binary column of Parquet. `weights`, from 0 to 1, are 1 where they are left out.
An image may have no labels, []. What else a line says is passed over.
"""

import base64
import collections
import difflib
import hashlib
import re
from typing import NamedTuple

from etils import epath

from mixer.data import image_files
from mixer import safe_io

MANIFEST = re.compile(r'(?P<split>\w+?)(-(?P<shard>\d+))?(-of-(?P<shards>\d+))?\.(jsonl|parquet)')
BUFFER = 2**20  # bytes of a Parquet file; without one, and with pre_buffer, whole row groups would be read at once
ROWS = 64  # of Parquet at a time
MAX_LINE = 4 * image_files.MAX_BYTES // 3 + 2**20  # bytes: the largest image file in base64, and the rest
MAX_NAME = 1_000  # characters of a class name


class Entry(NamedTuple):
  """A line of a manifest."""
  name: str  # for people: the place in the manifest, and the image
  image: bytes | epath.Path  # the file or where it lies
  weights: dict[int, float]  # of its classes


def class_names(path) -> list[str]:
  """The vocabulary."""
  if not path.exists():
    raise ValueError(f'{path} is missing: the vocabulary, one class name a line')
  places = {}
  for number, line in enumerate(safe_io.text(path).split('\n'), 1):
    name = line.strip()
    if len(name) > MAX_NAME:
      raise ValueError(f'{path}, line {number}: a class name of {len(name):,} characters; at most {MAX_NAME:,} are '
                       'taken')
    if name in places:
      raise ValueError(f'{path}, line {number}: {name!r} is already in line {places[name]}')
    if name:
      places[name] = number
  if not places:
    raise ValueError(f'{path} has no class names')
  return list(places)


def find(folder) -> dict[str, list]:
  """{split: its manifests, in the order of their names}."""
  splits, shards, last = collections.defaultdict(list), collections.defaultdict(set), {}
  for path in sorted(folder.iterdir()):
    if match := MANIFEST.fullmatch(path.name):
      split, shard = match['split'], int(match['shard'] or 0)
      splits[split].append(path)
      shards[split].add(shard)
      last[split] = max(last.get(split, 0), shard, int(match['shards'] or 1) - 1)
    elif path.suffix in ('.jsonl', '.parquet'):
      raise ValueError(f'{path} is not named like a manifest, such as train.jsonl or train-00000.parquet')
  for split, number in last.items():
    if missing := set(range(number + 1)) - shards[split]:
      raise ValueError(f'{folder} lacks shard {min(missing)} of {split}, which needs 0 to {number}')
  if not splits:
    raise ValueError(f'{folder} has no manifest, such as train.jsonl or train.parquet')
  return dict(splits)


def digests(folder) -> dict[str, str]:
  """What tells manifests from others: {name: hash} of the files."""
  def digest(path):
    hashed = hashlib.blake2b(digest_size=16)
    with path.open('rb') as file:
      while part := file.read(2**20):
        hashed.update(part)
    return hashed.hexdigest()
  return {path.name: digest(path) for path in sorted(folder.iterdir())
          if path.name == 'classes.txt' or MANIFEST.fullmatch(path.name)}


def entries(path, folder, classes):
  """The entries of a manifest, one after the other.

  Args:
    path: the manifest.
    folder: what the paths of images start from, and must not lead out of.
    classes: {name: number}.

  Raises:
    ValueError: at the first line that is wrong; it names the file and the line.
  """
  for place, row in _rows(path):
    try:
      yield _entry(place, row, folder, classes)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from error


def _rows(path):
  """(place, row) of each line."""
  with path.open('rb') as file:
    if path.suffix == '.parquet':
      yield from _parquet_rows(path, file)
      return
    for number, line in enumerate(_lines(file), 1):
      place = f'{path}, line {number}'
      if len(line) > MAX_LINE:
        raise ValueError(f'{place} has more than {MAX_LINE:,} bytes')
      if line.strip():
        yield place, safe_io.parse_json(line, place)


def _lines(file):
  """The lines of a file, up to the first one that is longer than MAX_LINE, which is cut off."""
  rest = b''
  while len(rest) <= MAX_LINE and (part := file.read(2**20)):
    *lines, rest = (rest + part).split(b'\n')
    yield from lines
  yield rest


def _parquet_rows(path, file):
  import pyarrow.parquet  # the extra beam
  number = 0
  try:
    table = pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    columns = [name for name in ('image', 'bytes', 'labels', 'weights') if name in table.schema_arrow.names]
    for batch in table.iter_batches(batch_size=ROWS, columns=columns):
      for row in batch.to_pylist():
        number += 1
        yield f'{path}, row {number}', row
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    raise ValueError(f'{path}: not Parquet, or damaged after row {number}, {error}') from error


def _entry(place, row, folder, classes):
  if not isinstance(row, dict):
    raise ValueError(f'{safe_io.show(row)} is not an object, {{"image": ..., "labels": ...}}')
  image, data, labels, weights = (row.get(key) for key in ('image', 'bytes', 'labels', 'weights'))
  if (image is None) == (data is None):
    raise ValueError(f'{"neither" if image is None else "both"} of `image` and `bytes`; give one of them')
  if not isinstance(image, str | None) or not isinstance(data, str | bytes | None):
    raise ValueError(f'`image` is {safe_io.show(image)} and `bytes` is {safe_io.show(data)}; a path or a file in base64 is '
                     'needed')
  if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
    raise ValueError(f'`labels` is {safe_io.show(labels)}; it must be a list of class names, [] for none')
  weights = [1.] * len(labels) if weights is None else weights
  if not isinstance(weights, list) or len(weights) != len(labels):
    raise ValueError(f'`weights` is {safe_io.show(weights)}; it must be a list of {len(labels)}, one for each of '
                     '`labels`')
  by_class = {}
  for label, weight in zip(labels, weights):
    if label not in classes:
      nearest, = difflib.get_close_matches(label[:MAX_NAME], classes, n=1, cutoff=0)
      raise ValueError(f'{safe_io.show(label)} is not in classes.txt; the nearest name is {nearest!r}')
    if type(weight) not in (int, float) or not 0 <= weight <= 1:
      raise ValueError(f'the weight of {label!r} is {safe_io.show(weight)}; it must be a number from 0 to 1')
    by_class[classes[label]] = max(weight, by_class.get(classes[label], 0))
  if image is None:
    return Entry(place, base64.b64decode(data, validate=True) if isinstance(data, str) else data, by_class)
  image.encode()  # raises of halves of characters, which JSON may hold
  try:
    path = safe_io.below(folder, image)
  except ValueError as error:
    raise ValueError(f'{error}. Where the images lie is for you to say: --images=FOLDER, by default that of the '
                     'manifests') from error
  return Entry(f'{place}, {image}', path, by_class)
