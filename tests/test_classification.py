"""The evaluator of several classes an example, against plain loops."""

import flax.jax_utils
import jax
import numpy as np
import pytest

from mixer import models
from mixer.evaluators import classification


@pytest.fixture(scope='module')
def setup():
  """(scorer, replicated params, batches of 2 devices x 4 examples, of which 13 of 16 are real and 11 have classes)."""
  model = models.build(name='mlp_mixer', num_classes=8, patch_size=4, num_blocks=1, hidden_dim=16, tokens_mlp_dim=4,
                       channels_mlp_dim=8)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), 'float32'))['params']
  params['head']['kernel'] = jax.random.normal(jax.random.key(1), (16, 8)) * 3
  rng = np.random.default_rng(0)
  labels = np.array([sorted(rng.choice(8, 3, replace=False)) for _ in range(16)])
  labels[np.arange(16) % 3 == 1, 2] = -1
  labels[[2, 7]] = -1
  mask = (np.arange(16) < 13).astype('float32')
  whole = {'image': rng.integers(0, 256, (16, 8, 8, 3), np.uint8), 'label': labels, 'mask': mask}
  batches = [{name: x[first:first + 8].reshape(2, 4, *x.shape[1:]) for name, x in whole.items()} for first in (0, 8)]
  return model, params, whole, batches


def test_precision_recall_and_loss_are_over_the_examples_that_have_a_class(setup):
  model, params, whole, batches = setup
  got = classification.Scorer(model, 'sigmoid_xent')(flax.jax_utils.replicate(params, jax.devices()[:2]), batches, 13)
  logits = np.asarray(model.apply({'params': params}, models.scale(whole['image'])), np.float64)
  hits, recalls, losses = [], [], []
  for k in range(13):
    classes = {int(x) for x in whole['label'][k] if x >= 0}
    ranked = np.argsort(-logits[k])
    target = np.array([c in classes for c in range(8)])
    if classes:
      losses.append(np.sum(np.log1p(np.exp(np.where(target, -logits[k], logits[k])))))
      hits.append(ranked[0] in classes)
      recalls.append(len(classes & set(ranked[:5].tolist())) / len(classes))
  assert len(hits) == 11 and 0 < np.mean(hits) < 1
  assert got == {'precision_at_1': pytest.approx(np.mean(hits)), 'recall_at_5': pytest.approx(np.mean(recalls)),
                 'loss': pytest.approx(np.mean(losses), rel=1e-5), 'examples': 13, 'classified': 11}


def test_a_split_without_a_class_is_an_error(setup):
  model, params, whole, batches = setup
  nameless = [{**batch, 'label': np.full_like(batch['label'], -1)} for batch in batches]
  with pytest.raises(RuntimeError, match='none of the 13 examples of the split has a class to score by'):
    classification.Scorer(model, 'sigmoid_xent')(flax.jax_utils.replicate(params, jax.devices()[:2]), nameless, 13)


@pytest.mark.parametrize('loss, total', [('softmax_xent', 1), ('sigmoid_xent', None)])
def test_probabilities_are_those_of_the_loss(setup, loss, total):
  model, params, whole, batches = setup
  images, labels, got = classification.Scorer(model, loss).predictions(
      flax.jax_utils.replicate(params, jax.devices()[:2]), batches[1])
  assert len(images) == len(labels) == len(got) == 5  # the three of the filling are left out
  logits = np.asarray(model.apply({'params': params}, models.scale(whole['image'][8:13])))
  wanted = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) if total else 1 / (1 + np.exp(-logits))
  np.testing.assert_allclose(got, wanted, rtol=1e-4)
