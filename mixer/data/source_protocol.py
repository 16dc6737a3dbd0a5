"""What a source of encoded images is, whatever it is stored in.

A new kind of source is a file with a class, derived from RandomAccessSource or StreamSource, and a function that opens
it, which stands in `sources.OPENERS`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import typing

import numpy as np

from mixer.data import epoch_shuffle
from mixer.data.lazy import tf
from mixer.data.process_shard import ProcessShard
from mixer.data import tf_reading

WHOLE = ProcessShard(0, 1, 1)


@dataclasses.dataclass(frozen=True)
class SplitSpec:
  """Which images a section of a config names: the arguments of `sources.open_split`."""
  dataset: str
  split: str
  data_dir: str | None = None
  label: str = 'label'
  max_labels: int | None = None
  class_names: Sequence[str] | None = None
  training: bool = False


@typing.runtime_checkable
class Source(typing.Protocol):
  """One split of a dataset.

  Attributes:
    name: for messages.
    num_examples: in an epoch.
    contents: what a resumed run must find again, wherever it is stored.
    order: the order in which it is read, and why, for people.
    class_names: a list, or None where the source has no classes of its own.
    labels: {'label': (shape, dtype), ...} of one example; 'weight' has the shape of 'label'.
    fix: what to do about a bad example, for messages.
    random_access: whether any example can be read by its index.
    is_synthetic: whether nothing is read, and a method `synthetic_batch` makes what stands for all batches.
    canonical: a function of a record's bytes, without what may differ between copies of the same images; or None.
  """
  name: str
  num_examples: int
  contents: str
  order: str
  class_names: list[str] | None
  labels: dict
  fix: str
  random_access: bool
  is_synthetic: bool
  canonical: Callable | None

  def examples(self, start: int, seed: int, batch_size: int, shard: ProcessShard) -> 'tf.data.Dataset':
    """(position, index, record) from position `start` on, a multiple of the batch size, without end.

    Those that `shard` owns alone, in the order of their positions. The order depends on (seed, epoch) alone.
    """

  def in_order(self, batch_size: int = 1, shard: ProcessShard = WHOLE) -> 'tf.data.Dataset':
    """(index, record) of each example once; the last batch is filled up with repetitions. Those that `shard` owns alone."""

  def example(self, index: int):
    """The record at an index, outside a graph. [] string. Raises StopIteration if the source ends before."""

  def parse(self, record, index):
    """A record's encoded image and its labels, in a graph. [] string, [] int -> [] string, {'label', ...}."""

  def locate(self, index: int) -> str:
    """The file or the place of an example, for a message."""

  def sample(self) -> list[bytes]:
    """A few records at fixed places, by which a copy stored elsewhere is recognized."""


class RandomAccessSource:
  """A source whose records can be read by index, in any order: a subclass has

    read([n] ints) -> [n] strings   the records at these indices, in a graph

  and for `subset`, which chooses by content,

    stored(record, index)           the encoded image as it is in the file. [] string
    folder, split, fingerprint      where it is stored; the fingerprint changes whenever images or their order do
  """
  random_access = True
  is_synthetic = False
  canonical = None

  def examples(self, start, seed, batch_size, shard):
    local, number = shard.local_slice(batch_size), shard.local_size(batch_size)
    # It counts the examples of this process; the k-th is at place k % number of its part of batch k // number.
    counter = tf.data.Dataset.range(start // batch_size * number, np.iinfo(np.int64).max).batch(tf_reading.READ_AT_ONCE)
    positions = counter.map(lambda n: n // number * batch_size + local.start + n % number)
    places = positions.map(lambda p: (p, epoch_shuffle.indices(p, seed, self.num_examples))).unbatch()
    return tf_reading.records(self, places)

  def in_order(self, batch_size=1, shard=WHOLE):
    positions = np.arange(-(-self.num_examples // batch_size) * batch_size)
    indices = np.minimum(positions[shard.owns(batch_size, positions)], self.num_examples - 1)
    return tf_reading.records(self, tf.data.Dataset.from_tensor_slices(indices))

  def example(self, index):
    return self.read(tf.constant([index], tf.int64))[0]

  def sample(self):
    return list(self.read(np.unique(np.linspace(0, self.num_examples - 1, 16).astype(np.int64))).numpy())


class StreamSource:
  """A source that is read from its start to its end: a subclass has

    stream(seed, start) -> tf.data   the records from position `start` on, of epochs shuffled by (seed, epoch)
    records() -> tf.data             each record once
    layout                           the files' names and lengths, which stand for the order
  """
  random_access = False
  is_synthetic = False
  canonical = None

  def examples(self, start, seed, batch_size, shard):
    positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    records = tf.data.Dataset.zip(positions, self.stream(seed, start))
    local = records.filter(lambda position, _: shard.owns(batch_size, position))
    return local.map(lambda position, record: (position, tf.constant(-1, tf.int64), record))

  def in_order(self, batch_size=1, shard=WHOLE):
    records = self.records()
    records = records.concatenate(records.take(1).repeat(-self.num_examples % batch_size)).enumerate()
    return records.filter(lambda position, _: shard.owns(batch_size, position))

  def example(self, index):
    return next(iter(self.records().skip(index).take(1)))

  def sample(self):
    return [repr(self.layout).encode(), *self.records().take(4).as_numpy_iterator()]
