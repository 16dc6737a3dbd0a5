"""The token mixings of App. A: their equations, what each ignores and what it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import appendix_a as config
from mixer import arguments
from mixer import models
from mixer.models import appendix_a
from mixer.models import mlp_mixer

BATCH, TOKENS, CHANNELS, HIDDEN, GROUPS = 2, 6, 8, 5, 2
SMALL = dict(num_classes=5, patch_size=4, num_blocks=2, hidden_dim=CHANNELS, tokens_mlp_dim=HIDDEN, channels_mlp_dim=12,
             platform='any')
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 8, 12, 3)).astype(np.float32)  # six patches of 4 x 4
MODELS = {'untied_mixer': {}, 'grouped_mixer': dict(groups=GROUPS), 'views_mixer': dict(groups=GROUPS),
          'pyramid_mixer': dict(tokens=(6, 3))}
X = np.random.default_rng(1).normal(size=(BATCH, TOKENS, CHANNELS)).astype(np.float32)


# They are computed once, and need no care of the compiler.
FAST = {'xla_backend_optimization_level': 0}


def apply(module, params, *arguments):
  return jax.jit(module.apply, compiler_options=FAST)({'params': params}, *arguments)


def filled(module, *arguments, seed=2):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32),
                      jax.eval_shape(module.init, jax.random.key(0), *arguments))['params']


def small(name, **fields):
  model = models.build(name=name, **{**SMALL, **MODELS[name], **fields})
  return model, filled(model, IMAGES)


def mlp(layer, x):
  """W2 gelu(W1 x), with biases, in float64. [M] -> [N]."""
  layer = jax.tree.map(lambda x: np.asarray(x, np.float64), layer)
  h = x @ layer['Dense_0']['kernel'] + layer['Dense_0']['bias']
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  return h @ layer['Dense_1']['kernel'] + layer['Dense_1']['bias']


# The four ways, an example and a column at a time


def untied(params, x):
  return np.stack([mlp(jax.tree.map(lambda w: w[c], params['mlp']), x[:, c]) for c in range(CHANNELS)], 1)


def grouped(params, x):
  columns = [np.concatenate([x[:, c + g] for g in range(GROUPS)]) for c in range(0, CHANNELS, GROUPS)]
  return np.concatenate([mlp(params['mlp'], column).reshape(GROUPS, TOKENS).T for column in columns], 1)


def views(params, x):
  size = CHANNELS // GROUPS
  view = [x @ np.asarray(params['views']['kernel'], np.float64)[:, g * size:(g + 1) * size] for g in range(GROUPS)]
  out = np.zeros((GROUPS, TOKENS, size))
  for f in range(size):
    out[:, :, f] = mlp(params['grouped']['mlp'], np.concatenate([v[:, f] for v in view])).reshape(GROUPS, TOKENS)
  return np.concatenate(list(out), 1)


def reducing(params, x):
  return np.stack([mlp(params, x[:, c]) for c in range(CHANNELS)], 1)


@pytest.mark.parametrize('module, reference, tokens', [
    (appendix_a.Untied(HIDDEN), untied, TOKENS), (appendix_a.Grouped(HIDDEN, GROUPS), grouped, TOKENS),
    (appendix_a.Views(HIDDEN, GROUPS), views, TOKENS), (appendix_a.Reducing(HIDDEN, 3), reducing, 3)])
def test_token_mixing_is_that_of_the_paper(module, reference, tokens):
  params = filled(module, X)
  actual = apply(module, params, X)
  assert actual.shape == (BATCH, tokens, CHANNELS)
  np.testing.assert_allclose(actual, [reference(params, x) for x in X.astype(np.float64)], rtol=1e-4, atol=1e-4)


def test_the_rest_is_the_mixers():
  """With the Mixer's own token mixing in its place, it is the Mixer."""
  class Own(appendix_a.Mixer):
    def mixing(self, block):
      return lambda name, **dtypes: appendix_a.Reducing(HIDDEN, TOKENS, name=name, **dtypes)

  plain = models.build(name='mlp_mixer', **SMALL)
  params = filled(plain, IMAGES)
  np.testing.assert_allclose(apply(Own(**SMALL), params, IMAGES), apply(plain, params, IMAGES), rtol=1e-4, atol=1e-4)
  features = apply(Own(**SMALL).clone(num_classes=None), params, IMAGES)
  np.testing.assert_allclose(features @ params['head']['kernel'] + params['head']['bias'], apply(plain, params, IMAGES),
                             rtol=1e-4, atol=1e-4)
  init = jax.jit(Own(**SMALL, head_bias_init=-3.).init, compiler_options=FAST)
  head = init(jax.random.key(0), IMAGES)['params']['head']
  assert np.all(head['kernel'] == 0) and np.all(head['bias'] == -3)


def test_channels_tied_to_one_another_are_the_mixers():
  """Untied MLPs with equal weights are one MLP, and one group is no group."""
  whole = mlp_mixer.MlpBlock(HIDDEN)
  params = filled(whole, np.swapaxes(X, 1, 2))
  expected = np.swapaxes(apply(whole, params, np.swapaxes(X, 1, 2)), 1, 2)
  copied = jax.tree.map(lambda w: jnp.stack([w] * CHANNELS), params)
  for module, original in ((appendix_a.Untied(HIDDEN), copied), (appendix_a.Grouped(HIDDEN, 1), params)):
    np.testing.assert_allclose(apply(module, {'mlp': original}, X), expected, rtol=1e-5, atol=1e-5)


