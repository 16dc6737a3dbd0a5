"""The Vision Transformer: its published sizes and names, its equations, and what follows from them."""

import functools

import flax
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from mixer import flops
from mixer import models
from mixer.models import vit
from mixer import trees

# Parameters with 1,000 classes, and 10^9 multiply-adds: google-research/vision_transformer, vit_jax/models_test.py (the
# first five and 'mean'), and pytorch/vision, torchvision/models/vision_transformer.py (num_params and _ops, for the
# larger images, too).
PUBLISHED = [
    ('B/32', 224, 'token', 88_224_232, 4.4), ('B/16', 224, 'token', 86_567_656, 17.6),
    ('L/32', 224, 'token', 306_535_400, 15.4), ('L/16', 224, 'token', 304_326_632, 61.6),
    ('H/14', 224, 'token', 632_045_800, 167.3), ('B/16', 224, 'mean', 86_566_120, None),
    ('B/32', 224, 'mean', 88_222_696, None), ('B/16', 384, 'token', 86_859_496, 55.5),
    ('L/16', 512, 'token', 305_174_504, 362.0), ('H/14', 518, 'token', 633_470_440, 1016.7),
]

# 8 x 12 pixels: six patches, in two rows of three.
SMALL = dict(name='vit', num_classes=5, patch_size=4, num_blocks=3, hidden_dim=16, mlp_dim=24, num_heads=2)
SHAPE = (8, 12, 3)
# LLVM takes long over the random numbers of the start, which are soon computed without its care.
FAST = {'xla_backend_optimization_level': 0}
KINDS = [dict(), dict(pool='mean'), dict(representation_size=10)]
FORMS = [dict(platform=platform, scan=scan, remat=remat) for platform in ('any', 'gpu', 'cpu') for scan in (False, True)
         for remat in ('none', 'block')]


@functools.cache
def param_shapes(model, image_shape=SHAPE):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))['params']


def filled(shapes, seed=0):
  """Parameters without any zeros or ones, as float32 numpy arrays: kernels that keep the scale, scales about 1."""
  rng = np.random.default_rng(seed)

  def fill(path, x):
    values, parts = rng.normal(size=x.shape), [part.key for part in path]
    of_qkv = parts[-1] == 'kernel' and x.ndim == 3 and parts[-2] != 'out'
    fan_in = np.prod(x.shape[:1] if of_qkv else x.shape[:-1])
    by_name = {'kernel': 2 * values / np.sqrt(fan_in), 'scale': 1 + 0.3 * values}
    return by_name.get(parts[-1], 0.3 * values).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def small_model(**fields):
  """(a model, parameters, four images of 8 x 12 pixels)."""
  model = models.build(**{**SMALL, **fields})
  images = np.random.default_rng(1).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
  return model, filled(param_shapes(model)), images


def keys_of(number):
  return jax.random.split(jax.random.key(7), number)


