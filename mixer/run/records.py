"""A run's metrics as JSON lines: one object a step, {"step": 100, "train/loss": 2.3, ...}."""

from collections.abc import Iterator
import json
import os

from mixer import jsonl
from mixer import storage

EMA = '_ema'  # ends the name of an evaluation of the average of the weights: 'test_ema/top1', beside 'test/top1'


def read(path) -> Iterator[dict]:
  """The records of a file, in order. Damaged lines are skipped, such as one that a killed run has not finished."""
  return (record for _, record in jsonl.read(path) if type(record.get('step')) is int)


def at(path, step: int) -> dict:
  """The values recorded at `step`, or {}."""
  values = {}
  for record in read(path):
    if record.pop('step') == step:
      values = record
  return values


def of_average(name: str) -> str:
  """'test/top1' -> 'test_ema/top1'."""
  return name.replace('/', f'{EMA}/')


def of_weights(results: dict, average: bool) -> dict:
  """The results of the weights themselves, or of their average, under the names of the former: {'test/top1': ...}."""
  averages = {name: of_average(name) for name in results if of_average(name) in results}
  if average:
    return {name: results[of] for name, of in averages.items()}
  return {name: value for name, value in results.items() if name not in averages.values()}


class Writer:
  """Appends records to a file, each step once; does nothing if `path` is None.

  On a disk a record can be read at once, and survives a power cut after `flush`. In a bucket, where a file is only
  written whole, it can be read after `flush`.
  """

  def __init__(self, path, last_step: int):
    """Resumes after `last_step`: later records, of a run that stopped after its last checkpoint, are dropped."""
    self._file, self._path = None, path and storage.path_of(path)
    if path is not None:
      self._records = [record for record in read(path) if record['step'] <= last_step]
      self._rewrite()

  def write(self, step: int, values: dict):
    """Adds the values of a step, to its record if it exists.

    Raises:
      OSError: naming the file, if it cannot be written.
    """
    if self._path is None:
      return
    exists = bool(self._records) and self._records[-1]['step'] == step
    if exists:
      self._records[-1] |= values
    else:
      self._records.append({'step': step, **values})
    if self._file and not exists:
      self._guard(lambda: (self._file.write(json.dumps(self._records[-1]) + '\n'), self._file.flush()))
    elif self._file:
      self._rewrite()

  def flush(self):
    """Returns when all records are stored, and would survive a power cut."""
    if self._file:
      self._guard(lambda: os.fsync(self._file.fileno()))
    elif self._path is not None:
      self._rewrite()

  def _rewrite(self):
    self.close()
    self._guard(lambda: storage.write(self._path, ''.join(json.dumps(record) + '\n' for record in self._records)))
    if not storage.in_bucket(self._path):
      self._file = self._path.open('a')

  def _guard(self, write):
    try:
      write()
    except OSError as error:
      raise OSError(f'cannot write to {self._path}: {error}. Fix this and restart; training resumes from the latest '
                    'checkpoint') from error

  def close(self):
    if self._file:
      self._file.close()
      self._file = None
