"""HaloNet: published sizes, attention written out, timm's logits, and batch statistics of the whole batch."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from mixer import models
from mixer.models import halonet
from mixer.models import halonet_names
from mixer.training import optim
from mixer.training import train_step
from mixer import trees
from mixer import weights
from mixer.weights import loading
import test_train
import timm_models
import train

# With 1,000 classes, rounded to 0.1 million, they are those of the paper: 5.5, 8.1, 9.4, 11.8, 19.1, 30.7, 43.4 and 67.4.
COUNTS = dict(H0=5_488_424, H1=8_084_936, H2=9_388_328, H3=11_821_960, H4=19_082_632, H5=30_683_112, H6=43_425_544,
              H7=67_400_008)
TIMM = {name: halonet_names.FIELDS[name] for name in ('heads', 'position_embeddings', 'offsets')}
SMALL = dict(name='halonet', num_classes=5, units=(1, 2), block_size=4, halo_size=1, base_width=8, heads=(2, 2), stem='small',
             platform='any')
SMALL_STEP = {**SMALL, 'units': (1, 1)}  # compiled in half the time


@pytest.fixture(autouse=True)
def reads_all_digits():
  """Products of matrices in float32, whatever the device."""
  with jax.default_matmul_precision('highest'):
    yield


def shapes_of(model, side=256):
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), 'float32'))


def filled(shapes, seed=0):
  """Nested float32 arrays of `shapes` without any zeros or ones; variances are above 0."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    values = rng.standard_normal(leaf.shape, np.float32)
    return {'kernel': 0.1 * values, 'bias': 0.1 * values, 'scale': 1 + 0.1 * values, 'mean': 0.1 * values,
            'var': 1 + np.abs(values)}.get(path[-1].key, 0.3 * values)
  return jax.tree_util.tree_map_with_path(fill, shapes)


# sizes


@pytest.mark.parametrize('variant', [pytest.param(name, marks=[] if name == 'H0' else [pytest.mark.slow]) for name in COUNTS])
def test_published_sizes(variant):
  model = models.build(name='halonet', variant=variant, num_classes=1000)
  of_model = trees.weights(shapes_of(model))
  assert trees.count(trees.variables(of_model)['params']) == COUNTS[variant]
  section = models.config_from_params(of_model)
  assert models.describe(section) == f'HaloNet-{variant}'
  assert section['num_classes'] == 1000


def test_the_mixer_papers_has_other_widths_and_convolutions():
  build = lambda **fields: shapes_of(models.build(name='halonet', num_classes=1000, **fields))
  attention, of_table_2 = build(variant='H4', base_width=128), build(variant='H4-base128-conv12')
  # 87 million are printed elsewhere.
  assert [trees.count(shapes['params']) for shapes in (attention, of_table_2)] == [68_371_752, 69_840_360]
  describe = lambda shapes: models.describe(models.config_from_params(trees.weights(shapes)))
  assert describe(of_table_2) == 'HaloNet-H4-base128-conv12'
  assert describe(attention).startswith('HaloNet of units (3, 3, 12, 3), base_width 128')


def test_with_convolutions_in_all_stages_it_is_resnet_50():
  of_model = trees.weights(shapes_of(models.build(name='halonet', variant='ResNet-50', num_classes=1000), 224))
  assert trees.count(trees.variables(of_model)['params']) == 25_557_032  # torchvision's and timm's
  assert models.describe(models.config_from_params(of_model)) == 'HaloNet-ResNet-50'


# attention


def attention_case(side, stride=1, batch=2, **fields):
  """(the module, its parameters, x [batch, side, side, 6])."""
  module = halonet.HaloAttention(**{**dict(width=8, value_width=12, block_size=4, halo_size=1, heads=2, stride=stride), **fields})
  x = np.random.default_rng(1).standard_normal((batch, side, side, 6)).astype(np.float32)
  return module, filled(jax.eval_shape(module.init, jax.random.key(0), x)['params']), x


