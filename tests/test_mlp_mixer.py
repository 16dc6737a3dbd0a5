"""The Mixer: its published sizes and names, its equations, and what follows from them."""

import csv
import functools
import itertools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from mixer import flops
from mixer import models
from mixer.models import cpu_layers
from mixer.models import mlp_mixer
from mixer.models import stochastic
from mixer import trees

TABLE_1 = list(csv.DictReader((golden.FOLDER / 'table1_specs.csv').open()))
VARIANTS = [row['model'].removeprefix('Mixer-') for row in TABLE_1]
ONE_DAILY = [pytest.param(name, marks=[pytest.mark.slow] if name != 'S/32' else []) for name in VARIANTS]

# 8 x 12 pixels: six patches, in two rows of three.
SMALL = dict(name='mlp_mixer', num_classes=5, patch_size=4, num_blocks=3, hidden_dim=16, tokens_mlp_dim=10,
             channels_mlp_dim=24, platform='any')
SHAPE = (8, 12, 3)

# Ways to compute the same model. The first one is the paper's listing.
FORMS = [dict(platform=platform, scan=scan, remat=remat) for platform in ('any', 'cpu', 'gpu') for scan in (False, True)
         for remat in ('none', 'block')]
FORM_NAMES = [' '.join(map(str, form.values())) for form in FORMS]
DAILY_FORMS = [FORMS[2], FORMS[4], FORMS[8]]  # of the slowest tests: a scan of the listing, and a CPU's and a GPU's form

NOISE = dict(dropout_rate=0.3, stochastic_depth=0.5, stochastic_depth_rule='rescaled')  # of all kinds

# LLVM takes 20 s over the random numbers of dropout, which are soon computed without its care.
FAST = {'xla_backend_optimization_level': 0}


@functools.cache
def param_shapes(model, image_shape):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))['params']


def filled(shapes, seed=0):
  """Parameters without any zeros or ones: kernels that keep the scale, LayerNorm scales about 1."""
  rng = np.random.default_rng(seed)

  def fill(path, x):
    values = rng.normal(size=x.shape)
    fan_in = np.prod(x.shape[:-1])
    by_name = {'kernel': values / np.sqrt(fan_in), 'bias': 0.3 * values, 'scale': 1 + 0.3 * values}
    return jnp.asarray(by_name[path[-1].key], jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def small_model(**fields):
  """(a model, parameters, images of 8 x 12 pixels)."""
  model = models.build(**{**SMALL, **fields})
  images = np.random.default_rng(1).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
  return model, filled(param_shapes(model, SHAPE)), images


def reference(params, image, factors):
  """(features, logits) of one image by section 2 in float64, with the biases of App. E.

  `factors` holds for each block what its two branches are multiplied by.
  """
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  image = np.asarray(image, np.float64)

  def norm(layer, x):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return layer['scale'] * x + layer['bias']

  def mlp(layer, x):
    h = x @ layer['Dense_0']['kernel'] + layer['Dense_0']['bias']
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return h @ layer['Dense_1']['kernel'] + layer['Dense_1']['bias']

  size = params['stem']['kernel'].shape[0]
  patches = [image[row:row + size, column:column + size]
             for row in range(0, image.shape[0], size) for column in range(0, image.shape[1], size)]
  x = np.stack([np.tensordot(patch, params['stem']['kernel'], 3) for patch in patches]) + params['stem']['bias']
  for i, (token, channel) in enumerate(factors):
    block = params[f'MixerBlock_{i}']
    x = x + token * mlp(block['token_mixing'], norm(block['LayerNorm_0'], x).T).T
    x = x + channel * mlp(block['channel_mixing'], norm(block['LayerNorm_1'], x))
  features = norm(params['pre_head_layer_norm'], x).mean(axis=0)
  return features, features @ params['head']['kernel'] + params['head']['bias']


# Sizes and names


@pytest.mark.parametrize('row', TABLE_1, ids=VARIANTS)
def test_table_1(row):
  variant = row['model'].removeprefix('Mixer-')
  model = models.build(name='mlp_mixer', variant=variant, num_classes=1000)
  params = param_shapes(model, (224, 224, 3))
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
  assert trees.count(params) == int(row['exact_params_1000_classes'])
  assert round(flops.macs(model.apply, {'params': params}, image) / 1e9, 2) == float(row['gmacs_at_224'])
  without_head = trees.count(param_shapes(model.clone(num_classes=None), (224, 224, 3)))
  assert without_head == int(row['exact_params_without_head'])
  assert round(without_head / 1e6) == int(row['params_millions_without_head'])


def test_param_counts_golden():
  lines = [f'{"variant":<8} {"without head":>13} {"1000 classes":>13}']
  for variant in [*VARIANTS, 'S/8']:
    counts = [trees.count(param_shapes(models.build(name='mlp_mixer', variant=variant, num_classes=k), (224, 224, 3)))
              for k in (None, 1000)]
    lines.append(f'{variant:<8} {counts[0]:>13,} {counts[1]:>13,}')
  golden.check('param_counts', '\n'.join(lines) + '\n')


def test_any_patch_size():
  """S/8 is not the paper's; its published checkpoint has as many parameters (paper.md, section 1)."""
  model = models.build(name='mlp_mixer', variant='S/8', num_classes=1000)
  assert trees.count(param_shapes(model, (224, 224, 3))) == 20_646_504


def test_names_and_shapes_of_b16_are_the_published_ones():
  params = param_shapes(models.build(name='mlp_mixer', variant='B/16', num_classes=1000), (224, 224, 3))
  arrays = flax.traverse_util.flatten_dict(params, sep='/')
  assert len(arrays) == 150
  golden.check('param_names_b16', ''.join(f'{name:<48} {"x".join(map(str, x.shape))}\n' for name, x in arrays.items()))


def test_head_starts_at_its_bias():
  model = models.build(**{**SMALL, 'num_blocks': 1}, head_bias_init=-6.9)
  images = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
  logits = model.apply(jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), images), images)
  np.testing.assert_array_equal(logits, np.full((2, 5), -6.9, np.float32))


