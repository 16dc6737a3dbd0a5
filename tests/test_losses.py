"""Losses against their formulas in float64."""

import jax
import numpy as np
import pytest

from mixer.training import losses

LOGITS = np.random.default_rng(0).normal(scale=3, size=(6, 5)).astype(np.float32)


def test_targets_of_one_label():
  np.testing.assert_array_equal(losses.targets({'label': np.array([2, 0])}, 3), [[0, 0, 1], [1, 0, 0]])


def test_targets_of_several_labels():
  """-1 is padding, and a repeated label counts once."""
  labels = np.array([[2, 0, -1], [1, 1, -1], [-1, -1, -1]])
  np.testing.assert_array_equal(losses.targets({'label': labels}, 3), [[1, 0, 1], [0, 1, 0], [0, 0, 0]])


def test_weights_of_labels_are_their_targets_and_the_larger_of_two_counts():
  batch = {'label': np.array([[2, 0, -1], [1, 1, -1]]), 'weight': np.array([[0.5, 1, 0], [0.25, 0.75, 0]])}
  np.testing.assert_array_equal(losses.targets(batch, 3), [[1, 0, 0.5], [0, 0.75, 0]])


def test_softmax_of_one_label_is_its_negative_log_share():
  labels = np.array([0, 1, 2, 3, 4, 0])
  shares = np.exp(LOGITS.astype(np.float64))
  shares /= shares.sum(axis=1, keepdims=True)
  values = losses.softmax_xent(LOGITS, losses.targets({'label': labels}, 5))
  np.testing.assert_allclose(values, -np.log(shares[np.arange(6), labels]), rtol=1e-5)


def test_smoothing_shares_a_part_of_the_targets_among_all_classes():
  targets = np.array([[1., 0., 0., 0.], [0.75, 0., 0.25, 0.], [1., 1., 0., 0.]])
  np.testing.assert_allclose(losses.smooth(targets, 0.2), [[0.85, 0.05, 0.05, 0.05], [0.65, 0.05, 0.25, 0.05],
                                                           [0.85, 0.85, 0.05, 0.05]])


def test_softmax_of_mixed_labels_mixes_the_losses():
  first, second = (losses.targets({'label': np.array(labels)}, 5) for labels in ([0, 1, 2, 3, 4, 0], [1, 1, 0, 0, 2, 3]))
  mixed = losses.softmax_xent(LOGITS, 0.3 * first + 0.7 * second)
  expected = 0.3 * losses.softmax_xent(LOGITS, first) + 0.7 * losses.softmax_xent(LOGITS, second)
  np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_sigmoid_is_a_sum_of_yes_no_questions():
  targets = np.array(losses.targets({'label': np.array([[0, 1], [2, -1], [3, 4], [-1, -1], [4, 0], [1, 2]])}, 5))
  targets[0] *= 0.25  # labels may be soft
  shares = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
  expected = -(targets * np.log(shares) + (1 - targets) * np.log(1 - shares)).sum(axis=1)
  np.testing.assert_allclose(losses.sigmoid_xent(LOGITS, targets), expected, rtol=1e-5)


@pytest.mark.parametrize('loss, expected', [('softmax_xent', [0, 300]), ('sigmoid_xent', [0, 600])])
def test_large_logits_stay_finite(loss, expected):
  targets = np.eye(2, dtype=np.float32)
  logits = np.array([[300, -300], [0, -300]], np.float32)
  expected = expected[0], expected[1] if loss == 'softmax_xent' else 300 + np.log(2)
  values, grads = jax.value_and_grad(lambda x: losses.LOSSES[loss](x, targets).sum())(logits)
  np.testing.assert_allclose(losses.LOSSES[loss](logits, targets), expected, rtol=1e-6)
  assert np.isfinite(values) and np.isfinite(grads).all()


@pytest.mark.parametrize('loss', losses.LOSSES)
def test_each_example_has_its_own_loss(loss):
  targets = losses.targets({'label': np.array([0, 1, 2, 3, 4, 0])}, 5)
  values = losses.LOSSES[loss](LOGITS, targets)
  assert values.shape == (6,)
  np.testing.assert_allclose(values[2:3], losses.LOSSES[loss](LOGITS[2:3], targets[2:3]), rtol=1e-6)
