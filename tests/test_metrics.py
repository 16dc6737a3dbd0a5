"""Top-k against a sort in numpy."""

import numpy as np
import pytest

from mixer import metrics


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
