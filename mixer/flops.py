"""Multiply-adds of a function, and FLOPs of a model, counted from shapes; nothing is compiled or run."""

import math

import jax
from jax.extend import core

from mixer import trees


def macs(function, *arguments) -> int:
  """Multiply-adds of all matrix products and convolutions of function(*arguments).

  `arguments` may be arrays or ShapeDtypeStructs. A FLOP count in the usual sense is twice this number.
  """
  return _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def forward(model, params, resolution: int) -> float:
  """FLOPs of one image's forward pass: of matrix products and convolutions, a multiply-add counted as two."""
  image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), 'float32')
  return 2 * macs(model.apply, trees.variables(params), image)


def passes(step) -> int:
  """A training step in forward passes, by the config's `step`: one, and a backward pass, which costs two; with SAM twice that.

  What `remat` computes again is not counted: as is usual for the utilisation of a model's FLOPs.
  """
  return 6 if step.get('sam') else 3


def _macs(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      total += equation.outvars[0].aval.size * depth
    elif equation.primitive.name == 'conv_general_dilated':
      out_features = equation.params['dimension_numbers'].rhs_spec[0]
      kernel = equation.invars[1].aval
      total += equation.outvars[0].aval.size * kernel.size // kernel.shape[out_features]
    else:
      times = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
      total += times * sum(map(_macs, core.jaxprs_in_params(equation.params)))
  return total
