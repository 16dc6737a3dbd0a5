"""The Mixer's features, for CPUs: mlp_mixer's numbers up to rounding, in less memory.

A training step of B/16 with 8 images takes 1,037 MiB of temporary memory, and the paper's listing 1,471; of S/16 with 16
images 866 and 1,225 (`python -m benchmarks --parts=compiling`). `--parts=training,inference` times them.

- The layers are those of cpu_layers.py: a step of S/16 in bfloat16 is 2.1 times as fast on a CPU with AVX512_BF16.
- The table of tokens is stored as [S, B, C]: both mixings are products of two matrices, without a transpose in between.

TPUs and GPUs run the plain implementation. Shapes are those of mlp_mixer.py.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from mixer.models import cpu_layers
from mixer.models import scan_blocks
from mixer.models import stochastic


def features(model, params, images, keys, rates):
  """[B, H, W, 3], [B] keys or None -> [B, C] float32.

  Args:
    model: the MlpMixer.
    params: its parameters.
    rates: the probability of dropping each branch, as `mlp_mixer.drop_rates` gives them.
  """
  return cpu_layers.in_parts(lambda images, keys: _features(model, params, images, keys, rates), images, keys)


def _features(model, params, images, keys, rates):
  x = cpu_layers.patches(images, model.patch_size).swapaxes(0, 1)
  x = cpu_layers.stem(params['stem'], x, model.dtype)
  x = scan_blocks.apply_functions(model, functools.partial(_block, model, keys), model.blocks_of(params), x, rates)
  x = cpu_layers.layer_norm(params['pre_head_layer_norm'], x, model.dtype)
  return jnp.mean(x, axis=0, dtype=jnp.float32)


def _block(model, keys, params, x, number, rates):
  """mlp_mixer.MixerBlock. [S, B, C] -> [S, B, C]."""
  keys = stochastic.fold(keys, number)

  def noisy(noise, axes, y, *arguments):
    # Noise is drawn for each example in the axis order of the plain implementation.
    if keys is None:
      return y
    back = tuple(axes.index(axis) for axis in range(3))
    return noise(y.transpose(axes), *arguments).transpose(back)

  def mlp(params, y, dense, axes, number):
    drop = lambda y, layer: noisy(stochastic.dropout, axes, y, model.dropout_rate,
                                  stochastic.fold(stochastic.fold(keys, number), layer))
    y = drop(cpu_layers.gelu(dense(params['Dense_0'], y, model.dtype)), 0)
    return drop(dense(params['Dense_1'], y, model.dtype), 1)

  def drop_path(y, branch):
    return noisy(stochastic.drop_path, (1, 0, 2), y, rates[branch], stochastic.fold(keys, 2 + branch), model.rescales)

  y = cpu_layers.layer_norm(params['LayerNorm_0'], x, model.dtype)
  x = x + drop_path(mlp(params['token_mixing'], y, _dense_over_tokens, (1, 2, 0), 0), 0)
  y = cpu_layers.layer_norm(params['LayerNorm_1'], x, model.dtype)
  return x + drop_path(mlp(params['channel_mixing'], y, cpu_layers.dense, (1, 0, 2), 1), 1)


def _dense_over_tokens(layer, x, dtype):
  """[M, B, C] -> [N, B, C]."""
  return _affine_over_tokens(x.astype(dtype), layer['kernel'], layer['bias'])


@jax.custom_vjp
def _affine_over_tokens(x, kernel, bias):
  return _affine_over_tokens_forward(x, kernel, bias)[0]


def _affine_over_tokens_forward(x, kernel, bias):
  # Without the barrier XLA takes the transposition into a product of bfloat16, which it then cannot compute.
  transposed = lax.optimization_barrier(kernel.T).astype(x.dtype)
  y = cpu_layers.product('nm,mbc->nbc', transposed, x) + bias.astype(jnp.float32)[:, None, None]
  return y.astype(x.dtype), (x, kernel)


def _affine_over_tokens_backward(kept, gradient):
  x, kernel = kept
  of_x = cpu_layers.product('mn,nbc->mbc', kernel.astype(x.dtype), gradient)
  of_kernel = cpu_layers.product('mbc,nbc->mn', x, gradient)
  of_bias = jnp.sum(gradient, (1, 2), dtype=jnp.float32)
  return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)


_affine_over_tokens.defvjp(_affine_over_tokens_forward, _affine_over_tokens_backward)
