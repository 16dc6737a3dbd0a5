"""The evaluator of several classes an example, against plain loops."""

import jax
import numpy as np
import pytest

from mixer.data import normalize
from mixer.evaluators import classification
from mixer.evaluators import sample
from mixer import models


@pytest.fixture(scope='module')
def setup():
  """(scorer, params, batches of 2 devices x 4 examples, of which 13 of 16 are real and 11 have classes)."""
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
  got = classification.Scorer(model, 'sigmoid_xent')(params, batches, 13)
  logits = np.asarray(model.apply({'params': params}, normalize.normalize_images(whole['image'])), np.float64)
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
    classification.Scorer(model, 'sigmoid_xent')(params, nameless, 13)


@pytest.mark.parametrize('loss', ['softmax_xent', 'sigmoid_xent'])
def test_the_sample_has_the_probabilities_of_the_loss_and_the_wrong_ones_first(setup, loss):
  model, params, whole, batches = setup
  scorer = classification.Scorer(model, loss)
  assert scorer.sample is None
  scores = scorer(params, batches, 13, keep=True)
  logits = np.asarray(model.apply({'params': params}, normalize.normalize_images(whole['image'])))
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) if loss == 'softmax_xent' else 1 / (1 + np.exp(-logits))
  right = [logits[k].argmax() in whole['label'][k] for k in range(16)]
  places = sorted(set(range(13)) - {2, 7}, key=lambda k: (right[k], k))  # these two have no class
  got = scorer.sample
  np.testing.assert_array_equal(got.images, whole['image'][places])
  np.testing.assert_array_equal(got.labels, whole['label'][places])
  np.testing.assert_array_equal(got.guesses, logits.argmax(1)[places])
  np.testing.assert_allclose(got.probabilities, shares.max(1)[places], rtol=1e-4)
  assert (got.classified, got.wrong) == (11, round(11 * (1 - scores['precision_at_1'])))
  counts = np.bincount(np.concatenate([whole['label'][k][whole['label'][k] >= 0] for k in places]))
  assert got.most_frequent == counts.max()


def sampled(hits, batch_size, devices=1):
  """The places in the split, sorted by class, of the sample of a split whose examples are right or wrong."""
  number = len(hits)
  rows = -(-number // batch_size) * batch_size
  at = np.arange(rows).astype(np.uint32)
  fields = {'image': np.stack([at >> 16, at >> 8, at], -1).astype(np.uint8).reshape(-1, 1, 1, 3), 'label': at,
            'hit': np.pad(hits, (0, rows - number)).astype('float32'), 'classified': (at < number).astype('float32'),
            'guess': at, 'probability': np.ones(rows)}
  sampler = sample.Sampler()
  for first in range(0, rows, batch_size):
    part = {name: x[first:first + batch_size].reshape(devices, -1, *x.shape[1:]) for name, x in fields.items()}
    sampler.add(part, {name: part[name] for name in ('hit', 'classified', 'guess', 'probability')})
  got = sampler.sample(wrong=0, classified=number, most_frequent=0)
  np.testing.assert_array_equal(got.images[:, 0, 0].astype(int) @ [65536, 256, 1], got.labels)
  return got.labels.astype(int)


def test_a_sample_is_spread_over_the_split_and_does_not_depend_on_batches_or_devices():
  hits = np.ones(50_000)
  places = sampled(hits, 1024, devices=8)
  assert len(places) == sample.SIZE == 60 and (np.diff(places) > 0).all()
  # Sorted by 10 classes of 5,000 images each: six of each class, or nearly.
  assert set(np.bincount(places // 5000, minlength=10)) <= {5, 6, 7}
  np.testing.assert_array_equal(sampled(hits, 4096), places)


def test_wrong_ones_come_first_and_are_spread_too():
  hits = np.random.default_rng(0).random(10_000) > 0.04
  places = sampled(hits, 512)
  assert not hits[places].any() and set(places // 2500) == {0, 1, 2, 3}
  hits = np.ones(1000)
  hits[[3, 999]] = 0
  assert sampled(hits, 64)[:2].tolist() == [3, 999] and len(sampled(hits, 64)) == 60
  assert sampled([1, 0, 1], 8).tolist() == [1, 0, 2]


def test_processes_put_their_samples_together(monkeypatch):
  """Two processes, each with its half of every batch, keep what one would have kept."""
  hits = (np.arange(3000) % 50 > 0).astype('float32')
  whole = sampled(hits, 100)
  class Meet:  # the arrays of both, in the order in which they are gathered
    arrays = [[], []]
  halves = []
  for index in (0, 1):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    monkeypatch.setattr(sample.multihost_utils, 'process_allgather',
                        lambda x, index=index: (Meet.arrays[index].append(x), np.stack([x, np.zeros_like(x)]))[1])
    sampler = sample.Sampler()
    for first in range(0, 3000, 100):
      at = np.arange(first + 50 * index, first + 50 * index + 50)
      sampler.add({'image': np.zeros((1, 50, 2, 2, 3), np.uint8), 'label': at[None]},
                  {'hit': hits[at][None], 'classified': np.ones((1, 50)), 'guess': at[None], 'probability': np.ones((1, 50))})
    halves.append(sampler)
    sampler_kept = dict(sampler._kept)
    sampler.sample(wrong=0, classified=3000, most_frequent=0)
    sampler._kept = sampler_kept
  for sampler in halves:
    gathered = iter(zip(*Meet.arrays))
    monkeypatch.setattr(sample.multihost_utils, 'process_allgather', lambda x: np.stack(next(gathered)))
    np.testing.assert_array_equal(sampler.sample(wrong=60, classified=3000, most_frequent=1).labels, whole)


@pytest.mark.parametrize('num_classes, names', [(2, ['top1']), (5, ['top1']), (6, ['top1', 'top5'])])
def test_there_is_no_top_5_of_five_classes(num_classes, names):
  one = type('Source', (), {'labels': {'label': ((), 'int32')}})
  several = type('Source', (), {'labels': {'label': ((3,), 'int32')}})
  assert classification.metric_names(one, num_classes) == names
  assert classification.metric_names(several, num_classes) == ['precision_at_1', 'recall_at_5'][:len(names)]
