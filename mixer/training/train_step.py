"""The state of a run and the step from one state to the next.

`train_step` is the step of one device: it takes its part of the batch, and `pmean` averages over the devices.
`make_train_step` maps it over all devices.
"""

import dataclasses
import functools
import math

import flax
import jax
import jax.numpy as jnp
import optax

from mixer import arguments
from mixer import configuration
from mixer.data import normalize
from mixer.training import losses
from mixer.training import metrics
from mixer.training import mixup as mixup_lib
from mixer.training import sam as sam_lib
from mixer import trees


@flax.struct.dataclass
class TrainState:
  """What a run carries from step to step; with the seed, it determines all steps that follow."""
  step: jax.Array  # int32 scalar: the number of steps taken
  params: dict
  opt_state: optax.OptState
  ema: dict | None = None  # the average of `weights`, in float32, if the run keeps one
  batch_stats: dict | None = None  # the running statistics of a model that has any, such as of batch norm

  @property
  def collections(self) -> dict:
    """The model's variables but for the parameters."""
    return {} if self.batch_stats is None else {'batch_stats': self.batch_stats}

  @property
  def weights(self) -> dict:
    """The parameters, with the running statistics, if it has any, beside them as 'batch_stats'."""
    return trees.weights({'params': self.params, **self.collections})

  def with_weights(self, weights: dict) -> 'TrainState':
    """This state with other `weights`."""
    return dataclasses.replace(self, **trees.variables(weights))


def init(model, optimizer, image_shape, seed: int, ema: float | None = None) -> TrainState:
  """The state before the first step. `image_shape` is (H, W, 3); `ema` is that of `make_train_step`."""
  variables = model.init(jax.random.key(seed), jnp.zeros((1, *image_shape)))
  params = variables['params']
  average = None if ema is None else jax.tree.map(lambda x: jnp.array(x, jnp.float32), trees.weights(variables))
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, variables.get('batch_stats'))


def train_step(state: TrainState, batch, *, model, optimizer, learning_rate, seed: int, loss: str,
               mixing: mixup_lib.Mixing, accumulate: int, sam: sam_lib.Sam | None = None, label_smoothing: float = 0.,
               ema: float | None = None):
  """Takes one step, on one device under the mapped axis 'batch'.

  All randomness is a function of the seed, the step and an example's index in the global batch; the number of devices
  does not matter.

  Args:
    batch: this device's part: 'image' [b, H, W, 3] uint8, 'label' [b] or [b, L] class numbers padded with -1, and
      optionally 'weight' [b, L].
    learning_rate: the optimizer's `schedules.Schedule`; used as a metric, and by `sam`.
    seed: of dropout, stochastic depth, mixup and CutMix.
    loss: 'softmax_xent' or 'sigmoid_xent'.
    mixing: mixup and CutMix.
    accumulate: the number of microbatches, processed one after the other to save memory; it must divide b.
    sam: GSAM, or None. Its groups are processed one after the other, each in `accumulate` microbatches.
    label_smoothing: the part of the targets that all classes share, in the loss alone.
    ema: the decay of the average of the parameters; None if the state has none.

  Returns:
    The next state, and {'loss', 'grad_norm', 'learning_rate'}: means over all devices; the norm before clipping.
    If each image has one class and none are mixed, also 'top1': the accuracy on the batch, with its augmentation and
    dropout. With `sam` also 'surrogate_gap': how much higher the loss is at the perturbed weights.
  """
  loss_function = configuration.lookup('step', 'loss', loss, losses.LOSSES)
  size = batch['image'].shape[0]
  if size % accumulate:
    raise ValueError(f'config.step.accumulate is {accumulate}; it must divide the {size} images a device')
  if mixing.cutmix and model.num_classes == 1 and batch['label'].ndim == 1:
    raise ValueError(f'config.step.cutmix is {mixing.cutmix}, and the model has 1 class, so that there are no labels to mix; '
                     'set it to 0, or train on more classes')
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  indices = jax.lax.axis_index('batch') * size + jnp.arange(size)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 0), indices)
  images, targets = normalize.normalize_images(batch['image']), losses.targets(batch, model.num_classes)
  if mixing:
    images, targets = mixing(images, targets, seed, state.step, 'batch')

  has_accuracy = not mixing and batch['label'].ndim == 1

  def mean_loss(params, images, targets, keys):
    logits, updated = model.apply({'params': params, **state.collections}, images, keys, mutable=[*state.collections])
    hits = {'top1': metrics.precision_at_1(logits, targets).mean()} if has_accuracy else {}
    smoothed = losses.smooth(targets, label_smoothing) if label_smoothing else targets
    return loss_function(logits, smoothed).mean(), {**hits, **updated}

  gradient = _averaged(jax.value_and_grad(mean_loss, has_aux=True), accumulate)
  if sam is not None:
    gradient = _averaged(sam.gradient(gradient, sam.rho(learning_rate, state.step)), sam.groups(size, accumulate))
  (value, extra), grads = jax.lax.pmean(gradient(state.params, images, targets, keys), 'batch')
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  new = TrainState(state.step + 1, params, opt_state, batch_stats=extra.pop('batch_stats', None))
  if ema is not None:
    new = dataclasses.replace(new, ema=averaged(ema, new.step, state.ema, new.weights))
  logged = {'loss': value, **extra, 'grad_norm': optax.tree.norm(grads), 'learning_rate': learning_rate(state.step)}
  return new, logged


