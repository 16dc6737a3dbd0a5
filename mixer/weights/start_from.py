"""Given weights as the first parameters of a model: with another head, or for another resolution."""

import typing

import jax
import numpy as np

from mixer import trees
from mixer.weights import position_embeddings
from mixer.weights import token_mixing_resize

HEAD = ('pre_logits', 'head')  # its layers; the first one is that of ViTs, in pre-training


def start(params: dict, wanted: dict, *, head: typing.Literal['fresh', 'given'],
          token_mixing: typing.Literal['block_diagonal', 'interpolated'] | None = None) -> dict:
  """`params` fitted to a model whose fresh parameters are `wanted`: arrays of the same names, shapes and types.

  A ViT's position embeddings are resized where the resolution wants it (mixer/weights/position_embeddings.py).

  Args:
    params: of a model that differs from the wanted one in its classes and its resolution at most.
    head: 'fresh' for that of `wanted`, which starts at zero, as for other classes; 'given' for that of `params`. A
      fresh head of a ViT has a hidden layer only where the model has one.
    token_mixing: how a Mixer's token-mixing MLPs change with the resolution: mixer/weights/token_mixing_resize.py. None if they
      stay.

  Raises:
    ValueError: showing both sides, if the weights do not fit.
  """
  if head == 'fresh':
    params = {name: layer for name, layer in params.items() if name not in HEAD}
    params |= {name: wanted[name] for name in HEAD if name in wanted}
  else:
    _check_classes(params, wanted)
  unlike = trees.compare(_but_for_resolution(params), _but_for_resolution(wanted), 'weights', 'config.model')
  if unlike:
    raise ValueError(f'the weights do not fit the model of this config:{unlike}\nSet config.model to the sizes of the '
                     'weights, or config.start_from.weights to weights of this model')
  if 'MixerBlock_0' in wanted:
    params = token_mixing_resize.fit(params, wanted, token_mixing)
  elif token_mixing is not None:
    raise ValueError(f'config.start_from.token_mixing is {token_mixing!r}, and only a Mixer mixes tokens by MLPs that '
                     'depend on the resolution; leave it out')
  elif 'Transformer' in wanted:
    params = position_embeddings.fit(params, wanted)
  return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), params, wanted)


def _check_classes(params, wanted):
  here = wanted['head']['bias'].size
  if 'head' not in params:
    raise ValueError(f"the weights have no head, and config.model.num_classes is {here}; set config.start_from.head="
                     "'fresh'")
  there = params['head']['bias'].size
  if there != here:
    raise ValueError(f'the head of the weights has {there} classes, and config.model.num_classes is {here}; set '
                     f"config.start_from.head='fresh' for a new one, or config.model.num_classes={there}")


def _but_for_resolution(params):
  """{name: shape} of all arrays, in which every shape does where it depends on the resolution."""
  def free(name, shape):
    if '/token_mixing/' in name:
      return '(any)'
    return f'(1, any, {shape[-1]})' if name.endswith('/pos_embedding') else shape
  return {name: free(name, shape) for name, shape in trees.shapes(params).items()}
