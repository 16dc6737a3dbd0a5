"""The optimizer, step by step against numpy."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import golden
from mixer import configuration
from mixer import models
from mixer.training import optim
from mixer import trees

CONSTANT = dict(name='linear', end=0.1)  # at a learning rate of 0.1
PARAMS = {'layer': {'kernel': jnp.array([[1., -2.], [3., 4.]]), 'bias': jnp.array([0.5, -0.5])},
          'norm': {'scale': jnp.array([1., 2.]), 'bias': jnp.array([3., 4.])}}


def trajectory(grads, **fields):
  """The parameters after each step."""
  optimizer, _ = optim.build(**{'learning_rate': 0.1, 'schedule': CONSTANT, 'total_steps': 100, **fields})
  params, state, after = PARAMS, optimizer.init(PARAMS), []
  for grad in grads:
    changes, state = optimizer.update(grad, state, params)
    params = optax.apply_updates(params, changes)
    after.append(params)
  return after


def random_grads(number, size=1.):
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(size * rng.normal(size=x.shape), jnp.float32)
  return [jax.tree.map(draw, PARAMS) for _ in range(number)]


def assert_same(tree, expected, rtol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), tree, expected)


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_weight_decay_is_a_share_of_the_learning_rate(name):
  """AdamW's units: without gradients a kernel loses weight_decay * learning rate of itself, and nothing else moves."""
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  falling = dict(name='linear', end=0.)
  first, second = trajectory([zeros] * 2, name=name, weight_decay=0.2, schedule=falling, total_steps=2)
  np.testing.assert_allclose(first['layer']['kernel'], PARAMS['layer']['kernel'] * (1 - 0.2 * 0.1), rtol=1e-6)
  np.testing.assert_allclose(second['layer']['kernel'], PARAMS['layer']['kernel'] * 0.98 * (1 - 0.2 * 0.05), rtol=1e-6)
  np.testing.assert_array_equal(second['layer']['bias'], PARAMS['layer']['bias'])
  jax.tree.map(np.testing.assert_array_equal, second['norm'], PARAMS['norm'])


def test_decay_mask_of_b16():
  model = models.build(name='mlp_mixer', variant='B/16', num_classes=1000)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
  mask = flax.traverse_util.flatten_dict(optim.decay_mask(params), sep='/')
  lines = [f'{name:<48} {"decays" if decays else "-"}\n' for name, decays in mask.items()]
  golden.check('decay_mask_b16', ''.join(lines))


def test_adamw():
  grads = random_grads(4)
  after = trajectory(grads, name='adamw', weight_decay=0.2, b1=0.8, b2=0.9, eps=1e-3)
  for section, name, decay in (('layer', 'kernel', 0.2), ('norm', 'scale', 0.)):
    w = np.asarray(PARAMS[section][name], np.float64)
    m = v = np.zeros_like(w)
    for t, grad in enumerate(grads, 1):
      g = np.asarray(grad[section][name], np.float64)
      m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
      w = w - 0.1 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3) + decay * w)
      np.testing.assert_allclose(after[t - 1][section][name], w, rtol=1e-5)


def test_lion_is_that_of_optax():
  grads = random_grads(4)
  ours = trajectory(grads, name='lion', weight_decay=0.2, b1=0.8, b2=0.95)
  theirs, params = optax.lion(0.1, b1=0.8, b2=0.95, weight_decay=0.2, mask=optim.decay_mask), PARAMS
  state = theirs.init(params)
  for grad, after in zip(grads, ours, strict=True):
    updates, state = theirs.update(grad, state, params)
    params = optax.apply_updates(params, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), params, after)


def test_adamw_has_the_papers_moments():
  """B1 = 0.9, B2 = 0.999 (section 3)."""
  grads = random_grads(3)
  assert_same(trajectory(grads, name='adamw'), trajectory(grads, name='adamw', b1=0.9, b2=0.999, eps=1e-8))