def averaged(decay: float, step, ema, weights):
  """The exponential moving average after step `step`, counted from 1: the mean of the weights after each step k so far.

  Their weights are proportional to decay^(step - k), as in Adam with its bias corrected, so that the initial parameters
  have none. (timm's average begins with them, and is theirs for long.)
  """
  weight = (1 - decay) / -jnp.expm1(step * math.log(decay))
  return jax.tree.map(lambda mean, x: mean + weight * (x.astype(jnp.float32) - mean), ema, weights)


def _averaged(function, parts: int):
  """`function` of (params, ...) as the mean over so many parts of the rest, one after the other."""
  def average(params, *batch):
    batches = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    one = jax.eval_shape(function, params, *jax.tree.map(lambda x: x[0], batches))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(params, *part)), None)
    return jax.tree.map(lambda x: x / parts, jax.lax.scan(add, zero, batches)[0])
  return function if parts == 1 else average


def make_train_step(*, model, optimizer, learning_rate, seed: int, loss: str, mixup: float = 0., accumulate: int = 1,
                    sam: dict | None = None, label_smoothing: float = 0., ema: float | None = None, cutmix: float = 0.,
                    cutmix_probability: float = 1., devices=None):
  """`train_step` pmapped over all devices: (state, batch) -> (state, metrics). Only the batch has an axis of devices.

  The state is replicated, and donated. The batch is not donated: no result could reuse its memory. `devices` may be
  those of another machine, to compile for them (tools/planning/compiler.py).

  Args:
    loss: 'softmax_xent' or 'sigmoid_xent'.
    mixup: alpha of its Beta distribution, p of Table 4, at least 0; 0 for none.
    accumulate: the number of microbatches into which a device divides its part of the batch, to save memory; at least
      1, and a divisor of that part.
    sam: SAM or GSAM: the keywords of `sam.Sam`; None for neither.
    label_smoothing: the part of the targets that all classes share, at least 0 and below 1; 0 for none.
    ema: the decay of an exponential moving average of the parameters, above 0 and below 1, such as 0.9999; None for none.
      Evaluations have it as NAME_ema.
    cutmix: alpha of the Beta distribution of CutMix, at least 0; 1.0 in its paper, 0 for none.
    cutmix_probability: the share of the steps that have CutMix, 0 to 1. The others have mixup, if it is set.

  Raises:
    arguments.ArgumentError, ValueError: if a number is out of range.
  """
  arguments.check(dict(accumulate=accumulate), at_least=1)
  arguments.check(dict(label_smoothing=label_smoothing), at_least=0, below=1)
  arguments.check(dict(ema=ema), above=0, below=1)
  if hasattr(model, 'axis_name') and sam is None:
    model = model.clone(axis_name='batch')  # its statistics are the whole batch's; with SAM those of a group, on one device
  step = functools.partial(train_step, model=model, optimizer=optimizer, learning_rate=learning_rate, seed=seed,
                           loss=loss, mixing=mixup_lib.Mixing(mixup, cutmix, cutmix_probability), accumulate=accumulate,
                           label_smoothing=label_smoothing, ema=ema,
                           sam=None if sam is None else configuration.instantiate(sam_lib.Sam, 'step.sam', sam))
  return jax.pmap(step, axis_name='batch', in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0)


def compile_ahead(step, state: TrainState, batch: dict):
  """Returns a function that compiles `step` for the shapes of its arguments; it may be called in another thread.

  It returns the compiled step and XLA's memory analysis. With several processes they are `step` itself, which compiles
  at its first call, and None: there, pmap has no compiled step to call.
  """
  if jax.process_count() > 1:
    return lambda: (step, None)
  lowered = step.lower(state, batch)  # now, so that an invalid config is refused before anything is written

  def compile_lowered():
    compiled = lowered.compile()
    return compiled, compiled.memory_analysis()
  return compile_lowered
