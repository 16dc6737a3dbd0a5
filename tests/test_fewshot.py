"""The few-shot probe: its least squares in several ways to one number, its choice of examples, its count of them."""

import jax
import numpy as np
import pytest

from mixer.evaluators import fewshot
from mixer import models

CLASSES = 3


def a_problem(examples, features, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(examples, features)), rng.normal(size=(examples, 4))


# Least squares


@pytest.mark.parametrize('examples, features', [(20, 6), (6, 20), (8, 8)])
@pytest.mark.parametrize('l2', [0.1, 2.**10])
def test_primal_dual_and_augmented_least_squares_agree(examples, features, l2):
  """The penalty is that of `features` more examples, sqrt(l2) times the unit vectors, with targets of zero."""
  x, y = a_problem(examples, features)
  rows = np.concatenate([x, np.sqrt(l2) * np.eye(features)])
  expected = np.linalg.lstsq(rows, np.concatenate([y, np.zeros((features, 4))]))[0]
  for solve in (fewshot.primal, fewshot.dual, fewshot.ridge):
    np.testing.assert_allclose(solve(x, y, l2), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize('examples, features, form', [(20, 6, 'primal'), (8, 8, 'primal'), (6, 20, 'dual')])
def test_the_smaller_system_is_solved(examples, features, form, monkeypatch):
  monkeypatch.setattr(fewshot, form, lambda x, y, l2: form)
  assert fewshot.ridge(*a_problem(examples, features), 1.) == form


# Which examples


LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, -1, 3], [7, 5, 9, 2, 4]))  # of 3 classes, and others


def test_choice_is_so_many_of_each_class():
  chosen = fewshot.choose(LABELS, 4, CLASSES, seed=0)
  assert len(set(chosen)) == 12
  np.testing.assert_array_equal(LABELS[chosen], np.repeat([0, 1, 2], 4))


def test_fewer_shots_are_among_more():
  choices = [fewshot.choose(LABELS, shots, CLASSES, seed=1).reshape(CLASSES, shots) for shots in (1, 3, 5)]
  for fewer, more in zip(choices, choices[1:]):
    np.testing.assert_array_equal(more[:, :fewer.shape[1]], fewer)


def test_choice_is_that_of_the_authors_code():
  """One generator permutes the places of each class in turn."""
  rng = np.random.default_rng(2)
  expected = [rng.permutation(np.flatnonzero(LABELS == k))[:4] for k in range(CLASSES)]
  np.testing.assert_array_equal(fewshot.choose(LABELS, 4, CLASSES, seed=2), np.concatenate(expected))
  assert (fewshot.choose(LABELS, 4, CLASSES, seed=3) != np.concatenate(expected)).any()


@pytest.mark.parametrize('shots, classes, message', [
    (6, 3, '6 shots need 6 examples of each of the 3 classes, and class 1 has 5. Use fewer shots, or a larger'),
    (1, 5, '1 shots need 1 examples of each of the 5 classes, and class 4 has 0.'),
])
def test_classes_with_too_few_examples(shots, classes, message):
  with pytest.raises(ValueError, match=message):
    fewshot.choose(LABELS, shots, classes, seed=0)


# Accuracy


def clusters(examples, seed, spread=0.05, classes=10, features=16):
  """(features about a centre of each class, labels); far from zero, and of scales of their own."""
  centres = np.random.default_rng(0).normal(size=(classes, features))
  rng = np.random.default_rng(seed)
  labels = np.arange(examples) % classes
  points = centres[labels] + spread * rng.normal(size=(examples, features))
  return (50 + points * np.geomspace(0.01, 100, features)).astype(np.float32), labels


def test_separable_classes_are_learnt_and_shuffled_ones_are_not():
  (train, labels), (test, test_labels) = clusters(200, 1), clusters(5000, 2)
  assert fewshot.top1(train, labels, test, test_labels, 10, 2.**10) == 1
  shuffled = np.random.default_rng(3).permutation(test_labels)
  assert fewshot.top1(train, labels, test, shuffled, 10, 2.**10) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize('examples', [30, 10])
def test_top1_is_that_of_the_formula(examples):
  """By the definition, for 17 regressors and classes of unequal numbers of examples, where the bias counts."""
  (train, labels), (test, test_labels) = clusters(50, 1, spread=1.), clusters(5000, 2, spread=1.)
  some = np.random.default_rng(4).permutation(50)[:examples]
  train, labels = train[some], labels[some]
  mean, deviation = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0) + 1e-5
  regressors = lambda x: np.concatenate([(x - mean) / deviation, np.full((len(x), 1), 100.)], axis=1)
  targets = np.where(labels[:, None] == np.arange(10), 1., -1.)
  rows = np.concatenate([regressors(train), np.sqrt(5.) * np.eye(17)])
  w = np.linalg.lstsq(rows, np.concatenate([targets, np.zeros((17, 10))]))[0]
  expected = np.mean((regressors(test) @ w).argmax(axis=1) == test_labels)
  assert 0.15 < expected < 0.95
  assert fewshot.top1(train, labels, test, test_labels, 10, 5.) == pytest.approx(expected, abs=1e-12)


