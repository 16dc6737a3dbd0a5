"""What a converted file says of its weights beside the parameters, as one JSON object.

A .safetensors file has it in its metadata, under KEY, and an .npz file, in which everything is a parameter, beside it:
w.npz.json for w.npz, with a hash of w.npz, as either can be replaced alone. Such files are trusted no more than others.
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


def beside(path):
  """Where the record of an .npz file lies."""
  path = epath.Path(path)
  return path.with_name(f'{path.name}.json')


def read(path) -> tuple[dict | None, str]:
  """The record of a file, or None if it has none; and where it stands, for messages.

  Raises:
    ValueError: if it is not JSON, of another format, or without one of the FIELDS.
  """
  path = epath.Path(path)
  if path.suffix == '.safetensors':
    place, text = f"{path}, metadata {KEY!r}", timm.metadata(path).get(KEY)
  else:
    place = str(beside(path))
    text = safe_io.text(place) if beside(path).exists() else None
  if text is None:
    return None, place
  found = safe_io.parse_json_object(text, place)
  if found.get('format') != FORMAT:
    raise ValueError(f'{place}: format is {safe_io.show(found.get("format"))}, and {FORMAT} is read here; convert the '
                     'weights again with this version')
  for field in FIELDS:
    if field not in found:
      raise ValueError(f'{place}: {field} is missing; convert the weights again')
  return found, place


def check_is_of(found: dict, place: str, path):
  """Raises a ValueError if a record that lies beside an .npz file is of another one; older records do not say it."""
  path = epath.Path(path)
  if HASH in found and found[HASH] != _hash(path):
    raise ValueError(f'{place} is of another {path.name}; delete it, or convert the weights again')


def text(weights, file=None) -> str:
  """The record of `weights.Weights`; to lie beside an .npz `file`, that has to be written already."""
  of_file = {} if file is None else {HASH: _hash(file)}
  return json.dumps({'format': FORMAT, **of_file, **{field: getattr(weights, field) for field in FIELDS}},
                    ensure_ascii=False)


def _hash(path):
  with epath.Path(path).open('rb') as file:
    digest = hashlib.blake2b(digest_size=32)
    while part := file.read(2**20):
      digest.update(part)
  return digest.hexdigest()
