"""Losses of each example. Labels may be one-hot, soft (mixup) or several-hot (ImageNet-21k, JFT)."""

import jax
import jax.numpy as jnp


def targets(labels, num_classes: int):
  """Several-hot targets from class numbers. [B] or [B, L] ints, padded with -1 -> [B, K] float32."""
  labels = labels.reshape(labels.shape[0], -1)
  return jax.nn.one_hot(labels, num_classes).max(axis=1)


def softmax_xent(logits, targets):
  """Softmax cross-entropy of each example. [B, K], [B, K] -> [B]."""
  return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def sigmoid_xent(logits, targets):
  """Sigmoid cross-entropy of each example, summed over the classes. [B, K], [B, K] -> [B]."""
  return -jnp.sum(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits), axis=-1)


LOSSES = {'softmax_xent': softmax_xent, 'sigmoid_xent': sigmoid_xent}