def test_sgd_with_momentum_clipping_and_decay():
  """Each gradient is cut before it enters the momentum, and the decay does not enter it."""
  grads = random_grads(4)
  grads[2] = jax.tree.map(lambda g: 0.01 * g, grads[2])  # too short to be cut
  after = trajectory(grads, name='sgd', momentum=0.8, clip_norm=1.5, weight_decay=0.2)
  w = np.asarray(PARAMS['layer']['kernel'], np.float64)
  m = np.zeros_like(w)
  for t, grad in enumerate(grads):
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grad)))
    assert (norm > 1.5) == (t != 2)
    m = 0.8 * m + np.asarray(grad['layer']['kernel']) * min(1, 1.5 / norm)
    w = w - 0.1 * (m + 0.2 * w)
    np.testing.assert_allclose(after[t]['layer']['kernel'], w, rtol=1e-5)


def test_momentum_is_nine_tenths_unless_given():
  grads = random_grads(3)
  assert_same(trajectory(grads, name='sgd'), trajectory(grads, name='sgd', momentum=0.9))


def test_without_a_norm_nothing_is_cut():
  grad, = random_grads(1, size=1000.)
  after, = trajectory([grad], name='sgd')
  assert_same(after, jax.tree.map(lambda w, g: w - 0.1 * g, PARAMS, grad))


def test_the_rate_that_is_returned_is_the_one_applied():
  schedule = dict(name='cosine', warmup_steps=2)
  grads = [jax.tree.map(jnp.ones_like, PARAMS)] * 6
  after = [PARAMS, *trajectory(grads, name='sgd', momentum=0., schedule=schedule, total_steps=6)]
  _, rate = optim.build(name='sgd', learning_rate=0.1, schedule=schedule, total_steps=6)
  lost = [float((a['norm']['bias'] - b['norm']['bias'])[0]) for a, b in zip(after, after[1:])]
  np.testing.assert_allclose(lost, [float(rate(step)) for step in range(6)], atol=1e-6)
  np.testing.assert_allclose(lost[:3], [0, 0.05, 0.1], atol=1e-6)


@pytest.mark.parametrize('fields, message', [
    (dict(name='adam'), r"optimizer\.name is 'adam'; it must be one of 'adamw', 'sgd'"),
    (dict(momentm=0.9), r'unknown field config\.optimizer\.momentm\. Did you mean config\.optimizer\.momentum\?'),
    (dict(b1=0.9), r'unknown field config\.optimizer\.b1\.'),
    (dict(schedule=dict(name='cosin')), r"optimizer\.schedule\.name is 'cosin'; it must be one of 'linear', 'cosine'"),
    (dict(schedule=dict(warmup_steps=1)), r'optimizer\.schedule\.name is None; it must be one of'),
    (dict(schedule=dict(name='linear', warmup_step=1)),
     r'unknown field config\.optimizer\.schedule\.warmup_step\. Did you mean config\.optimizer\.schedule\.warmup_steps\?'),
    (dict(schedule=dict(name='linear', peak=1.)), r'unknown field config\.optimizer\.schedule\.peak\.'),
    (dict(schedule=dict(name='linear', warmup_steps=None)), r'schedule\.warmup_steps is None, of type NoneType; it must be int'),
    (dict(schedule=dict(name='linear', warmup_steps=10)),
     r'schedule\.warmup_steps is 10, and the run has 10 steps in all; shorten the warmup'),
])
def test_wrong_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    optim.build(**{'name': 'sgd', 'learning_rate': 0.1, 'schedule': CONSTANT, 'total_steps': 10, **fields})


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize('name, value, message', [
    ('learning_rate', -0.1, 'it must be above 0'), ('learning_rate', 0., 'it must be above 0'),
    ('learning_rate', NAN, 'it must be a finite number, above 0'), ('learning_rate', INF, 'it must be a finite number, above 0'),
    ('weight_decay', -1, 'it must be at least 0'), ('weight_decay', NAN, 'it must be a finite number, at least 0'),
    ('layer_decay', 0., 'it must be above 0 and at most 1'), ('layer_decay', 1.5, 'it must be above 0 and at most 1'),
    ('clip_norm', 0, 'it must be above 0'), ('clip_norm', -1., 'it must be above 0'),
    ('momentum', 1., 'it must be at least 0 and below 1'), ('momentum', -0.1, 'it must be at least 0 and below 1'),
    ('b1', 1, 'it must be at least 0 and below 1'), ('b2', 1., 'it must be at least 0 and below 1'),
    ('b2', NAN, 'it must be a finite number, at least 0 and below 1'), ('eps', 0., 'it must be above 0'),
    ('schedule.end', -1e-5, 'it must be at least 0'), ('schedule.end', INF, 'it must be a finite number, at least 0'),
    ('schedule.warmup_steps', -1, 'it must be at least 0'), ('schedule.drops', (0.5, 1.5), 'it must be above 0 and at most 1'),
    ('schedule.drops', (NAN,), 'it must be a finite number, above 0 and at most 1'),
])
def test_a_number_out_of_its_range_is_refused_by_name(name, value, message):
  fields = dict(name='sgd' if name == 'momentum' else 'adamw', learning_rate=0.1, total_steps=10, schedule=dict(CONSTANT))
  if name == 'schedule.drops':
    fields['schedule'] = dict(name='steps')
  section, _, field = name.rpartition('.')
  (fields[section] if section else fields)[field] = value
  shown = value if name != 'schedule.drops' else next(x for x in value if not 0 < x <= 1)
  with pytest.raises(ValueError, match=f'^config.optimizer.{name} is {shown}; {message}$'):
    configuration.instantiate(optim.build, 'optimizer', fields)


