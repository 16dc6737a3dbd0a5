"""An image folder, root/split/class/image.jpg, as a source of encoded images by index (sources.py)."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from mixer.datasets import encoded

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp')


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """The images of root/split/class/, in the order of their paths. Classes are numbered over all splits."""
  name: str
  num_examples: int
  contents: str
  folder: Any
  split: str
  class_names: list[str]
  paths: np.ndarray
  classes: np.ndarray
  order: str = 'by index: a new permutation each epoch'

  @classmethod
  def open(cls, root, split):
    folders = lambda path: sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(('.', '__')))
    splits = {path.name: path for path in folders(root)}
    if split not in splits:
      raise ValueError(f'split {split!r} is not in the image folder {root}; it has the folders '
                       f'{", ".join(splits) or "(none)"}. The layout is root/split/class/image.jpg')
    class_names = sorted({path.name for folder in splits.values() for path in folders(folder)})
    files = [(path, class_names.index(folder.name)) for folder in folders(splits[split])
             for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != '.']
    if not files:
      raise ValueError(f'{splits[split]} holds no images: none of its folders has a file that ends in '
                       f'{", ".join(IMAGE_SUFFIXES)}. The layout is root/split/class/image.jpg')
    paths, classes = zip(*files)
    names = _hash_of(f'{path.relative_to(root)} {number}' for path, number in files)
    contents = f'{len(files)} files, sha256 of their names {names}'
    return cls(f'{root}, split {split}', len(files), contents, root, split, class_names,
               np.array([str(path) for path in paths], dtype=object), np.array(classes))

  @property
  def labels(self):
    return {'label': ((), 'int32')}

  @property
  def fingerprint(self):
    stats = [os.stat(path) for path in self.paths]
    return f'{self.contents} {_hash_of(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)}'

  def read(self, indices):
    return tf.map_fn(tf.io.read_file, tf.gather(self.paths, indices), fn_output_signature=tf.string)

  def stored(self, record, index):
    del index
    return record

  def parse(self, record, index):
    return encoded.normalize(record), {'label': tf.cast(tf.gather(self.classes, index), tf.int32)}

  def locate(self, index):
    return self.paths[index]


def _hash_of(lines) -> str:
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]
