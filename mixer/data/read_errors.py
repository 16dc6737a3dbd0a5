"""Bad files and examples: which one it is, why, and the fix."""

import atexit
from collections.abc import Callable, Iterator
import dataclasses
import weakref

import numpy as np

from mixer.data import classes
from mixer.data.lazy import tf
from mixer.data import preprocess
from mixer.data.source_protocol import Source
from mixer.data import tf_reading

NUMBERED_FROM_0 = 'Number the labels from 0, or raise --config.model.num_classes'


@dataclasses.dataclass(eq=False)
class ErrorReportingIterator:
  """The same batches; where one cannot be decoded, the error says which file or example it is."""
  open = weakref.WeakSet()
  batches: Iterator[dict]
  source: Source
  indices: Callable[[int], np.ndarray]  # of this process's part of the k-th batch
  prepare: Callable  # (index, record), in a graph: fails where a batch does
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
      place = f'of {self.source.name}, {self.taken} batches after the start'
      if not self.source.random_access:
        raise ValueError(' '.join(_bad(self.source, f'an example {place}', error))) from error
      again = lambda index: self.prepare(tf.constant(index, tf.int64), self.source.example(index))
      for index in map(int, self.indices(self.taken)):
        if cause := _error(again, index):
          raise ValueError(' '.join(_complaint(self.source, index, cause))) from error
      raise ValueError(' '.join(_bad(self.source, f'one of the examples {place}', error))) from error
    self.taken += 1
    return batch


def bad_examples(source: Source, prepare: Callable, threads: int) -> Iterator[tuple[str, str] | None]:
  """Tries each example of a source once, in order. Yields None for a good one, (what is wrong, the fix) for a bad one.

  Args:
    prepare: of (index, record), in a graph: what fails where an example is bad.
    threads: that do it.
  """
  def reduced(index, record):  # results that nothing uses would not be computed, control dependencies or not
    return tf.nest.map_structure(tf.reduce_max, prepare(index, record))

  again = lambda index: prepare(tf.constant(index, tf.int64), source.example(index))
  for index, _, error in try_each(source.in_order(), source.num_examples, reduced, again, threads):
    yield _complaint(source, index, error) if error else None


def try_each(examples: 'tf.data.Dataset', number: int, prepare: Callable, again: Callable, threads: int,
             ahead: int = tf_reading.READ_AT_ONCE) -> Iterator[tuple]:
  """Prepares each example in order. Yields (index, result, error): a bad one has the result None, and why.

  Args:
    examples: elements (index, ...), of which the indices count up to `number`.
    prepare: of an element, in a graph.
    again: of an index: the same outside a graph, for the error; the error is None if it now works.
    threads: that prepare.
    ahead: how many results wait to be taken.
  """
  numbered = lambda index, *rest: (index, prepare(index, *rest))
  good = examples.map(numbered, num_parallel_calls=threads, deterministic=True).ignore_errors()
  position = 0
  for index, result in tf_reading.untuned(good.prefetch(ahead)).as_numpy_iterator():
    yield from ((k, None, _error(again, k)) for k in range(position, int(index)))
    yield int(index), result, None
    position = int(index) + 1
  yield from ((k, None, _error(again, k)) for k in range(position, number))


def _error(again, index):
  try:
    again(index)
  except (tf.errors.OpError, StopIteration) as error:
    return error
  return None


def _complaint(source, index, error: Exception) -> tuple[str, str]:
  """What is wrong with one example, and the fix."""
  if isinstance(error, StopIteration):
    return f'{source.name} ends before example {index}.', source.fix
  return _bad(source, source.locate(index), error)


def _bad(source, place, error: 'tf.errors.OpError') -> tuple[str, str]:
  reason = preprocess.reason(error)
  if reason.startswith(classes.LABEL):
    return f'cannot use {place}: {reason}.', NUMBERED_FROM_0
  return f'cannot decode {place}: {reason}.', source.fix


@atexit.register
def _close_all():
  """Reader threads that are alive when the interpreter exits deadlock with it."""
  for batches in list(ErrorReportingIterator.open):
    batches.close()
