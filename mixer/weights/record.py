"""The record of a converted file: what is known about its weights in addition to the parameters, as one JSON object.

A .safetensors file has it in its metadata, under KEY. An .npz file, in which everything is a parameter, has it in a
sidecar file, w.npz.json for w.npz, with a hash of w.npz, as either can be replaced alone. Records are not trusted.
"""

import hashlib
import json

from etils import epath

from mixer import safe_io
from mixer.weights import timm

KEY = 'mixer'
HASH = 'blake2b'  # the record's field
FORMAT = 1
FIELDS = ('model', 'resolution', 'loss', 'class_names', 'crop', 'resize', 'permutation', 'source')


def sidecar(path):
  """The path of an .npz file's record."""
  path = epath.Path(path)
  return path.with_name(f'{path.name}.json')


def read(path) -> tuple[dict | None, str]:
  """The record of a file, or None if it has none; and its location, for messages.

  Raises:
    ValueError: if it is not JSON, of another format, or without one of the FIELDS.
  """
  path = epath.Path(path)
  if path.suffix == '.safetensors':
    place, text = f"{path}, metadata {KEY!r}", timm.metadata(path).get(KEY)
  else:
    place = str(sidecar(path))
    text = safe_io.text(place) if sidecar(path).exists() else None
  if text is None:
    return None, place
  record = safe_io.parse_json_object(text, place)
  if record.get('format') != FORMAT:
    raise ValueError(f'{place}: format is {safe_io.show(record.get("format"))}, and this version reads {FORMAT}; '
                     'convert the weights again with this version')
  for field in FIELDS:
    if field not in record:
      raise ValueError(f'{place}: {field} is missing; convert the weights again')
  return record, place


def check_matches(record: dict, place: str, path):
  """Raises a ValueError if the record of an .npz file belongs to another file; older records have no hash."""
  path = epath.Path(path)
  if HASH in record and record[HASH] != _hash(path):
    raise ValueError(f'{place} belongs to another {path.name}; delete it, or convert the weights again')


def text(weights, file=None) -> str:
  """The record of `weights.Weights`; for an .npz file, which must be written already, with the hash of `file`."""
  file_hash = {} if file is None else {HASH: _hash(file)}
  return json.dumps({'format': FORMAT, **file_hash, **{field: getattr(weights, field) for field in FIELDS}},
                    ensure_ascii=False)


def _hash(path):
  with epath.Path(path).open('rb') as file:
    digest = hashlib.blake2b(digest_size=32)
    while part := file.read(2**20):
      digest.update(part)
  return digest.hexdigest()
