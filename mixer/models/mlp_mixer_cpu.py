"""The Mixer's features, for CPUs: mlp_mixer's numbers up to rounding, in less memory.

A training step of B/16 with 8 images takes 1,037 MiB of temporary memory, and the paper's listing 1,471; of S/16 with 16
images 866 and 1,225 (`python -m benchmarks --parts=compiling`). `--parts=training,inference` times them.

- The backward passes are written by hand, so that less is kept for those of LayerNorm and GELU.
- The table of tokens is stored as [S, B, C]: both mixings are products of two matrices, without a transpose in between.
- The gradients of wide layers' kernels are transposed, rather than the layers' inputs.
- Products of bfloat16 are summed in float32, to which biases are added, and GELU is computed in it: a step of S/16 in
  bfloat16 is 2.1 times as fast on a CPU with AVX512_BF16.
- The stem is a product with the patches, since XLA's convolution on CPUs is slower.
- Without noise, as in evaluation, images are processed 8 at a time, so that activations stay in the caches.

TPUs and GPUs run the plain implementation. Shapes are those of mlp_mixer.py.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from mixer.models import scan_blocks
from mixer.models import stochastic

EPSILON = 1e-6  # of LayerNorm, as in Flax
PART = 8  # images


def features(model, params, images, keys, rates):
  """[B, H, W, 3], [B] keys or None -> [B, C] float32.

  Args:
    model: the MlpMixer.
    params: its parameters.
    rates: the probability of dropping each branch, as `mlp_mixer.drop_rates` gives them.
  """
  whole = functools.partial(_features, model, params)
  if keys is not None or len(images) <= PART:
    return whole(images, keys, rates)
  number = len(images) // PART
  first, rest = jnp.split(images, [number * PART])
  done = lax.map(lambda part: whole(part, None, rates), first.reshape(number, PART, *images.shape[1:]))
  done = done.reshape(number * PART, -1)
  return jnp.concatenate([done, whole(rest, None, rates)]) if len(rest) else done


def _features(model, params, images, keys, rates):
  block = functools.partial(_block, model, keys)
  x = _stem(model, params['stem'], images)
  if model.scan:
    x = scan_blocks.scan(block, model.blocks_of(params), x, rates, model.remat == 'block')
  else:
    block = jax.checkpoint(block, static_argnums=(2, 3)) if model.remat == 'block' else block
    for i, of_block in enumerate(model.blocks_of(params)):
      x = block(of_block, x, i, rates[i])
  x = _layer_norm(params['pre_head_layer_norm'], x, model.dtype)
  return jnp.mean(x, axis=0, dtype=jnp.float32)


def _stem(model, layer, images):
  """[B, H, W, 3] -> [S, B, C]."""
  size = model.patch_size
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // size, size, width // size, size, channels).transpose(1, 3, 0, 2, 4, 5)
  x = x.reshape(-1, batch, size * size * channels)
  return _dense({**layer, 'kernel': layer['kernel'].reshape(-1, model.hidden_dim)}, x, model.dtype)


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
    y = drop(_gelu(dense(params['Dense_0'], y, model.dtype)), 0)
    return drop(dense(params['Dense_1'], y, model.dtype), 1)

  def drop_path(y, branch):
    return noisy(stochastic.drop_path, (1, 0, 2), y, rates[branch], stochastic.fold(keys, 2 + branch), model.rescales)

  y = _layer_norm(params['LayerNorm_0'], x, model.dtype)
  x = x + drop_path(mlp(params['token_mixing'], y, _dense_over_tokens, (1, 2, 0), 0), 0)
  y = _layer_norm(params['LayerNorm_1'], x, model.dtype)
  return x + drop_path(mlp(params['channel_mixing'], y, _dense, (1, 0, 2), 1), 1)


def _product(subscripts, a, b):
  """jnp.einsum, summed in float32: in this form alone XLA has instructions for bfloat16."""
  return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _dense(layer, x, dtype):
  """[S, B, M] -> [S, B, N]."""
  return _affine(x.astype(dtype), layer['kernel'], layer['bias'])


@jax.custom_vjp
def _affine(x, kernel, bias):
  return _affine_forward(x, kernel, bias)[0]


def _affine_forward(x, kernel, bias):
  y = _product('sbm,mn->sbn', x, kernel.astype(x.dtype)) + bias.astype(jnp.float32)
  return y.astype(x.dtype), (x, kernel)


def _affine_backward(kept, gradient):
  x, kernel = kept
  if x.shape[-1] > gradient.shape[-1]:
    of_kernel = lax.optimization_barrier(_product_over_rows(gradient, x)).T
  else:
    of_kernel = _product_over_rows(x, gradient)
  of_x = _product('sbn,mn->sbm', gradient, kernel.astype(x.dtype))
  of_bias = jnp.sum(gradient, (0, 1), dtype=jnp.float32)
  return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)


def _product_over_rows(a, b):
  """[S, B, M], [S, B, N] -> [M, N]. It transposes `a`, which should be the smaller one."""
  # Of two axes, XLA would take the transposition into the product, and compute that in float32.
  transposed = a.transpose(2, 0, 1).reshape(a.shape[-1], -1)
  return _product('me,en->mn', transposed, b.reshape(-1, b.shape[-1]))


_affine.defvjp(_affine_forward, _affine_backward)


def _dense_over_tokens(layer, x, dtype):
  """[M, B, C] -> [N, B, C]."""
  return _affine_over_tokens(x.astype(dtype), layer['kernel'], layer['bias'])


@jax.custom_vjp
def _affine_over_tokens(x, kernel, bias):
  return _affine_over_tokens_forward(x, kernel, bias)[0]


def _affine_over_tokens_forward(x, kernel, bias):
  # Without the barrier XLA takes the transposition into a product of bfloat16, which it then cannot compute.
  transposed = lax.optimization_barrier(kernel.T).astype(x.dtype)
  y = _product('nm,mbc->nbc', transposed, x) + bias.astype(jnp.float32)[:, None, None]
  return y.astype(x.dtype), (x, kernel)


def _affine_over_tokens_backward(kept, gradient):
  x, kernel = kept
  of_x = _product('mn,nbc->mbc', kernel.astype(x.dtype), gradient)
  of_kernel = _product('mbc,nbc->mn', x, gradient)
  of_bias = jnp.sum(gradient, (1, 2), dtype=jnp.float32)
  return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)


_affine_over_tokens.defvjp(_affine_over_tokens_forward, _affine_over_tokens_backward)


def _layer_norm(layer, x, dtype):
  """Over the last axis; computed in float32, as in Flax."""
  return _normalise(x.astype(jnp.float32), layer['scale'], layer['bias']).astype(dtype)


@jax.custom_vjp
def _normalise(x, scale, bias):
  return _normalise_forward(x, scale, bias)[0]


def _normalise_forward(x, scale, bias):
  mean = jnp.mean(x, -1, keepdims=True)
  variance = jnp.maximum(0., jnp.mean(jnp.square(x), -1, keepdims=True) - jnp.square(mean))
  inverse = lax.rsqrt(variance + EPSILON)
  return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _normalise_backward(kept, gradient):
  # The barrier keeps XLA from sharing, and so from storing, what the forward pass computed on the way.
  (x, mean, inverse, scale), gradient = lax.optimization_barrier((kept, gradient))
  normal = (x - mean) * inverse
  of_normal = gradient * scale
  mean_of = lambda y: jnp.mean(y, -1, keepdims=True)
  of_x = inverse * (of_normal - mean_of(of_normal) - normal * mean_of(of_normal * normal))
  over_examples = lambda y: jnp.sum(y, tuple(range(y.ndim - 1))).astype(scale.dtype)
  return of_x, over_examples(gradient * normal), over_examples(gradient)


_normalise.defvjp(_normalise_forward, _normalise_backward)


# gelu(x) = x (1 + tanh(u)) / 2 = x sigmoid(2 u) with u = A (x + B x^3).
_A, _B = (2 / math.pi)**0.5, 0.044715


@jax.custom_vjp
def _gelu(x):
  """Computed in float32."""
  y = x.astype(jnp.float32)
  if x.dtype != jnp.bfloat16:
    return jax.nn.gelu(y).astype(x.dtype)
  return _to_bfloat16(y * jax.nn.sigmoid(2 * _A * (y + _B * y**3)))  # takes less time than tanh


def _to_bfloat16(x):
  """x.astype(jnp.bfloat16) of float32, without a gradient. XLA's rounding would slow down the loop that computes x."""
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16  # of two that are as near, the even one
  nearest = jnp.where(jnp.isnan(x), 0x7fc0, nearest).astype(jnp.uint16)
  return lax.bitcast_convert_type(nearest, jnp.bfloat16)


def _gelu_backward(x, gradient):
  dtype = x.dtype
  x, gradient = (array.astype(jnp.float32) for array in lax.optimization_barrier((x, gradient)))
  # By tanh: XLA would compute the logistic function apart, in the forward pass, and keep it.
  tanh = jnp.tanh(_A * (x + _B * x**3))
  slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * _A * (1 + 3 * _B * x**2)
  return ((gradient * slope).astype(dtype),)


_gelu.defvjp(lambda x: (_gelu(x), x), _gelu_backward)