# The equations


@pytest.mark.parametrize('form', FORMS, ids=FORM_NAMES)
def test_same_weights_same_logits(form):
  model, params, images = small_model(**form)
  logits = jax.jit(model.apply)({'params': params}, images)
  expected = [reference(params, image, [(1, 1)] * 3)[1] for image in images]
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMS[1:], ids=FORM_NAMES[1:])
def test_all_forms_show_what_their_modules_compute(form):
  plain, params, images = small_model(**FORMS[0])
  shown = lambda model: model.apply({'params': params}, images, capture_intermediates=True, mutable=['intermediates'])
  logits, expected = shown(plain)
  other = small_model(**form)[0]
  got_logits, got = shown(other)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, expected)
  assert {'stem', 'MixerBlock_0', 'MixerBlock_1', 'pre_head_layer_norm', 'head'} <= got['intermediates'].keys()
  assert {'token_mixing', 'channel_mixing'} <= got['intermediates']['MixerBlock_1'].keys()
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), (got_logits, got), (logits, expected))
  np.testing.assert_allclose(other.apply({'params': params}, images), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('platform', ['any', 'cpu'])
def test_layer_norm_epsilon(platform):
  """Tokens whose channels hardly differ, before each of the norms: there the 1e-6 under the root counts."""
  model, params, images = small_model(num_blocks=1, platform=platform)
  small = lambda path, x: 1e-3 * x if {'stem', 'Dense_1'} & {part.key for part in path} else x
  params = jax.tree_util.tree_map_with_path(small, params)
  logits = model.apply({'params': params}, images)
  expected = [reference(params, image, [(1, 1)])[1] for image in images]
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('platform', ['any', 'cpu'])
def test_a_variance_that_rounds_to_less_than_zero_is_none(platform):
  """Tokens whose channels are all near 1000: the mean square is 1e6 and, in float32, known to 1/16."""
  model, params, images = small_model(num_blocks=1, platform=platform)
  params = {**params, 'stem': dict(kernel=1e-3 * params['stem']['kernel'], bias=np.linspace(1000, 1000.01, 16))}
  assert np.isfinite(model.apply({'params': params}, images)).all()


def test_without_classes_it_gives_the_features_that_the_head_is_applied_to():
  model, params, images = small_model()
  features = model.clone(num_classes=None).apply({'params': {k: v for k, v in params.items() if k != 'head'}}, images)
  expected = [reference(params, image, [(1, 1)] * 3)[0] for image in images]
  np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
  logits = features @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(model.apply({'params': params}, images), logits, rtol=1e-5, atol=1e-5)


def block_with(zeroed):
  """(apply, tokens [2, 6, 8]) of a block, one of whose two MLPs gives zero. Its LayerNorms are those of the start."""
  block = mlp_mixer.MixerBlock(tokens_mlp_dim=7, channels_mlp_dim=9)
  x = np.random.default_rng(2).normal(size=(2, 6, 8)).astype(np.float32)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)['params']
  params = dict(filled(shapes), LayerNorm_0=dict(scale=jnp.ones(8), bias=jnp.zeros(8)))
  params['LayerNorm_1'] = params['LayerNorm_0']
  params[zeroed] = jax.tree.map(jnp.zeros_like, params[zeroed])
  return jax.jit(lambda x: block.apply({'params': params}, x)), x


