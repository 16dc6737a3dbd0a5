"""The order of examples that can be read by index: a permutation of each epoch, computed for one position at a time."""

from mixer.data.lazy import tf


def indices(positions, seed: int, num_examples: int):
  """The examples at some positions of the shuffled epochs, by (seed, epoch) alone. [n] ints -> [n] int64."""
  positions = tf.cast(positions, tf.int64)
  epochs, places = positions // num_examples, positions % num_examples
  seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64)), epochs, tf.zeros_like(epochs)], 1)
  # tf.random.experimental.index_shuffle takes 4 rounds of the cipher, after which neighbours still lie at a few fixed
  # distances (on 1.28 million examples, chi2 of 4,487 at 255 degrees of freedom; 236 after 16 rounds).
  return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, rounds=16,
                                       max_index=tf.constant(num_examples - 1, tf.int64))
