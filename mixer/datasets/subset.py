"""A part of a split, chosen by what its images are: the paper's study of data scale (section 3.3, Fig. 2 right)."""

import dataclasses
import hashlib
import io
from typing import Any
import urllib.parse
import uuid

from absl import logging
from etils import epath
import numpy as np
import tensorflow as tf
import tqdm

from mixer import files
from mixer.datasets import reading


@dataclasses.dataclass(frozen=True)
class Subset:
  """A source of some of another one's examples, by index."""
  whole: Any
  indices: np.ndarray
  name: str
  num_examples: int
  contents: str
  order: str
  class_names: list[str] | None
  labels: dict

  @classmethod
  def of(cls, source, fraction: float):
    """The `fraction` of the examples whose contents have the smallest hashes.

    So a smaller fraction lies in each larger one, and the choice depends on the images alone.

    Raises:
      ValueError: if the fraction is none, or the source cannot be read by index.
    """
    if not 0 < fraction <= 1 or not round(fraction * source.num_examples):
      raise ValueError(f'config.data.fraction is {fraction}; it must be above 0, at most 1, and leave some of the '
                       f'{source.num_examples:,} examples of {source.name}')
    if not hasattr(source, 'read'):
      raise ValueError(f'config.data.fraction is {fraction}, and {source.name} cannot be read by index. Rewrite it '
                       'with\n  python -m tools.prepare DIRECTORY --out=NEW')
    number = round(fraction * source.num_examples)
    order = np.argsort(content_hashes(source), kind='stable')
    return cls(source, np.sort(order[:number]), f'{fraction:.3g} of {source.name}', number,
               f'{fraction:.3g} by content of {source.contents}', source.order, source.class_names, source.labels)

  def read(self, indices):
    return self.whole.read(tf.gather(self.indices, indices))

  def parse(self, record, index):
    return self.whole.parse(record, tf.gather(self.indices, index))

  def locate(self, index):
    return self.whole.locate(self.indices[index])


def content_hashes(source) -> np.ndarray:
  """[N] uint64: a hash of each example's image file. Computed once, then kept beside the dataset."""
  kept = epath.Path(source.folder) / f'content_hashes-{urllib.parse.quote(source.split, safe="")}.npz'
  if kept.exists():
    try:
      there = files.arrays(kept)
      if str(there['fingerprint']) == source.fingerprint:
        return there['hashes'].reshape(source.num_examples).astype(np.uint64, casting='no')
    except (OSError, ValueError, KeyError, TypeError) as error:
      logging.warning('%s cannot be read (%s); it is made anew', kept, error)
  hashes = _hash(source)
  file = io.BytesIO()
  np.savez(file, hashes=hashes, fingerprint=source.fingerprint)
  try:
    partial = kept.with_suffix(f'.{uuid.uuid4().hex}.partial')  # other processes may be at it too
    partial.write_bytes(file.getvalue())
    partial.replace(kept)
  except OSError as error:
    logging.warning('the content hashes of %s cannot be kept beside it (%s); each run computes them', source.name,
                    error)
  return hashes


def _hash(source):
  records = reading.records(source, tf.data.Dataset.range(source.num_examples))
  images = records.map(lambda i, record: source.stored(record, i), num_parallel_calls=2)
  hashes = (int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), 'big')
            for image in reading.untuned(images.prefetch(reading.READ_AT_ONCE)).as_numpy_iterator())
  return np.fromiter(tqdm.tqdm(hashes, total=source.num_examples, unit='image', desc='content hashes'), np.uint64,
                     count=source.num_examples)
