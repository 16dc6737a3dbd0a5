import jax
import numpy as np
import pytest
import scipy.stats

from mixer.training import mixup


def mix(images, targets, devices, strength=0.5, seed=0):
  """mixup.mix over some devices, of a whole batch. [B, ...], [B, K] -> the same."""
  split = lambda x: x.reshape(devices, -1, *x.shape[1:])
  weight = mixup.draw_weight(strength, jax.random.key(seed))
  mapped = jax.pmap(lambda x, t: mixup.mix(x, t, weight, 'batch'), axis_name='batch', devices=jax.devices()[:devices])
  return [np.asarray(x).reshape(-1, *x.shape[2:]) for x in mapped(split(images), split(targets))]


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return rng.normal(size=(8, 2, 2, 3)).astype('float32'), np.eye(8, dtype='float32')


@pytest.mark.parametrize('devices', [1, 4])
def test_images_and_targets_are_mixed_alike_with_the_example_before(batch, devices):
  images, targets = mix(*batch, devices)
  weight = targets[0, 0]
  assert 0.5 <= weight < 1
  wanted = weight * batch[0] + (1 - weight) * np.roll(batch[0], 1, axis=0)
  np.testing.assert_allclose(images, wanted, atol=1e-6)
  np.testing.assert_allclose(targets, weight * np.eye(8) + (1 - weight) * np.roll(np.eye(8), 1, axis=0), atol=1e-6)


@pytest.mark.parametrize('strength', [0.2, 0.5, 2.])
def test_the_weight_is_the_larger_half_of_a_beta_distribution(strength):
  weights = jax.vmap(lambda key: mixup.draw_weight(strength, key))(jax.random.split(jax.random.key(0), 4_000))
  draws = np.random.default_rng(0).beta(strength, strength, 100_000)
  draws = np.maximum(draws, 1 - draws).astype(np.float32)  # of 0.2 many round to 1
  assert scipy.stats.ks_2samp(weights, draws).pvalue > 0.01
