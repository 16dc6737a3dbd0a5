"""Dropout and stochastic depth that give one example the same noise wherever it is computed.

Each example carries its own random key, so the noise depends on the seed, the step and the example's place in
the global batch, and not on the number of devices or of accumulated micro-batches. Without keys both are the
identity, as in evaluation.
"""

import jax
import jax.numpy as jnp


def fold(keys, number: int):
  """Fresh keys for the part `number` of a model. [B] keys or None -> the same."""
  return keys if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(x, rate: float, keys):
  """Zeroes each element with probability `rate` and scales up the rest. [B, ...], [B] keys or None -> [B, ...]."""
  if keys is None or rate == 0:
    return x
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
  return jnp.where(kept, x / (1 - rate), 0)


def drop_path(x, rate, keys, rescale: bool):
  """Stochastic depth: zeroes an example's whole branch with probability `rate`. [B, ...], [B] keys or None -> same.

  With `rescale`, kept branches are divided by 1 - rate, so that their expectation stays. `rate` may be traced.
  """
  if keys is None or (isinstance(rate, float) and rate == 0):
    return x
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (1,) * (x.ndim - 1)))(keys)
  scaled = (x / (1 - rate)).astype(x.dtype) if rescale else x  # a traced rate is a float32
  return jnp.where(kept, scaled, 0)
