"""Saving weights: as .npz or .safetensors files with their metadata, and as folders for the Hugging Face Hub."""

import dataclasses
import json
import os
import pathlib
import uuid

from mixer import storage
from mixer.weights import hugging_face
from mixer.weights import npz
from mixer.weights import pretrained_cfg
from mixer.weights import record
from mixer.weights import timm
from mixer.weights.loading import Weights


def files_of(path) -> list[pathlib.Path]:
  """The files that `save` may write for this path: itself, and its sidecar, which it replaces, too."""
  path = pathlib.Path(path)
  sidecars = [record.sidecar(path)] if path.suffix == '.npz' else []
  if path.name == 'model.safetensors':
    sidecars = [path.with_name('config.json')]
  return [path, *map(pathlib.Path, sidecars)]


def check_can_save(path):
  """Raises a ValueError or OSError if `save` cannot write to this path, as far as can be checked beforehand."""
  path = pathlib.Path(path)
  if path.suffix not in ('.npz', '.safetensors'):
    raise ValueError(f'{path} has the suffix {path.suffix!r}; weights are written as .npz or .safetensors')
  if not path.parent.is_dir():
    raise FileNotFoundError(f'{path.name} cannot be written: the folder {path.parent} does not exist')
  for file in files_of(path):
    if file.is_dir():
      raise IsADirectoryError(f'{file} is a directory, where a file would be written; choose another name')
  if path.name == 'model.safetensors':
    pretrained_cfg.check_can_write(path)


def save(weights: Weights, path) -> list:
  """Writes an .npz file with the published names, or a .safetensors file of timm, by the suffix. -> paths written.

  `load` restores all of it (weights/record.py): a .safetensors file holds the record in its metadata, and its
  pretrained_cfg under that name; w.npz has the sidecar w.npz.json. Next to model.safetensors, of a model that timm has
  a name for, Hugging Face's and timm's config.json is written. Files appear when they are complete. After a kill between
  the two, `load` refuses w.npz, whose record does not fit; and reads model.safetensors, which is self-contained.
  """
  path = pathlib.Path(path)
  check_can_save(path)
  partial = path.with_name(f'{path.stem}.{uuid.uuid4().hex}.partial{path.suffix}')
  _, *sidecars = files_of(path)
  try:
    if path.suffix == '.npz':
      npz.write(weights.params, partial)
      storage.write(sidecars[0], record.text(weights, partial))  # first, as w.npz alone would be read without it
      os.replace(partial, path)
    else:
      config = pretrained_cfg.of_weights(weights.with_crop())
      if sidecars and not config['architecture']:
        pretrained_cfg.check_can_write(path, named=False)
        sidecars = []
      timm.write(weights.params, partial, {record.KEY: record.text(weights),
                                           'pretrained_cfg': json.dumps(config['pretrained_cfg'])})
      os.replace(partial, path)
      for file in sidecars:
        storage.write(file, json.dumps(config, indent=2) + '\n')
  finally:
    partial.unlink(missing_ok=True)
  return [path, *sidecars]


def save_for_hub(weights: Weights, folder, results: dict) -> list:
  """Writes a folder as on Hugging Face: what `save` writes as model.safetensors, and a model card. -> paths written.

  Args:
    folder: is created where it does not exist; its parent must.
    results: of the model's evaluation, {'test/top1': 0.9, ...}, for the card, or {}.

  Raises:
    ValueError, OSError: as `save`, and for weights of permuted pixels.
  """
  folder = pathlib.Path(folder)
  weights.check_images(weights.source)
  weights = dataclasses.replace(weights, source=folder.name)  # a path of this machine is nobody else's business
  made = not folder.exists()
  folder.mkdir(exist_ok=True)
  try:
    written = save(weights, folder / 'model.safetensors')
    architecture = pretrained_cfg.of_weights(weights.with_crop())['architecture']
    storage.write(folder / 'README.md', hugging_face.card(weights, architecture, results))
  except BaseException:
    if made and not any(folder.iterdir()):
      folder.rmdir()
    raise
  return [*written, folder / 'README.md']