def test_channel_mixing_ignores_the_order_of_patches():
  mix, x = block_with(zeroed='token_mixing')
  order = np.random.default_rng(3).permutation(6)
  np.testing.assert_allclose(mix(x[:, order]), mix(x)[:, order], atol=1e-6)
  channels = np.random.default_rng(3).permutation(8)
  assert np.abs(mix(x[:, :, channels]) - mix(x)[:, :, channels]).max() > 0.1


def test_token_mixing_treats_each_channel_alike():
  mix, x = block_with(zeroed='channel_mixing')
  channels = np.random.default_rng(3).permutation(8)
  np.testing.assert_allclose(mix(x[:, :, channels]), mix(x)[:, :, channels], atol=1e-6)
  order = np.random.default_rng(3).permutation(6)
  assert np.abs(mix(x[:, order]) - mix(x)[:, order]).max() > 0.1


def test_block_with_zero_weights_is_the_identity():
  block = mlp_mixer.MixerBlock(tokens_mlp_dim=7, channels_mlp_dim=9)
  x = np.random.default_rng(2).normal(size=(2, 6, 8)).astype(np.float32)
  params = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(block.init, jax.random.key(0), x))
  np.testing.assert_array_equal(block.apply(params, x), x)


def test_permuted_patches_and_pixels_are_permuted_weights():
  """The first permutation of section 3.4: to a Mixer it is another order of weights."""
  model, params, images = small_model()
  rng = np.random.default_rng(4)
  patch_order, pixel_order = rng.permutation(6), rng.permutation(16)
  patches = images.reshape(4, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 6, 16, 3)
  patches = patches[:, patch_order][:, :, pixel_order]
  shuffled = patches.reshape(4, 2, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
  plain = model.apply({'params': params}, images)
  assert np.abs(model.apply({'params': params}, shuffled) - plain).max() > 0.01

  moved = jax.tree.map(np.array, params)
  moved['stem']['kernel'] = moved['stem']['kernel'].reshape(16, 3, 16)[pixel_order].reshape(4, 4, 3, 16)
  for i in range(3):
    mlp = moved[f'MixerBlock_{i}']['token_mixing']
    mlp['Dense_0']['kernel'] = mlp['Dense_0']['kernel'][patch_order]
    mlp['Dense_1'] = {name: x[..., patch_order] for name, x in mlp['Dense_1'].items()}
  np.testing.assert_allclose(model.apply({'params': moved}, shuffled), plain, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_logits():
  model, params, images = small_model()
  half = model.clone(dtype='bfloat16')
  assert {x.dtype.name for x in jax.tree.leaves(param_shapes(half, SHAPE))} == {'float32'}
  logits, half_logits = (jax.jit(m.apply)({'params': params}, images) for m in (model, half))
  assert half_logits.dtype == 'float32'
  np.testing.assert_allclose(half_logits, logits, atol=0.05)
  assert np.abs(half_logits - logits).max() > 1e-4
  # A head in bfloat16 would leave values of bfloat16's 8 bits only.
  assert (np.asarray(half_logits) != np.asarray(half_logits.astype('bfloat16').astype('float32'))).any()


# Its forms


def logits_and_gradients(model, params, images, keys=None):
  """Logits, and the gradients of a loss in which all of them count."""
  def loss(params):
    logits = model.apply({'params': params}, images, keys)
    return jnp.mean(jnp.square(logits - 1)), logits
  gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
  return {'logits': logits, **flax.traverse_util.flatten_dict(gradients, sep='/')}


def assert_near(got, wanted, tolerance):
  """Each array to `tolerance` of its largest element, but for those that are zero and rounding."""
  least = max(np.abs(x).max() for name, x in wanted.items() if name != 'logits')
  for name, x in wanted.items():
    # LayerNorm takes away what the last token-mixing bias adds to all channels alike: its gradient is exactly 0.
    scale = least if name.endswith('token_mixing/Dense_1/bias') else np.abs(x).max()
    np.testing.assert_allclose(got[name], x, rtol=0, atol=tolerance * scale, err_msg=name)


@functools.cache
def variant_case(variant):
  """(fields, parameters, 11 images of four patches a side) of two blocks of a variant, at its full width."""
  fields = {**mlp_mixer.variant_fields(variant), 'num_blocks': 2, 'num_classes': 5}
  side = 4 * fields['patch_size']
  images = np.random.default_rng(1).uniform(-1, 1, (11, side, side, 3)).astype(np.float32)
  return fields, filled(param_shapes(mlp_mixer.MlpMixer(**fields), (side, side, 3))), images


@functools.cache
def plain_results(variant, dtype):
  fields, params, images = variant_case(variant)
  return logits_and_gradients(mlp_mixer.MlpMixer(**fields, dtype=dtype), params, images)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ONE_DAILY)
def test_all_variants_are_the_same_on_a_cpu(variant):
  fields, params, images = variant_case(variant)
  got = logits_and_gradients(mlp_mixer.MlpMixer(**fields, platform='cpu'), params, images)
  assert_near(got, plain_results(variant, 'float32'), 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ONE_DAILY)
def test_all_variants_are_no_less_exact_in_bfloat16_on_a_cpu(variant):
  fields, params, images = variant_case(variant)
  exact, plain = plain_results(variant, 'float32'), plain_results(variant, 'bfloat16')
  got = logits_and_gradients(mlp_mixer.MlpMixer(**fields, platform='cpu', dtype='bfloat16'), params, images)
  for name in exact:
    error = lambda results: np.linalg.norm(results[name] - exact[name])
    assert error(got) <= 1.5 * error(plain) + 1e-3 * np.linalg.norm(exact[name]), name


@pytest.mark.slow
@pytest.mark.parametrize('form', [
    pytest.param(form, marks=[] if form in DAILY_FORMS else [pytest.mark.slow]) for form in FORMS[1:]], ids=FORM_NAMES[1:])
def test_all_forms_have_the_same_noise_and_gradients(form):
  model, params, images = small_model(**NOISE)
  expected = logits_and_gradients(model, params, images, keys_of(0, 4))
  assert np.abs(expected['logits'] - model.apply({'params': params}, images)).max() > 0.1
  assert_near(logits_and_gradients(model.clone(**form), params, images, keys_of(0, 4)), expected, 2e-5)


@pytest.mark.parametrize('form', FORMS, ids=FORM_NAMES)
def test_all_forms_have_the_same_parameters_and_multiply_adds(form):
  model, params, images = small_model()
  here = model.clone(**form)
  assert param_shapes(here, SHAPE) == param_shapes(model, SHAPE)
  assert flops.macs(here.apply, {'params': params}, images) == flops.macs(model.apply, {'params': params}, images)


@pytest.mark.parametrize('form', FORMS, ids=FORM_NAMES)
def test_all_forms_compute_in_bfloat16_but_for_the_norms_the_mean_and_the_head(form):
  model, params, images = small_model(dtype='bfloat16', **form)
  text = jax.jit(model.apply).lower({'params': params}, images).as_text()
  inputs = lambda operation: re.findall(rf'stablehlo\.{operation}.* : \(?tensor<[\dx]+x(\w+)>', text)
  assert sorted(inputs('(?:dot_general|convolution)'))[-2:] == ['bf16', 'f32']
  assert set(inputs('rsqrt')) == {'f32'}
  assert jax.eval_shape(model.clone(num_classes=None).apply, {'params': params}, images).dtype == 'float32'


@functools.cache
def xla_takes_bfloat16() -> bool:
  """Whether XLA here computes a product of bfloat16 without converting it to float32 before."""
  product = jax.jit(functools.partial(jnp.einsum, 'em,mn->en', preferred_element_type='float32'))
  return 'convert' not in product.lower(*[jnp.ones((8, 8), 'bfloat16')] * 2).compile().as_text()


@pytest.mark.slow
@pytest.mark.parametrize('noise', [{}, NOISE], ids=['', 'noise'])
@pytest.mark.parametrize('form', [
    pytest.param(form, marks=[] if form in DAILY_FORMS else [pytest.mark.slow]) for form in FORMS[4:8]], ids=FORM_NAMES[4:8])
def test_a_cpus_products_of_bfloat16_are_those_that_xla_has_instructions_for(form, noise):
  """Summed in float32, and over the first operand's last axis; others are computed as float32's, or not at all."""
  model, params, images = small_model(dtype='bfloat16', **form, **noise)
  keys = keys_of(0, len(images)) if noise else None
  step = jax.jit(jax.grad(lambda params: model.apply({'params': params}, images, keys).sum())).lower(params)
  products = [line for line in step.as_text().splitlines() if 'dot_general' in line and 'xbf16>, tensor' in line]
  if not model.scan and model.remat == 'none':
    assert len(products) == 2 + 3 * 4 * model.num_blocks  # the stem's input has no gradient
  assert products and all(line.endswith('f32>') for line in products)
  step = step.compile(FAST if noise else None)
  if xla_takes_bfloat16():
    contracted = re.findall(r'= \w+\[([\d,]*)\]\S* dot\(.*lhs_contracting_dims=\{(\d)\}', step.as_text())
    of_head = f'{model.hidden_dim},{model.num_classes}'  # of its kernel the gradient; it computes in float32
    assert {place for shape, place in contracted if shape != of_head} == {'1'}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(step(params)))


