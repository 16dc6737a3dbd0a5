"""Batches of a source's images: their order, which part is this process's, and how they are read and laid out.

Example `i` of batch `k` has the position p = k * batch_size + i, in epoch p // N of a split of N examples. In each
epoch a permutation that depends on (seed, epoch) alone maps p % N to an example, and the example's augmentation depends
on (seed, p) alone. So batch k is a function of the seed and k: a resumed run starts at batch k without replaying
anything, and the batches are the same for any number of threads, processes and devices. Sources that cannot be read by
index come as a stream, whose order also depends on (seed, epoch) alone; a resumed run skips the records it has seen.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools

import jax
import numpy as np

from mixer.data import classes
from mixer.data import epoch_shuffle
from mixer.data.lazy import tf
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer.data import read_errors
from mixer.data.source_protocol import Source
from mixer.data import sources
from mixer.data import tf_reading


@dataclasses.dataclass(frozen=True)
class TrainBatches:
  """Batches without end over shuffled epochs of `source`; `start(k)` begins at batch k."""
  source: Source
  batch_size: int
  resolution: int
  seed: int
  shard: ProcessShard
  transform: Callable  # (encoded image, [2] ints that seed it) -> [R, R, 3] uint8, in a graph
  threads: int
  permutation: np.ndarray | None = None  # of the pixels, last of all: pixel_permutations.draw
  num_classes: int | None = None  # labels must be below it; None for any

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.resolution, self.resolution, 3

  @property
  def shapes(self) -> dict:
    """The shapes and types of a batch, as `start` yields it."""
    leading = self.shard.local_devices, self.batch_size // (self.shard.count * self.shard.local_devices)
    of_one = {'image': (self.image_shape, 'uint8'), **self.source.labels}
    return {name: jax.ShapeDtypeStruct((*leading, *shape), dtype) for name, (shape, dtype) in of_one.items()}

  @property
  def identity(self) -> dict:
    """What a resumed run must find again: `sources.identity`."""
    return sources.identity(self.source)

  def start(self, step: int) -> Iterator[dict]:
    """Yields the batches from batch `step` on: of D devices, b images each of R x R pixels and at most L classes,

    {'image': [D, b, R, R, 3] uint8, 'label': [D, b] or [D, b, L] int32, and if the labels have weights 'weight': [D, b, L]}.
    Labels are padded with -1.
    """
    number = self.shard.local_size(self.batch_size)
    if self.source.is_synthetic:
      batches = itertools.repeat(self.source.synthetic_batch(number, self.resolution))
    else:
      examples = self.records(step).map(self._example, num_parallel_calls=self.threads)
      batches = read_errors.ErrorReportingIterator(
          batch_and_prefetch(examples, number).as_numpy_iterator(), self.source,
          lambda k: self.index(self.shard.positions(self.batch_size, step + k)).numpy(), self.decoded)
    return map(self.shard.shard_to_devices, batches)

  def index(self, positions):
    """The examples at some positions, of a source that is read by index. [n] -> [n] int64."""
    return epoch_shuffle.indices(positions, self.seed, self.source.num_examples)

  def records(self, step: int) -> 'tf.data.Dataset':
    """(position, index, record) of each example of this process from batch `step` on; the index is -1 in a stream."""
    return self.source.examples(step * self.batch_size, self.seed, self.batch_size, self.shard)

  def decoded(self, index, record):
    """An example with its whole image, in a graph: an error where `start` may meet one."""
    encoded, labels = _parse(self, index, record)
    return {'image': preprocess.decode(encoded), **labels}

  def _example(self, position, index, record):
    encoded, labels = _parse(self, index, record)
    image = self.transform(encoded, tf.stack([tf.constant(self.seed, tf.int64), position]))
    return {'image': preprocess.permute(image, self.permutation), **labels}


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """Every example of `source` once, in order; the last batch is filled up with masked repetitions."""
  source: Source
  batch_size: int
  resolution: int
  shard: ProcessShard
  crop: str
  resize: int
  threads: int
  permutation: np.ndarray | None = None  # of the pixels, last of all: pixel_permutations.draw
  num_classes: int | None = None  # labels must be below it; None for any

  def __iter__(self) -> Iterator[dict]:
    """Yields batches as TrainBatches does, with 'mask': [D, b] float32, 1 for real examples."""
    if self.source.is_synthetic:
      batches = itertools.repeat(
          self.source.synthetic_batch(self.shard.local_size(self.batch_size), self.resolution), len(self))
    else:
      batches = read_errors.ErrorReportingIterator(
          self._dataset.as_numpy_iterator(), self.source,
          lambda k: np.minimum(self.shard.positions(self.batch_size, k), self.source.num_examples - 1), self.decoded)
    masked = (dict(batch, mask=self.mask(k)) for k, batch in enumerate(batches))
    return map(self.shard.shard_to_devices, masked)

  def __len__(self):
    return -(-self.source.num_examples // self.batch_size)

  def mask(self, step: int):
    return np.array([p < self.source.num_examples for p in self.shard.positions(self.batch_size, step)], np.float32)

  @functools.cached_property
  def _dataset(self):
    records = self.source.in_order(self.batch_size, self.shard)
    return batch_and_prefetch(records.map(self.decoded, num_parallel_calls=self.threads),
                              self.shard.local_size(self.batch_size))

  def decoded(self, index, record):
    """An example as it is scored, in a graph."""
    encoded, labels = _parse(self, index, record)
    image = preprocess.EVALUATION_CROPS[self.crop](preprocess.decode(encoded), self.resize, self.resolution)
    return {'image': preprocess.permute(image, self.permutation), **labels}


def _parse(batches, index, record):
  """An example's encoded image and its labels, which are the model's."""
  encoded, labels = batches.source.parse(record, index)
  return encoded, classes.within(labels, batches.num_classes)


def batch_and_prefetch(examples: 'tf.data.Dataset', number: int) -> 'tf.data.Dataset':
  """Batches of `number` examples in their order, two of them ready ahead."""
  return tf_reading.untuned(examples.batch(number, drop_remainder=True).prefetch(2))
