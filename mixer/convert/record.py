"""What a converted file says of its weights beside the parameters, as one JSON object.

A .safetensors file has it in its metadata, under KEY, and an .npz file, in which everything is a parameter, beside it:
w.npz.json for w.npz. Such files are trusted no more than others.
"""

import json

from etils import epath

from mixer import files
from mixer.convert import timm

KEY = 'mixer'
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
    text = files.text(place) if beside(path).exists() else None
  if text is None:
    return None, place
  found = files.object_of(text, place)
  if found.get('format') != FORMAT:
    raise ValueError(f'{place}: format is {files.show(found.get("format"))}, and {FORMAT} is read here; convert the '
                     'weights again with this version')
  for field in FIELDS:
    if field not in found:
      raise ValueError(f'{place}: {field} is missing; convert the weights again')
  return found, place


def text(weights) -> str:
  """The record of `weights.Weights`."""
  return json.dumps({'format': FORMAT, **{field: getattr(weights, field) for field in FIELDS}}, ensure_ascii=False)
