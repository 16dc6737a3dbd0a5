"""The training step: one function of seed, step and global batch, however the batch is divided."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer import configuration
from mixer.data import normalize
from mixer import models
from mixer.run import devices
from mixer.training import mixup
from mixer.training import optim
from mixer.training import sam as sam_lib
from mixer.training import train_step

SHAPE = (8, 8, 3)

# LLVM takes 20 s over the random numbers of dropout, which are soon computed without its care.
FAST = {'xla_backend_optimization_level': 0}
BATCH = 16


def a_model(**fields):
  return models.build(name='mlp_mixer', num_classes=5, patch_size=4, num_blocks=1, hidden_dim=8, tokens_mlp_dim=6,
                      channels_mlp_dim=12, **fields)


class Noise(nn.Module):
  """A model that sees nothing but its keys."""
  num_classes: int = 5

  @nn.compact
  def __call__(self, images, keys=None):
    shape = (self.num_classes,)
    logits = jnp.zeros((len(images), *shape)) + self.param('bias', nn.initializers.zeros, shape)
    return logits if keys is None else logits + jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def a_batch(seed=0, labels=1):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 5, BATCH) if labels == 1 else rng.integers(-1, 5, (BATCH, labels))
  return {'image': rng.integers(0, 256, (BATCH, *SHAPE), np.uint8), 'label': label.astype(np.int32)}


def an_optimizer(**fields):
  fields = {'learning_rate': 0.1, 'schedule': dict(name='linear'), **fields}
  return optim.build(name='sgd', total_steps=10, **fields)


def start(model, optimizer):
  """The state before the first step, with random parameters: past a head of zeros no gradient would go."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))['params']
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: rng.normal(scale=0.4, size=x.shape).astype(np.float32), shapes)
  opt_state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, params))
  return train_step.TrainState(np.zeros((), np.int32), params, opt_state)


def take(model, batches, num_devices, optimizer=None, accumulate=1, seed=0, loss='softmax_xent',
         sam=None, label_smoothing=0., **mixing):
  """(parameters after the steps, the metrics of each) on so many devices."""
  optimizer, learning_rate = optimizer or an_optimizer()
  its_devices = jax.devices()[:num_devices]
  arguments = dict(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=seed, loss=loss,
                   accumulate=accumulate, label_smoothing=label_smoothing)
  if num_devices == jax.device_count():
    step = train_step.make_train_step(**arguments, **mixing, sam=sam and dataclasses.asdict(sam))
  else:
    step = jax.pmap(functools.partial(train_step.train_step, **arguments, mixing=mixup.Mixing(**mixing), sam=sam), 'batch',
                    in_axes=(None, 0), out_axes=None, devices=its_devices)
  state = start(model, optimizer)
  batches = [jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch) for batch in batches]
  step = step.lower(state, batches[0]).compile(FAST)
  metrics = []
  for batch in batches:
    state, values = step(state, batch)
    devices.block_on_simulated_devices(values)
    metrics.append(jax.device_get(values))
  return jax.device_get(state.params), metrics


def assert_same(result, expected, atol=1e-6):
  assert jax.tree.map(np.shape, result) == jax.tree.map(np.shape, expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), result, expected)


def largest_difference(a, b):
  return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def mean_loss(params, model, batch):
  """Softmax cross-entropy without noise, by the sum of exponentials."""
  logits = model.apply({'params': params}, batch['image'] / np.float32(255) * 2 - 1)
  mine = jnp.take_along_axis(logits, batch['label'][:, None], axis=1)[:, 0]
  return (jax.scipy.special.logsumexp(logits, axis=1) - mine).mean()


@functools.cache
def noisy_steps(devices, accumulate=1):
  model = a_model(dropout_rate=0.3, stochastic_depth=0.5)
  return take(model, [a_batch(0), a_batch(1)], devices, accumulate=accumulate, seed=3, mixup=0.5)


def test_devices_take_the_step_that_one_takes():
  """With dropout, stochastic depth and mixup: all noise goes with a place in the global batch."""
  assert_same(noisy_steps(8), noisy_steps(1))


def test_parts_of_a_batch_add_up_to_the_step_of_the_whole():
  assert_same(noisy_steps(2, accumulate=4), noisy_steps(1))


