"""A part of a split: some of its classes, or images chosen by what they are, as in the paper's study of data scale
(section 3.3, Fig. 2 right).
"""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
import hashlib
import io
import os
from typing import Any
import urllib.parse
import uuid

from absl import logging
from etils import epath
import numpy as np
import tqdm

from mixer import arguments
from mixer.data import classes
from mixer.data.lazy import tf
from mixer.data.source_protocol import RandomAccessSource
from mixer.data import tf_reading
from mixer import safe_io

CACHE = '~/.cache/mixer'  # for content hashes of datasets that are read-only
STREAM = 'cannot be read by index. Rewrite it with\n  python -m tools.prepare DIRECTORY --out=NEW'


@dataclasses.dataclass(frozen=True)
class Subset(RandomAccessSource):
  """A source of some of another one's examples, by index."""
  whole: Any
  indices: np.ndarray
  name: str
  num_examples: int
  contents: str
  order: str
  class_names: list[str] | None
  labels: dict
  fix: str
  numbers: np.ndarray | None = None  # of the classes, by those of `whole`; -1 for one that is not chosen

  @classmethod
  def of(cls, source, fraction: float):
    """The `fraction` of the examples whose contents have the smallest hashes.

    So a smaller fraction lies in each larger one, and the choice depends on the images alone.

    Raises:
      ArgumentError: if the fraction selects nothing, or the source cannot be read by index.
    """
    if not 0 < fraction <= 1 or not round(fraction * source.num_examples):
      raise arguments.ArgumentError(f'fraction is {fraction}; it must be above 0, at most 1, and leave some of the '
                                    f'{source.num_examples:,} examples of {source.name}')
    if not source.random_access:
      raise arguments.ArgumentError(f'fraction is {fraction}, and {source.name} {STREAM}')
    number = round(fraction * source.num_examples)
    order = np.argsort(content_hashes(source), kind='stable')
    return cls(source, np.sort(order[:number]), f'{fraction:.3g} of {source.name}', number,
               f'{fraction:.3g} by content of {source.contents}', source.order, source.class_names, source.labels,
               source.fix)

  @classmethod
  def of_classes(cls, source, names: Sequence[str]):
    """The examples of the classes `names`, which are numbered in this order.

    Raises:
      ArgumentError: if the names are not two or more of the source's, each once, or its examples have no single class
        that can be looked up by index.
    """
    if isinstance(names, str) or len(names) < 2 or len(set(names)) < len(names):
      raise arguments.ArgumentError(f'classes is {safe_io.show(names)}; it must be two or more names, each once, or None')
    if not source.class_names or source.labels['label'][0]:
      lacks = 'has several labels an example' if source.class_names else 'has no names of classes'
      raise arguments.ArgumentError(f'classes is {safe_io.show(tuple(names))}, and {source.name} {lacks}. Leave it None')
    if unknown := [name for name in names if name not in source.class_names]:
      near = difflib.get_close_matches(unknown[0], source.class_names, n=3)
      hint = f'Did you mean {" or ".join(map(safe_io.show, near))}? ' if near else ''
      raise arguments.ArgumentError(f'classes has {classes.listed(unknown)}, not among those of {source.name}. {hint}'
                                    f'It has {classes.listed(source.class_names)}')
    if not source.random_access:
      raise arguments.ArgumentError(f'classes is {safe_io.show(tuple(names))}, and {source.name} {STREAM}')
    numbers = np.full(len(source.class_names), -1)
    numbers[[source.class_names.index(name) for name in names]] = np.arange(len(names))
    labels = _labels(source)
    indices = np.flatnonzero(numbers[labels] >= 0)
    if not len(indices):
      raise arguments.ArgumentError(f'classes is {safe_io.show(tuple(names))}, of which {source.name} has no example')
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:16]
    return cls(source, indices, f'{len(names)} classes of {source.name}', len(indices),
               f'{len(indices)} examples, of the classes {classes.listed(names)} (sha256 of the names {digest}) of '
               f'{source.contents}', source.order, list(names), source.labels, source.fix, numbers)

  @property
  def canonical(self):
    return self.whole.canonical

  def read(self, indices):
    return self.whole.read(tf.gather(self.indices, indices))

  def parse(self, record, index):
    image, labels = self.whole.parse(record, tf.gather(self.indices, index))
    if self.numbers is not None:
      labels = {'label': tf.cast(tf.gather(self.numbers, labels['label']), tf.int32)}
    return image, labels

  def locate(self, index):
    return self.whole.locate(self.indices[index])


