"""Loaded weights as the initial parameters of a model: with another head, or for another resolution."""

import typing

import jax
import numpy as np

from mixer import models
from mixer import trees


def start(params: dict, fresh_params: dict, *, head: typing.Literal['fresh', 'given'],
          token_mixing: typing.Literal['block_diagonal', 'interpolated'] | None = None) -> dict:
  """`params` fitted to a model of newly initialized `fresh_params`: arrays of the same names, shapes and types.

  A ViT's position embeddings are resized where the resolution differs (mixer/models/position_embeddings.py).

  Args:
    params: of a model that differs in its classes and its resolution at most.
    head: 'fresh' for that of `fresh_params`, which starts at zero, as for other classes; 'given' for that of `params`.
      A fresh head of a ViT has a hidden layer only where the model has one.
    token_mixing: how a Mixer's token-mixing MLPs change with the resolution: mixer/models/token_mixing_resize.py. None
      if they stay.

  Raises:
    ValueError: showing both sides, if the weights do not fit.
  """
  family = models.family_of(trees.flat(fresh_params))
  if head == 'fresh':
    params = {name: layer for name, layer in params.items() if name not in family.head}
    params |= {name: fresh_params[name] for name in family.head if name in fresh_params}
  else:
    _check_classes(params, fresh_params)
  shapes = lambda params: {name: family.any_resolution(name, shape) for name, shape in trees.shapes(params).items()}
  unlike = trees.compare(shapes(params), shapes(fresh_params), 'weights', 'config.model')
  if unlike:
    raise ValueError(f'the weights do not fit the model of this config:{unlike}\nSet config.model to the sizes of the '
                     'weights, or config.start_from.weights to weights of this model')
  if token_mixing not in (None, *family.resize_methods):
    raise ValueError(f'config.start_from.token_mixing is {token_mixing!r}, and only a Mixer mixes tokens by MLPs that '
                     'depend on the resolution; leave it out')
  params = family.resize(params, fresh_params, token_mixing)
  return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), params, fresh_params)


def _check_classes(params, fresh_params):
  num_classes = fresh_params['head']['bias'].size
  if 'head' not in params:
    raise ValueError(f"the weights have no head, and config.model.num_classes is {num_classes}; "
                     "set config.start_from.head='fresh'")
  loaded_classes = params['head']['bias'].size
  if loaded_classes != num_classes:
    raise ValueError(f'the head of the weights has {loaded_classes} classes, and config.model.num_classes is {num_classes}; '
                     f"set config.start_from.head='fresh' for a new one, or config.model.num_classes={loaded_classes}")

