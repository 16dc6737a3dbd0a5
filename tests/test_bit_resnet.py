"""BiT-ResNets: published sizes and names, the formula written out, timm's logits, and what follows from the design."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import bit
import golden
import input_pipeline
from mixer import configuration
from mixer import flops
from mixer import models
from mixer.models import bit_resnet
from mixer.models import bit_resnet_names
from mixer.training import optim
from mixer.training import train_step
from mixer import trees
from mixer import weights
from mixer.weights import npz
import timm_models

# Parameters with 1,000 classes. R50x1, R101x3, R152x2 and R152x4 are those of timm's resnetv2_*_bit, whose tables
# (results/results-imagenet.csv) give 25.55, 387.93, 236.34 and 936.53 million. R50x2, R152x1 and R200x3 were never
# published: they are those of timm's ResNetV2 with the units and the width.
COUNTS = {'R50x1': 25_549_352, 'R50x2': 97_988_712, 'R101x3': 387_934_888, 'R152x1': 60_185_128, 'R152x2': 236_335_208,
          'R152x4': 936_533_224, 'R200x3': 568_633_000}

# To compile takes longer than to run, here.
FAST = {'xla_backend_optimization_level': 0}

SMALL = dict(name='bit_resnet', num_classes=5, units=(1, 2), width_factor=0.5, platform='any')


@pytest.fixture(autouse=True)
def reads_all_digits():
  """Products of matrices in float32, whatever the device."""
  with jax.default_matmul_precision('highest'):
    yield


@functools.cache
def param_shapes(model, side=32):
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), 'float32'))['params']


def filled(shapes, seed=0):
  """Nested float32 parameters without any zeros or ones; kernels have means, which the model takes away."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    values = rng.standard_normal(leaf.shape, np.float32)
    return {'kernel': 0.1 * values + 0.02, 'bias': 0.3 * values, 'scale': 1 + 0.3 * values}[path[-1].key]

  return jax.tree_util.tree_map_with_path(fill, shapes)


def small(**fields):
  """(a model, its parameters)."""
  model = models.build(**{**SMALL, **fields})
  return model, filled(param_shapes(model))


def images(number, height, width, seed=1):
  return np.random.default_rng(seed).uniform(-1, 1, (number, height, width, 3)).astype(np.float32)


@functools.cache
def compiled(model):
  return jax.jit(model.apply, compiler_options=FAST)


def logits(model, params, x):
  return np.asarray(compiled(model)({'params': params}, x))


def captured(model, params, height, width):
  """{name of a part: the shape and type of what it gives} for one image; '' stands for the whole."""
  image = jax.ShapeDtypeStruct((1, height, width, 3), 'float32')
  _, result = jax.eval_shape(
      lambda p, x: model.apply({'params': p}, x, mutable='intermediates', capture_intermediates=True), params, image)
  result = trees.flat(result['intermediates'])
  return {name.removesuffix('__call__/0').rstrip('/'): leaf for name, leaf in result.items()}


# Sizes and names


def one_daily(variants):
  return [pytest.param(name, marks=[pytest.mark.slow] if name != 'R50x1' else []) for name in variants]


@pytest.mark.parametrize('variant', one_daily(COUNTS))
def test_parameters_of_a_variant_are_as_many_as_published(variant):
  model = models.build(name='bit_resnet', variant=variant, num_classes=1000)
  params = param_shapes(model)
  assert trees.count(params) == COUNTS[variant]
  fields = bit_resnet.fields_from_params(params)
  assert fields == dict(num_classes=1000, root='large', **bit_resnet.variant_fields(variant))
  assert bit_resnet.variant_of(fields) == variant


def test_every_variant_of_a_config_is_counted():
  assert {bit.get_config(name).model.variant for name in bit.PLANNED} < set(COUNTS)


