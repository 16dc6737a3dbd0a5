"""Batches whose errors say which file or example is bad, and why."""

import atexit
from collections.abc import Callable, Iterator
import dataclasses
import weakref

import numpy as np
import tensorflow as tf

from mixer.data import classes
from mixer.data import preprocess
from mixer.data import tf_reading
from mixer.data import tfds_source

NUMBERED_FROM_0 = 'Number the labels from 0, or raise --config.model.num_classes'


@dataclasses.dataclass(eq=False)
class ErrorReportingIterator:
  """The same batches; where one cannot be decoded, the error says which file or example it is."""
  open = weakref.WeakSet()
  batches: Iterator[dict]
  source: object
  indices: Callable[[int], np.ndarray]  # of this process's part of the k-th batch
  prepare: Callable  # of (index, record): what fails where a batch does
  taken: int = 0

  def __post_init__(self):
    self.open.add(self)

  def close(self):
    """Ends the threads that read ahead."""
    self.batches = iter(())

  def __iter__(self):
    return self

  def __next__(self):
    try:
      batch = next(self.batches)
    except tf.errors.OpError as error:
      place = f'of batch {self.taken} from here, of {self.source.name}'
      if isinstance(self.source, tfds_source.TfdsStream):
        raise ValueError(' '.join(_complaint(self.source, f'an example {place}', error))) from error
      for index in map(int, self.indices(self.taken)):
        if bad := _explain(self.source, index, self.prepare):
          raise ValueError(' '.join(bad)) from error
      raise ValueError(' '.join(_complaint(self.source, f'one of the examples {place}', error))) from error
    self.taken += 1
    return batch


def bad_examples(source, prepare: Callable, threads: int) -> Iterator[tuple[str, str] | None]:
  """Tries each example of a source once, in order. Yields None for a good one, (what is wrong, the fix) for a bad one.

  Args:
    prepare: of (index, record), in a graph: what fails where an example is bad.
    threads: that do it.
  """
  def tried(index, record):  # results that nothing uses would not be computed, control dependencies or not
    return index, tf.nest.map_structure(tf.reduce_max, prepare(index, record))

  numbers = tf.data.Dataset.range(source.num_examples)
  records = tf_reading.records(source, numbers) if hasattr(source, 'read') else source.in_order().enumerate()
  good = records.map(tried, num_parallel_calls=threads, deterministic=True).ignore_errors()
  position = 0
  for index, _ in tf_reading.untuned(good.prefetch(tf_reading.READ_AT_ONCE)).as_numpy_iterator():
    yield from (_explain(source, k, prepare) for k in range(position, int(index)))
    yield None
    position = int(index) + 1
  yield from (_explain(source, k, prepare) for k in range(position, source.num_examples))


def _explain(source, index, prepare) -> tuple[str, str] | None:
  """What is wrong with one example and the fix, or None."""
  try:
    record = (source.read(tf.constant([index], tf.int64))[0] if hasattr(source, 'read') else
              next(iter(source.in_order().skip(index).take(1))))
    prepare(tf.constant(index, tf.int64), record)
  except tf.errors.OpError as error:
    return _complaint(source, source.locate(index), error)
  except StopIteration:
    return f'{source.name} ends before example {index}.', source.mend


def _complaint(source, place, error: tf.errors.OpError) -> tuple[str, str]:
  reason = preprocess.reason(error)
  if reason.startswith(classes.LABEL):
    return f'cannot use {place}: {reason}.', NUMBERED_FROM_0
  return f'cannot decode {place}: {reason}.', source.mend


@atexit.register
def _close_all():
  """Threads that still read when the interpreter ends wait for it, and it for them, for ever."""
  for batches in list(ErrorReportingIterator.open):
    batches.close()
