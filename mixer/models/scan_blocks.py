"""The blocks of a model as one loop: the step compiles once for all of them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def scan(block: Callable, params: Sequence[dict], x, rates: Sequence[tuple], remat: bool):
  """block(params[i], x, i, rates[i]) for i = 0, 1, ..., each on the result of the one before. -> like x.

  Args:
    block: (parameters, x, number of the block, its rates) -> like x.
    params: the parameters of each block; all have the same shapes. They are stacked here, and separate in the state,
      so that a run may switch `scan` and keep its checkpoints.
    rates: of each block. Where all are 0, blocks get them as Python numbers, and need no random numbers.
    remat: whether to keep only the blocks' inputs for the backward pass, which recomputes the rest.
  """
  def body(x, inputs):
    params, i, own = inputs
    return block(params, x, i, rates[0] if own is None else own), None
  if remat:
    body = jax.checkpoint(body, prevent_cse=False)  # the loop keeps the two passes apart
  stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *params)
  scanned = np.asarray(rates, np.float32) if np.any(rates) else None
  return jax.lax.scan(body, x, (stacked, jnp.arange(len(params)), scanned))[0]