def test_multiply_adds_of_r50x1_are_those_of_a_resnet_50():
  """4.089 G, the figure of torchvision's table for ResNet-50, which strides in its 3 x 3 kernels as well."""
  model = models.build(name='bit_resnet', variant='R50x1', num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
  assert flops.macs(model.apply, {'params': param_shapes(model)}, image) == 4_089_184_256


# exaFLOPs of pre-training on JFT-300M by 7 epochs, of R200x3 by 14: ViT (arXiv 2010.11929), Table 6.
EXAFLOPS = {'R50x1': 50, 'R50x2': 199, 'R152x1': 141, 'R152x2': 563, 'R200x3': 3306}


@pytest.mark.parametrize('variant', one_daily(EXAFLOPS))
def test_operations_are_in_the_published_proportion(variant):
  """A step takes three forward passes, of two operations each; it is 1.035 times the figure for 303 M images."""
  model = models.build(name='bit_resnet', variant=variant, num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
  epochs = 14 if variant == 'R200x3' else 7
  ours = 6 * flops.macs(model.apply, {'params': param_shapes(model)}, image) * epochs * 303e6 / 1e18
  assert abs(ours / 1.035 - EXAFLOPS[variant]) < 0.5 + 0.004 * EXAFLOPS[variant]  # rounding, and what else they count


def test_published_names_golden():
  """Read against timm's loader and big_vision's bit_paper.py, which know these files."""
  model = models.build(name='bit_resnet', variant='R50x1', num_classes=1000)
  result = bit_resnet_names.to_npz(trees.flat(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
                                                 param_shapes(model))))
  golden.check('param_names_r50x1', ''.join(f'{name} {array.shape}\n' for name, array in sorted(result.items())))


def test_names_there_and_back(tmp_path):
  _, params = small()
  converted = bit_resnet_names.to_npz(trees.flat(params))
  assert all(name.startswith('resnet/') for name in converted)
  assert converted['resnet/head/conv2d/kernel'].shape == (1, 1, 256, 5)
  npz.write(params, tmp_path / 'w.npz')
  with np.load(tmp_path / 'w.npz') as file:
    assert sorted(file.files) == sorted(converted)
  back = npz.read(tmp_path / 'w.npz')
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_numbered_convolutions_are_read():
  array = np.zeros((1, 1, 3, 4))
  result = bit_resnet_names.from_npz({'resnet/block1/unit01/a/proj/standardized_conv2d_12/kernel': array})
  assert list(result) == ['block1/unit01/proj/kernel']
  with pytest.raises(ValueError, match="two arrays are renamed to 'root_block/kernel'; the second one is .*conv2d_1/kernel'"):
    bit_resnet_names.from_npz({'resnet/root_block/standardized_conv2d/kernel': array,
                  'resnet/root_block/standardized_conv2d_1/kernel': array})


def test_weights_of_a_file_are_recognised(tmp_path):
  model, params = small()
  npz.write(params, tmp_path / 'w.npz')
  loaded = weights.load(tmp_path / 'w.npz')
  assert loaded.model == dict(name='bit_resnet', num_classes=5, units=(1, 2), width_factor=0.5, root='large')
  x = images(2, 32, 32)
  np.testing.assert_array_equal(logits(models.build(**loaded.model, platform='any'), loaded.params, x),
                                logits(model, params, x))


@pytest.mark.parametrize('fields', [
    dict(), dict(num_classes=None), dict(units=(3,), width_factor=1, root='small'), dict(units=(1, 3, 2, 1, 1)),
])
def test_fields_are_read_off_the_arrays(fields):
  model, params = small(**fields)
  result = bit_resnet.fields_from_params(params)
  assert result == {field: getattr(model, field) for field in ('num_classes', 'units', 'width_factor', 'root')}
  assert bit_resnet.variant_of(result) is None


def test_a_small_root_is_no_variant():
  assert bit_resnet.variant_of(dict(units=(3, 4, 6, 3), width_factor=1, root='small', num_classes=2)) is None


@pytest.mark.parametrize('change, message', [
    (lambda p: p['block2'].pop('unit01'), r'block2/unit01/a/kernel +- +\(1, 1, 128, 64\)'),
    (lambda p: p['norm'].update(extra=np.zeros(3)), r'norm/extra +\(3,\) +-'),
    (lambda p: p['root_block'].update(kernel=np.zeros((7, 7, 3, 20))), r'/kernel +\(7, 7, 3, 20\) +\(7, 7, 3, 32\)'),
    (lambda p: p.pop('root_block'), r'root_block/kernel +- +\(7, 7, 3, 64\)'),
    (lambda p: p.pop('block1'), r'block1/unit01/a/kernel +- +\(1, 1, 32, 32\)'),
    (lambda p: p.update({f'block{i}': {'unit01': {'x': np.zeros(2)}} for i in range(1, 999)}), 'and .* more'),
    (lambda p: p['head'].update(kernel=np.zeros(())), r'head/kernel +\(\) +-'),
])
def test_other_arrays_are_shown_beside_the_nearest(change, message):
  _, params = small()
  change(params)
  with pytest.raises(ValueError, match=f'the arrays are not those of a BiT-ResNet:(.|\n)*{message}'):
    bit_resnet.fields_from_params(params)


@pytest.mark.parametrize('variant', ['R50', 'R18x1', 'R50x0', 'R50x1.5', 'B/16', ''])
def test_what_no_variant_is_called(variant):
  message = (f"variant is {variant!r}; it must be R, one of the numbers of layers 50, 101, 152, 200, an x "
             "and the factor of the width: 'R50x1'")
  with pytest.raises(ValueError, match=re.escape(message)):
    bit_resnet.variant_fields(variant)


@pytest.mark.parametrize('fields, message', [
    (dict(num_classes=0), 'num_classes is 0; it must be at least 1'),
    (dict(units=3), 'units is 3, of type int; it must be a sequence'),
    (dict(units=()), r'units is \(\); it must have at least one block'),
    (dict(units=(1, 0)), r'units is \(1, 0\); .*each block at least one unit'),
    (dict(width_factor=0.75), r'width_factor is 0.75, which makes 48 channels; 32 groups .* a multiple of 0.5'),
    (dict(width_factor=0), 'width_factor is 0, '),
    (dict(root='tiny'), "root is 'tiny'; it must be one of 'large', 'small'"),
    (dict(patch_size=4), 'unknown field config.model.patch_size'),
])
def test_bad_fields_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    param_shapes(models.build(**{**SMALL, **fields}))


# The formula


def formula(p, x, root='large'):
  """Logits by the docstring of bit_resnet.py, and by the published names. [B, H, W, 3] -> [B, K] float64."""
  p = {name: np.float64(array) for name, array in p.items()}

  def conv(x, name, stride=1):
    kernel = p[f'{name}/standardized_conv2d/kernel']
    kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
    size, pad = len(kernel), len(kernel) // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum('bhwcij,ijcf->bhwf', windows, kernel)

  def norm_relu(x, name):
    groups = x.reshape(*x.shape[:3], 32, -1)
    mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    x = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    return np.maximum(x * p[f'{name}/group_norm/gamma'] + p[f'{name}/group_norm/beta'], 0)

  x = conv(np.float64(x), 'resnet/root_block', 2 if root == 'large' else 1)
  if root == 'large':
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
  for unit in sorted({match[0] for name in p if (match := re.match(r'resnet/block\d/unit\d\d', name))}):
    stride = 2 if unit.endswith('unit01') and 'block1/' not in unit else 1
    h = norm_relu(x, f'{unit}/a')
    shortcut = conv(h, f'{unit}/a/proj', stride) if unit.endswith('unit01') else x
    h = norm_relu(conv(h, f'{unit}/a'), f'{unit}/b')
    x = shortcut + conv(norm_relu(conv(h, f'{unit}/b', stride), f'{unit}/c'), f'{unit}/c')
  features = norm_relu(x, 'resnet').mean((1, 2))
  return features @ p['resnet/head/conv2d/kernel'][0, 0] + p['resnet/head/conv2d/bias']


@pytest.mark.parametrize('root, height, width', [('large', 32, 32), ('large', 27, 38), ('small', 9, 8)])
def test_logits_are_those_of_the_formula(root, height, width):
  model, params = small(root=root)
  x = images(3, height, width)
  expected = formula(bit_resnet_names.to_npz(trees.flat(params)), x, root)
  np.testing.assert_allclose(logits(model, params, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_remat_changes_neither_logits_nor_gradients():
  x = images(2, 8, 8)
  model, params = small(root='small', units=(2,))

  def value_and_grad(model):
    loss = lambda params: (model.apply({'params': params}, x)**2).sum()
    return jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(params)

  plain, remat = value_and_grad(model), value_and_grad(model.clone(remat='block'))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max()), plain, remat)
  saved = [str(jax.make_jaxpr(jax.grad(lambda p: m.apply({'params': p}, x).sum()))(params)).count('remat')
           for m in (model, model.clone(remat='block'))]
  assert saved[0] == 0 < saved[1]


def test_bfloat16_is_near_and_its_logits_are_float32():
  model, params = small(root='small')
  x = images(3, 16, 16)
  low = logits(model.clone(dtype='bfloat16'), params, x)
  expected = logits(model, params, x)
  assert low.dtype == np.float32
  assert 0 < np.abs(low - expected).max() < 0.05 * np.abs(expected).max()
  result = captured(model.clone(dtype='bfloat16'), params, 16, 16)
  assert {str(leaf.dtype) for name, leaf in result.items() if name and not name.startswith('head')} == {'bfloat16'}
  low = models.build(**SMALL, param_dtype='bfloat16', dtype='bfloat16')
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(param_shapes(low))} == {'bfloat16'}