def reference(params, image, pool):
  """(features, logits) of one image by section 3.1 of the ViT paper in float64."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  image = np.asarray(image, np.float64)

  def norm(layer, x):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return layer['scale'] * x + layer['bias']

  def attention(layer, x):
    heads = []
    for h in range(layer['query']['bias'].shape[0]):
      q, k, v = (x @ layer[name]['kernel'][:, h] + layer[name]['bias'][h] for name in ('query', 'key', 'value'))
      weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
      heads.append(weights / weights.sum(axis=1, keepdims=True) @ v @ layer['out']['kernel'][h])
    return sum(heads) + layer['out']['bias']

  def mlp(layer, x):
    h = x @ layer['Dense_0']['kernel'] + layer['Dense_0']['bias']
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return h @ layer['Dense_1']['kernel'] + layer['Dense_1']['bias']

  size, encoder = params['embedding']['kernel'].shape[0], params['Transformer']
  patches = [image[row:row + size, column:column + size]
             for row in range(0, image.shape[0], size) for column in range(0, image.shape[1], size)]
  z = np.stack([np.tensordot(patch, params['embedding']['kernel'], 3) for patch in patches])
  z = z + params['embedding']['bias']
  if pool == 'token':
    z = np.concatenate([params['cls'][0], z])
  z = z + encoder['posembed_input']['pos_embedding'][0]
  for i in range(SMALL['num_blocks']):
    block = encoder[f'encoderblock_{i}']
    z = z + attention(block['MultiHeadDotProductAttention_1'], norm(block['LayerNorm_0'], z))
    z = z + mlp(block['MlpBlock_3'], norm(block['LayerNorm_2'], z))
  z = norm(encoder['encoder_norm'], z)
  y = z[0] if pool == 'token' else z.mean(axis=0)
  if 'pre_logits' in params:
    y = np.tanh(y @ params['pre_logits']['kernel'] + params['pre_logits']['bias'])
  return y, y @ params['head']['kernel'] + params['head']['bias']


# Sizes and names


@pytest.mark.parametrize('variant, resolution, pool, params, gmacs', [
    pytest.param(*row, marks=[pytest.mark.slow] if row[0][0] in 'LH' else []) for row in PUBLISHED])
def test_published_sizes(variant, resolution, pool, params, gmacs):
  model = models.build(name='vit', variant=variant, pool=pool, num_classes=1000)
  shapes = param_shapes(model, (resolution, resolution, 3))
  assert trees.count(shapes) == params
  if gmacs:
    image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), 'float32')
    # Of a loop one block is traced, and counted as often as it runs.
    assert round(flops.macs(model.clone(scan=True).apply, {'params': shapes}, image) / 1e9, 1) == gmacs


def test_names_and_shapes_of_b16_are_the_published_ones():
  """As timm's loader of these files asks for them, and jeonsworld/ViT-pytorch's."""
  model = models.build(name='vit', variant='B/16', num_classes=21843, representation_size=768)
  arrays = trees.shapes(param_shapes(model, (224, 224, 3)))
  golden.check('param_names_vit_b16', ''.join(f'{name:<72} {"x".join(map(str, shape))}\n'
                                              for name, shape in arrays.items()))


def test_head_starts_at_its_bias():
  model = models.build(**{**SMALL, 'num_blocks': 1}, head_bias_init=-10.)
  images = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
  params = jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), images)
  np.testing.assert_array_equal(model.apply(params, images), np.full((2, 5), -10, np.float32))
  assert not params['params']['cls'].any()
  assert 0.01 < params['params']['Transformer']['posembed_input']['pos_embedding'].std() < 0.03


# The equations


@pytest.mark.parametrize('kind', KINDS, ids=str)
@pytest.mark.parametrize('form', FORMS, ids=lambda form: ' '.join(map(str, form.values())))
def test_same_weights_same_logits(kind, form):
  model, params, images = small_model(**kind, **form)
  logits = jax.jit(model.apply)({'params': params}, images)
  expected = [reference(params, image, model.pool)[1] for image in images]
  assert np.std(expected, axis=0).min() > 0.05
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS, ids=str)
def test_without_classes_it_gives_the_features_that_the_head_is_applied_to(kind):
  model, params, images = small_model(**kind)
  features = model.clone(num_classes=None).apply({'params': {k: v for k, v in params.items() if k != 'head'}}, images)
  expected = [reference(params, image, model.pool)[0] for image in images]
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_only_the_position_embeddings_know_the_order_of_patches(pool):
  model, params, images = small_model(pool=pool)
  patches = images.reshape(4, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 6, 4, 4, 3)
  order = np.random.default_rng(3).permutation(6)
  shuffled = patches[:, order].reshape(4, 2, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
  apply = jax.jit(lambda params, images: model.apply({'params': params}, images))
  assert np.abs(apply(params, shuffled) - apply(params, images)).max() > 0.1
  first = int(pool == 'token')
  embeddings = params['Transformer']['posembed_input']['pos_embedding']
  moved = np.concatenate([embeddings[:, :first], embeddings[:, first:][:, order]], axis=1)
  params_moved = {**params, 'Transformer': {**params['Transformer'], 'posembed_input': {'pos_embedding': moved}}}
  np.testing.assert_allclose(apply(params_moved, shuffled), apply(params, images), rtol=1e-4, atol=1e-4)


def test_block_with_zero_weights_is_the_identity():
  block = vit.EncoderBlock(mlp_dim=9, num_heads=2)
  x = np.random.default_rng(2).normal(size=(2, 6, 8)).astype(np.float32)
  params = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(block.init, jax.random.key(0), x))
  np.testing.assert_array_equal(jax.jit(block.apply)(params, x), x)


def test_bfloat16_keeps_float32_parameters_and_logits():
  model, params, images = small_model(representation_size=10)
  half = model.clone(dtype='bfloat16')
  assert {x.dtype.name for x in jax.tree.leaves(param_shapes(half))} == {'float32'}
  logits, half_logits = (jax.jit(m.apply)({'params': params}, images) for m in (model, half))
  assert half_logits.dtype == 'float32'
  assert 1e-4 < np.abs(half_logits - logits).max() < 0.3
  assert (np.asarray(half_logits) != np.asarray(half_logits.astype('bfloat16').astype('float32'))).any()


# Noise, and its forms


def test_stochastic_depth_rises_by_block():
  assert vit.drop_rates(0.3, 4) == [(0., 0.), (pytest.approx(0.1),) * 2, (pytest.approx(0.2),) * 2, (0.3, 0.3)]
  assert vit.drop_rates(0.3, 1) == [(0., 0.)]


def test_a_dropped_branch_is_gone_and_a_kept_one_is_as_it_was():
  block = vit.EncoderBlock(mlp_dim=9, num_heads=2)
  x = np.random.default_rng(2).normal(size=(64, 6, 8)).astype(np.float32)
  params = filled(jax.eval_shape(block.init, jax.random.key(0), x)['params'])
  apply = lambda rates: jax.jit(lambda keys: block.apply({'params': params}, x, keys, rates))(keys_of(64))
  whole, none = block.apply({'params': params}, x), x
  np.testing.assert_array_equal(apply((1., 1.)), none)
  some = apply((0.5, 0.))  # attention dropped in half of the examples, so that the MLP sees the input
  kept = np.isclose(some, whole, rtol=1e-4, atol=1e-4).all(axis=(1, 2))
  assert 10 < kept.sum() < 54


def test_dropout_is_where_the_paper_has_it():
  """After the position embeddings and, in each block, attention's output and both layers of the MLP (App. B.1)."""
  def shapes(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == 'random_bits':
        yield equation.outvars[0].aval.shape[1:]
      for inner in core.jaxprs_in_params(equation.params):
        yield from shapes(inner)

  model, params, images = small_model(dropout_rate=0.5)
  apply = lambda keys: model.apply({'params': params}, images, keys)
  drawn = list(shapes(jax.make_jaxpr(apply)(keys_of(4)).jaxpr))
  assert drawn == [(7, 16), *3 * [(7, 16), (7, 24), (7, 16)]]
  assert not list(shapes(jax.make_jaxpr(apply)(None).jaxpr))


@functools.cache
def logits_and_gradients(**form):
  """With noise; of a loss in which all logits count."""
  model, params, images = small_model(num_blocks=2, dropout_rate=0.3, stochastic_depth=0.5, **form)

  def loss(params):
    logits = model.apply({'params': params}, images, keys_of(4))
    return jnp.mean(jnp.square(logits - 1)), logits
  gradients, logits = jax.jit(jax.grad(loss, has_aux=True), compiler_options=FAST)(params)
  assert np.abs(logits - model.apply({'params': params}, images)).max() > 0.1
  return {'logits': logits, **flax.traverse_util.flatten_dict(gradients, sep='/')}


@pytest.mark.slow
@pytest.mark.parametrize('form', [
    pytest.param(form, marks=[pytest.mark.slow] if form['remat'] == 'block' else []) for form in FORMS[1:]],
                         ids=lambda form: ' '.join(map(str, form.values())))
def test_all_forms_have_the_same_parameters_noise_and_gradients(form):
  model = models.build(**SMALL)
  assert param_shapes(model.clone(**form)) == param_shapes(model)
  expected, got = logits_and_gradients(), logits_and_gradients(**form)
  largest = max(np.abs(x).max() for x in expected.values())
  for name, x in expected.items():
    np.testing.assert_allclose(got[name], x, rtol=0, atol=3e-5 * largest, err_msg=name)


def test_on_a_cpu_it_is_no_less_exact_in_bfloat16():
  exact, plain = logits_and_gradients(), logits_and_gradients(dtype='bfloat16')
  got = logits_and_gradients(dtype='bfloat16', platform='cpu')
  for name in exact:
    error = lambda results: np.linalg.norm(results[name] - exact[name])
    assert error(got) <= 1.5 * error(plain) + 1e-3 * np.linalg.norm(exact[name]), name


def test_on_a_cpu_its_dense_layers_products_of_bfloat16_are_summed_in_float32():
  """Only these have instructions. (Those of the heads' attention are float32's.)"""
  model, params, images = small_model(dtype='bfloat16', platform='cpu')
  text = jax.jit(jax.grad(lambda params: model.apply({'params': params}, images).sum())).lower(params).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line and 'xbf16>, tensor' in line]
  assert len(products) == 2 + 3 * 6 * model.num_blocks  # the stem's input has no gradient
  assert all(line.endswith('f32>') for line in products)


