"""Loaded weights as the initial parameters of a model: with another head, or for another resolution."""

from collections.abc import Sequence
import typing

import jax
import numpy as np

from mixer import models
from mixer.run import distributed
from mixer import trees
from mixer.weights import loading


def start(fresh_params: dict, *, weights: str, head: typing.Literal['fresh', 'given'] = 'fresh',
          token_mixing: typing.Literal['block_diagonal', 'interpolated', None] = None,
          mean: Sequence[float] | float | None = None, std: Sequence[float] | float | None = None,
          average: bool = False) -> dict:
  """The parameters that a run starts from: those of `weights`, fitted to its model.

  A ViT's position embeddings are resized where the resolution differs (mixer/models/position_embeddings.py).

  Args:
    fresh_params: newly initialized parameters of the run's model, with its running statistics, if it has any.
    weights: a published name, a file, a run's work directory or a checkpoint in one, as in `load`. Their model may differ
      from the run's in its classes and its resolution.
    head: 'fresh' for that of `fresh_params`, which starts at zero, as for other classes; 'given' for that of the weights.
      A fresh head of a ViT has a hidden layer only where the model has one.
    token_mixing: how token mixing by layers of one resolution changes with it: 'block_diagonal' or 'interpolated' for a
      Mixer (mixer/models/token_mixing_resize.py), 'interpolated' for a ResMLP; None if they stay.
    mean, std, average: as in `load`.

  Raises:
    ValueError: showing both sides, if the weights do not fit.
  """
  loaded = loading.load(weights, mean, std, average)
  distributed.print_on_main_process(f'starts from {loaded.describe()}')
  return fit(loaded.params, fresh_params, head=head, token_mixing=token_mixing)


def fit(params: dict, fresh_params: dict, *, head: str, token_mixing: str | None = None) -> dict:
  """`params` with the names, shapes and types of `fresh_params`: `start`."""
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
    allowed = ', '.join(map(repr, (*family.resize_methods, None)))
    raise ValueError(f'config.start_from.token_mixing is {token_mixing!r}; for {family.title} it must be '
                     f'{"one of " if family.resize_methods else ""}{allowed}')
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