# The whole


@pytest.fixture(scope='module')
def setup():
  """(model, its parameters, 40 training examples, 30 test examples); an image's class shows in its colours, hardly."""
  model = models.build(name='mlp_mixer', num_classes=8, patch_size=4, num_blocks=1, hidden_dim=16, tokens_mlp_dim=4,
                       channels_mlp_dim=8)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), 'float32'))['params']
  rng = np.random.default_rng(0)

  def examples(number):
    labels = np.arange(number) % CLASSES
    images = rng.integers(0, 200, (number, 8, 8, 3)) + 14 * np.eye(3, dtype=int)[labels][:, None, None]
    return {'image': images.astype(np.uint8), 'label': labels.astype(np.int32)}

  return model, params, examples(40), examples(30)


def batches_of(examples, devices, size=16):
  """Batches over so many devices, the last one filled up with other images of another class."""
  number = len(examples['label'])
  filling = -number % size
  fill = lambda x, value: np.concatenate([x, np.full((filling, *x.shape[1:]), value, x.dtype)])
  filled = {'image': fill(examples['image'], 255), 'label': fill(examples['label'], 2),
            'mask': np.float32(np.arange(number + filling) < number)}
  for first in range(0, number, size):
    yield {name: x[first:first + size].reshape(devices, -1, *x.shape[1:]) for name, x in filled.items()}


def probed(setup, devices=2, train=None, num_train=40, num_test=30, **fields):
  model, params, given_train, test = setup
  probe = fewshot.Probe(model, **{'num_classes': CLASSES, 'shots': (1, 5), 'seeds': 2, 'l2': 7., **fields})
  return probe(params, batches_of(train or given_train, devices), batches_of(test, devices), num_train=num_train,
               num_test=num_test)


def test_probe_against_a_plain_loop(setup):
  model, params, train, test = setup
  features = lambda examples: np.asarray(jax.jit(model.clone(num_classes=None).apply)(
      {'params': {k: v for k, v in params.items() if k != 'head'}}, examples['image'] / np.float32(127.5) - 1))
  expected = {}
  for shots in (1, 5):
    scores = []
    for seed in (0, 1):
      chosen = fewshot.choose(train['label'], shots, CLASSES, seed)
      scores.append(fewshot.top1(features(train)[chosen], train['label'][chosen], features(test), test['label'],
                                 CLASSES, 7.))
    expected[f'{shots}shot'] = pytest.approx(np.mean(scores))
  assert 0.35 < np.mean(scores) < 1
  assert probed(setup) == {**expected, 'examples': 30, 'train_examples': 40}


def test_test_examples_without_a_class_are_left_out(setup):
  model, params, train, test = setup
  hidden = np.arange(30) % 3 == 0
  some = probed((model, params, train, {**test, 'label': np.where(hidden, -1, test['label'])}))
  rest = {name: x[~hidden] for name, x in test.items()}
  assert some == probed((model, params, train, rest), num_test=20)
  assert some['examples'] == 20


def test_devices_do_not_matter(setup):
  results = [probed(setup, devices) for devices in (1, 2, 4)]
  assert results[0] == results[1] == results[2]


def test_a_head_among_the_parameters_does_not_matter(setup):
  model, params, train, test = setup
  headless = {name: x for name, x in params.items() if name != 'head'}
  assert probed((model.clone(num_classes=None), headless, train, test)) == probed(setup)


@pytest.mark.parametrize('wrong, message', [
    (dict(num_train=39), 'the few-shot probe saw 40 training examples, and the split has 39'),
    (dict(num_test=32), 'the few-shot probe saw 30 test examples, and the split has 32'),
])
def test_the_number_of_examples_is_the_splits(setup, wrong, message):
  with pytest.raises(RuntimeError, match=message):
    probed(setup, **wrong)


def test_examples_of_several_classes(setup):
  _, _, train, _ = setup
  with pytest.raises(ValueError, match='the training examples have several classes each; the few-shot probe needs '
                                       'one'):
    probed(setup, train={**train, 'label': np.stack([train['label']] * 2, axis=1)})


@pytest.mark.parametrize('fields, message', [
    *((dict(shots=shots), 'it must be one or more integers, each at least 1') for shots in ((), 5, (0, 5), (2.5,))),
    (dict(seeds=0), '^seeds is 0; it must be at least 1$'), (dict(l2=0.), r'^l2 is 0\.0; it must be above 0$'),
    (dict(l2=float('nan')), '^l2 is nan; it must be a finite number, above 0$')])
def test_settings_out_of_range_are_refused(setup, fields, message):
  with pytest.raises(ValueError, match=message):
    probed(setup, **fields)
