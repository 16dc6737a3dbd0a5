"""The state of a run and the step from one state to the next.

`update` is the step of one device: it sees its own part of the batch and meets the other devices in `pmean`.
`parallel` maps it over the devices.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import optax

from mixer import configuration
from mixer import losses


@flax.struct.dataclass
class TrainState:
  """All that a run carries from step to step; with the seed it fixes everything that follows."""
  step: jax.Array  # int32 scalar: how many steps have been taken
  params: dict
  opt_state: optax.OptState


def init(model, optimizer, image_shape, seed: int) -> TrainState:
  """The state before the first step. `image_shape` is (H, W, 3)."""
  def first(key):
    params = model.init(key, jnp.zeros((1, *image_shape)))['params']
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  # XLA's CPU compiler takes a second for each random array; at this level a third of it, with the same numbers.
  options = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None
  return jax.jit(first, compiler_options=options)(jax.random.key(seed))


def replicated_shapes(init):
  """The shapes and types of init(), replicated over this host's devices; nothing is computed."""
  devices = jax.local_device_count()
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape), x.dtype), jax.eval_shape(init))


def scale(images):
  """Pixels as the models take them. [...] uint8 in [0, 255] -> float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def update(state: TrainState, batch, *, model, optimizer, learning_rate, seed: int, loss: str, accumulate: int):
  """The next state, and the step's metrics, on one device under the mapped axis 'batch'.

  Args:
    batch: this device's part: 'image' [B, H, W, 3] uint8, 'label' [B] or [B, L] class numbers padded with -1.
    learning_rate: the optimizer's, by step; a metric only.
    seed: of dropout and stochastic depth. An example's noise depends on it, the step and the example's place in the
      global batch, not on the device that computes it.
    loss: 'softmax_xent' or 'sigmoid_xent'.
    accumulate: in how many parts to take the batch, one after the other, to save memory; it must divide B.

  Returns:
    The state, and {'loss', 'grad_norm', 'learning_rate'}: means over all devices; the norm is that before clipping.
  """
  loss_function = configuration.choose('step', 'loss', loss, losses.LOSSES)
  size = batch['image'].shape[0]
  if accumulate < 1 or size % accumulate:
    raise ValueError(f'config.step.accumulate is {accumulate}; it must divide the {size} images a device')
  places = jax.lax.axis_index('batch') * size + jnp.arange(size)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(jax.random.key(seed), state.step), places)

  def mean_loss(params, images, labels, keys):
    logits = model.apply({'params': params}, scale(images), keys)
    return loss_function(logits, losses.targets(labels, logits.shape[-1])).mean()

  grad = jax.value_and_grad(mean_loss)
  if accumulate == 1:
    value, grads = grad(state.params, batch['image'], batch['label'], keys)
  else:
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (batch['image'], batch['label'], keys))
    add = lambda total, part: (jax.tree.map(jnp.add, total, grad(state.params, *part)), None)
    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
    value, grads = jax.tree.map(lambda x: x / accumulate, jax.lax.scan(add, zero, parts)[0])

  value, grads = jax.lax.pmean((value, grads), 'batch')
  changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
  metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads), 'learning_rate': learning_rate(state.step)}
  return TrainState(state.step + 1, optax.apply_updates(state.params, changes), opt_state), metrics


def parallel(*, model, optimizer, learning_rate, seed: int, loss: str, accumulate: int = 1):
  """`update` over all devices: state and batch have a leading axis of devices, the metrics have none.

  The state is donated whole. The batch is not: none of the results could take its memory.
  """
  step = functools.partial(update, model=model, optimizer=optimizer, learning_rate=learning_rate, seed=seed, loss=loss,
                           accumulate=accumulate)
  return jax.pmap(step, axis_name='batch', out_axes=(0, None), donate_argnums=0)


def settle(metrics):
  """Waits for a step where several devices are simulated on a CPU.

  Queued collectives can take up all the threads of XLA's CPU client and then wait for one another for ever.
  """
  if jax.default_backend() == 'cpu' and jax.local_device_count() > 1:
    jax.block_until_ready(metrics)