@pytest.mark.parametrize('fields', [dict(clip_norm=None), dict(layer_decay=None), dict(layer_decay=1), dict(clip_norm=1e-3), dict(weight_decay=0), dict(learning_rate=1),
                                    dict(momentum=0), dict(schedule=dict(name='steps', drops=(0.5,))),
                                    dict(schedule=dict(name='cosine', warmup_steps=0, end=0))])
def test_the_ends_of_the_ranges_are_accepted(fields):
  configuration.instantiate(optim.build, 'optimizer',
                            {'name': 'sgd', 'learning_rate': 0.1, 'schedule': CONSTANT, 'total_steps': 10,
                                                       **fields})


def test_a_config_is_left_as_it_is():
  schedule = dict(name='cosine', warmup_steps=2)
  for _ in range(2):
    optim.build(name='sgd', learning_rate=0.1, schedule=schedule, total_steps=6)
  assert schedule == dict(name='cosine', warmup_steps=2)


def test_lambs_step_on_a_kernel_has_the_kernels_length():
  grads = random_grads(3)
  fields = dict(name='lamb', weight_decay=0.2)
  adam = trajectory(grads[:1], name='adamw', eps=1e-6)[0]
  [after] = trajectory(grads[:1], **fields)
  kernel = np.asarray(PARAMS['layer']['kernel'], np.float64)
  step = np.sign(np.asarray(grads[0]['layer']['kernel'])) + 0.2 * kernel  # the first step of Adam is the sign
  expected = kernel - 0.1 * step * np.linalg.norm(kernel) / np.linalg.norm(step)
  np.testing.assert_allclose(after['layer']['kernel'], expected, rtol=1e-4)
  for layer, name in (('layer', 'bias'), ('norm', 'scale'), ('norm', 'bias')):  # neither decays nor is adapted
    np.testing.assert_array_equal(after[layer][name], adam[layer][name])


def test_the_state_of_other_optimizers_is_without_lambs():
  build = lambda name: optim.build(name=name, learning_rate=0.1, schedule=CONSTANT, total_steps=9, weight_decay=0.1)[0]
  assert len(build('lamb').init(PARAMS)) == len(build('adamw').init(PARAMS)) + 1


