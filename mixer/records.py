"""The numbers of a run as JSON lines: one object a step, {"step": 100, "train/loss": 2.3, ...}."""

from collections.abc import Iterator
import json
import os
import pathlib


def read(path) -> Iterator[dict]:
  """The records of a file, in order. A line that a killed run left unfinished is passed over."""
  path = pathlib.Path(path)
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue
    yield record


class Writer:
  """Appends records to a file, each step once; nothing is written where `path` is None."""

  def __init__(self, path, last_step: int):
    """Goes on after `last_step`: later records, from a run that was stopped after its last checkpoint, are dropped."""
    self._file, self._path = None, path
    if path is not None:
      self._kept = [record for record in read(path) if record['step'] <= last_step]
      self._rewrite()

  def write(self, step: int, values: dict):
    """Appends the values of a step; those of the last step before the writer was opened are added to its record."""
    if not self._file:
      return
    if self._kept and self._kept[-1]['step'] == step:
      self._kept[-1] |= values
      self._rewrite()
    else:
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()

  def _rewrite(self):
    self.close()
    partial = f'{self._path}.partial'
    with open(partial, 'w') as file:
      file.writelines(json.dumps(record) + '\n' for record in self._kept)
    os.replace(partial, self._path)
    self._file = open(self._path, 'a')

  def close(self):
    if self._file:
      self._file.close()