def test_noise_depends_on_seed_step_and_place():
  """Images and parameters stay as they are, so that nothing but the noise can change the loss."""
  still = an_optimizer(learning_rate=1e-30)

  def losses(size, seed=0):
    alike = {name: np.repeat(x[:1], size, axis=0) for name, x in a_batch(0).items()}
    return [values['loss'] for values in take(Noise(), [alike] * 2, 1, still, seed=seed)[1]]

  all_losses = [*losses(BATCH), *losses(BATCH, seed=1), *losses(1)]
  assert len(set(np.round(all_losses, 3))) == 6


@functools.cache
def cut_steps(devices, accumulate=1):
  batches = [{**a_batch(seed, labels=3), 'weight': np.random.default_rng(seed).random((BATCH, 3), np.float32)} for seed in (0, 1)]
  return take(a_model(dtype='bfloat16'), batches, devices, accumulate=accumulate, seed=3, loss='sigmoid_xent', mixup=0.5,
              cutmix=1., cutmix_probability=0.5, sam=sam_lib.Sam(0.5, 0.1, 0.3, images_per_perturbation=2))


@pytest.mark.parametrize('devices, accumulate', [(8, 1), (2, 2)])
def test_cutmix_with_all_else_does_not_depend_on_the_devices(devices, accumulate):
  """Of several labels with weights, by SAM in bfloat16. The first step has CutMix, and the second mixup."""
  is_cutmix = [bool(jnp.ptp(mixup.Mixing(0.5, 1., 0.5).weights(3, step, 8, 8)[0])) for step in range(2)]
  assert is_cutmix == [True, False]
  assert_same(cut_steps(devices, accumulate), cut_steps(1), atol=1e-3)


def test_a_step_that_mixes_nothing_has_nothing_of_it():
  """Its program is that of a step without the fields."""
  def program(**fields):
    optimizer, learning_rate = an_optimizer()
    step = train_step.make_train_step(model=Noise(), optimizer=optimizer, learning_rate=learning_rate, seed=0,
                                      loss='softmax_xent', **fields)
    return step.lower(start(Noise(), optimizer), jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), a_batch())).as_text()
  assert program() == program(mixup=0., cutmix=0., cutmix_probability=1.) and 'collective_permute' not in program()
  assert 'collective_permute' in program(cutmix=1.)


@pytest.mark.parametrize('model, batch', [
    (Noise(), a_batch(0)), (a_model(), {**a_batch(0), 'label': np.zeros(BATCH, np.int32)})], ids=['targets', 'images'])
def test_mixing_changes(model, batch):
  """The one model does not see the images, and for the other one all targets are alike."""
  plain, *mixed = (take(model, [batch], 1, **fields)[1][0]['loss'] for fields in ({}, dict(mixup=0.5), dict(cutmix=1.)))
  assert min(abs(plain - loss) for loss in mixed) > 1e-3 and mixed[0] != mixed[1]


def test_the_weight_of_mixup_depends_on_seed_and_step():
  """Without noise, images and parameters stay as they are."""
  still = an_optimizer(learning_rate=1e-30)
  losses = [values['loss'] for seed in (0, 1)
            for values in take(a_model(), [a_batch(0)] * 2, 1, still, seed=seed, mixup=0.5)[1]]
  assert len(set(np.round(losses, 4))) == 4


def test_metrics_are_those_of_the_whole_batch():
  """The loss is a mean over the examples of all devices; the norm is that of the mean gradient, before it is cut."""
  model, batch = a_model(), a_batch(0)
  optimizer = an_optimizer(clip_norm=1e-3, schedule=dict(name='linear', warmup_steps=5))
  before = start(model, optimizer[0]).params
  after, metrics = take(model, [batch] * 2, 2, optimizer)
  gradient = jax.jit(jax.value_and_grad(lambda params: mean_loss(params, model, batch)), compiler_options=FAST)
  value, grads = jax.device_get(gradient(before))
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
  assert norm > 0.1
  # The first learning rate of a warmup is zero, so both steps see the same parameters.
  for values, rate in zip(metrics, [0, 0.02]):
    assert set(values) == {'loss', 'top1', 'grad_norm', 'learning_rate'}
    assert values['loss'] == pytest.approx(value, rel=1e-5)
    assert values['grad_norm'] == pytest.approx(norm, rel=1e-5)
    assert values['learning_rate'] == pytest.approx(rate, abs=1e-8)
  # Cut to a norm of 1e-3; the momentum of 0.9 holds the first step's gradient too.
  expected = jax.tree.map(lambda w, g: w - 0.02 * 1.9 * 1e-3 / norm * g, before, grads)
  assert_same(after, expected, atol=1e-7)
  assert largest_difference(after, before) > 1e-6


