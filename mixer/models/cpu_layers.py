"""What the forms of models for CPUs share: layers with backward passes by hand, numbers as Flax's up to rounding.

S and B are the two leading axes, in any order.

- The backward passes of LayerNorm and GELU compute again what they can, so that less is kept for them.
- XLA has instructions for products of bfloat16 only where they are summed in float32. Biases are added, and GELU is
  computed, in float32 too.
- The gradients of wide layers' kernels are transposed, rather than the layers' inputs.
"""

from collections.abc import Callable
import math

import jax
from jax import lax
import jax.numpy as jnp

EPSILON = 1e-6  # of LayerNorm, as in Flax
PART = 8  # images


def in_parts(function: Callable, images, keys):
  """function(images, keys), of [B, H, W, 3] and [B] keys or None -> [B, ...].

  Without keys, as in evaluation, it is applied to 8 images at a time, so that activations stay in the caches.
  """
  if keys is not None or len(images) <= PART:
    return function(images, keys)
  number = len(images) // PART
  first, rest = jnp.split(images, [number * PART])
  done = lax.map(lambda part: function(part, None), first.reshape(number, PART, *images.shape[1:]))
  done = done.reshape(number * PART, *done.shape[2:])
  return jnp.concatenate([done, function(rest, None)]) if len(rest) else done


def patches(images, size: int):
  """[B, H, W, 3] -> [B, S, size * size * 3]."""
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size**2 * channels)


def stem(layer, x, dtype):
  """The convolution of patches that do not overlap, as a product: XLA's own on CPUs is slower. [S, B, M] -> [S, B, C]."""
  return dense({**layer, 'kernel': layer['kernel'].reshape(x.shape[-1], -1)}, x, dtype)


def product(subscripts, a, b):
  """jnp.einsum, summed in float32: in this form alone XLA has instructions for bfloat16."""
  return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def dense(layer, x, dtype):
  """flax.linen.Dense. [S, B, M] -> [S, B, N]."""
  return _affine(x.astype(dtype), layer['kernel'], layer['bias'])


@jax.custom_vjp
def _affine(x, kernel, bias):
  return _affine_forward(x, kernel, bias)[0]


def _affine_forward(x, kernel, bias):
  y = product('sbm,mn->sbn', x, kernel.astype(x.dtype)) + bias.astype(jnp.float32)
  return y.astype(x.dtype), (x, kernel)


def _affine_backward(kept, gradient):
  x, kernel = kept
  if x.shape[-1] > gradient.shape[-1]:
    of_kernel = lax.optimization_barrier(_product_over_rows(gradient, x)).T
  else:
    of_kernel = _product_over_rows(x, gradient)
  of_x = product('sbn,mn->sbm', gradient, kernel.astype(x.dtype))
  of_bias = jnp.sum(gradient, (0, 1), dtype=jnp.float32)
  return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)


def _product_over_rows(a, b):
  """[S, B, M], [S, B, N] -> [M, N]. It transposes `a`, which should be the smaller one."""
  # Of two axes, XLA would take the transposition into the product, and compute that in float32.
  transposed = a.transpose(2, 0, 1).reshape(a.shape[-1], -1)
  return product('me,en->mn', transposed, b.reshape(-1, b.shape[-1]))


_affine.defvjp(_affine_forward, _affine_backward)


def layer_norm(layer, x, dtype):
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
def gelu(x):
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


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
