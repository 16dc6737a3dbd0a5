"""The optimizer of a config: an optax chain in the order of application."""

import inspect
import re

import jax
import optax

from mixer import arguments
from mixer import configuration
from mixer.training import schedules
from mixer import trees

# In the names of all models' parameters: the number of a block, of BiT's units in two parts; and what is below all blocks.
BLOCK, STEM = re.compile(r'(?:block_?|stage)(\d+)(?:[/_]unit(\d+))?/', re.IGNORECASE), re.compile('(norm_)?stem/|root_block/|cls$|.*embed')


def adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
  """Adam with the paper's moments (section 3); with weight decay it is AdamW.

  Args:
    b1: the decay of the mean of gradients; at least 0 and below 1.
    b2: the decay of the mean of their squares; at least 0 and below 1.
    eps: added to the root of the mean square; above 0.
  """
  arguments.check(dict(b1=b1, b2=b2), at_least=0, below=1)
  arguments.check(dict(eps=eps), above=0)
  return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def lion(*, b1: float = 0.9, b2: float = 0.99) -> optax.GradientTransformation:
  """Lion (Chen et al., arXiv 2302.06675): the sign of a mean of gradients; half of AdamW's state.

  Its paper has learning rates 3 to 10 times smaller than AdamW's, and weight decay as many times larger.

  Args:
    b1: the weight of the mean of gradients against the step's own; at least 0 and below 1.
    b2: the decay of the mean of gradients; at least 0 and below 1.
  """
  arguments.check(dict(b1=b1, b2=b2), at_least=0, below=1)
  return optax.scale_by_lion(b1=b1, b2=b2)


def sgd(*, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
  """SGD with momentum, as in fine-tuning (section 3); in float32; the authors' released code has bfloat16.

  Args:
    momentum: the decay of the velocity; at least 0 and below 1.
    nesterov: whether the velocity is Nesterov's.
  """
  arguments.check(dict(momentum=momentum), at_least=0, below=1)
  return optax.trace(decay=momentum, nesterov=nesterov)


def lamb(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> optax.GradientTransformation:
  """LAMB (You et al., arXiv 1904.00962): AdamW whose step on a kernel has the length of the kernel.

  This holds for the weights of `decay_mask`, whatever `weight_decay` is; the others take Adam's steps, as in NVIDIA's
  FusedLAMB and in timm.

  Args:
    b1: the decay of the mean of gradients; at least 0 and below 1.
    b2: the decay of the mean of their squares; at least 0 and below 1.
    eps: added to the root of the mean square; above 0.
  """
  return adamw(b1=b1, b2=b2, eps=eps)


ALGORITHMS = {'adamw': adamw, 'sgd': sgd, 'lamb': lamb, 'lion': lion}


def build(*, name: str, learning_rate: float, schedule, total_steps: int, weight_decay: float = 0.,
          clip_norm: float | None = None, layer_decay: float | None = None,
          **fields) -> tuple[optax.GradientTransformation, schedules.Schedule]:
  """The optimizer (clipping, algorithm, weight decay, LAMB's trust ratio, learning rate, in this order) and its schedule.

  Args:
    name: 'adamw', 'sgd', 'lamb' or 'lion'. `fields` are that function's keywords.
    learning_rate: the peak; above 0.
    schedule: its name, 'linear', 'cosine' or 'steps', and that function's keywords.
    total_steps: of the run.
    weight_decay: at least 0, in AdamW's units: a step shrinks a weight by weight_decay * learning rate of itself. (The
      authors' released config multiplies by the schedule alone: its 1e-4 is our 0.1 at learning rate 1e-3.)
    clip_norm: the global norm to which longer gradients are clipped, above 0; None: no clipping.
    layer_decay: for fine-tuning, by what the learning rate is multiplied for each layer down from the head; above 0 and
      at most 1; None: one rate for all. It multiplies weight decay alike, as in timm: `layers_below_head`.

  Raises:
    arguments.ArgumentError, ValueError: if one of these is out of range, or the warmup is as long as the run.
  """
  arguments.check(dict(learning_rate=learning_rate, clip_norm=clip_norm), above=0)
  arguments.check(dict(weight_decay=weight_decay), at_least=0)
  arguments.check(dict(layer_decay=layer_decay), above=0, at_most=1)
  make = configuration.lookup('optimizer', 'name', name, ALGORITHMS)
  configuration.check_names('optimizer', fields, {**inspect.signature(build).parameters,
                                                  **inspect.signature(make).parameters})
  algorithm = configuration.instantiate(make, 'optimizer', fields)
  if not hasattr(schedule, 'items'):
    raise ValueError(f"config.optimizer.schedule is {schedule!r}; it must be a section: dict(name={schedule!r}, ...)")
  schedule = dict(schedule)
  rates = configuration.lookup('optimizer.schedule', 'name', schedule.pop('name', None), schedules.SCHEDULES)
  warmup = schedule.get('warmup_steps', 0)  # of another type it is refused below
  if isinstance(warmup, int | float) and warmup >= total_steps:
    raise ValueError(f'config.optimizer.schedule.warmup_steps is {warmup}, and the run has '
                     f'{total_steps} steps in all; shorten the warmup or raise total_steps')
  rate = configuration.instantiate(rates, 'optimizer.schedule', schedule, peak=learning_rate, total_steps=total_steps)
  return optax.chain(
      optax.clip_by_global_norm(clip_norm) if clip_norm is not None else optax.identity(),
      algorithm,
      optax.add_decayed_weights(weight_decay, mask=decay_mask) if weight_decay else optax.identity(),
      *([optax.masked(optax.scale_by_trust_ratio(), decay_mask)] if make is lamb else []),
      *([scale_by_layer(layer_decay)] if layer_decay is not None else []),
      optax.scale_by_learning_rate(rate)), rate


def decay_mask(params):
  """Which parameters decay: the kernels, and so neither biases nor LayerNorm's scales. Tree -> tree of bools."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
  """Multiplies each update by decay**layers, of `layers_below_head`."""
  return optax.stateless(lambda updates, _: jax.tree.map(
      lambda update, layers: update * decay**layers, updates, layers_below_head(updates)))


def layers_below_head(params):
  """How many layers down from the head each parameter is, as BEiT counts (arXiv 2106.08254). Tree -> tree of ints.

  Of N blocks, 0 for the head and the norm before it, which timm counts to the last block; 1 for the last block, N for the
  first, and N + 1 for the stem, with a class token and position embeddings.
  """
  names = trees.flat(params)
  block_of = {name: tuple(map(int, filter(None, found.groups()))) for name in names if (found := BLOCK.search(name))}
  order = sorted(set(block_of.values()), reverse=True)
  below = [1 + order.index(block_of[name]) if name in block_of else (1 + len(order)) * bool(STEM.match(name))
           for name in names]
  return jax.tree.unflatten(jax.tree.structure(params), below)
