"""Files of JSON lines: one object a line."""

from mixer import safe_io
from mixer import storage


def read(path, damaged: list[int] | None = None) -> list[tuple[int, dict]]:
  """[(number of the line from 1, object), ...]; [] if the file does not exist.

  Empty lines are skipped, and lines that are no JSON object, such as one that a killed process has not finished.

  Args:
    path: on a disk or in a bucket.
    damaged: the numbers of the lines that are no objects are appended to it.
  """
  path = storage.path_of(path)
  with storage.translate_gcs_errors(path):
    content = path.read_bytes() if path.exists() else b''
  rows = []
  for number, line in enumerate(content.decode(errors='replace').split('\n'), 1):
    if not line.strip():
      continue
    try:
      value = safe_io.parse_json(line, path)
    except ValueError:
      value = None
    if isinstance(value, dict):
      rows.append((number, value))
    elif damaged is not None:
      damaged.append(number)
  return rows