def test_a_scan_shows_what_its_modules_compute():
  (plain, params, images), scanned = small_model(), small_model(scan=True)[0]
  shown = lambda model: model.apply({'params': params}, images, capture_intermediates=True, mutable=['intermediates'])
  expected, got = shown(plain), shown(scanned)
  assert 'encoderblock_2' in got[1]['intermediates']['Transformer']
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, expected)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


def test_a_scan_holds_one_block_and_counts_as_all():
  model, params, images = small_model()
  text = lambda **form: jax.jit(model.clone(**form).apply).lower({'params': params}, images).as_text()
  assert text(scan=True).count('dot_general') < text().count('dot_general') / 2
  macs = lambda **form: flops.macs(model.clone(**form).apply, {'params': params}, images)
  assert macs() == macs(scan=True) == macs(remat='block')


def test_an_example_has_the_same_noise_wherever_it_is_computed():
  model, params, images = small_model(num_blocks=1, dropout_rate=0.3, stochastic_depth=0.5)
  apply = jax.jit(lambda images, keys: model.apply({'params': params}, images, keys), compiler_options=FAST)
  keys = keys_of(4)
  np.testing.assert_allclose(apply(images, keys)[::-1], apply(images[::-1], keys[::-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fields, message', [
    (dict(num_heads=3), r'config\.model\.num_heads is 3; it must divide hidden_dim, which is 16'),
    (dict(patch_size=5), r'patch_size is 5; patches of 5 x 5 pixels must tile the images, which are 8 x 12 pixels'),
    (dict(mlp_dim=0), r'config\.model\.mlp_dim is 0; it must be at least 1'),
    (dict(representation_size=0), r'config\.model\.representation_size is 0; it must be at least 1'),
    (dict(stochastic_depth=1.), r'config\.model\.stochastic_depth is 1\.0; it must be at least 0 and below 1'),
    (dict(pool='max'), r"config\.model\.pool is 'max'; it must be one of 'token', 'mean'"),
    (dict(tokens_mlp_dim=8), r'unknown field config\.model\.tokens_mlp_dim'),
    (dict(variant='S/16'), r"config\.model\.variant is 'S/16'; of a ViT it must be one of the sizes B, L, H, a slash"),
])
def test_wrong_fields_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    section = {**SMALL, **fields}
    section = {name: section[name] for name in section if 'variant' not in fields or name not in vit.SIZES['B']}
    model = models.build(**section)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))


