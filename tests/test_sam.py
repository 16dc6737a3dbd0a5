"""SAM and GSAM against two gradients by hand, optax, a known quadratic, and themselves on other numbers of devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import mixer_gsam
from mixer import config_fields
from mixer import configuration
from mixer.training import optim
from mixer.training import sam as sam_lib
from mixer.training import schedules
from mixer.training import train_step
import test_train_step
from test_train_step import a_batch
from test_train_step import a_model
from test_train_step import assert_same
from test_train_step import BATCH
from test_train_step import largest_difference
from test_train_step import start
from test_train_step import take

GSAM = dict(rho_max=0.5, rho_min=0.1, alpha=0.3, images_per_perturbation=2)


class Linear(nn.Module):
  """Logits that are linear in the pixels."""
  num_classes: int = 5

  @nn.compact
  def __call__(self, images, keys=None):
    return nn.Dense(self.num_classes, name='head')(images.reshape(len(images), -1))


def a_step_by_hand(params, batch, rho, alpha, group):
  """The gradient in float64: the mean over groups of g_p - alpha g_perp."""
  pixels = batch['image'].reshape(BATCH, -1) / np.float64(127.5) - 1
  with_one = np.concatenate([pixels, np.ones((BATCH, 1))], 1)
  w = np.concatenate([params['head']['kernel'], params['head']['bias'][None]]).astype(np.float64)

  def gradient(w, rows):
    logits = with_one[rows] @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return with_one[rows].T @ (p - np.eye(5)[batch['label'][rows]]) / len(p)

  gradients = []
  for k in range(0, BATCH, group):
    g = gradient(w, slice(k, k + group))
    g_p = gradient(w + rho * g / np.linalg.norm(g), slice(k, k + group))
    unit = g_p / np.linalg.norm(g_p)
    gradients.append(g_p - alpha * (g - (g * unit).sum() * unit))
  return np.mean(gradients, 0)


@pytest.mark.parametrize('group', [2, 8, 16])
def test_the_gradient_is_that_of_two_gradients_by_hand(group):
  optimizer = optim.build(name='sgd', momentum=0., learning_rate=0.1, schedule=dict(name='linear'), total_steps=10)
  before = start(Linear(), optimizer[0]).params
  after, (metrics,) = take(Linear(), [a_batch()], 1, optimizer, sam=sam_lib.Sam(0.7, 0.7, 0.3, group))
  expected = 0.1 * a_step_by_hand(before, a_batch(), 0.7, 0.3, group)
  np.testing.assert_allclose(before['head']['kernel'] - after['head']['kernel'], expected[:-1], rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(before['head']['bias'] - after['head']['bias'], expected[-1], rtol=1e-3, atol=1e-6)
  assert metrics['surrogate_gap'] > 0.01


def test_without_alpha_it_is_the_sam_of_optax():
  model, schedule = a_model(), optim.build(name='sgd', learning_rate=0.1, schedule=dict(name='linear'), total_steps=10)[1]
  base = optax.sgd(0.1)
  params, _ = take(model, [a_batch()], 1, (base, schedule), sam=sam_lib.Sam(0.4, 0.4, 0., BATCH))
  theirs = optax.contrib.sam(base, optax.chain(optax.contrib.normalize(), optax.sgd(0.4)), sync_period=2, opaque_mode=True)
  before = start(model, base).params
  gradient = jax.grad(lambda params: test_train_step.mean_loss(params, model, a_batch()))
  updates, _ = theirs.update(gradient(before), theirs.init(before), before, grad_fn=lambda params, _: gradient(params))
  assert_same(params, optax.apply_updates(before, updates), atol=1e-5)
  assert largest_difference(params, optax.apply_updates(before, base.update(gradient(before), base.init(before))[0])) > 1e-3


def test_the_step_on_a_quadratic_is_known():
  """Of w' A w / 2 with A = diag(1, 3) at w = (4, 1): g = (4, 3), |g| = 5, w_adv = (4, 1) + 5 g / |g| = (8, 4)."""
  loss = lambda w: (0.5 * (jnp.array([1., 3.]) * w**2).sum(), {})
  gradient = lambda alpha: sam_lib.Sam(5., 5., alpha, 1).gradient(jax.value_and_grad(loss, has_aux=True), 5.)
  (value, metrics), plain = gradient(0.)(jnp.array([4., 1.]))
  assert value == pytest.approx(9.5) and metrics['surrogate_gap'] == pytest.approx(56 - 9.5)
  np.testing.assert_allclose(plain, [8, 12], rtol=1e-6)
  _, guided = gradient(0.5)(jnp.array([4., 1.]))
  # g - (g . g_p / |g_p|^2) g_p = (4, 3) - 68 / 208 (8, 12)
  np.testing.assert_allclose(plain - guided, 0.5 * (np.array([4, 3]) - 68 / 208 * np.array([8, 12])), rtol=1e-5)
  assert abs(np.dot(plain - guided, plain)) < 1e-5


