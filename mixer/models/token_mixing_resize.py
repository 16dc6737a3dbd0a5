"""Token-mixing MLPs for images of another resolution; all other parameters fit any.

A MixerBlock's token mixing is, for each channel's S = g^2 tokens x in raster order, W2 gelu(W1 x + b1) + b2. For
S' = g'^2 tokens, there are two methods:

`block_diagonal`, of App. C, where g' = Kg: each of the K x K parts of an image is mixed by itself, as an image of the
base resolution. W1', W2' are block-diagonal with K^2 copies of W1, W2, and b1', b2' repeat b1, b2, for tokens in the
order of tiles; in our raster order their rows and columns are permuted. The MLPs become K^2 times as wide.

`interpolated`, ours, for any g': what belongs to a token is an image of g x g pixels, and is resized. With A the
[S', S] matrix of bilinear resizing, whose rows sum to 1, and D = diag(1^T A), about S'/S,

  W2' = A W2,  b2' = A b2     the outputs are resized, whatever the hidden units
  W1' = W1 D^-1 A^T           each hidden unit's filter is resized and scaled by about S/S', so that W1' 1 = W1 1: its
                              response to tokens that are all alike stays as it is
  b1' = b1                    and so does the width

Arrays here are numpy's, of the shapes of Flax: Dense_0 has W1^T and b1, Dense_1 has W2^T and b2.
"""

import math

import numpy as np


def block_diagonal(params: dict, tiles: int) -> dict:
  """A Mixer's parameters for `tiles` times the resolution, K of App. C. Their types stay."""
  def widen(mlp):
    kernel_1, bias_1, kernel_2, bias_2 = _arrays(mlp)
    tokens, width = kernel_1.shape
    order = _order_of_tiles(_side(tokens), tiles)
    new_1 = np.zeros((tiles**2 * tokens, tiles**2 * width), kernel_1.dtype)
    new_2 = np.zeros(new_1.shape[::-1], kernel_2.dtype)
    new_bias_2 = np.empty(tiles**2 * tokens, bias_2.dtype)
    for tile in range(tiles**2):
      of_tile, units = order[tile * tokens:(tile + 1) * tokens], slice(tile * width, (tile + 1) * width)
      new_1[of_tile, units] = kernel_1
      new_2[units, of_tile] = kernel_2
      new_bias_2[of_tile] = bias_2
    return _mlp(new_1, np.tile(bias_1, tiles**2), new_2, new_bias_2)

  return _with_token_mixing(params, widen)


def interpolated(params: dict, tokens: int) -> dict:
  """A Mixer's parameters for S' = `tokens` tokens, of the same widths. Their types stay."""
  def resize(mlp):
    kernel_1, bias_1, kernel_2, bias_2 = _arrays(mlp)
    outputs, inputs = resizing_matrices(len(kernel_1), tokens)
    return _mlp((inputs @ kernel_1).astype(kernel_1.dtype), bias_1,
                (kernel_2 @ outputs.T).astype(kernel_2.dtype), (outputs @ bias_2).astype(bias_2.dtype))

  return _with_token_mixing(params, resize)


def resizing_matrices(tokens: int, new: int):
  """A, for a layer's outputs, one for each token, and A D^-1, for its weights over the tokens. -> [S', S], [S', S]."""
  along = _resizing(_side(tokens), _side(new))
  a = np.kron(along, along)
  return a, a / a.sum(axis=0)


def fit(params: dict, like: dict, method: str | None) -> dict:
  """A Mixer's parameters, with token-mixing MLPs of the shapes that they have in `like`.

  Args:
    like: parameters of the model to fit; anything that has a shape may replace the arrays.
    method: 'block_diagonal', 'interpolated', or None where no change is expected.

  Raises:
    ValueError: with both grids, if the method cannot convert one to the other.
  """
  (tokens, width), (new_tokens, new_width) = _sizes(params), _sizes(like)
  if (tokens, width) == (new_tokens, new_width):
    return params
  side, new_side = _side(tokens), _side(new_tokens)
  tiles = new_side // side if new_side % side == 0 else None
  sides = (f'the token-mixing MLPs of the weights are {width} wide for {side} x {side} tokens, and those of this model '
           f'{new_width} wide for {new_side} x {new_side} tokens')
  if tokens == new_tokens:
    raise ValueError(f'{sides}. Set config.model.tiles and config.model.tokens_mlp_dim so that they are {width} wide')
  if method == 'interpolated':
    if new_width != width:
      raise ValueError(f"{sides}. config.start_from.token_mixing='interpolated' keeps the width: leave out "
                       'config.model.tiles')
    return interpolated(params, new_tokens)
  if method == 'block_diagonal':
    if tiles is None:
      raise ValueError(f"{sides}. config.start_from.token_mixing='block_diagonal' (App. C) is for a whole multiple of "
                       f"{side} x {side}: choose config.data.resolution so, or 'interpolated'")
    if new_width != tiles**2 * width:
      raise ValueError(f"{sides}. config.start_from.token_mixing='block_diagonal' (App. C) makes them "
                       f'{tiles**2 * width} wide: set config.model.tiles={tiles}')
    return block_diagonal(params, tiles)
  widened = (f"'block_diagonal' (App. C; it needs config.model.tiles={tiles}) or 'interpolated'" if tiles else
             f"'interpolated' ('block_diagonal', of App. C, is for a whole multiple of {side} x {side})")
  raise ValueError(f'{sides}. Set config.data.resolution to that of the weights, or config.start_from.token_mixing to '
                   f'{widened}')


def _order_of_tiles(side, tiles):
  """The positions of the tokens in the raster of the whole image, tile by tile. -> [(tiles side)^2] int."""
  raster = np.arange((tiles * side)**2).reshape(tiles, side, tiles, side)
  return raster.transpose(0, 2, 1, 3).ravel()


def _resizing(size, new):
  """Linear interpolation between `size` points, as jax.image.resize does it, antialiased. -> [new, size] float64."""
  scale = size / new
  centres = (np.arange(new) + 0.5) * scale - 0.5
  weights = np.maximum(1 - np.abs(np.arange(size) - centres[:, None]) / max(scale, 1), 0)
  return weights / weights.sum(axis=1, keepdims=True)


def _side(tokens):
  side = math.isqrt(tokens)
  if side**2 != tokens:
    raise ValueError(f'the {tokens} tokens of a token-mixing MLP are not those of a square image, and only for such '
                     'ones can the resolution change. Use weights and a config.data.resolution of square images')
  return side


def _sizes(params):
  """(S, D_S), the same in all blocks."""
  return params['MixerBlock_0']['token_mixing']['Dense_0']['kernel'].shape


def _with_token_mixing(params, change):
  return {name: {**layer, 'token_mixing': change(layer['token_mixing'])} if 'token_mixing' in layer else layer
          for name, layer in params.items()}


def _arrays(mlp):
  return [np.asarray(mlp[layer][name]) for layer in ('Dense_0', 'Dense_1') for name in ('kernel', 'bias')]


def _mlp(kernel_1, bias_1, kernel_2, bias_2):
  return {'Dense_0': {'kernel': kernel_1, 'bias': bias_1}, 'Dense_1': {'kernel': kernel_2, 'bias': bias_2}}