# Reading a model off its arrays


@pytest.mark.parametrize('variant, fields, name', [
    ('B/16', dict(num_classes=1000), 'B/16'), ('L/32', dict(num_classes=None), 'L/32'),
    ('H/14', dict(num_classes=21843, representation_size=1280), 'H/14'),
    ('B/32', dict(num_classes=3, pool='mean'), 'B/32, mean over patches')])
def test_fields_variant_and_resolution_are_read_off_the_shapes(variant, fields, name):
  tree = param_shapes(models.build(name='vit', variant=variant, **fields), (224, 224, 3))
  result = vit.fields_from_params(tree)
  assert result == dict(pool='token', representation_size=None) | vit.variant_fields(variant) | fields
  assert vit.variant_of(result) == name and vit.resolution_of(tree) == 224
  assert models.config_from_params(tree) == dict(result, name='vit')
  assert models.describe(models.config_from_params(tree)) == f'ViT-{name}'


def test_sizes_of_no_variant_are_told():
  section = models.config_from_params(param_shapes(models.build(**SMALL)))
  assert models.describe(section) == ('ViT of patch_size 4, num_blocks 3, hidden_dim 16, mlp_dim 24, num_heads 2, pool '
                                      'token')
  assert vit.variant_of(dict(vit.variant_fields('B/16'), num_heads=8, pool='token')) is None


