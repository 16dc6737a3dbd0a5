"""Permuted pixels: what is moved, that all images are moved alike, and what a Mixer makes of it (section 3.4)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import permutations as config
from configs import small_images
import input_pipeline
from mixer.data import pixel_permutations
from mixer.data import preprocess
from mixer.data import process_shard
from mixer import models

SIDE, PATCH = 8, 2
TRAIN = dict(dataset='digits', split='train', batch_size=40, resolution=SIDE, seed=0, pad=1, flip=False)
EVALUATION = dict(dataset='digits', split='test', batch_size=40, resolution=SIDE, resize=SIDE)
PATCHES = dict(permutation='patches', permutation_patch=PATCH, permutation_seed=3)
PIXELS = dict(permutation='pixels', permutation_seed=3)


def draw(kind, resolution=SIDE, patch_size=None, seed=0):
  return pixel_permutations.draw(kind, resolution, patch_size, seed)


def first(batches):
  """The images of the first batch. -> [B, R, R, 3]."""
  return next(batches.start(0) if hasattr(batches, 'start') else iter(batches))['image'][0]


def moved(images, order):
  return images.reshape(len(images), -1, 3)[:, order].reshape(images.shape)


def patches_of(images):
  """[B, R, R, 3] -> [B, S, P^2, 3], patches in raster order."""
  side = SIDE // PATCH
  return images.reshape(-1, side, PATCH, side, PATCH, 3).swapaxes(2, 3).reshape(len(images), side**2, PATCH**2, 3)


@pytest.mark.parametrize('kind, patch_size', [('patches', 2), ('patches', 4), ('pixels', None)])
def test_each_pixel_comes_to_one_place_and_the_seed_says_to_which(kind, patch_size):
  order = draw(kind, patch_size=patch_size)
  assert sorted(order) == list(range(SIDE**2))
  assert np.array_equal(order, draw(kind, patch_size=patch_size))
  assert np.mean(order == draw(kind, patch_size=patch_size, seed=1)) < 0.5
  assert np.mean(order == np.arange(SIDE**2)) < 0.5


def test_patches_stay_whole_and_their_pixels_move_alike():
  images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3))
  order, within = np.random.default_rng(1).permutation(16), np.random.default_rng(2).permutation(4)
  permuted = patches_of(moved(images, pixel_permutations.of_patches(order, within)))
  np.testing.assert_array_equal(permuted, patches_of(images)[:, order][:, :, within])


def test_pixels_leave_their_patches():
  patch_of = (np.arange(SIDE**2) // (SIDE * PATCH)) * (SIDE // PATCH) + np.arange(SIDE**2) % SIDE // PATCH
  together = lambda kind, patch_size: len({(old, new) for old, new in zip(
      patch_of, patch_of[draw(kind, patch_size=patch_size)])})
  assert together('patches', PATCH) == 16
  assert together('pixels', None) > 40


@pytest.mark.parametrize('fields', [PATCHES, PIXELS])
def test_all_images_are_moved_by_one_permutation_after_all_else(fields, data_dir):
  shard = process_shard.ProcessShard(0, 1, 1)
  order = draw(fields['permutation'], patch_size=fields.get('permutation_patch'), seed=3)
  for batches, fields_of_batches in ((input_pipeline.train_batches, dict(TRAIN, randaugment_magnitude=10.)),
                         (input_pipeline.eval_batches, EVALUATION)):
    plain, permuted = (first(batches(**fields_of_batches, data_dir=data_dir, shard=shard, **more)) for more in ({}, fields))
    np.testing.assert_array_equal(permuted, moved(plain, order))


def test_the_colours_of_a_pixel_move_together():
  image = np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
  order = draw('pixels')
  np.testing.assert_array_equal(preprocess.permute(image, order), moved(image[None], order)[0])
  assert preprocess.permute(image, None) is image


def test_to_a_mixer_permuted_patches_are_other_weights_and_so_is_its_training():
  """Section 3.4, exactly: the rows of stem and token mixing in another order, in all blocks, and so the gradients."""
  model = models.build(name='mlp_mixer', num_classes=5, patch_size=PATCH, num_blocks=3, hidden_dim=16,
                       tokens_mlp_dim=10, channels_mlp_dim=24, platform='any')
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (12, SIDE, SIDE, 3)).astype(np.float32)
  labels = rng.integers(0, 5, 12)
  order, within = rng.permutation(16), rng.permutation(4)
  params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32),
                        jax.eval_shape(model.init, jax.random.key(0), images)['params'])

  def rearranged(params):
    params = jax.tree.map(np.array, params)
    params['stem']['kernel'] = params['stem']['kernel'].reshape(4, 3, 16)[within].reshape(PATCH, PATCH, 3, 16)
    for i in range(3):
      mlp = params[f'MixerBlock_{i}']['token_mixing']
      mlp['Dense_0']['kernel'] = mlp['Dense_0']['kernel'][order]
      mlp['Dense_1'] = {name: x[..., order] for name, x in mlp['Dense_1'].items()}
    return params

  @jax.jit
  def value_and_gradients(params, images):
    def loss(params):
      logits = model.apply({'params': params}, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits
    (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, grads

  shuffled = moved(images, pixel_permutations.of_patches(order, within))
  logits, grads = value_and_gradients(params, images)
  logits_there, grads_there = value_and_gradients(rearranged(params), shuffled)
  np.testing.assert_allclose(logits_there, logits, rtol=1e-5, atol=1e-5)
  assert np.abs(value_and_gradients(params, shuffled)[0] - logits).max() > 0.1
  # With these, an optimizer that takes each weight alike keeps the two rearrangements of one another.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), grads_there, rearranged(grads))


@pytest.mark.parametrize('fields, message', [
    (dict(permutation='rows'), r"^permutation is 'rows'; it must be 'patches', 'pixels' or None"),
    (dict(permutation='patches'), '^permutation_patch is None; the patches to permute must tile the 8 x 8'),
    (dict(permutation='patches', permutation_patch=3), 'permutation_patch is 3; .*: set it to model.patch_size'),
    (dict(permutation='pixels', permutation_patch=2), "permutation_patch is 2, and permutation is 'pixels'; drop it"),
    (dict(permutation_patch=2), "permutation_patch is 2, and permutation is None; drop it, or set permutation"),
])
def test_what_is_no_permutation_is_refused(fields, message, data_dir):
  with pytest.raises(ValueError, match=message):
    input_pipeline.train_batches(**TRAIN, data_dir=data_dir, shard=process_shard.ProcessShard(0, 1, 1), **fields)


@pytest.mark.parametrize('section', ['evals.val', 'probes.other.test'])
def test_a_part_that_is_permuted_in_another_way_is_refused(section, data_dir):
  wrong = small_images.train('digits', small_images.model('mixer', 'digits'))
  for part in (wrong.data, wrong.evals.val, wrong.probes.other.train, wrong.probes.other.test):
    part.update(data_dir=data_dir, permutation='pixels', permutation_seed=0)
  shard = process_shard.ProcessShard(0, 1, 1)
  input_pipeline.build_datasets(wrong, shard)
  wrong = wrong.copy_and_resolve_references()
  (wrong.evals.val if section == 'evals.val' else wrong.probes.other.test).permutation_seed = 5
  with pytest.raises(ValueError, match=f'config.{section} permutes the pixels in another way than config.data;'):
    input_pipeline.build_datasets(wrong, shard)


@pytest.mark.parametrize('model, data, kind', list(itertools.product(
    config.JFT, config.PATCH_SIZES, config.KINDS)))
def test_every_arm_is_a_config_whose_parts_are_permuted_alike_by_its_seed(model, data, kind):
  arm = config.get_config(f'{model},{data},{kind}')
  arm.seed = 7
  parts = [arm.data, *arm.evals.values(), *(probe[part] for probe in arm.get('probes', {}).values()
                                                for part in ('train', 'test'))]
  assert len(parts) == (3 if data == 'cifar10' else 4)
  drawn = [pixel_permutations.draw(part.get('permutation'), part.resolution, part.get('permutation_patch'),
                             part.get('permutation_seed', 0)) for part in parts]
  assert all(np.array_equal(order, drawn[0]) for order in drawn)
  assert all(part.get('permutation_seed') == (None if kind == 'original' else 7) for part in parts)
  if kind == 'patches' and model != 'bit':
    assert arm.data.permutation_patch == models.build(**arm.model).patch_size
  assert (drawn[0] is None) == (kind == 'original')
  if kind != 'original':
    arm.data.permutation_seed = 8
    assert [part.permutation_seed for part in parts] == [8] * len(parts) and arm.seed == 7
