"""Metrics of each example, to be summed under a mask and divided once by the number of examples."""

import jax


def top_k_hit(logits, labels, k: int):
  """Whether a label is among the k highest logits. [B, K], [B] or [B, L] ints padded with -1 -> [B] float32.

  Equal logits rank in the order of their classes, so a constant model is right by chance alone.
  """
  labels = labels.reshape(labels.shape[0], -1)
  _, highest = jax.lax.top_k(logits, min(k, logits.shape[-1]))
  return (highest[:, :, None] == labels[:, None, :]).any(axis=(1, 2)).astype('float32')