@pytest.mark.slow
@pytest.mark.parametrize('side, number', [(20, 3), (4, 9)])  # an odd number of patches; one, in parts
def test_parameters_of_bfloat16_train_in_all_forms(side, number):
  model, _, _ = small_model(dtype='bfloat16', param_dtype='bfloat16', num_blocks=1)
  images = np.random.default_rng(2).uniform(-1, 1, (number, side, side, 3)).astype(np.float32)
  params = jax.tree.map(lambda x: x.astype('bfloat16'), filled(param_shapes(model, images.shape[1:])))
  plain = logits_and_gradients(model, params, images)
  for form in FORMS[1:]:
    here = model.clone(**form)
    got = logits_and_gradients(here, params, images)
    assert {str(x.dtype) for name, x in got.items() if name != 'logits'} == {'bfloat16'}
    np.testing.assert_allclose(got['logits'], plain['logits'], atol=0.05)
    np.testing.assert_allclose(jax.jit(here.apply)({'params': params}, images), plain['logits'], atol=0.05)


def test_the_order_of_blocks_is_that_of_their_numbers():
  """JAX's is another one from ten blocks on."""
  params = jax.tree.map(lambda x: x, {f'MixerBlock_{i}': i for i in range(12)})
  assert list(params) != [f'MixerBlock_{i}' for i in range(12)]
  assert models.build(**{**SMALL, 'num_blocks': 12}).blocks_of(params) == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize('platform', ['any', 'cpu'])