# What follows from the design


def test_kernels_may_be_shifted_and_scaled_for_each_output_channel():
  """Weight standardisation; so weight decay sets only how fast kernels turn."""
  model, params = small(root='small')
  rng = np.random.default_rng(2)
  x = images(2, 8, 8)

  def moved(path, leaf):
    if path[-1].key != 'kernel' or path[0].key == 'head':
      return leaf
    return leaf * rng.uniform(0.5, 2, leaf.shape[-1:]).astype('f4') + rng.normal(size=leaf.shape[-1:]).astype('f4')

  got = logits(model, jax.tree_util.tree_map_with_path(moved, params), x)
  np.testing.assert_allclose(got, logits(model, params, x), rtol=1e-3, atol=1e-3)


def test_an_image_knows_nothing_of_the_others_in_its_batch():
  model, params = small(root='small')
  x = images(3, 8, 8)
  alone = np.concatenate([logits(model, params, one[None]) for one in x])
  np.testing.assert_allclose(logits(model, params, x), alone, rtol=1e-4, atol=1e-4)


def test_a_unit_without_a_last_kernel_is_the_identity():
  model, params = small(root='small', units=(3,))
  x = images(2, 8, 8)
  shorter = {**params, 'block1': {'unit01': params['block1']['unit01']}}
  for unit in ('unit02', 'unit03'):
    params['block1'][unit]['c']['kernel'] *= 0
  np.testing.assert_array_equal(logits(model, params, x), logits(model.clone(units=(1,)), shorter, x))


