"""Given weights as the first parameters of a model: with another head, or for another resolution."""

import typing

import jax
import numpy as np

from mixer import trees
from mixer.convert import resolution


def start(params: dict, wanted: dict, *, head: typing.Literal['fresh', 'given'],
          token_mixing: typing.Literal['block_diagonal', 'interpolated'] | None = None) -> dict:
  """`params` fitted to a model whose fresh parameters are `wanted`: arrays of the same names, shapes and types.

  Args:
    params: of a Mixer that differs from the model in its classes and its resolution at most.
    head: 'fresh' for that of `wanted`, which starts at zero, as for other classes; 'given' for that of `params`.
    token_mixing: how the token-mixing MLPs change with the resolution: mixer/convert/resolution.py. None if it stays.

  Raises:
    ValueError: showing both sides, if the weights do not fit.
  """
  if head == 'fresh':
    params = {**params, 'head': wanted['head']}
  else:
    _check_classes(params, wanted)
  unlike = trees.compare(_but_token_mixing(params), _but_token_mixing(wanted), 'weights', 'config.model')
  if unlike:
    raise ValueError(f'the weights do not fit the model of this config:{unlike}\nSet config.model to the sizes of the '
                     'weights, or config.start_from.weights to weights of this model')
  fitted = resolution.fit(params, wanted, token_mixing)
  return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), fitted, wanted)


def _check_classes(params, wanted):
  here = wanted['head']['bias'].size
  if 'head' not in params:
    raise ValueError(f"the weights have no head, and config.model.num_classes is {here}; set config.start_from.head="
                     "'fresh'")
  there = params['head']['bias'].size
  if there != here:
    raise ValueError(f'the head of the weights has {there} classes, and config.model.num_classes is {here}; set '
                     f"config.start_from.head='fresh' for a new one, or config.model.num_classes={there}")


def _but_token_mixing(params):
  """{name: shape} of all arrays, in which every shape does for those of token mixing."""
  return {name: '(any)' if '/token_mixing/' in name else shape for name, shape in trees.shapes(params).items()}