def test_a_scan_holds_one_block_and_remat_keeps_less(platform):
  model, params, images = small_model(platform=platform, num_blocks=8)
  images = np.repeat(images, 32, axis=0)
  def gradient(**fields):
    loss = lambda params: model.clone(**fields).apply({'params': params}, images, keys_of(0, len(images))).sum()
    return jax.grad(loss)
  step = lambda **fields: jax.jit(gradient(**fields)).lower(params)
  products = lambda **fields: step(**fields).as_text().count('dot_general')
  assert products(scan=True) < products() / 4
  macs = lambda **fields: flops.macs(gradient(**fields), params)
  assert macs(scan=True) == macs() < 0.85 * macs(remat='block') == 0.85 * macs(scan=True, remat='block')
  temporary = lambda **fields: step(**fields).compile().memory_analysis().temp_size_in_bytes
  assert temporary(scan=True, remat='block') < 0.6 * temporary(scan=True)


def test_a_cpu_rounds_to_bfloat16_as_xla_does():
  upper = np.arange(2**16, dtype=np.uint32) << 16  # all numbers of bfloat16, and those below, between and above them
  bits = np.concatenate([upper + low for low in (0, 1, 0x7fff, 0x8000, 0x8001, 0xffff)])
  x = bits.view(np.float32)
  got = np.asarray(jax.jit(cpu_layers._to_bfloat16)(x), np.float32)
  with np.errstate(invalid='ignore'):
    np.testing.assert_array_equal(got, x.astype(jnp.bfloat16).astype(np.float32))  # NaN is equal to NaN


