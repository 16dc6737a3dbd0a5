"""Mixup (Zhang et al., 2018): each example becomes a mean of itself and another one, and so do its targets."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special


def draw_weight(strength: float, key):
  """The weight of each example itself: from Beta(strength, strength), the larger of it and its complement. -> [].

  So the authors' code has it, with one weight for the whole batch. `strength` is p of Table 4.
  """
  # By its quantiles, in the upper half of the symmetric distribution: jax.random.beta takes seconds to compile on CPU.
  shares = np.linspace(0.5, 1, 4097)
  return jnp.interp(jax.random.uniform(key, minval=0.5), shares, scipy.special.betaincinv(strength, strength, shares))


def mix(images, targets, weight, axis_name: str):
  """Mixes each example with the one before it in the global batch. [b, H, W, 3], [b, K] floats -> the same.

  The result does not depend on how the batch lies over the devices of the mapped axis `axis_name`.
  """
  blend = lambda x: weight * x + (1 - weight) * _previous(x, axis_name)
  return blend(images), blend(targets)


def _previous(x, axis_name):
  """The example before each; the first one's is the last of the device before."""
  devices = jax.lax.axis_size(axis_name)
  first = jax.lax.ppermute(x[-1:], axis_name, [(k, (k + 1) % devices) for k in range(devices)])
  return jnp.concatenate([first, x[:-1]])