@functools.cache
def noisy_steps(devices, accumulate=1):
  model = a_model(dropout_rate=0.3, stochastic_depth=0.5)
  return take(model, [a_batch(0), a_batch(1)], devices, accumulate=accumulate, seed=3, mixup=0.5, sam=sam_lib.Sam(**GSAM))


@pytest.mark.slow
@pytest.mark.parametrize('devices, accumulate', [(2, 1), (4, 1), (8, 1), (1, 2), (4, 2)])
def test_devices_and_microbatches_take_the_step_that_one_takes(devices, accumulate):
  """With dropout, stochastic depth and mixup."""
  assert_same(noisy_steps(devices, accumulate), noisy_steps(1))


def test_the_size_of_a_group_matters():
  steps = [take(a_model(), [a_batch()], 1, sam=sam_lib.Sam(**{**GSAM, 'images_per_perturbation': group}))[0] for group in (2, 16)]
  assert largest_difference(*steps) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('fields', [dict(scan=True), dict(remat='block'), dict(platform='tpu'), dict(platform='tpu', scan=True)],
                         ids=str)
def test_the_forms_of_a_model_take_the_same_step(fields):
  plain, form = (take(a_model(**f), [a_batch()], 2, sam=sam_lib.Sam(**GSAM)) for f in ({}, fields))
  assert_same(form, plain, atol=1e-5)


@pytest.mark.parametrize('devices', [1, 4])
def test_no_perturbation_is_the_plain_step_bit_for_bit(devices):
  without = sam_lib.Sam(0., 0., 0., BATCH // devices)
  model = a_model(dropout_rate=0.3, stochastic_depth=0.5)  # of which both passes must have the same noise
  (params, (metrics,)), (expected, (plain,)) = (take(model, [a_batch()], devices, sam=sam) for sam in (without, None))
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert metrics.pop('surrogate_gap') == 0 and metrics == plain


@pytest.mark.parametrize('schedule, last', [(schedules.linear(peak=3e-3, total_steps=100, warmup_steps=10, end_factor=0.01), 3e-5),
                                            (schedules.cosine(peak=3e-3, total_steps=100, warmup_steps=10, end=1e-3), 1e-3),
                                            (schedules.steps(peak=3e-3, total_steps=100, drops=(0.3, 0.6), warmup_steps=10), 3e-5)])
def test_rho_follows_the_absolute_learning_rate(schedule, last):
  sam = sam_lib.Sam(0.5, 0.2)
  assert (schedule.peak, schedule.last) == (3e-3, pytest.approx(last))
  assert schedule(100) == pytest.approx(last, rel=1e-4)
  for step in (10, 30, 55, 80, 100):
    expected = 0.2 + 0.3 * (float(schedule(step)) - last) / (3e-3 - last)
    assert sam.rho(schedule, step) == pytest.approx(expected, abs=1e-5)
  assert sam.rho(schedule, 10) == pytest.approx(0.5) and sam.rho(schedule, 100) == pytest.approx(0.2, abs=1e-5)
  assert sam.rho(schedule, 0) == pytest.approx(0.2)  # in the warmup not below


def test_a_learning_rate_that_stays_has_the_largest_rho():
  assert sam_lib.Sam(0.5, 0.2).rho(schedules.linear(peak=1e-3, total_steps=10, end=1e-3), 5) == 0.5


@pytest.mark.parametrize('fields, message', [
    (dict(rho_max=-1.), 'config.step.sam.rho_max is -1.0; it must be at least 0'),
    (dict(rho_min=0.7), 'config.step.sam.rho_min is 0.7, above rho_max, which is 0.5; exchange them'),
    (dict(alpha=-0.1), 'config.step.sam.alpha is -0.1; it must be at least 0'),
    (dict(images_per_perturbation=0), 'config.step.sam.images_per_perturbation is 0; it must be at least 1'),
    (dict(images_per_perturbation=2.), 'config.step.sam.images_per_perturbation is 2.0'),
    (dict(rho=1.), 'unknown field config.step.sam.rho.')])
def test_bad_fields_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    configuration.instantiate(train_step.make_train_step, 'step', dict(loss='softmax_xent', sam={**GSAM, **fields}),
                              model=None, optimizer=None, learning_rate=None, seed=0)


def test_a_config_of_gsam_can_go_without():
  config = mixer_gsam.get_config('b16')
  configuration.set_fields(config, ['step.sam=None'])
  config_fields.check(config)
  assert config.step.sam is None
  with pytest.raises(ValueError, match='config.step is None; it must be a section'):
    configuration.set_fields(config, ['step=None'])


@pytest.mark.parametrize('group, accumulate, message', [
    (3, 1, r'config.step.sam.images_per_perturbation is 3; it must divide the 16 images a device: '
           'use fewer devices, or for other steps than those one of 1, 2, 4, 8, 16'),
    (2, 4, r'config.step.accumulate is 4; it must divide the 2 images of config.step.sam.images_per_perturbation')])
def test_a_group_that_does_not_divide_a_devices_part_is_refused(group, accumulate, message):
  with pytest.raises(ValueError, match=message):
    take(a_model(), [a_batch()], 1, accumulate=accumulate, sam=sam_lib.Sam(**{**GSAM, 'images_per_perturbation': group}))