SIZES = dict(patch_size=8, num_blocks=12, hidden_dim=8)
MIXER = dict(SIZES, tokens_mlp_dim=8, channels_mlp_dim=8)
OF_MIXER = {'stem': 13, 'MixerBlock_0': 12, 'MixerBlock_2': 10, 'MixerBlock_11': 1, 'pre_head_layer_norm': 0, 'head': 0}
LAYERS = {  # family: fields, layers below the head
    'mlp_mixer': (MIXER, OF_MIXER), 'untied_mixer': (MIXER, OF_MIXER), 'grouped_mixer': (dict(MIXER, groups=2), OF_MIXER),
    'views_mixer': (dict(MIXER, groups=2), OF_MIXER), 'pyramid_mixer': (dict(MIXER, tokens=(4,) * 12), OF_MIXER),
    'vit': (dict(SIZES, mlp_dim=8, num_heads=2, representation_size=8), {
        'cls': 13, 'embedding': 13, 'Transformer/posembed_input': 13, 'Transformer/encoderblock_0': 12,
        'Transformer/encoderblock_2': 10, 'Transformer/encoder_norm': 0, 'pre_logits': 0, 'head': 0}),
    'resmlp': (SIZES, {'stem': 13, 'ResBlock_0': 12, 'ResBlock_11': 1, 'affine': 0, 'head': 0}),
    'bit_resnet': (dict(variant='R50x1'), {
        'root_block': 17, 'block1/unit01': 16, 'block1/unit03': 14, 'block2/unit01': 13, 'block4/unit03': 1, 'norm': 0,
        'head': 0}),
    'halonet': (dict(variant='H0'), {
        'stem': 17, 'norm_stem': 17, 'stage1_unit01': 16, 'stage2_unit03': 11, 'stage3_unit01': 10, 'stage4_unit03': 1, 'head': 0}),
}


@pytest.mark.parametrize('platform', ['any', 'cpu'])
@pytest.mark.parametrize('family', models.FAMILIES)
def test_layers_are_counted_down_from_the_head(family, platform):
  fields, expected = LAYERS[family]
  model = models.build(name=family, num_classes=10, platform=platform, **fields)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  layers, last = trees.flat(optim.layers_below_head(params)), max(expected.values())
  for name, layer in layers.items():
    found = [expected[module] for module in expected if f'{name}/'.startswith(f'{module}/')]
    assert found == [layer] or not found and 0 < layer < last, name
  assert set(layers.values()) == set(range(last + 1))


@pytest.mark.parametrize('name', optim.ALGORITHMS)
def test_layer_decay_multiplies_the_whole_update(name):
  """Weight decay, clipping and LAMB's trust ratio included; exactly, for powers of two."""
  params = {**PARAMS, 'stem': PARAMS['layer'], 'MixerBlock_0': PARAMS, 'MixerBlock_1': PARAMS}
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
  build = lambda **fields: optim.build(name=name, learning_rate=0.1, schedule=CONSTANT, total_steps=9, weight_decay=0.1,
                                       clip_norm=1., **fields)[0]
  plain, decayed = build(), build(layer_decay=0.5)
  states = plain.init(params), decayed.init(params)
  for _ in range(2):
    expected, state = plain.update(grads, states[0], params)
    updates, decayed_state = decayed.update(grads, states[1], params)
    states = state, decayed_state
    for module, factor in (('stem', 1 / 8), ('MixerBlock_0', 1 / 4), ('MixerBlock_1', 1 / 2), ('layer', 1), ('norm', 1)):
      jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y * factor), updates[module], expected[module])


def test_without_layer_decay_the_program_is_the_same():
  program = lambda **fields: str(jax.make_jaxpr(lambda: trajectory([PARAMS], name='adamw', weight_decay=0.1, **fields))())
  assert program() == program(layer_decay=None) != program(layer_decay=0.5)