@pytest.mark.parametrize('root, height, width, places', [
    ('large', 224, 224, [(56, 56), (28, 28)]), ('large', 28, 28, [(7, 7), (4, 4)]), ('large', 1, 1, [(1, 1)] * 2),
    ('small', 8, 8, [(8, 8), (4, 4)]), ('small', 28, 5, [(28, 5), (14, 3)]),
])
def test_sizes_are_halved_and_rounded_up(root, height, width, places):
  model, params = small(root=root)
  result = captured(model, params, height, width)
  assert [result[f'block{i}'].shape for i in (1, 2)] == [(1, *places[0], 128), (1, *places[1], 256)]


@pytest.mark.parametrize('root, resolution', [('large', 30), ('small', 9)])
def test_activations_are_as_many_as_the_shapes_say(root, resolution):
  model, params = small(root=root, units=(2, 1, 2))
  sizes = {name: leaf.size for name, leaf in captured(model, params, resolution, resolution).items()}
  pixels = 3 * resolution**2
  expected = [(pixels, pixels + sizes['root_block'])]
  units = [f'block{i}/unit{j:02d}' for i, number in enumerate(model.units, 1) for j in range(1, number + 1)]
  pooled = sizes['block1/unit01/a_norm']  # a norm's result is of its input's size
  for unit, before in zip(units, [pooled, *(sizes[unit] for unit in units)]):
    expected.append((before, before + sizes[f'{unit}/a'] + sizes[f'{unit}/b']))
  assert model.activations(resolution) == expected


def test_at_first_all_logits_are_the_heads_bias():
  model, params = small(root='small', head_bias_init=-10.)
  x = images(2, 8, 8)
  head = jax.jit(lambda: model.init(jax.random.key(0), x)['params']['head'])()
  np.testing.assert_array_equal(logits(model, {**params, 'head': head}, x), -10)
  features = logits(model.clone(num_classes=None), params, x)
  assert features.shape == (2, 256) and features.dtype == np.float32 and features.std() > 0


def test_no_convolution_starts_at_zero_and_every_norm_at_the_identity():
  model = models.build(**SMALL)
  first = jax.jit(lambda: model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), 'f4'))['params']['block2']['unit02'])()
  for name, leaf in trees.flat(first).items():
    if name.endswith('kernel'):
      assert leaf.std() * np.sqrt(np.prod(leaf.shape[:-1])) == pytest.approx(1, abs=0.05), name
    else:
      np.testing.assert_array_equal(leaf, float(name.endswith('scale')), name)


# Configs


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if 'r50x1' in name else [pytest.mark.slow]) for name in bit.NAMES])
def test_every_field_of_a_config_is_read(name):
  config = bit.get_config(name)
  configuration.check(config)
  config = configuration.epochs_to_steps(config, steps_per_epoch=3_467.)
  model = models.build(**config.model)
  optimizer, rate = optim.build(**config.optimizer, total_steps=config.total_steps)
  shape = (config.data.resolution,) * 2 + (3,)
  state = jax.eval_shape(lambda: train_step.init(model, optimizer, shape, config.seed))
  assert state.params['head']['bias'].shape == (config.model.num_classes,)
  stand_in = lambda **_: None
  stand_in.__signature__ = inspect.signature(input_pipeline.train_batches)
  configuration.instantiate(stand_in, 'data', config.data, seed=0, shard=None)
  assert float(rate(config.optimizer.schedule.warmup_steps)) == pytest.approx(config.optimizer.learning_rate)


