"""The state of a run and the step from one state to the next.

`update` is the step of one device: it sees its own part of the batch and meets the other devices in `pmean`.
`parallel` maps it over the devices.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import optax

from mixer import arguments
from mixer import configuration
from mixer import models
from mixer.training import losses
from mixer.training import metrics
from mixer.training import mixup as mixing


@flax.struct.dataclass
class TrainState:
  """All that a run carries from step to step; with the seed it fixes everything that follows."""
  step: jax.Array  # int32 scalar: how many steps have been taken
  params: dict
  opt_state: optax.OptState


def init(model, optimizer, image_shape, seed: int) -> TrainState:
  """The state before the first step. `image_shape` is (H, W, 3)."""
  params = model.init(jax.random.key(seed), jnp.zeros((1, *image_shape)))['params']
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def update(state: TrainState, batch, *, model, optimizer, learning_rate, seed: int, loss: str, mixup: float,
           accumulate: int):
  """The next state, and the step's metrics, on one device under the mapped axis 'batch'.

  All randomness is a function of the seed, the step and an example's place in the global batch: it does not depend on
  the number of devices.

  Args:
    batch: this device's part: 'image' [b, H, W, 3] uint8, 'label' [b] or [b, L] class numbers padded with -1, and
      perhaps 'weight' [b, L].
    learning_rate: the optimizer's, by step; a metric only.
    seed: of dropout, stochastic depth and mixup.
    loss: 'softmax_xent' or 'sigmoid_xent'.
    mixup: its strength, p of Table 4; 0 for none.
    accumulate: in how many parts to take the batch, one after the other, to save memory; it must divide b.

  Returns:
    The state, and {'loss', 'grad_norm', 'learning_rate'}: means over all devices; the norm is that before clipping. Where
    each image has one class and none is mixed with another, 'top1' too: the share of the batch, with its augmentation
    and dropout, whose highest logit is that class.
  """
  loss_function = configuration.lookup('step', 'loss', loss, losses.LOSSES)
  size = batch['image'].shape[0]
  if size % accumulate:
    raise ValueError(f'config.step.accumulate is {accumulate}; it must divide the {size} images a device')
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  places = jax.lax.axis_index('batch') * size + jnp.arange(size)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 0), places)
  images, targets = models.scale(batch['image']), losses.targets(batch, model.num_classes)
  if mixup:
    images, targets = mixing.mix(images, targets, mixing_weight(mixup, seed, state.step), 'batch')

  scores = not mixup and batch['label'].ndim == 1

  def mean_loss(params, images, targets, keys):
    logits = model.apply({'params': params}, images, keys)
    hits = {'top1': metrics.precision_at_1(logits, targets).mean()} if scores else {}
    return loss_function(logits, targets).mean(), hits

  grad = jax.value_and_grad(mean_loss, has_aux=True)
  if accumulate == 1:
    (value, hits), grads = grad(state.params, images, targets, keys)
  else:
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (images, targets, keys))
    add = lambda total, part: (jax.tree.map(jnp.add, total, grad(state.params, *part)), None)
    zero = ((jnp.zeros(()), {'top1': jnp.zeros(())} if scores else {}), jax.tree.map(jnp.zeros_like, state.params))
    (value, hits), grads = jax.tree.map(lambda x: x / accumulate, jax.lax.scan(add, zero, parts)[0])

  value, hits, grads = jax.lax.pmean((value, hits, grads), 'batch')
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  seen = {'loss': value, **hits, 'grad_norm': optax.tree.norm(grads), 'learning_rate': learning_rate(state.step)}
  return TrainState(state.step + 1, params, opt_state), seen


def mixing_weight(mixup: float, seed: int, step):
  """The weight of each example itself in the mixup of step `step`, counted from 0; the same on all devices. -> []."""
  return mixing.draw_weight(mixup, jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 1))


def parallel(*, model, optimizer, learning_rate, seed: int, loss: str, mixup: float = 0., accumulate: int = 1,
             devices=None):
  """`update` over all devices: (state, batch) -> (state, metrics). The batch alone has a leading axis of devices.

  The state is replicated, and donated whole. The batch is not: none of the results could take its memory. `devices` may
  be others than those of this machine, to compile for them (tools/planning/compiler.py).

  Args:
    loss: 'softmax_xent' or 'sigmoid_xent'.
    mixup: its strength, p of Table 4, at least 0; 0 for none.
    accumulate: in how many parts a device takes its part of the batch, one after the other, to save memory; at least 1,
      and a divisor of that part.

  Raises:
    arguments.ArgumentError: if a number is out of its range.
  """
  arguments.check(dict(mixup=mixup), at_least=0)
  arguments.check(dict(accumulate=accumulate), at_least=1)
  step = functools.partial(update, model=model, optimizer=optimizer, learning_rate=learning_rate, seed=seed, loss=loss,
                           mixup=mixup, accumulate=accumulate)
  return jax.pmap(step, axis_name='batch', in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0)


def prepared(step, state: TrainState, batch: dict):
  """What compiles `step` for the shapes of its arguments when it is called, maybe in another thread.

  It returns the compiled step and XLA's account of its memory. With several processes these are `step` itself, which
  compiles at its first call, and None: pmap has no compiled step to call there.
  """
  if jax.process_count() > 1:
    return lambda: (step, None)
  lowered = step.lower(state, batch)  # here, so that a config that does not fit is refused before anything is written

  def compiled():
    ahead = lowered.compile()
    return ahead, ahead.memory_analysis()
  return compiled
