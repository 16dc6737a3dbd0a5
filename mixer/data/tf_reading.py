"""How tf.data reads a source by index, and runs."""

from mixer.data.lazy import tf

READ_AT_ONCE = 256  # records per read: they share its overhead


def records(source, numbers: 'tf.data.Dataset') -> 'tf.data.Dataset':
  """The records at some indices, in their order: elements (..., index) -> (..., index, record)."""
  read = lambda *numbers: (*numbers, source.read(numbers[-1]))
  return numbers.batch(READ_AT_ONCE).map(read, num_parallel_calls=4, deterministic=True).unbatch()


def untuned(examples: 'tf.data.Dataset') -> 'tf.data.Dataset':
  """The same in order, without autotune: ending an iterator can wait a minute for its thread."""
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False
  return examples.with_options(options)