def test_untied_parameters_start_as_those_of_a_channel_each():
  module = appendix_a.Untied(64)
  init = jax.jit(module.init, compiler_options=FAST)
  kernel = init(jax.random.key(0), np.zeros((1, 100, 8), np.float32))['params']['mlp']['Dense_0']['kernel']
  assert kernel.shape == (8, 100, 64)
  assert np.std(kernel) == pytest.approx(0.1, rel=0.05)  # 1 / sqrt(fan in), of one channel
  assert np.abs(np.corrcoef(np.reshape(kernel, (8, -1))) - np.eye(8)).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_an_examples_noise_is_its_own_and_without_keys_or_rate_there_is_none(name):
  model, params = small(name, stochastic_depth=0.9)
  keys = jax.random.split(jax.random.key(1), 3)
  noisy, plain = apply(model, params, IMAGES, keys), apply(model, params, IMAGES)
  turned = apply(model, params, IMAGES[::-1].copy(), keys[::-1])
  np.testing.assert_allclose(noisy, turned[::-1], rtol=1e-4, atol=1e-4)
  assert np.abs(noisy - plain).max() > 0.01
  np.testing.assert_allclose(plain, apply(model.clone(stochastic_depth=0.), params, IMAGES, keys), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name, fields, message', [
    ('grouped_mixer', dict(groups=3), 'config.model.groups is 3; it must divide the channels, hidden_dim, 8'),
    ('views_mixer', dict(groups=0), 'config.model.groups is 0; it must divide the channels, hidden_dim, 8'),
    ('pyramid_mixer', dict(tokens=(6,)), r'config.model.tokens is \(6,\); it must have the number of tokens that each '
     'of the 2 blocks outputs'),
    ('pyramid_mixer', dict(tokens=(6, 0)), r'config.model.tokens is \(6, 0\)'),
    ('untied_mixer', dict(patch_size=5), 'patch_size is 5; patches of 5 x 5 pixels must tile the images, which are 8 x'),
])
def test_sizes_that_no_model_has(name, fields, message):
  with pytest.raises(ValueError, match=message):
    small(name, **fields)


def test_what_a_model_needs_is_named():
  with pytest.raises(ValueError, match='config.model.groups is missing'):
    models.build(name='views_mixer', **SMALL)


def test_every_arm_is_a_model_that_differs_from_the_mixer_in_its_tokens_mixing_alone():
  for data, side in (('digits', 8), ('jft', 224)):
    shapes = {}
    for arm in config.MODELS:
      model = models.build(**config.get_config(f'{arm},{data}').model)
      image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
      params = jax.eval_shape(model.init, jax.random.key(0), image)['params']
      for i in range(model.num_blocks):
        del params[f'MixerBlock_{i}']['token_mixing']
      shapes[arm] = jax.tree.map(lambda x: x.shape, params)
    assert all(shapes[arm] == shapes['plain'] for arm in shapes)


@pytest.mark.parametrize('name, expected', [
    # 4 tokens by 8 channels: the inputs of both MLPs; hidden layers of 5 for each column and of 12 for each token.
    ('untied_mixer', [(32, 32 + 32 + 8 * 5 + 4 * 12)] * 2),
    ('grouped_mixer', [(32, 32 + 32 + 4 * 5 + 4 * 12)] * 2),
    ('views_mixer', [(32, 32 + 32 + 32 + 4 * 5 + 4 * 12)] * 2),  # and the views
    ('pyramid_mixer', [(32, 32 + 48 + 8 * 5 + 6 * 12), (48, 48 + 24 + 8 * 5 + 3 * 12)]),  # 6 tokens, then 3
])
def test_the_activations_of_each(name, expected):
  assert small(name)[0].activations(8) == expected


def test_an_mlp_for_each_channel_has_the_activations_of_one_for_all():
  assert small('untied_mixer')[0].activations(8) == mlp_mixer.MlpMixer(**SMALL).activations(8)


SIZES = dict(num_classes=3, patch_size=4, num_blocks=1, hidden_dim=8, tokens_mlp_dim=4, channels_mlp_dim=8)
VIT = dict(num_classes=3, patch_size=4, num_blocks=1, hidden_dim=8, mlp_dim=8, num_heads=2)


@pytest.mark.parametrize('name, sizes, field, value, message', [
    ('untied_mixer', SIZES, 'stochastic_depth', 1., 'it must be at least 0 and below 1'),
    ('untied_mixer', SIZES, 'patch_size', 0, 'it must be at least 1'),
    ('untied_mixer', SIZES, 'num_blocks', -1, 'it must be at least 1'),
    ('mlp_mixer', SIZES, 'head_bias_init', float('nan'), 'it must be a finite number'),
    ('mlp_mixer', SIZES, 'dropout_rate', float('nan'), 'it must be a finite number, at least 0 and below 1'),
    ('mlp_mixer', SIZES, 'tiles', 0, 'it must be at least 1'),
    ('vit', VIT, 'head_bias_init', float('-inf'), 'it must be a finite number'),
    ('vit', VIT, 'representation_size', 0, 'it must be at least 1'),
    ('bit_resnet', dict(num_classes=3, units=(1,), width_factor=0.5), 'width_factor', float('inf'),
     'it must be a finite number'),
    ('bit_resnet', dict(num_classes=3, units=(1,), width_factor=0.5), 'num_classes', 0, 'it must be at least 1'),
])
def test_a_number_of_any_model_out_of_its_range_is_refused_by_name(name, sizes, field, value, message):
  with pytest.raises(ValueError, match=rf'^config.model.{field} is {value}; {message}$'):
    models.build(name=name, **{**sizes, field: value})
  with pytest.raises(arguments.ArgumentError, match=rf'^{field} is {value}; {message}$'):  # the class used alone
    models.FAMILIES[name].model(**{**sizes, field: value})