def test_a_cpus_gelu_of_bfloat16_is_the_nearest_number():
  x = np.linspace(-12, 12, 4097).astype(jnp.bfloat16)
  y = x.astype(np.float64)
  exact = y * (1 + np.tanh((2 / np.pi)**0.5 * (y + 0.044715 * y**3))) / 2
  got = np.asarray(jax.jit(cpu_layers.gelu)(x), np.float64)
  np.testing.assert_allclose(got, exact, rtol=2**-8, atol=1e-14)


@pytest.mark.slow
def test_a_cpus_form_keeps_less():
  """0.68 of it, and 0.96 where XLA shares what GELU's backward pass computes anew."""
  fields, params, images = variant_case('S/32')
  def temporary(platform):
    model = mlp_mixer.MlpMixer(**fields, platform=platform)
    loss = lambda params: model.apply({'params': params}, np.repeat(images, 2, axis=0), keys_of(0, 22)).sum()
    return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes
  assert temporary('cpu') < 0.8 * temporary('any')


def test_the_platform_is_jaxs_own_and_any_number_of_images_passes_in_parts(monkeypatch):
  model, params, images = small_model(platform=None)
  assert model.platform == 'cpu'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert models.build(**{**SMALL, 'platform': None}).platform == 'tpu'
  monkeypatch.undo()
  images = np.concatenate([images] * 6)
  expected = model.clone(platform='any').apply({'params': params}, images)
  apply = jax.jit(model.apply)
  for number in (1, 7, 8, 9, 16, 23):
    np.testing.assert_allclose(apply({'params': params}, images[:number]), expected[:number], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('platform', ['any', 'tpu', 'gpu', 'cpu'])
def test_a_cpu_alone_has_a_stem_that_is_no_convolution(platform):
  model, params, images = small_model(platform=platform)
  text = jax.jit(model.apply).lower({'params': params}, images).as_text()
  assert ('stablehlo.convolution' in text) == (platform != 'cpu')


# Errors


@pytest.mark.parametrize('fields, message', [
    (dict(name='mlp_mixr'), r"config\.model\.name is 'mlp_mixr'; it must be one of 'mlp_mixer'"),
    (dict(variant='B16'), r"config\.model\.variant is 'B16'; it must be one of the sizes S, B, L, H, a slash and the "
                          r"patch size in pixels: 'B/16'"),
    (dict(variant='T/16'), r"config\.model\.variant is 'T/16'"),
    (dict(variant='B/0'), r"config\.model\.variant is 'B/0'"),
    (dict(variant='B/16', hidden_dim=64), r"config\.model\.hidden_dim is 64, and config\.model\.variant 'B/16' makes "
                                          r'it 768; drop one'),
    (dict(variant='B/16', stochastic_dept=0.1), r'unknown field config\.model\.stochastic_dept\. Did you mean '
                                                r'config\.model\.stochastic_depth\?'),
    (dict(patch_size=4, hidden_dim=8, tokens_mlp_dim=8, channels_mlp_dim=8), r'config\.model\.num_blocks is missing'),
    (dict(variant='B/16', parent=None), r'unknown field config\.model\.parent\.'),
])
def test_wrong_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    models.build(**{'name': 'mlp_mixer', 'num_classes': 5, **fields})


@pytest.mark.parametrize('shape', [(8, 10, 3), (10, 8, 3)])
def test_patches_must_tile_the_image(shape):
  message = rf'patch_size is 4; patches of 4 x 4 pixels must tile the images, which are {shape[0]} x {shape[1]} pixels'
  with pytest.raises(ValueError, match=message):
    param_shapes(models.build(**SMALL), shape)


def test_wrong_remat():
  with pytest.raises(ValueError, match="config.model.remat is 'all'; it must be one of 'none', 'block'"):
    models.build(**SMALL, remat='all')


@pytest.mark.parametrize('field, value', [
    *((field, 0) for field in ('num_classes', 'patch_size', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim',
                               'channels_mlp_dim', 'tiles')),
    ('hidden_dim', -1), ('dropout_rate', 1.), ('dropout_rate', -0.1), ('stochastic_depth', float('nan'))])
def test_sizes_and_rates_that_no_model_has(field, value):
  with pytest.raises(ValueError, match=rf'^config\.model\.{field} is {value}; it must be (a finite number, )?at least [01]'):
    param_shapes(models.build(**{**SMALL, field: value}), SHAPE)


def test_wrong_stochastic_depth_rule():
  with pytest.raises(ValueError, match=r"config\.model\.stochastic_depth_rule is 'timm'; it must be one of 'paper', "
                                       r"'big_vision', 'rescaled'"):
    param_shapes(models.build(**SMALL, stochastic_depth_rule='timm'), SHAPE)


# Dropout and stochastic depth


@pytest.mark.parametrize('rule, rates', [
    ('paper', [(0, 0.1), (0.2, 0.3), (0.4, 0.5)]),
    ('rescaled', [(0, 0.1), (0.2, 0.3), (0.4, 0.5)]),
    ('big_vision', [(0, 0), (0.25, 0.25), (0.5, 0.5)]),
])
def test_drop_rates(rule, rates):
  np.testing.assert_allclose(mlp_mixer.drop_rates(rule, 0.5, 3), rates, atol=1e-12)
  assert mlp_mixer.drop_rates(rule, 0.5, 1) == [(0, 0) if rule == 'big_vision' else (0, 0.5)]


def keys_of(seed, number):
  return jax.random.split(jax.random.key(seed), number)


def test_without_keys_it_is_the_full_model():
  model, params, images = small_model()
  noisy = model.clone(dropout_rate=0.5, stochastic_depth=0.5, stochastic_depth_rule='rescaled')
  plain = model.apply({'params': params}, images)
  np.testing.assert_array_equal(noisy.apply({'params': params}, images), plain)
  # Nor do keys change anything where both rates are zero.
  np.testing.assert_array_equal(model.apply({'params': params}, images, keys_of(0, 4)), plain)


@pytest.mark.parametrize('form', FORMS, ids=FORM_NAMES)
def test_nothing_is_drawn_where_both_rates_are_zero(form):
  model, params, images = small_model(**form)
  drawn = lambda model: 'random_bits' in str(jax.make_jaxpr(model.apply)({'params': params}, images, keys_of(0, 4)))
  assert not drawn(model) and drawn(model.clone(stochastic_depth=0.1))


@pytest.mark.parametrize('rule, num_blocks, choices', [
    ('paper', 1, [(1,), (0, 1)]),
    ('rescaled', 1, [(1,), (0, 2)]),
    ('big_vision', 2, [(1,), (1,), (0, 1), (0, 1)]),
])
def test_each_example_keeps_or_loses_whole_branches(rule, num_blocks, choices):
  """At rate 1/2, each example is one of the models with the last branches multiplied by one of `choices`."""
  model, params, images = small_model(num_blocks=num_blocks, stochastic_depth=0.5, stochastic_depth_rule=rule)
  logits = jax.jit(model.apply, compiler_options=FAST)(
      {'params': params}, np.repeat(images[:1], 64, axis=0), keys_of(1, 64))
  factors = list(itertools.product(*choices))
  expected = np.stack([reference(params, images[0], zip(f[::2], f[1::2]))[1] for f in factors])
  distances = np.abs(np.asarray(logits)[:, None] - expected).max(axis=-1)
  np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-5)
  frequencies = np.bincount(distances.argmin(axis=1), minlength=len(factors)) / 64
  np.testing.assert_allclose(frequencies, 1 / len(factors), atol=0.2)