@pytest.mark.parametrize('devices, accumulate', [(1, 1), (2, 1), (2, 4)])
def test_the_accuracy_is_that_of_the_whole_batch(devices, accumulate):
  model, batch = a_model(), a_batch(0)
  pixels = batch['image'] / np.float32(255) * 2 - 1
  params = start(model, an_optimizer()[0]).params
  logits = jax.jit(model.apply, compiler_options=FAST)({'params': params}, pixels)
  expected = (np.asarray(logits).argmax(1) == batch['label']).mean()
  assert 0 < expected < 1
  _, metrics = take(model, [batch], devices, accumulate=accumulate)
  assert metrics[0]['top1'] == pytest.approx(expected)


@pytest.mark.parametrize('batch, fields', [(a_batch(0), dict(mixup=0.5)), (a_batch(0), dict(cutmix=1., cutmix_probability=0.1)),
                                           (a_batch(0, labels=3), {})], ids=['mixup', 'cutmix', 'several labels'])
def test_there_is_no_accuracy_of_mixed_images_or_of_several_labels(batch, fields):
  _, metrics = take(Noise(), [batch], 1, **fields, loss='sigmoid_xent')
  assert set(metrics[0]) == {'loss', 'grad_norm', 'learning_rate'}


def test_several_labels():
  model, batch = a_model(), a_batch(2, labels=3)
  params = start(model, an_optimizer()[0]).params
  pixels = batch['image'] / np.float32(255) * 2 - 1
  logits = np.asarray(jax.jit(model.apply, compiler_options=FAST)({'params': params}, pixels), np.float64)
  yes = np.array([[k in row for k in range(5)] for row in batch['label']])
  shares = 1 / (1 + np.exp(-logits))
  expected = -np.log(np.where(yes, shares, 1 - shares)).sum(axis=1).mean()
  _, metrics = take(model, [batch], num_devices=2, accumulate=4, loss='sigmoid_xent')
  assert metrics[0]['loss'] == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_in_the_loss_and_not_in_the_accuracy():
  model, batch, amount = a_model(), a_batch(0), 0.3
  optimizer = an_optimizer()
  before = start(model, optimizer[0]).params
  after, (metrics,) = take(model, [batch], 2, optimizer, label_smoothing=amount)

  def smoothed(params):
    shares = jax.nn.log_softmax(model.apply({'params': params}, batch['image'] / np.float32(255) * 2 - 1))
    return (1 - amount) * mean_loss(params, model, batch) - amount * shares.mean()

  value, gradient = jax.jit(jax.value_and_grad(smoothed), compiler_options=FAST)(before)
  assert metrics['loss'] == pytest.approx(float(value), rel=1e-5)
  assert_same(after, jax.tree.map(lambda w, g: w - 0.1 * g, before, gradient), atol=1e-5)
  plain, (plain_metrics,) = take(model, [batch], 2, optimizer)
  assert metrics['top1'] == plain_metrics['top1'] and largest_difference(after, plain) > 1e-3


def test_wrong_loss():
  with pytest.raises(ValueError, match=r"config\.step\.loss is 'xent'; it must be one of 'softmax_xent', "):
    take(a_model(), [a_batch(0)], 1, loss='xent')


def test_wrong_accumulate():
  with pytest.raises(ValueError, match=r'config\.step\.accumulate is 3; it must divide the 16 images a device'):
    take(a_model(), [a_batch(0)], 1, accumulate=3)


def test_cutmix_of_one_class_is_refused_unless_images_may_be_without_it():
  one = {**a_batch(), 'label': np.zeros(BATCH, np.int32)}
  with pytest.raises(ValueError, match='^config.step.cutmix is 1.0, and the model has 1 class, so that there are no labels to '
                                       'mix; set it to 0, or train on more classes\n'):
    take(Noise(1), [one], 1, cutmix=1.)
  take(Noise(1), [{**one, 'label': one['label'][:, None]}], 1, cutmix=1., loss='sigmoid_xent')