def part(source, first: int | None, last: int | None) -> np.ndarray:
  """The indices, rising, of the examples of an image folder at the places `first` to `last` of `spread`, as in a slice.

  Images of equal contents, of whatever classes, all have the place of the first of them, so that no image lies on both
  sides of a cut; with such images, a part may hold more or fewer images than its places.
  """
  hashes = content_hashes(source)
  order = spread(hashes, source.classes)
  _, firsts, same = np.unique(hashes[order], return_index=True, return_inverse=True)
  inside = np.zeros(len(order), bool)
  inside[first:last] = True
  return np.sort(order[inside[firsts[same]]])


def spread(hashes, classes) -> np.ndarray:
  """An order of N examples, by their contents, of which each beginning and each end has its share of every class.

  [N] uint64, [N] ints -> [N] ints. Within a class the order is that of the hashes, so that the names of the files do
  not matter, and an image more or less moves few others over a border. Of a class with several examples the first ones
  stand at the beginning of it all and the last ones at the end.
  """
  order = np.lexsort((hashes, classes))
  _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
  rank = np.arange(len(order)) - np.repeat(starts, counts)
  place = rank / np.maximum(np.repeat(counts, counts) - 1, 1)
  return order[np.lexsort((hashes[order], place))]


def content_hashes(source) -> np.ndarray:
  """[N] uint64: a hash of each example's image file. Computed once, then kept with the dataset, or else in CACHE."""
  if isinstance(source, Subset):
    return content_hashes(source.whole)[source.indices]
  name = f'content_hashes-{urllib.parse.quote(source.split, safe="")}'
  folder = os.path.abspath(source.folder) if '://' not in str(source.folder) else str(source.folder)
  place = hashlib.sha256(folder.encode()).hexdigest()[:16]
  in_cache = os.path.expanduser(f'{CACHE}/{name}-{place}.npz')
  places = [epath.Path(source.folder) / f'{name}.npz', *([] if in_cache[0] == '~' else [epath.Path(in_cache)])]
  for kept in places:
    try:
      if kept.exists():
        stored = safe_io.arrays(kept)
        if str(stored['fingerprint']) == source.fingerprint:
          return stored['hashes'].reshape(source.num_examples).astype(np.uint64, casting='no')
    except (OSError, ValueError, KeyError, TypeError) as error:
      logging.warning('%s cannot be read (%s); rebuilding it', kept, error)
  hashes = _hash(source)
  file = io.BytesIO()
  np.savez(file, hashes=hashes, fingerprint=source.fingerprint)
  for kept in places:
    try:
      kept.parent.mkdir(parents=True, exist_ok=True)
      partial = kept.with_suffix(f'.{uuid.uuid4().hex}.partial')  # other processes may be at it too
      partial.write_bytes(file.getvalue())
      partial.replace(kept)
      return hashes
    except OSError as error:
      refused = error
  logging.warning('the content hashes of %s cannot be kept in %s (%s); each run computes them', source.name,
                  ' or '.join(str(kept.parent) for kept in places), refused)
  return hashes


def _hash(source):
  hash_of = lambda image: int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), 'big')
  return _of_each(source, source.stored, hash_of, np.uint64, 'content hashes')


def _labels(source) -> np.ndarray:
  """[N] ints: the class of each example. Those of an image folder are known; others are read, with a bar."""
  if hasattr(source, 'classes'):
    return source.classes
  return _of_each(source, lambda record, i: source.parse(record, i)[1]['label'], int, np.int64, 'labels')


def _of_each(source, part: Callable, number_of: Callable, dtype, words: str) -> np.ndarray:
  """[N]: a number of each example, in their order, with a bar: `number_of` what `part`, in a graph, takes of a record."""
  records = tf_reading.records(source, tf.data.Dataset.range(source.num_examples))
  parts = records.map(lambda i, record: part(record, i), num_parallel_calls=2)
  parts = tf_reading.untuned(parts.prefetch(tf_reading.READ_AT_ONCE)).as_numpy_iterator()
  return np.fromiter(map(number_of, tqdm.tqdm(parts, total=source.num_examples, unit='image', desc=words)), dtype,
                     count=source.num_examples)
