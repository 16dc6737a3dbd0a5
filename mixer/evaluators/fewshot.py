"""The linear few-shot probe: how well a regression on a few examples' frozen features classifies the others.

The paper reports it as "linear 5-shot ImageNet top-1" (section 3, Figs. 2 and 4): least squares with an l2 penalty
from the features to targets in {-1, 1}^K, W = argmin |XW - Y|^2 + l2 |W|^2. What it leaves open follows the authors'
code: l2 = 2^10, features standardised by the chosen examples' mean and deviation, and a constant feature of 100 that
takes the bias nearly out of the penalty.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from mixer import arguments
from mixer.data import normalize
from mixer.run import devices
from mixer import trees

CONSTANT_FEATURE = 100.
SCORED_AT_ONCE = 4096  # examples: their scores for 21,843 classes are 0.7 GB


def primal(x, y, l2: float):
  """(X^T X + l2 I)^-1 X^T Y, a system of D equations. [N, D], [N, K] -> [D, K]."""
  return np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)


def dual(x, y, l2: float):
  """X^T (X X^T + l2 I)^-1 Y, the same by N equations. [N, D], [N, K] -> [D, K]."""
  return x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(x.shape[0]), y)


def ridge(x, y, l2: float):
  """The W that minimises |XW - Y|^2 + l2 |W|^2, by the smaller system. [N, D], [N, K] float64, l2 > 0 -> [D, K]."""
  return (primal if x.shape[0] >= x.shape[1] else dual)(x, y, l2)


def choose(labels, shots: int, num_classes: int, seed: int):
  """Chooses `shots` examples of each class to learn from. [N] ints -> [num_classes * shots] int, class by class.

  They are the first of a permutation of each class's examples, so that for one seed, more shots include fewer.

  Raises:
    ValueError: if a class has fewer examples.
  """
  counts = np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
  scarce = int(counts.argmin())
  if counts[scarce] < shots:
    raise ValueError(f'{shots} shots need {shots} examples of each of the {num_classes} classes, and class {scarce} '
                     f'has {counts[scarce]}. Use fewer shots, or a larger part of the training split')
  rng = np.random.default_rng(seed)
  by_class = np.split(np.argsort(labels, kind='stable')[np.sum(labels < 0):], np.cumsum(counts))[:num_classes]
  return np.concatenate([rng.permutation(indices)[:shots] for indices in by_class])


def top1(train, train_labels, test, test_labels, num_classes: int, l2: float) -> float:
  """The share of the test examples that the regression on the training examples' features classifies correctly.

  [N, C] float, [N] ints, [M, C] float, [M] ints; C features of N and M examples.
  """
  train = np.asarray(train, np.float64)
  mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-5
  regressors = lambda x: np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=CONSTANT_FEATURE)
  w = ridge(regressors(train), 2 * np.eye(num_classes)[train_labels] - 1, l2)
  hits = sum(np.sum((regressors(test[k:k + SCORED_AT_ONCE]) @ w).argmax(axis=1) == test_labels[k:k + SCORED_AT_ONCE])
             for k in range(0, len(test), SCORED_AT_ONCE))
  return float(hits / len(test))


class Probe:
  """Probes a model's parameters with the batches of two splits.

  Batches are {'image': [D, b, H, W, 3] uint8, 'label': [D, b], 'mask': [D, b]}, D devices of b examples. The features
  are the mean over tokens that the head is applied to; the parameters of a head are ignored.

  Attributes:
    metrics: the names of the results of which higher is better.
  """

  def __init__(self, model, num_classes: int, shots: Sequence[int] = (5,), seeds: int = 3, l2: float = 2.**10):
    """Builds the feature extractor.

    Args:
      model: its head, and so its number of classes, is ignored.
      num_classes: of the splits.
      shots: numbers of examples of each class to learn from, each at least 1.
      seeds: the number of random choices of these examples to average over; at least 1.
      l2: the penalty of the ridge regression; above 0.

    Raises:
      arguments.ArgumentError: if one of these is out of range.
    """
    if not isinstance(shots, Sequence) or not shots or not all(isinstance(k, int) and k >= 1 for k in shots):
      raise arguments.ArgumentError(f'shots is {shots}; it must be one or more integers, each at least 1: (1, 5)')
    arguments.check(dict(seeds=seeds), at_least=1)
    arguments.check(dict(l2=l2), above=0)
    self._num_classes, self._shots, self._seeds, self._l2 = num_classes, shots, seeds, l2
    self.metrics = [f'{number}shot' for number in shots]
    headless = model.clone(num_classes=None)

    def features(params, batch):
      of_device = {'features': headless.apply(trees.variables(params), normalize.normalize_images(batch['image'])),
                   'label': batch['label'], 'mask': batch['mask']}
      return jax.lax.all_gather(of_device, 'batch')  # every host has all examples

    self._features = jax.pmap(features, axis_name='batch', in_axes=(None, 0), out_axes=None)

  def __call__(self, params, train: Iterable[dict], test: Iterable[dict], *, num_train: int,
               num_test: int) -> dict[str, float]:
    """{'5shot': top-1 on `test`, the mean over the seeds, ..., 'examples': of test, 'train_examples'}.

    Test examples without a class, of label -1, are left out.

    Raises:
      RuntimeError: if the numbers of examples are not `num_train` and `num_test`, those of the splits.
      ValueError: if a class has too few training examples, or examples have several classes each.
    """
    train, train_labels = self._split(params, train, 'training', num_train)
    chosen = {f'{shots}shot': [choose(train_labels, shots, self._num_classes, seed) for seed in range(self._seeds)]
              for shots in self._shots}
    test, test_labels = self._split(params, test, 'test', num_test)
    test, test_labels = test[test_labels >= 0], test_labels[test_labels >= 0]
    score = lambda few: top1(train[few], train_labels[few], test, test_labels, self._num_classes, self._l2)
    scores = {name: float(np.mean([score(few) for few in choices])) for name, choices in chosen.items()}
    return {**scores, 'examples': len(test), 'train_examples': len(train)}

  def _split(self, params, batches, name, number):
    """(features [N, C] float32, labels [N]) of a split's `number` examples, in its order."""
    def gather(batch):
      if batch['label'].ndim > 2:
        raise ValueError(f'the {name} examples have several classes each; the few-shot probe needs one. Choose '
                         'a split whose examples have one class each')
      return self._features(params, {key: batch[key] for key in ('image', 'label', 'mask')})

    features, labels = [], []
    for gathered in map(jax.device_get, devices.dispatch_ahead(map(gather, batches))):
      real = gathered['mask'].reshape(-1) > 0
      features.append(gathered['features'].reshape(real.size, -1)[real])
      labels.append(gathered['label'].reshape(-1)[real])
    total = sum(map(len, labels))
    if total != number:
      raise RuntimeError(f'the few-shot probe saw {total} {name} examples, and the split has {number}')
    return np.concatenate(features), np.concatenate(labels)