@pytest.mark.parametrize('fields, message', [
    (dict(cutmix=-1.), '^config.step.cutmix is -1.0; it must be at least 0$'),
    (dict(cutmix=1., cutmix_probability=1.5), '^config.step.cutmix_probability is 1.5; it must be at least 0 and at most 1$'),
    (dict(cutmix_probability=0.5), '^config.step.cutmix_probability is 0.5, and cutmix is 0.0, so that no step has it; '
                                   'set cutmix, to 1.0 as in its paper, or drop cutmix_probability$'),
    (dict(accumulate=0), '^config.step.accumulate is 0; it must be at least 1$'),
    (dict(label_smoothing=1.), '^config.step.label_smoothing is 1.0; it must be at least 0 and below 1$'),
    (dict(mixup=-0.1), '^config.step.mixup is -0.1; it must be at least 0$'),
    (dict(mixup=float('nan')), '^config.step.mixup is nan; it must be a finite number, at least 0$')])
def test_a_number_out_of_its_range_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=message):
    configuration.instantiate(train_step.make_train_step, 'step', dict(loss='softmax_xent', **fields), model=None,
                              optimizer=None, learning_rate=None, seed=0)


def planned(accumulate=1, **fields):
  """(XLA's account of a step's memory on one device, the bytes of the parameters)."""
  model = models.build(name='mlp_mixer', num_classes=5, num_blocks=1, tokens_mlp_dim=6, **fields)
  optimizer, learning_rate = optim.build(name='adamw', learning_rate=1e-3, schedule=dict(name='linear'), total_steps=10,
                                         weight_decay=0.1, clip_norm=1.)
  init = functools.partial(train_step.init, model, optimizer, SHAPE, 0)
  step = train_step.make_train_step(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0, loss='softmax_xent',
                             accumulate=accumulate, devices=jax.devices()[:1])
  batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in a_batch().items()}
  memory = step.lower(jax.eval_shape(init), batch).compile().memory_analysis()
  return memory, sum(x.size * 4 for x in jax.tree.leaves(jax.eval_shape(init).params))


def test_the_state_stays_one_replicated_array_and_is_donated():
  optimizer, learning_rate = an_optimizer()
  init = functools.partial(train_step.init, Noise(), optimizer, SHAPE, 0)
  step = train_step.make_train_step(model=Noise(), optimizer=optimizer, learning_rate=learning_rate, seed=0,
                                    loss='softmax_xent')
  state = devices.init_replicated(init)
  batch = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), a_batch())
  compiled, _ = train_step.compile_ahead(step, jax.eval_shape(init), batch)()
  for _ in range(2):
    previous, (state, metrics) = state, compiled(state, batch)
    devices.block_on_simulated_devices(metrics)
    assert all(x.is_deleted() for x in jax.tree.leaves(previous))
    assert all(x.is_fully_replicated and len(x.sharding.device_set) == 8 for x in jax.tree.leaves(state))
  assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, jax.eval_shape(init))


def test_the_new_state_is_written_over_the_old():
  """Beside the gradients and some of their changes, no copy of the parameters is made."""
  memory, params = planned(patch_size=4, hidden_dim=256, channels_mlp_dim=1024)
  assert memory.temp_size_in_bytes < 2.4 * params  # 2.1 of them; 3.1 with a copy
  assert memory.alias_size_in_bytes > 3 * params  # AdamW's moments, too


@pytest.mark.slow
def test_parts_of_a_batch_take_less_memory():
  whole, parts = (planned(accumulate, patch_size=1, hidden_dim=16, channels_mlp_dim=64)[0] for accumulate in (1, 8))
  assert parts.temp_size_in_bytes < 0.5 * whole.temp_size_in_bytes


def test_init():
  optimizer, _ = an_optimizer()
  inits = [functools.partial(train_step.init, nn.Dense(5), optimizer, SHAPE, seed) for seed in (0, 0, 1)]
  state, again, other = map(devices.init_replicated, inits)
  assert state.step == 0 and state.step.dtype == 'int32'
  jax.tree.map(np.testing.assert_array_equal, state, again)
  assert np.any(state.params['kernel'] != other.params['kernel'])
  assert all(x.is_fully_replicated and len(x.sharding.device_set) == 8 for x in jax.tree.leaves(state))


def test_scale():
  np.testing.assert_allclose(normalize.normalize_images(np.array([0, 51, 255], np.uint8)), [-1, -0.6, 1], atol=1e-6)
  assert normalize.normalize_images(np.zeros(1, np.uint8)).dtype == 'float32'
