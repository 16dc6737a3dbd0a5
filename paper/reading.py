"""Reads records: from work directories of train.py, folders of them, and files of records.

What cannot be read is skipped with a warning that names file and line. Neither JAX nor TensorFlow is needed.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib

from mixer import safe_io
from mixer import storage
from paper import records
from paper import workdirs

OURS = pathlib.Path(__file__).parent / 'ours'


@dataclasses.dataclass
class Collection:
  """All records that were read, newest first, and warnings about what was skipped."""
  runs: list[records.Run] = dataclasses.field(default_factory=list)
  throughputs: list[records.Throughput] = dataclasses.field(default_factory=list)
  counts: list[records.Count] = dataclasses.field(default_factory=list)
  warnings: list[str] = dataclasses.field(default_factory=list)

  def add(self, record):
    kinds = {records.Run: self.runs, records.Throughput: self.throughputs, records.Count: self.counts}
    of_its_kind = kinds[type(record)]
    if all(record.id != other.id for other in of_its_kind):
      of_its_kind.append(record)
      of_its_kind.sort(key=lambda one: one.time or '', reverse=True)


def read(paths: Sequence[str]) -> Collection:
  """The records of files (.jsonl, or .json of tools.evaluate), work directories and folders of any of these.

  Raises:
    FileNotFoundError: if one of `paths` does not exist.
    records.Unreadable: if one holds no records.
  """
  collection = Collection()
  for name in paths:
    path = storage.path_of(name)
    if not path.exists():
      raise FileNotFoundError(f'{name} does not exist. Pass the work directory of a run, a folder of some, or a file '
                              'of records (.jsonl)')
    before = len(collection.warnings)
    read_from = _below if path.is_dir() else _in_file
    new = list(read_from(path, collection.warnings))
    if not new and len(collection.warnings) == before:
      raise records.Unreadable(f'{name} holds no records: neither a work directory, with config.json and '
                               f'records.jsonl, nor a .jsonl file of records of format {records.FORMAT}')
    for record in new:
      collection.add(record)
  return collection


def _below(folder, warnings) -> Iterator:
  if (folder / 'config.json').exists():
    try:
      yield workdirs.of_workdir(folder, warnings)
    except records.Unreadable as error:
      warnings.append(f'{error}; skipped')
    return
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _below(path, warnings)
    elif path.suffix in ('.jsonl', '.json') and _looks_like_records(path):
      yield from _in_file(path, warnings)


def _looks_like_records(path) -> bool:
  with path.open('rb') as file:
    start = file.read(65536)
  return b'"format"' in start and (path.suffix == '.jsonl' or b'"kind": "evaluation"' in start)


def _in_file(path, warnings) -> Iterator:
  if path.suffix == '.json':
    try:
      lines = [(1, safe_io.read_json_object(path))]
    except ValueError as error:
      warnings.append(f'{error}; skipped')
      return
  else:
    lines = records.lines(path, warnings)
  wrong = {}  # {error: its lines}
  for number, value in lines:
    try:
      yield records.of_object(value, f'{path}:{number}')
    except records.Unreadable as error:
      wrong.setdefault(str(error).removeprefix(f'{path}:{number}: '), []).append(number)
  for what, numbers in wrong.items():
    others = f'; the same for {len(numbers) - 1} more, up to line {numbers[-1]}' if numbers[1:] else ''
    warnings.append(f'{path}:{numbers[0]}: {what}; skipped{others}')