def written_out(module, params, x):
  """Place by place, in float64."""
  params = jax.tree.map(lambda array: np.asarray(array, np.float64), params)
  batch, side, _, _ = x.shape
  b, h, window = module.block_size, module.halo_size, module.block_size + 2 * module.halo_size
  query, key, value = (np.einsum('bijc,cd->bijd', x, params[name]['kernel'][0, 0]) for name in ('query', 'key', 'value'))
  depth, out = module.width // module.heads, value.shape[-1] // module.heads
  result = np.zeros((batch, side // module.stride, side // module.stride, value.shape[-1]))
  for n, i, j, head in np.ndindex(batch, *result.shape[1:3], module.heads):
    row, column = i * module.stride, j * module.stride
    q = query[n, row, column, head * depth:(head + 1) * depth]
    logits, values = [], []
    for p, r in np.ndindex(window, window):
      y, x_ = row // b * b - h + p, column // b * b - h + r
      inside = 0 <= y < side and 0 <= x_ < side
      k = key[n, y, x_, head * depth:(head + 1) * depth] if inside else np.zeros(depth)
      values.append(value[n, y, x_, head * out:(head + 1) * out] if inside else np.zeros(out))
      # The tables begin with the offset -(window - 1), counted from the place in the block to that in the window.
      relative = [params[name][place - start + window - 1]
                  for name, place, start in (('rows', p, row % b), ('columns', r, column % b))]
      embedding = np.concatenate(relative) if module.position_embeddings == 'concatenated' else sum(relative)
      logits.append(q @ k / depth**0.5 + q @ embedding)
    weights = np.exp(logits - np.max(logits))
    result[n, i, j, head * out:(head + 1) * out] = weights / weights.sum() @ np.array(values)
  return result


@pytest.mark.parametrize('side, stride, fields', [
    (8, 1, {}), (8, 2, {}), (6, 1, {}), (6, 2, {}), (8, 1, dict(position_embeddings='summed')),
    (4, 1, dict(block_size=1, halo_size=2)), (4, 1, dict(halo_size=0)), (8, 2, dict(halo_size=3))])
def test_attention_is_what_its_formula_says(side, stride, fields):
  module, params, x = attention_case(side, stride, **fields)
  np.testing.assert_allclose(module.apply({'params': params}, x), written_out(module, params, x), atol=2e-6)


def test_a_block_as_large_as_the_map_is_global_attention():
  module, params, x = attention_case(4, halo_size=0)
  b, depth = 4, module.width // module.heads
  flat = lambda name: np.einsum('bijc,cd->bijd', x, params[name]['kernel'][0, 0]).reshape(2, b * b, module.heads, -1)
  query, key, value = map(flat, ('query', 'key', 'value'))
  place = np.arange(b)
  offset = place - place[:, None] + b - 1
  rows = np.broadcast_to(params['rows'][offset][:, None, :, None], (b, b, b, b, depth // 2))
  columns = np.broadcast_to(params['columns'][offset][None, :, None], (b, b, b, b, depth // 2))
  embeddings = np.concatenate([rows, columns], -1).reshape(b * b, b * b, depth)
  logits = np.einsum('bqhd,bkhd->bhqk', query, key) / depth**0.5 + np.einsum('bqhd,qkd->bhqk', query, embeddings)
  expected = np.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(logits), value).reshape(2, b, b, -1)
  np.testing.assert_allclose(module.apply({'params': params}, x), expected, atol=2e-6)


@pytest.mark.parametrize('stride', [1, 2])
def test_a_shift_by_a_block_commutes_in_the_interior(stride):
  module, params, x = attention_case(16, stride)
  apply = lambda x: module.apply({'params': params}, x)
  by_block, inside = 4 // stride, slice(8 // stride, 12 // stride)
  shifted = apply(np.roll(x, 4, axis=(1, 2)))
  np.testing.assert_allclose(shifted[:, inside, inside], np.roll(apply(x), by_block, axis=(1, 2))[:, inside, inside], atol=1e-6)
  other = apply(np.roll(x, 3, axis=(1, 2)))
  if stride == 1:  # of another shift the blocks are others
    assert np.abs(other[:, 1:-1, 1:-1] - np.roll(apply(x), 3, axis=(1, 2))[:, 1:-1, 1:-1]).max() > 1e-3


# timm


def of_timm(state):
  counted = {name: array for name, array in state.items() if not name.endswith('.num_batches_tracked')}
  return trees.variables(trees.nested(halonet_names.from_timm(counted, {})))


def filled_by_torch(theirs):
  """The arrays of a model of timm, whose norms then have neither ones nor zeros."""
  import torch
  rng = np.random.default_rng(0)
  for name, tensor in theirs.state_dict().items():
    if tensor.ndim == 1:
      values = 0.1 * rng.standard_normal(tensor.shape).astype(np.float32) + name.endswith(('weight', 'var'))
      tensor.copy_(torch.from_numpy(values))
  return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def logits_by_torch(theirs, images):
  import torch
  with torch.no_grad():
    return theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.slow
def test_logits_are_those_of_timms_halonet_h1(tmp_path):
  with timm_models.module('byoanet') as byoanet:
    import torch
    torch.manual_seed(0)
    theirs = byoanet.halonet_h1().eval()
    state = filled_by_torch(theirs)
    model = models.build(name='halonet', variant='H1', num_classes=1000, **TIMM)
    shapes = jax.tree.map(lambda array: array.shape, of_timm(state))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, dict(shapes_of(model)))
    assert trees.count(of_timm(state)['params']) == 8_100_056
    images = np.random.default_rng(1).uniform(-1, 1, (2, 256, 256, 3)).astype(np.float32)
    expected = logits_by_torch(theirs, images)
    file = str(tmp_path / 'halonet_h1.safetensors')
    safetensors.numpy.save_file(state, file)
  got = model.apply(of_timm(state), images)
  np.testing.assert_allclose(got, expected, atol=3e-4 * np.abs(expected).max())  # softmax after softmax
  loaded = weights.load(file, mean=(0.5,) * 3, std=(0.5,) * 3)
  assert loaded.describe().startswith('HaloNet-H1, 1,000 classes, 256 x 256 pixels')
  np.testing.assert_allclose(loaded.logits(images), got, atol=1e-5 * np.abs(expected).max())
  for field in TIMM:
    other = models.build(name='halonet', variant='H1', num_classes=1000, **{name: value for name, value in TIMM.items() if name != field})
    if field == 'offsets':
      assert np.abs(other.apply(of_timm(state), images) - expected).max() > 0.01 * np.abs(expected).max()
    else:
      assert shapes_of(other) != shapes_of(model)


RESNET = {'conv1': 'stem', 'bn1': 'norm_stem', 'fc': 'head'}
UNIT = {'conv1': 'conv_in', 'bn1': 'norm_in', 'conv2': 'conv_mixing', 'bn2': 'norm_mixing', 'conv3': 'conv_out', 'bn3': 'norm_out',
        'downsample.0': 'conv_shortcut', 'downsample.1': 'norm_shortcut'}


def of_timms_resnet(state):
  ours = {}
  for name, array in state.items():
    module, part = name.rsplit('.', 1)
    if unit := re.fullmatch(r'layer(\d+)\.(\d+)\.(.+)', module):
      place = f'stage{unit[1]}_unit{int(unit[2]) + 1:02d}/{UNIT[unit[3]]}'
    else:
      place = RESNET[module]
    if part != 'num_batches_tracked':
      kind = halonet_names.NORM[part] if array.ndim == 1 else 'kernel'
      collection = 'batch_stats' if part.startswith('running') else 'params'
      ours[f'{collection}/{place}/{kind}'] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  return trees.nested(ours)


@pytest.mark.slow
def test_logits_are_those_of_timms_resnet50():
  with timm_models.module('resnet') as resnet:
    import torch
    torch.manual_seed(0)
    theirs = resnet.resnet50().eval()
    state = filled_by_torch(theirs)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    expected = logits_by_torch(theirs, images)
  got = models.build(name='halonet', variant='ResNet-50', num_classes=1000).apply(of_timms_resnet(state), images)
  np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


# batch statistics


def batch_of(size=16, side=8):
  rng = np.random.default_rng(0)
  return {'image': rng.integers(0, 256, (size, side, side, 3), np.uint8), 'label': rng.integers(0, 5, size).astype(np.int32)}


def steps(devices=1, number=2, model=None, **fields):
  """(the state after `number` steps, the last metrics)."""
  model = model or models.build(**SMALL_STEP)
  optimizer, learning_rate = optim.build(name='sgd', learning_rate=0.1, schedule=dict(name='linear'), total_steps=10)
  variables = filled(shapes_of(model, 8))
  state = train_step.TrainState(np.zeros((), np.int32), variables['params'],
                                jax.tree.map(np.zeros_like, optimizer.init(variables['params'])),
                                trees.weights(variables) if 'ema' in fields else None, variables['batch_stats'])
  step = train_step.make_train_step(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0, loss='softmax_xent',
                                    devices=jax.devices()[:devices], **fields)
  batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch_of())
  for _ in range(number):
    state, metrics = step(state, batch)
  return jax.tree.map(np.asarray, state), metrics


def assert_near(got, expected, tolerance):
  for (path, one), (_, other) in zip(*map(jax.tree_util.tree_leaves_with_path, (got, expected)), strict=True):
    np.testing.assert_allclose(one, other, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize('devices', [pytest.param(2, marks=pytest.mark.slow), 8])
def test_the_statistics_are_those_of_the_whole_batch(devices):
  one, several = steps(1)[0], steps(devices)[0]
  assert_near(several.weights, one.weights, 2e-5)


def test_a_step_moves_the_running_statistics_towards_the_batchs():
  model = models.build(**SMALL_STEP, batch_norm_momentum=0.75)
  variables = filled(shapes_of(model, 8))
  state, _ = steps(number=1, model=model)
  images = (batch_of()['image'] / 255 * 2 - 1).astype(np.float32)
  stem = jax.lax.conv_general_dilated(images, variables['params']['stem']['kernel'], (1, 1), 'SAME',
                                      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  for name, value in (('mean', stem.mean((0, 1, 2))), ('var', stem.var((0, 1, 2)))):
    before, after = (stats['norm_stem'][name] for stats in (variables['batch_stats'], state.batch_stats))
    np.testing.assert_allclose(after, 0.75 * before + 0.25 * value, rtol=1e-4)


def test_evaluation_has_the_running_statistics():
  model = models.build(**SMALL)
  variables = filled(shapes_of(model, 8))
  images = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
  together = model.apply(variables, images)
  np.testing.assert_allclose(together[1:2], model.apply(variables, images[1:2]), atol=1e-5)
  other = jax.tree_util.tree_map_with_path(lambda path, x: 2 * x if path[-1].key == 'var' else x, variables)
  assert np.abs(model.apply(other, images) - together).max() > 1e-3


@pytest.mark.slow
def test_microbatches_and_a_perturbed_pass_move_them_once():
  whole, _ = steps(number=1)
  parts, _ = steps(number=1, accumulate=2)
  # The mean of the parts' means is the whole's; their variances are smaller.
  stem = lambda state, name: state.batch_stats['norm_stem'][name]
  np.testing.assert_allclose(stem(parts, 'mean'), stem(whole, 'mean'), rtol=1e-5)
  assert (stem(parts, 'var') < stem(whole, 'var')).sum() >= 5
  np.testing.assert_allclose(stem(parts, 'var'), stem(whole, 'var'), rtol=0.1)
  perturbed, _ = steps(number=1, sam=dict(rho_max=0.5, rho_min=0.5, images_per_perturbation=16))
  assert_near(perturbed.batch_stats, whole.batch_stats, 1e-6)
  assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(*map(jax.tree.leaves, (perturbed.params, whole.params))))


def test_an_average_of_the_weights_includes_the_running_statistics():
  state, _ = steps(ema=0.75, number=1)
  assert_near(state.ema, state.weights, 1e-6)  # the first one has all the weight
  after, _ = steps(ema=0.75, number=2)
  expected = jax.tree.map(lambda first, second: (0.75 * first + second) / 1.75, state.weights, after.weights)
  assert_near(after.ema, expected, 1e-5)
  assert 'batch_stats' in after.ema


@pytest.mark.slow
def test_groups_of_sam_have_their_own_statistics_on_any_number_of_devices():
  sam = dict(rho_max=0.5, rho_min=0.5, images_per_perturbation=8)
  assert_near(steps(2, number=1, sam=sam)[0].weights, steps(1, number=1, sam=sam)[0].weights, 1e-5)


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_running_statistics_bit_for_bit(data_dir, tmp_path, monkeypatch):
  fields = {'model': {**SMALL_STEP, 'num_classes': 10, 'stochastic_depth': 0.2}, 'step.ema': 0.9}
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  results = train.train(test_train.config(data_dir, **fields), str(whole))
  test_train.stop_after(monkeypatch, 3, test_train.config(data_dir, **fields), stopped)
  assert train.train(test_train.config(data_dir, **fields), str(stopped)) == results
  state = test_train.last_state(whole)
  assert test_train.same(test_train.last_state(stopped), state)
  assert {"['batch_stats']['norm_stem']['mean']", "['ema']['batch_stats']['norm_stem']['mean']"} <= state.keys()


# bad input


@pytest.mark.parametrize('fields, message', [
    (dict(block_size=5), 'config.model.block_size is 5, and attention halves blocks from the second stage on; choose an even one: 6'),
    (dict(heads=(3, 2)), 'config.model.heads is (3, 2); in stage 1 6 must divide the 8 channels that base_width makes'),
    (dict(heads=(2, 2, 2)), 'config.model.heads is (2, 2, 2), of 3 stages, and units (1, 2), of 2; give both for as many'),
    (dict(value_ratio=1.125), 'config.model.heads is (2, 2); in stage 1 2 must divide the 9 channels that base_width and '
     'value_ratio make'),
    (dict(output_ratio=0.3), 'config.model.output_ratio is 0.3, which makes 2.4 channels of the 8 of base_width; choose one that '
     'makes a whole number: 0.25'),
    (dict(output_ratio=-1.), 'config.model.output_ratio is -1.0; it must be above 0'),
    (dict(halo_size=-1), 'config.model.halo_size is -1; it must be a number of places, at least 0'),
    (dict(conv_stages=3), 'config.model.conv_stages is 3; it must be 0 to 2, of the stages'),
    (dict(units=(1, 0)), 'config.model.units is (1, 0); it must have a number of at least 1 for each stage: (3, 3, 10, 3)'),
    (dict(axis_name='batch'), 'axis_name'),
])
def test_wrong_fields_are_named(fields, message):
  with pytest.raises(ValueError) as error:
    models.build(**{**SMALL, **fields})
  assert message in str(error.value)


def test_a_map_of_an_odd_side_that_is_halved_is_named():
  with pytest.raises(ValueError, match=r'images of 9 x 9 make a map of 9 x 9 places before stage 2, which halves it; choose sides '
                                       'that are multiples of 2\n'):
    shapes_of(models.build(**SMALL), 9)
  with pytest.raises(ValueError, match='images of 600 x 600 make a map of 75 x 75 places before stage 3, .* multiples of 32'):
    shapes_of(models.build(name='halonet', variant='H7', num_classes=10), 600)


def test_arrays_that_are_no_halonets_are_shown_beside_a_halonets():
  of_model = trees.weights(shapes_of(models.build(**SMALL), 8))
  flat = trees.flat(of_model)
  del flat['batch_stats/norm_stem/mean'], flat['stage2_unit02/attention/rows']
  with pytest.raises(ValueError, match='the arrays are not those of a HaloNet') as error:
    models.config_from_params(trees.nested(flat))
  assert 'batch_stats/norm_stem/mean' in str(error.value) and 'stage2_unit02/attention/rows' in str(error.value)


def test_a_file_without_its_record_is_refused(tmp_path):
  weights_file = tmp_path / 'w.npz'
  np.savez(weights_file, **trees.flat(filled(trees.weights(shapes_of(models.build(**SMALL), 8)))))
  with pytest.raises(ValueError, match='the arrays of a HaloNet do not show block_size and halo_size, and .*w.npz.json, which says '
                                       'them, is missing; copy it beside the file, or convert the run again'):
    weights.load(weights_file)


def test_a_runs_weights_have_the_fields_of_its_variant():
  config = dict(name='halonet', variant='H0', num_classes=10)
  of_model = filled(trees.weights(shapes_of(models.build(**config))))
  metadata = dict(model=config, resolution=256, loss='softmax_xent', class_names=None, crop='antialiased', resize=None, permutation=None)
  loaded = loading._build(of_model, metadata, models.expected_config(config), 'config.json', 'weights')
  assert models.build(**loaded.model).block_size == 8


def test_what_a_step_keeps_is_estimated():
  model = models.build(**{**SMALL, 'units': (1,), 'heads': (2,)})
  stem, unit = model.activations(6)
  # The stem's output and norm; of four blocks of 4 x 4 places the windows of 6 x 6, and the attention's weights.
  assert stem == (3 * 36, 3 * 36 + 2 * 36 * 8)
  assert unit == (36 * 8, 36 * 8 + 4 * 36 * 8 + 4 * 36 * 8 * 2 + 36 * 36 * 2 + 2 * 36 * 8)


@pytest.mark.slow
def test_units_that_are_computed_again_have_the_same_statistics():
  whole, again = steps(number=1)[0], steps(number=1, model=models.build(**SMALL_STEP, remat='block'))[0]
  assert_near(again.weights, whole.weights, 1e-5)
