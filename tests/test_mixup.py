import jax
import numpy as np
import pytest
import scipy.stats

from mixer.training import mixup

STEPS = np.arange(4_000)


def mixer(mixing, devices, seed=0):
  """A function of a whole batch and a step that mixes on some devices. [B, ...], [B, K], [] -> the first two."""
  mapped = jax.pmap(lambda x, t, step: mixing(x, t, seed, step, 'batch'), axis_name='batch', in_axes=(0, 0, None),
                    devices=jax.devices()[:devices])
  split = lambda x: x.reshape(devices, -1, *x.shape[1:])
  return lambda images, targets, step=0: [np.asarray(x).reshape(-1, *x.shape[2:])
                                          for x in mapped(split(images), split(targets), step)]


def weights(mixing, height=12, width=9, seed=0, steps=STEPS):
  """Those of the pixels and of the targets in each step."""
  return [np.asarray(x) for x in jax.jit(jax.vmap(lambda step: mixing.weights(seed, step, height, width)))(steps)]


def boxes_by_hand(alpha, number, height=12, width=9):
  """1 outside the boxes of CutMix, as they are in its authors' train.py. -> [number, H, W]."""
  rng = np.random.default_rng(0)
  outside = np.ones((number, height, width))
  for of_one in outside:
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    (y, half_y), (x, half_x) = ((rng.integers(size), int(size * side) // 2) for size in (height, width))
    of_one[max(0, y - half_y):y + half_y, max(0, x - half_x):x + half_x] = 0
  return outside


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return rng.normal(size=(8, 12, 9, 3)).astype('float32'), np.eye(8, dtype='float32')


@pytest.mark.parametrize('devices', [1, 4])
def test_images_and_targets_are_mixed_alike_with_the_previous_example(batch, devices):
  images, targets = mixer(mixup.Mixing(0.5), devices)(*batch)
  lam = targets[0, 0]
  assert 0.5 <= lam < 1
  expected = lam * batch[0] + (1 - lam) * np.roll(batch[0], 1, axis=0)
  np.testing.assert_allclose(images, expected, atol=1e-6)
  np.testing.assert_allclose(targets, lam * np.eye(8) + (1 - lam) * np.roll(np.eye(8), 1, axis=0), atol=1e-6)


@pytest.mark.parametrize('alpha', [0.2, 0.5, 2.])
def test_lambda_is_the_larger_half_of_a_beta_distribution(alpha):
  lambdas = jax.vmap(lambda key: mixup.sample_lambda(alpha, key))(jax.random.split(jax.random.key(0), 4_000))
  draws = np.random.default_rng(0).beta(alpha, alpha, 100_000)
  draws = np.maximum(draws, 1 - draws).astype(np.float32)  # of 0.2 many round to 1
  assert scipy.stats.ks_2samp(lambdas, draws).pvalue > 0.01


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_cutmix_pastes_a_box_of_the_previous_example_and_its_part_of_the_targets(batch, devices):
  mix, previous, areas = mixer(mixup.Mixing(cutmix=1.), devices, seed=3), np.roll(batch[0], 1, axis=0), []
  for step in range(6):
    images, targets = mix(*batch, step)
    pasted = (images == previous).all(-1)
    assert (np.where(pasted[..., None], previous, batch[0]) == images).all() and (pasted == pasted[0]).all()
    rows, columns = pasted[0].any(1), pasted[0].any(0)
    assert (pasted[0] == np.outer(rows, columns)).all()
    assert all(np.abs(np.diff(side, prepend=0, append=0)).sum() <= 2 for side in (rows.astype(int), columns.astype(int)))
    share = pasted[0].mean()
    np.testing.assert_allclose(targets, (1 - share) * np.eye(8) + share * np.roll(np.eye(8), 1, axis=0), atol=1e-6)
    areas.append(pasted[0].sum())
  outside, _ = weights(mixup.Mixing(cutmix=1.), seed=3, steps=np.arange(6))
  assert areas == (1 - outside).sum((1, 2, 3)).tolist() and len(set(areas)) > 3


@pytest.mark.parametrize('alpha', [0.3, 1.])
def test_boxes_are_those_of_the_authors(alpha):
  outside, lam = weights(mixup.Mixing(cutmix=alpha))
  assert outside.shape == (len(STEPS), 12, 9, 1)
  np.testing.assert_allclose(lam, outside.mean((1, 2, 3)), rtol=1e-6)
  expected = boxes_by_hand(alpha, 20_000)
  assert scipy.stats.ks_2samp(lam, expected.mean((1, 2)).astype('float32')).pvalue > 0.01
  assert np.abs(outside.mean(0)[..., 0] - expected.mean(0)).max() < 0.04  # 4.5 standard deviations


@pytest.mark.parametrize('probability', [0., 0.25, 0.5, 1.])
@pytest.mark.parametrize('alpha', [0., 0.5])
def test_a_share_of_the_steps_has_cutmix_and_the_others_what_they_would_have(probability, alpha):
  outside, lam = weights(mixup.Mixing(alpha, 1., probability))
  boxes, areas = weights(mixup.Mixing(cutmix=1.))
  others = weights(mixup.Mixing(alpha))[1] if alpha else np.ones(len(STEPS))
  is_cutmix = lam == areas if alpha else (outside == boxes).all((1, 2, 3)) & (areas < 1)
  possible = 1. if alpha else (areas < 1).mean()  # some boxes are of no pixel
  assert is_cutmix.mean() == pytest.approx(probability * possible, abs=0.03)
  assert (lam == np.where(is_cutmix, areas, others)).all()
  assert (outside == np.where(is_cutmix[:, None, None, None], boxes, others[:, None, None, None])).all()


def test_the_box_depends_on_seed_and_step_alone():
  lambdas = [weights(mixup.Mixing(cutmix=1.), 64, 64, seed, STEPS[:50])[1] for seed in (0, 1, 0)]
  assert (lambdas[0] == lambdas[2]).all() and len(np.unique(lambdas[:2])) > 90


def test_mixup_without_cutmix_has_the_lambda_that_it_always_had():
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 7), 1)
  of_pixels, lam = mixup.Mixing(0.5).weights(3, 7, 12, 9)
  assert of_pixels is lam and lam == mixup.sample_lambda(0.5, key)
