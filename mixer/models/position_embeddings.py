"""A ViT's position embeddings for images of another resolution; all other parameters fit any.

They belong to the patches of a grid and are resized as an image of g x g pixels is (ViT, section 3.2), linearly along
each axis with the corners on the corners, as the authors' code does (scipy.ndimage.zoom of order 1). The class token
has an embedding of its own, which comes first and stays as it is.
"""

import math

import numpy as np


def fit(params: dict, like: dict) -> dict:
  """A ViT's parameters, with as many position embeddings as `like` has. Types stay.

  Args:
    like: parameters of the model to fit; anything that has a shape may replace the arrays.

  Raises:
    ValueError: with both numbers of patches, if one of them has to change and is not that of a square.
  """
  tokens, new_tokens = _embeddings(params).shape[1], _embeddings(like).shape[1]
  if tokens == new_tokens:
    return params
  extra = int('cls' in like)
  sides = [math.isqrt(number - extra) for number in (tokens, new_tokens)]
  if [side**2 + extra for side in sides] != [tokens, new_tokens] or 0 in sides:
    raise ValueError(f'the weights have position embeddings of {tokens - extra} patches, and this model takes images '
                     f'of {new_tokens - extra}; only those of square images can be resized. Choose weights and a '
                     'config.data.resolution of square images')
  embeddings = np.asarray(_embeddings(params))[0]
  new = np.concatenate([embeddings[:extra], resized(embeddings[extra:], sides[1])])[None]
  transformer = {**params['Transformer'], 'posembed_input': {'pos_embedding': new.astype(embeddings.dtype)}}
  return {**params, 'Transformer': transformer}


def resized(embeddings, new: int):
  """Those of a square grid in raster order for a grid of `new` x `new`. [g^2, C] -> [new^2, C]."""
  side = math.isqrt(len(embeddings))
  places = np.linspace(0, side - 1, new)
  along = np.maximum(1 - np.abs(places[:, None] - np.arange(side)), 0)  # [new, side]
  grid = np.einsum('ai,bj,ijc->abc', along, along, embeddings.reshape(side, side, -1))
  return grid.reshape(new**2, -1)


def _embeddings(params):
  return params['Transformer']['posembed_input']['pos_embedding']