ATTENTION = 'MultiHeadDotProductAttention_1'


@pytest.mark.parametrize('change, message', [
    (lambda t: t['Transformer']['encoderblock_1'].pop('LayerNorm_2'),
     r'encoderblock_1/LayerNorm_2/scale +- +\(16,\)\Z'),
    (lambda t: t.update(extra=t['cls']), r'extra +\(1, 1, 16\) +-\Z'),
    (lambda t: t['Transformer']['encoderblock_2'][ATTENTION].pop('out'),
     rf'encoderblock_2/{ATTENTION}/out/kernel +- +\(2, 8, 16\)\Z'),
    (lambda t: t.pop('embedding'), r'embedding/kernel +- +\(16, 16, 3, 768\)'),
])
def test_arrays_that_are_no_vits_are_shown_beside_a_vits(change, message):
  tree = filled(param_shapes(models.build(**SMALL)))
  change(tree)
  with pytest.raises(ValueError, match=rf'not those of a ViT:\n  array +loaded +a ViT\n(.|\n)*{message}'):
    models.config_from_params(tree)


def test_heads_that_do_not_divide_the_channels_are_told():
  tree = param_shapes(models.build(**SMALL))
  tree = jax.tree.map(lambda x: x, tree)  # the function keeps it
  tree['Transformer']['encoderblock_0'][ATTENTION]['query']['kernel'] = jax.ShapeDtypeStruct((16, 3, 5), 'float32')
  with pytest.raises(ValueError, match='not those of a ViT: they have 3 heads, which do not divide 16 channels'):
    vit.fields_from_params(tree)


def test_only_square_images_are_supported():
  with pytest.raises(ValueError, match='the position embeddings are of 6 patches, which is not a square number'):
    vit.resolution_of(param_shapes(models.build(**SMALL)))


def test_parameters_of_other_heads_or_of_another_resolution_are_refused_on_a_cpu():
  model, params, images = small_model(platform='cpu')
  with pytest.raises(ValueError, match='the parameters are of . heads, and num_heads is 1'):
    model.clone(num_heads=1).apply({'params': params}, images)
  with pytest.raises(ValueError, match='the position embeddings are of shape .*; resize the embeddings, or take other images'):
    model.apply({'params': params}, images[:, :, :model.patch_size])
