import jax
import numpy as np
import pytest
import scipy.stats

from mixer.training import mixup


def mix(images, targets, devices, alpha=0.5, seed=0):
  """mixup.mix over some devices, of a whole batch. [B, ...], [B, K] -> the same."""
  split = lambda x: x.reshape(devices, -1, *x.shape[1:])
  lam = mixup.sample_lambda(alpha, jax.random.key(seed))
  mapped = jax.pmap(lambda x, t: mixup.mix(x, t, lam, 'batch'), axis_name='batch', devices=jax.devices()[:devices])
  return [np.asarray(x).reshape(-1, *x.shape[2:]) for x in mapped(split(images), split(targets))]


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return rng.normal(size=(8, 2, 2, 3)).astype('float32'), np.eye(8, dtype='float32')


@pytest.mark.parametrize('devices', [1, 4])
def test_images_and_targets_are_mixed_alike_with_the_previous_example(batch, devices):
  images, targets = mix(*batch, devices)
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