def flat_text(config):
  return '\n'.join(f'{path} = {value!r}' for path, value in sorted(configuration.flat(config).items()))


@pytest.mark.parametrize('name', sorted({*bit.NAMES} - {'r50x1_jft'}))  # that one is in test_configs.py
def test_resolved_config_is_the_golden(name):
  golden.check(f'config_bit_{name}', flat_text(bit.get_config(name)))


def test_r152x4_learns_as_bit_did():
  """Section 3.3: 0.03 times 4096 / 256, a tenth of it after 10, 23, 30 and 37 of 40 epochs of 303 M images."""
  config = configuration.epochs_to_steps(bit.get_config('r152x4_jft'), steps_per_epoch=74_000.)
  _, rate = optim.build(**config.optimizer, total_steps=config.total_steps)
  at = [float(rate(round(74_000 * epoch))) for epoch in (0.1, 9.9, 10.1, 22.9, 23.1, 29.9, 30.1, 36.9, 37.1, 39.9)]
  np.testing.assert_allclose(at, np.repeat([0.48, 0.048, 0.0048, 4.8e-4, 4.8e-5], 2), rtol=1e-5)
  assert float(rate(2_500)) == pytest.approx(0.24)


def test_weight_decay_of_sgd_is_that_of_a_penalty_in_the_loss_with_momentum():
  """In the long run a kernel without gradients shrinks as one with 1e-4 times itself as its gradient does."""
  fields = bit.get_config('r152x4_i21k').optimizer
  optimizer, _ = optim.build(**{**fields, 'schedule': dict(name='steps', drops=(0.9,))}, total_steps=1_000)
  ours = {'kernel': jnp.ones(())}
  state = optimizer.init(ours)
  for _ in range(300):
    changes, state = optimizer.update({'kernel': jnp.zeros(())}, state, ours)
    ours = {'kernel': ours['kernel'] + changes['kernel']}
  penalised, momentum = 1., 0.
  for _ in range(300):
    momentum = 0.9 * momentum + 1e-4 * penalised
    penalised -= 0.48 * momentum
  assert float(ours['kernel']) == pytest.approx(penalised, abs=0.006) and penalised < 0.88


def test_what_no_config_is_called_lists_the_names():
  with pytest.raises(ValueError, match='bit.py:r50x3_jft is none of digits, r152x4_i21k, .*r200x3_jft'):
    bit.get_config('r50x3_jft')


# timm's own model


@pytest.fixture(scope='module')
def timm():
  """timm.models.resnetv2."""
  with timm_models.module('resnetv2') as result:
    yield result


def theirs(timm, params, path, **sizes):
  """timm's ResNetV2, with our weights by its own reader of the published files."""
  npz.write(params, path)
  model = timm._create_resnetv2_bit('resnetv2_50x1_bit', **sizes).eval()
  model.load_pretrained(str(path))
  return model


def timm_logits(model, x):
  import torch
  with torch.no_grad():
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.slow
@pytest.mark.parametrize('height, width', [(64, 64), (51, 38)])
def test_our_weights_give_our_logits_in_timm(timm, tmp_path, height, width):
  model, params = small()
  timm_model = theirs(timm, params, tmp_path / 'w.npz', layers=[1, 2], channels=(128, 256), stem_chs=32, num_classes=5)
  x = images(3, height, width)
  expected = timm_logits(timm_model, x)
  np.testing.assert_allclose(logits(model, params, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_r50x1_of_timm_is_ours(timm, tmp_path):
  """At its real size, built by timm's own name."""
  model = models.build(name='bit_resnet', variant='R50x1', num_classes=1000, platform='any')
  params = filled(param_shapes(model))
  npz.write(params, tmp_path / 'w.npz')
  timm_model = timm.resnetv2_50x1_bit().eval()
  timm_model.load_pretrained(str(tmp_path / 'w.npz'))
  x = images(1, 64, 64)
  expected = timm_logits(timm_model, x)
  np.testing.assert_allclose(logits(model, params, x), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize('variant', COUNTS)
def test_timm_counts_as_many_parameters(timm, variant):
  fields = bit_resnet.variant_fields(variant)
  named = getattr(timm, f'resnetv2_{variant[1:]}_bit', None)
  assert (named is None) == (variant in ('R50x2', 'R152x1', 'R200x3'))
  timm_model = named(device='meta') if named else timm.ResNetV2(
      layers=list(fields['units']), width_factor=fields['width_factor'], device='meta')
  assert sum(parameter.numel() for parameter in timm_model.parameters()) == COUNTS[variant]
