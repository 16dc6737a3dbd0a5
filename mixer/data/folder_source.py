"""An image folder, root/split/class/image.jpg, as a source of encoded images by index (sources.py).

Where a root has no folder `train` and its folders hold images, root/class/image.jpg, all of it is the split train.
Classes are folders that hold images. They are those of the training split, whatever else lies in the root.
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import os
import types
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from mixer.data import classes
from mixer.data import image_files
from mixer.data.lazy import tf
from mixer.data.lazy import tfds
from mixer.data.source_protocol import RandomAccessSource
from mixer.data.source_protocol import SplitSpec
from mixer.data import subset

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.jfif')
PASSED_OVER = ('.', '@', '__')  # how folders are called that systems and programs make, such as @eaDir and __MACOSX
MADE_BY_SYSTEMS = ('lost+found', '$RECYCLE.BIN', 'System Volume Information', '#recycle', '#snapshot')
LAYOUT = 'The layout is root/split/class/image.jpg, or root/class/image.jpg for a split train alone'


@dataclasses.dataclass(frozen=True)
class FolderSource(RandomAccessSource):
  """The images of root/split/class/, in the order of their paths."""
  name: str
  num_examples: int
  contents: str
  folder: Any
  split: str
  class_names: list[str]
  paths: np.ndarray
  classes: np.ndarray
  order: str = 'by index: a new permutation each epoch'
  fix: str = ('Repair the file or put a good image under its name, and the same command resumes; without the '
              'file it would be another run. python -m tools.check_data --decode names all bad files at once')

  @classmethod
  def open(cls, root, split: str, class_names: Sequence[str] | None = None, training: bool = False):
    """The images of a split.

    Args:
      root: a path (epath).
      split: the name of a folder, or parts of some as TFDS writes them: 'train[:90%]', 'train+val[10%:]'. Parts are
        chosen by content: `subset.spread`.
      class_names: the classes in the order of their numbers, of the training images or of weights, where they hold
        all of the split's. By default they are those of root/train, or without that those of the split.
      training: whether these are the training images: then the classes are their own.

    Raises:
      ValueError: if the split is not in the root, or is empty, or has images of other classes than root/train.
    """
    folders = {path.name: path for path in _folders(root)}
    if 'train' not in folders and split.startswith('train') and any(
        _is_image(path) for folder in folders.values() for path in folder.iterdir()):
      folders = {'train': root}
    images_of = functools.cache(lambda name: _images(folders[name]))
    parts = _parts(root, split, folders, images_of)
    own = sorted({label for name, _, _ in parts for label in images_of(name)})
    if not own:
      raise ValueError(f'{folders[parts[0][0]]} holds no images: none of its folders has a file that ends in '
                       f'{", ".join(IMAGE_SUFFIXES)}. {LAYOUT}')
    if class_names is None and not training and 'train' in folders and (trained := sorted(images_of('train'))):
      class_names = trained
      if not set(own) <= set(trained):
        classes.ModelClasses(names=trained, owner=f'{root}, split train', fix='Rename or move the folders that differ'
                             ).check(types.SimpleNamespace(name=f'{root}, split {split}', class_names=own))
    elif class_names is None or not set(own) <= set(class_names):
      class_names = own
    if any('\n' in name for name in class_names):
      raise ValueError(f'the name of a class folder in {root} has a line break; rename it, since classes.txt has a line a '
                       'class')
    numbers = {name: number for number, name in enumerate(class_names)}

    def of(split, files):
      paths, of_classes = zip(*files)
      names = _hash_of(f'{path.relative_to(root)} {number}' for path, number in files)
      contents = f'{len(files)} files, sha256 of their names {names}'
      return cls(f'{root}, split {split}', len(files), contents, root, split, list(class_names),
                 np.array([str(path) for path in paths], dtype=object), np.array(of_classes))

    chosen = []
    for name, first, last in parts:
      files = [(path, numbers[label]) for label, paths in images_of(name).items() for path in paths]
      if files and (first, last) != (None, None):
        files = [files[k] for k in subset.part(of(name, files), first, last)]
      chosen += files
    if not chosen:
      raise ValueError(f'split {split!r} of {root} is empty; give it a larger part')
    absent = [name for name, count in zip(class_names, np.bincount([k for _, k in chosen], minlength=len(numbers)))
              if not count]
    if absent:
      _say(f'{root}, split {split}: no images of {len(absent):,} of the {len(class_names):,} classes: '
           f'{classes.listed(absent)}')
    return of(split, chosen)

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
    return image_files.normalize(record), {'label': tf.cast(tf.gather(self.classes, index), tf.int32)}

  def locate(self, index):
    return self.paths[index]


def open_split(spec: SplitSpec) -> FolderSource | None:
  """None if the dataset is no directory."""
  path = epath.Path(spec.dataset).expanduser()
  return FolderSource.open(path, spec.split, spec.class_names, spec.training) if path.is_dir() else None


def _folders(path):
  return sorted(each for each in path.iterdir()
                if not each.name.startswith(PASSED_OVER) and each.name not in MADE_BY_SYSTEMS and each.is_dir())


def _parts(root, split, folders, images_of) -> list[tuple[str, int | None, int | None]]:
  """(folder's name, first, last) of each part of a split; the numbers are places in `subset.spread`, None the ends."""
  if split in folders:
    return [(split, None, None)]

  def parts(counts):
    info = lambda name: tfds.core.SplitInfo(name=name, shard_lengths=[counts[name]], num_bytes=0,
                                            filename_template=None)
    instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute({name: info(name) for name in folders})
    return [(part.splitname, part.from_, part.to) for part in instructions]

  try:
    names = {name for name, _, _ in parts(dict.fromkeys(folders, 2**40))}
    sizes = {name: sum(map(len, images_of(name).values())) for name in names}
    return parts({name: sizes.get(name, 1) for name in folders})
  except (ValueError, AssertionError) as error:
    raise ValueError(f'split {split!r} is not in the image folder {root}; it has the folders '
                     f'{", ".join(folders) or "(none)"}, and parts of them are written train[:90%] or train+val '
                     f'({str(error).splitlines()[-1]}). {LAYOUT}') from error


def _images(folder) -> dict[str, list]:
  """{class: the paths of its images, sorted}, of the class folders that hold any. What is passed over is logged, once."""
  images, empty, others = {}, [], collections.Counter()
  class_folders = {path.name: path for path in _folders(folder)}
  for path in folder.iterdir():
    if _is_image(path):
      others['beside the class folders'] += 1
  for name, class_folder in class_folders.items():
    paths, entries = [], list(class_folder.iterdir())
    if {'config.json', 'checkpoints'} <= {path.name for path in entries}:
      continue  # the work directory of a run, with pictures in it
    for path in entries:
      if path.name.startswith('.'):
        continue
      if path.suffix.lower() in IMAGE_SUFFIXES:
        paths.append(path)
      elif path.is_dir():
        others['nested deeper than root/split/class'] += _nested(path)
      else:
        others[path.suffix.lower() or 'without a suffix'] += 1
    if paths:
      images[name] = sorted(paths)
    else:
      empty.append(name)
  if sum(others.values()):
    counts = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    _say(f'{folder}: {sum(others.values()):,} files not read: '
         f'{", ".join(f"{number:,} {kind}" for kind, number in counts if number)}')
  if empty:
    _say(f'{folder}: folders that hold no images are no classes: {classes.listed(empty)}')
  return images


def _is_image(path) -> bool:
  return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')


def _nested(folder) -> int:
  """How many files lie in a folder on a disk, at any depth, without those of systems."""
  number = 0
  for _, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(PASSED_OVER)]
    number += sum(not name.startswith('.') for name in names)
  return number if not os.path.basename(folder).startswith(PASSED_OVER) else 0


@functools.cache
def _say(text):
  """Logs a line, the first time alone: a folder may be listed for several sections of a config."""
  logging.warning('%s', text)


def _hash_of(lines) -> str:
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]
