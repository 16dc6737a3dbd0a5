"""A change of resolution, against the base model on tiles and against resized images; and how it starts a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer import flops
from mixer import models
from mixer.models import mlp_mixer
from mixer import trees
from mixer.weights import start_from
from mixer.models import token_mixing_resize

# Exact parameters without head and 1e9 multiply-adds at 448 pixels with token-mixing MLPs 4 times as wide, as computed
# from Table 1 and App. C.
AT_448 = {'S/32': (21_609_504, 5.24), 'S/16': (30_068_352, 20.04), 'B/32': (66_313_776, 17.11),
          'B/16': (86_227_392, 67.05), 'L/32': (224_018_016, 59.81), 'L/16': (279_475_584, 237.38),
          'H/14': (588_442_368, 645.02)}

SIDE = 2  # tokens a side at the base resolution
SMALL = dict(name='mlp_mixer', patch_size=2, num_blocks=2, hidden_dim=8, tokens_mlp_dim=6, channels_mlp_dim=12,
             platform='any')  # whose layers tell what they compute


def a_model(**fields):
  return models.build(**{**SMALL, 'num_classes': None, **fields})


def shapes(model, side):
  """Of the parameters for images of side x side tokens."""
  images = jnp.zeros((1, side * model.patch_size, side * model.patch_size, 3))
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']


def random_params(model, side, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(scale=0.5, size=x.shape).astype(x.dtype), shapes(model, side))


def token_mlps(params):
  return [params[f'MixerBlock_{i}']['token_mixing'] for i in range(SMALL['num_blocks'])]


# The model for K times the resolution


@pytest.mark.slow
@pytest.mark.parametrize('variant', AT_448)
def test_sizes_at_448(variant):
  model = models.build(name='mlp_mixer', variant=variant, tiles=2, num_classes=None)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 448, 448, 3)))['params']
  macs = flops.macs(model.apply, {'params': params}, jax.ShapeDtypeStruct((1, 448, 448, 3), 'float32'))
  head = model.hidden_dim * 1000 / 1e9  # that figure counts a head of 1,000 classes
  assert (trees.count(params), round(macs / 1e9 + head, 2)) == AT_448[variant]


def test_no_tiles():
  with pytest.raises(ValueError, match=r'config\.model\.tiles is 0; it must be at least 1'):
    shapes(a_model(tiles=0), SIDE)


# Block-diagonal


def features_and_tokens(model, params, images):
  """([B, C], [B, S, C]): the features, and the tokens of which they are the mean."""
  apply = functools.partial(model.apply, mutable=['intermediates'],
                            capture_intermediates=lambda module, _: module.name == 'pre_head_layer_norm')
  features, captured = jax.jit(apply)({'params': params}, images)
  return np.asarray(features), np.asarray(captured['intermediates']['pre_head_layer_norm']['__call__'][0])


@functools.cache
def on_tiles(tiles):
  """(parameters, images of tiles x tiles parts, the base model's features [B, K^2, C] and tokens in raster order)."""
  model = a_model()
  params = random_params(model, SIDE)
  pixels = SIDE * model.patch_size
  images = np.random.default_rng(1).uniform(-1, 1, (3, tiles * pixels, tiles * pixels, 3)).astype(np.float32)
  parts = images.reshape(3, tiles, pixels, tiles, pixels, 3).transpose(0, 1, 3, 2, 4, 5)
  features, tokens = features_and_tokens(model, params, parts.reshape(-1, pixels, pixels, 3))
  grid = tokens.reshape(3, tiles, tiles, SIDE, SIDE, 8).transpose(0, 1, 3, 2, 4, 5)
  return params, images, features.reshape(3, tiles**2, 8), grid.reshape(3, -1, 8)


@pytest.mark.parametrize('tiles', [2, 3])
def test_widened_model_is_the_base_model_on_each_tile(tiles):
  params, images, expected_features, expected_tokens = on_tiles(tiles)
  widened = token_mixing_resize.block_diagonal(params, tiles)
  features, tokens = features_and_tokens(a_model(tiles=tiles), widened, images)
  np.testing.assert_allclose(tokens, expected_tokens, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(features, expected_features.mean(axis=1), rtol=1e-4, atol=1e-5)


def test_blocks_of_neighbours_in_the_raster_are_not_tiles():
  """Equal blocks along the diagonal would mix rows of tokens: it is the order of tiles that makes them right."""
  params, images, _, expected_tokens = on_tiles(2)
  widened = token_mixing_resize.block_diagonal(params, 2)
  for mlp, base in zip(token_mlps(widened), token_mlps(params), strict=True):
    for layer in ('Dense_0', 'Dense_1'):
      mlp[layer] = {'kernel': np.kron(np.eye(4, dtype=np.float32), base[layer]['kernel']),
                    'bias': np.tile(base[layer]['bias'], 4)}
  _, tokens = features_and_tokens(a_model(tiles=2), widened, images)
  assert np.abs(tokens - expected_tokens).max() > 0.1


@pytest.mark.parametrize('change', [lambda params: token_mixing_resize.block_diagonal(params, 2),
                                    lambda params: token_mixing_resize.interpolated(params, 9)])
def test_only_token_mixing_changes_and_types_stay(change):
  params = jax.tree.map(lambda x: x.astype(np.float16), random_params(a_model(), SIDE))
  changed = change(params)
  assert {x.dtype for x in jax.tree.leaves(changed)} == {np.dtype(np.float16)}
  assert all(changed[f'MixerBlock_{i}'].pop('token_mixing') is not params[f'MixerBlock_{i}'].pop('token_mixing')
             for i in range(2))
  assert jax.tree.map(id, changed) == jax.tree.map(id, params)


# Interpolated


@functools.partial(jax.jit, static_argnums=1)
def resized(tokens, side):
  """Token maps [S, C] at side x side tokens, by JAX's bilinear resizing."""
  old = round(len(tokens)**0.5)
  return jax.image.resize(tokens.reshape(old, old, -1), (side, side, tokens.shape[-1]), 'linear').reshape(side**2, -1)


def mixed(mlp, tokens):
  """One channel-wise MLP on tokens. [S, C] -> [S, C]."""
  module = mlp_mixer.MlpBlock(mlp_dim=mlp['Dense_0']['bias'].size)
  return jax.jit(module.apply)({'params': mlp}, tokens.T).T


GRIDS = [(3, 4), (5, 3), (2, 6), (6, 2)]


@pytest.mark.parametrize('side, new', GRIDS)
def test_interpolated_outputs_are_resized_and_tokens_all_alike_keep_their_response(side, new):
  params = random_params(a_model(), side)
  alike = np.random.default_rng(2).normal(size=(1, 8)).astype(np.float32)
  for mlp, base in zip(token_mlps(token_mixing_resize.interpolated(params, new**2)), token_mlps(params), strict=True):
    expected = resized(mixed(base, np.repeat(alike, side**2, axis=0)), new)
    np.testing.assert_allclose(mixed(mlp, np.repeat(alike, new**2, axis=0)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('side, new', GRIDS)
def test_interpolated_filters_are_resized_filters(side, new):
  """Divided first by what each of their pixels weighs in an image resized, S'/S of itself on average."""
  params = random_params(a_model(), side)
  weights = np.asarray(resized(np.eye(side**2), new)).sum(axis=0)
  assert weights.mean() == pytest.approx(new**2 / side**2)
  for mlp, base in zip(token_mlps(token_mixing_resize.interpolated(params, new**2)), token_mlps(params), strict=True):
    expected = resized(base['Dense_0']['kernel'] / weights[:, None], new)
    np.testing.assert_allclose(mlp['Dense_0']['kernel'], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mlp['Dense_0']['bias'], base['Dense_0']['bias'])


def test_interpolation_to_the_same_grid_is_the_identity():
  params = random_params(a_model(), 3)
  jax.tree.map(np.testing.assert_array_equal, token_mixing_resize.interpolated(params, 9), params)


def test_interpolated_parameters_fit_the_model():
  model = a_model()
  changed = token_mixing_resize.interpolated(random_params(model, 2), 25)
  assert jax.tree.map(np.shape, changed) == jax.tree.map(np.shape, shapes(model, 5))


# Where a run starts


def to_start(there=None, here=None, sides=(2, 2), **options):
  """start() with the weights of one model for another one, whose own parameters are of other numbers."""
  original = random_params(a_model(**{'num_classes': 5, **(there or {})}), sides[0])
  expected = random_params(a_model(**{'num_classes': 5, **(here or {})}), sides[1], seed=1)
  return original, expected, start_from.fit(original, expected, **{'head': 'given', **options})


def test_given_weights_are_taken_as_they_are():
  original, _, params = to_start()
  jax.tree.map(np.testing.assert_array_equal, params, original)


def test_a_fresh_head_is_the_models_own():
  original, expected, params = to_start(here=dict(num_classes=7), head='fresh')
  jax.tree.map(np.testing.assert_array_equal, params, {**original, 'head': expected['head']})


def test_weights_without_a_head_take_a_fresh_one():
  _, expected, params = to_start(there=dict(num_classes=None), head='fresh')
  jax.tree.map(np.testing.assert_array_equal, params['head'], expected['head'])


@pytest.mark.parametrize('here, side, options, change', [
    (dict(tiles=3), 6, dict(token_mixing='block_diagonal'), lambda params: token_mixing_resize.block_diagonal(params, 3)),
    ({}, 6, dict(token_mixing='interpolated'), lambda params: token_mixing_resize.interpolated(params, 36)),
    ({}, 1, dict(token_mixing='interpolated'), lambda params: token_mixing_resize.interpolated(params, 1)),
])
def test_token_mixing_is_fitted_by_the_named_method(here, side, options, change):
  original, _, params = to_start(here=here, sides=(2, side), **options)
  jax.tree.map(np.testing.assert_array_equal, params, change(original))


def test_types_are_the_models():
  _, _, params = to_start(here=dict(param_dtype='bfloat16', tiles=2), sides=(2, 4), token_mixing='block_diagonal')
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16'}


OF_WEIGHTS = r'the token-mixing MLPs of the weights are 6 wide for 2 x 2 tokens, and those of this model '


@pytest.mark.parametrize('here, side, token_mixing, message', [
    (dict(tiles=2), 4, None, r'24 wide for 4 x 4 tokens\. Set config\.data\.resolution to that of the weights, or '
     r"config\.start_from\.token_mixing to 'block_diagonal' \(App\. C; it needs config\.model\.tiles=2\) or '"
     r"interpolated'$"),
    ({}, 3, None, r"6 wide for 3 x 3 .* to 'interpolated' \('block_diagonal', of App\. C, is for a whole multiple of "
     r'2 x 2\)'),
    ({}, 3, 'block_diagonal', r"6 wide for 3 x 3 tokens\. config\.start_from\.token_mixing='block_diagonal' \(App\. C"
     r"\) is for a whole multiple of 2 x 2: choose config\.data\.resolution so, or 'interpolated'"),
    ({}, 1, 'block_diagonal', r'6 wide for 1 x 1 tokens\..* is for a whole multiple of 2 x 2'),
    ({}, 4, 'block_diagonal', r'6 wide for 4 x 4 tokens\. .* makes them 24 wide: set config\.model\.tiles=2'),
    (dict(tiles=2), 4, 'interpolated', r"24 wide for 4 x 4 tokens\. config\.start_from\.token_mixing='interpolated' "
     r'keeps the width: leave out config\.model\.tiles'),
    (dict(tiles=2), 2, 'block_diagonal', r'24 wide for 2 x 2 tokens\. Set config\.model\.tiles and config\.model\.'
     r'tokens_mlp_dim so that they are 6 wide'),
])
def test_grids_that_the_method_does_not_join(here, side, token_mixing, message):
  with pytest.raises(ValueError, match=OF_WEIGHTS + message):
    to_start(here=here, sides=(2, side), token_mixing=token_mixing)


def test_images_that_are_not_square():
  """Six tokens may be kept, and not resized."""
  model = a_model()
  images = jnp.zeros((1, 4, 6, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  assert token_mixing_resize.fit(params, params, None) is params
  with pytest.raises(ValueError, match='the 6 tokens of a token-mixing MLP are not those of a square image'):
    token_mixing_resize.fit(params, shapes(model, 4), 'interpolated')


def test_heads_of_other_classes():
  with pytest.raises(ValueError, match=r'the head of the weights has 5 classes, and config\.model\.num_classes is 7; '
                     r"set config\.start_from\.head='fresh' for a new one, or config\.model\.num_classes=5"):
    to_start(here=dict(num_classes=7))
  with pytest.raises(ValueError, match=r'the weights have no head, and config\.model\.num_classes is 5; set config\.'
                                       r"start_from\.head='fresh'"):
    to_start(there=dict(num_classes=None))


@pytest.mark.parametrize('here, line', [
    (dict(num_blocks=3), r'MixerBlock_2/token_mixing/Dense_0/kernel +- +\(any\)'),
    (dict(hidden_dim=16), r'pre_head_layer_norm/scale +\(8,\) +\(16,\)'),
    (dict(patch_size=4), r'stem/kernel +\(2, 2, 3, 8\) +\(4, 4, 3, 8\)'),
])
def test_weights_of_another_model(here, line):
  with pytest.raises(ValueError, match=rf'the weights do not fit the model of this config:\n  array +weights +'
                                       rf'config\.model\n(?s:.*){line}(?s:.*)\nSet config\.model to the sizes of the '
                                       'weights'):
    to_start(here=here)
