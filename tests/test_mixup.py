import jax
import numpy as np
import pytest

from mixer import mixup


def mix(images, targets, devices, strength=0.5, seed=0):
  """mixup.mix over some devices, of a whole batch. [B, ...], [B, K] -> the same."""
  split = lambda x: x.reshape(devices, -1, *x.shape[1:])
  mapped = jax.pmap(lambda x, t: mixup.mix(x, t, strength, jax.random.key(seed), 'batch'), axis_name='batch',
                    devices=jax.devices()[:devices])
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


def test_the_weight_is_the_larger_half_of_a_beta_distribution(batch):
  draw = jax.pmap(lambda x, t, key: mixup.mix(x, t, 2., key, 'batch')[1][0, 0], axis_name='batch',
                  devices=jax.devices()[:1])
  one = [x[None] for x in batch]
  weights = np.array([draw(*one, jax.random.key(seed)[None])[0] for seed in range(200)])
  draws = np.random.default_rng(0).beta(2, 2, 100_000)
  draws = np.maximum(draws, 1 - draws)
  assert weights.min() >= 0.5
  assert weights.mean() == pytest.approx(draws.mean(), abs=3 * draws.std() / 200**0.5)
