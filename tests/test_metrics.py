"""Each metric against a sort in numpy."""

import jax
import numpy as np
import pytest

from mixer.training import metrics


@pytest.mark.parametrize('k', [1, 3, 5])
def test_top_k_is_a_place_in_the_sorted_logits(k):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
  places = [list(np.argsort(-row)).index(label) for row, label in zip(logits, labels)]
  hits = metrics.top_k_hit(logits, labels, k)
  assert hits.dtype == 'float32'
  np.testing.assert_array_equal(hits, np.array(places) < k)
  assert 0 < hits.mean() < 1


@pytest.mark.parametrize('k, share', [(1, 0.1), (5, 0.5)])
def test_a_constant_model_is_right_by_chance_alone(k, share):
  hits = metrics.top_k_hit(np.zeros((100, 10)), np.arange(100) % 10, k)
  assert hits.mean() == pytest.approx(share)


def test_one_of_several_labels_is_enough():
  logits = np.array([[0., 1., 2., 3.]] * 5)
  labels = np.array([[3, 0], [0, 3], [0, 1], [2, -1], [-1, -1]])
  np.testing.assert_array_equal(metrics.top_k_hit(logits, labels, 1), [1, 1, 0, 0, 0])
  np.testing.assert_array_equal(metrics.top_k_hit(logits, labels, 2), [1, 1, 0, 1, 0])


def test_padding_is_no_class():
  """The last class of all, number K - 1, is not the padding -1."""
  np.testing.assert_array_equal(metrics.top_k_hit(np.array([[0., 0., 9.]]), np.array([[-1, 0]]), 1), [0])


def test_fewer_classes_than_k():
  np.testing.assert_array_equal(metrics.top_k_hit(np.array([[1., 2., 3.]]), np.array([0]), 5), [1])


@pytest.fixture
def several_hot():
  """Logits, and weighted targets of none to six labels in nine classes."""
  rng = np.random.default_rng(1)
  logits, targets = rng.normal(size=(300, 9)).astype('float32'), np.zeros((300, 9), 'float32')
  for row in targets:
    chosen = rng.choice(9, rng.integers(0, 7), replace=False)
    row[chosen] = rng.choice([1, 0.5, 0.001], len(chosen))
  return logits, targets


def test_precision_at_1_is_whether_the_first_is_a_label(several_hot):
  expected = [float(target[np.argsort(-row)[0]] > 0) for row, target in zip(*several_hot)]
  for function in metrics.precision_at_1, jax.jit(metrics.precision_at_1):
    got = function(*several_hot)
    assert got.dtype == 'float32' and got.shape == (300,)
    np.testing.assert_array_equal(got, expected)
  assert 0.2 < np.mean(expected) < 0.5


def test_recall_at_5_is_the_share_of_labels_among_the_first_five(several_hot):
  expected = []
  for row, target in zip(*several_hot):
    labels = set(np.flatnonzero(target))
    expected.append(len(labels & set(np.argsort(-row)[:5])) / len(labels) if labels else 0)
  for function in metrics.recall_at_5, jax.jit(metrics.recall_at_5):
    got = function(*several_hot)
    assert got.dtype == 'float32' and got.shape == (300,)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert len(set(expected)) > 5


def test_no_labels_count_nothing_and_few_classes_all():
  logits = np.array([[3., 2., 1.]] * 3)
  targets = np.array([[0., 0., 0.], [0., 0., 1.], [0.1, 1., 1.]])
  np.testing.assert_array_equal(metrics.precision_at_1(logits, targets), [0, 0, 1])
  np.testing.assert_array_equal(metrics.recall_at_5(logits, targets), [0, 1, 1])


def test_equal_logits_rank_alike_in_all_metrics():
  """In the order of their classes: only the first, or the first five, of a constant model count."""
  targets = np.eye(10)
  np.testing.assert_array_equal(metrics.precision_at_1(np.zeros((10, 10)), targets), targets[0])
  np.testing.assert_array_equal(metrics.recall_at_5(np.zeros((10, 10)), targets), [1] * 5 + [0] * 5)