@pytest.mark.parametrize('rescale, kept', [(False, 1), (True, 1 / 0.7)])
def test_drop_branch(rescale, kept):
  ones = np.ones((20_000, 2, 3), np.float32)
  factors = np.asarray(stochastic.drop_path(ones, 0.3, keys_of(2, 20_000), rescale))
  assert (factors == factors[:, :1, :1]).all()
  np.testing.assert_allclose(np.unique(factors), [0, kept], rtol=1e-5)
  assert (factors == 0).mean() == pytest.approx(0.3, abs=0.015)
  if rescale:
    assert factors.mean() == pytest.approx(1, abs=0.02)


def test_dropout():
  x = np.ones((50, 20, 30), np.float32)
  y = np.asarray(jax.jit(lambda keys: stochastic.dropout(x, 0.3, keys), compiler_options=FAST)(keys_of(3, 50)))
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-5)
  assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
  # Elements of an example drop one by one, and examples unlike each other.
  assert 0.2 < (y[0] == 0).mean() < 0.4 and (y[0] != y[1]).any()


def test_dropout_follows_both_layers():
  mlp = mlp_mixer.MlpBlock(mlp_dim=40, dropout_rate=0.5)
  x = np.random.default_rng(5).uniform(1, 2, (50, 20, 40)).astype(np.float32)
  layer = dict(kernel=jnp.eye(40), bias=jnp.zeros(40))
  y = jax.jit(mlp.apply, compiler_options=FAST)({'params': dict(Dense_0=layer, Dense_1=layer)}, x, keys_of(4, 50))
  y = y / jax.nn.gelu(x)
  assert set(np.round(np.unique(y), 3)) == {0, 4}
  assert np.mean(y > 0) == pytest.approx(0.25, abs=0.01)


