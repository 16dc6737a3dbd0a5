"""The blocks of a model, one after the other or as one loop, with which the step compiles once for all of them."""

from collections.abc import Callable, Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mixer.models import stochastic


def modules_must_run(model: nn.Module) -> bool:
  """Whether the modules themselves must run: to make parameters, or to record their intermediates."""
  return model.is_initializing() or model.is_mutable_collection('intermediates')


def apply(model: nn.Module, block: type[nn.Module], attributes: tuple, x, keys, rates: Sequence[tuple], name: str):
  """Applies blocks, submodules called `name`_0, `name`_1, ..., in the compact method of a model. -> like x.

  Args:
    model: has `scan`, `remat`, `platform`, `dtype` and `param_dtype`.
    block: the class of a module that is called as block(x, keys, its rates).
    attributes: the first attributes of each block; `dtype` and `param_dtype` are the model's.
    keys: [B] keys, or None.
    rates: of each block.
  """
  dtypes = dict(dtype=model.dtype, param_dtype=model.param_dtype)
  names = [f'{name}_{i}' for i in range(len(rates))]
  remat, on_gpu = model.remat == 'block', model.platform == 'gpu'
  if (model.scan or on_gpu) and not modules_must_run(model):
    one = block(*attributes, **dtypes, parent=None)
    apply_one = lambda params, x, i, rates: one.apply({'params': params}, x, stochastic.fold(keys, i), rates)
    params = [model.variables['params'][name] for name in names]
    if model.scan:
      return scan(apply_one, params, x, rates, remat, on_gpu)
    return _one_by_one(apply_one, params, x, rates, remat)
  block = nn.remat(block, static_argnums=3) if remat else block  # of (self, x, keys, rates)
  for i, name in enumerate(names):
    x = block(*attributes, **dtypes, name=name)(x, stochastic.fold(keys, i), rates[i])
  return x


def apply_functions(model: nn.Module, block: Callable, params: Sequence[dict], x, rates: Sequence[tuple]):
  """block(params[i], x, i, rates[i]) for i = 0, 1, ..., with the model's `scan` and `remat`. -> like x."""
  if model.scan:
    return scan(block, params, x, rates, model.remat == 'block')
  block = jax.checkpoint(block, static_argnums=(2, 3)) if model.remat == 'block' else block
  for i, own in enumerate(params):
    x = block(own, x, i, rates[i])
  return x


# What a block keeps for its backward pass on a GPU. XLA would keep more: of Mixer-B/16 79 MiB an image rather than 31.
_PRODUCTS = jax.checkpoint_policies.dots_saveable


def _one_by_one(block, params, x, rates, remat):
  """As `scan`, without a loop, in little memory on a GPU."""
  block = jax.checkpoint(block, policy=None if remat else _PRODUCTS, static_argnums=(2, 3))
  for i, own in enumerate(params):
    x = block(*_gradients_together(own, x), i, rates[i])
  return x


@jax.custom_vjp
def _gradients_together(params, x):
  """Its arguments. Backwards, the gradients of a block's parameters are computed before the block below begins.

  XLA for GPUs puts them off to the end of the backward pass, and keeps all hidden layers and their gradients until then.
  """
  return params, x


_gradients_together.defvjp(lambda *arguments: (arguments, None), lambda _, gradients: jax.lax.optimization_barrier(gradients))


def product(x, kernel, dimension_numbers=None, precision=None):
  """`dot_general` of nn.Dense for a GPU: backwards the kernel's gradient is computed before that of x, and x is freed.

  XLA computes them in any order, and an MLP would keep its activated hidden layer beside the gradient of it.
  """
  del dimension_numbers  # of the last axis of x and the first of kernel
  return _product(x, kernel, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, kernel, precision):
  return jnp.dot(x, kernel, precision=precision)


def _product_backwards(precision, kept, gradient):
  x, kernel = kept
  examples = (tuple(range(x.ndim - 1)),) * 2
  of_kernel = jax.lax.dot_general(x, gradient, (examples, ((), ())), precision=precision)
  of_kernel, gradient = jax.lax.optimization_barrier((of_kernel, gradient))
  return jnp.dot(gradient, kernel.T, precision=precision), of_kernel


# Not by _product itself, inside of which _PRODUCTS would not see the product.
_product.defvjp(lambda x, kernel, precision: (jnp.dot(x, kernel, precision=precision), (x, kernel)), _product_backwards)


def scan(block: Callable, params: Sequence[dict], x, rates: Sequence[tuple], remat: bool, on_gpu: bool = False):
  """block(params[i], x, i, rates[i]) for i = 0, 1, ..., each on the result of the one before. -> like x.

  Args:
    block: (parameters, x, number of the block, its rates) -> like x.
    params: the parameters of each block; all have the same shapes. They are stacked here, and separate in the state,
      so that a run may switch `scan` and keep its checkpoints.
    rates: of each block. Where all are 0, blocks get them as Python numbers, and need no random numbers.
    remat: whether to keep only the blocks' inputs for the backward pass, which recomputes the rest.
    on_gpu: whether otherwise to keep only their matrix products.
  """
  def body(x, inputs):
    params, i, own = inputs
    return block(params, x, i, rates[0] if own is None else own), None
  if remat or on_gpu:
    # prevent_cse: the loop keeps the two passes apart.
    body = jax.checkpoint(body, policy=None if remat else _PRODUCTS, prevent_cse=False)
  stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *params)
  scanned = np.asarray(rates, np.float32) if np.any(rates) else None
  return jax.lax.scan(body, x, (stacked, jnp.arange(len(params)), scanned))[0]
