"""Losses per example. Targets may be one-hot, soft (mixup) or multi-hot (ImageNet-21k, JFT)."""

import jax
import jax.numpy as jnp


def targets(batch: dict, num_classes: int):
  """Multi-hot targets from a batch's class numbers and, if present, their weights. -> [B, K] float32.

  'label' is [B] or [B, L] ints, padded with -1; 'weight' is [B, L].
  """
  labels = batch['label'].reshape(batch['label'].shape[0], -1)
  rows = jnp.arange(len(labels))[:, None]
  columns = jnp.where(labels < 0, num_classes, labels)  # out of bounds, and so dropped
  return jnp.zeros((len(labels), num_classes)).at[rows, columns].max(batch.get('weight', 1.), mode='drop')


def smooth(targets, amount: float):
  """Label smoothing (Szegedy et al., arXiv 1512.00567, section 7): (1 - amount) * targets + amount / K. [B, K] -> [B, K].

  The same for both losses; for the sigmoid one, as in timm's BinaryCrossEntropy.
  """
  return (1 - amount) * targets + amount / targets.shape[-1]


def softmax_xent(logits, targets):
  """Softmax cross-entropy of each example. [B, K], [B, K] -> [B]."""
  return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def sigmoid_xent(logits, targets):
  """Sigmoid cross-entropy of each example, summed over the classes. [B, K], [B, K] -> [B]."""
  return -jnp.sum(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits), axis=-1)


# The probabilities that a model trained by a loss predicts. [..., K] logits -> [..., K].
PROBABILITIES = {'softmax_xent': jax.nn.softmax, 'sigmoid_xent': jax.nn.sigmoid}

LOSSES = {'softmax_xent': softmax_xent, 'sigmoid_xent': sigmoid_xent}