def test_an_examples_noise_depends_on_its_key_alone():
  model, params, images = small_model(num_blocks=1, dropout_rate=0.2, stochastic_depth=0.5)
  jitted = jax.jit(model.apply, compiler_options=FAST)
  apply = lambda images, keys: np.asarray(jitted({'params': params}, images, keys))
  keys, some = keys_of(5, 4), np.array([3, 1])
  np.testing.assert_allclose(apply(images[some], keys[some]), apply(images, keys)[some], rtol=1e-5, atol=1e-5)
  same_image = apply(np.repeat(images[:1], 4, axis=0), keys)
  assert min(np.abs(a - b).max() for a, b in itertools.combinations(same_image, 2)) > 0.01


def test_parts_of_a_model_have_noise_of_their_own():
  """Blocks, MLPs and layers that shared a key would all drop together."""
  seen = []
  keep = lambda keys: seen.append(tuple(np.asarray(jax.random.key_data(keys)).ravel()))
  model, params, images = small_model(dropout_rate=0.2, stochastic_depth=0.5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stochastic, 'dropout', lambda x, rate, keys: keep(keys) or x)
    patch.setattr(stochastic, 'drop_path', lambda x, rate, keys, rescale: keep(keys) or x)
    model.apply({'params': params}, images, keys_of(6, 4))
  assert len(seen) == 3 * (2 * 2 + 2) and len(set(seen)) == len(seen)
