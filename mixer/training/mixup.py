"""Mixup (Zhang et al., 2018): each example becomes a weighted mean of itself and another one, and so do its targets."""

from etils import epy
import jax
import jax.numpy as jnp
import numpy as np

with epy.lazy_imports():  # it takes 0.3 s
  import scipy.special


def sample_lambda(alpha: float, key):
  """Samples the weight of each example itself: from Beta(alpha, alpha), the larger of it and its complement. -> [].

  As in the authors' code, with one weight for the whole batch. `alpha` is p of Table 4.
  """
  # By its quantiles, in the upper half of the symmetric distribution: jax.random.beta takes seconds to compile on CPU.
  quantiles = np.linspace(0.5, 1, 4097)
  return jnp.interp(jax.random.uniform(key, minval=0.5), quantiles, scipy.special.betaincinv(alpha, alpha, quantiles))


def mix(images, targets, lam, axis_name: str):
  """Mixes each example with the previous one in the global batch. [b, H, W, 3], [b, K] floats -> the same.

  The result does not depend on how the batch is divided over the devices of the mapped axis `axis_name`.
  """
  blend = lambda x: lam * x + (1 - lam) * _previous(x, axis_name)
  return blend(images), blend(targets)


def _previous(x, axis_name):
  """The example before each; the first one's is the last of the previous device."""
  devices = jax.lax.axis_size(axis_name)
  last = jax.lax.ppermute(x[-1:], axis_name, [(k, (k + 1) % devices) for k in range(devices)])
  return jnp.concatenate([last, x[:-1]])
