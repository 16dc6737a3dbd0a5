"""Metrics of each example, to be summed under a mask and divided once by the number of examples."""

import jax
import jax.numpy as jnp


def top_k_hit(logits, labels, k: int):
  """Whether a label is among the k highest logits. [B, K], [B] or [B, L] ints padded with -1 -> [B] float32.

  Equal logits rank in the order of their classes, so a constant model is right by chance only.
  """
  labels = labels.reshape(labels.shape[0], -1)
  _, highest = jax.lax.top_k(logits, min(k, logits.shape[-1]))
  return (highest[:, :, None] == labels[:, None, :]).any(axis=(1, 2)).astype('float32')


def precision_at_1(logits, targets):
  """Whether the highest logit is a label's. [B, K], [B, K] multi-hot or weighted -> [B] float32.

  A class is a label where its target is positive. An example without labels counts as 0; the caller masks it out.
  """
  return jnp.take_along_axis(targets > 0, logits.argmax(axis=-1)[:, None], axis=-1)[:, 0].astype('float32')


def recall_at_5(logits, targets):
  """The share of an example's labels that are among the five highest logits. Arguments as in precision_at_1."""
  positive = targets > 0
  _, highest = jax.lax.top_k(logits, min(5, logits.shape[-1]))
  hits = jnp.take_along_axis(positive, highest, axis=-1).sum(axis=-1)
  return (hits / jnp.maximum(positive.sum(axis=-1), 1)).astype('float32')
