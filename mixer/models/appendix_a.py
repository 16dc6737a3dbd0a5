"""What the paper tried and dropped: other ways of token mixing (arXiv 2105.01601, App. A).

Each is the Mixer of mlp_mixer.py with another operation in place of W2 gelu(W1 X), on the S x C table of tokens X
after its LayerNorm (the equations leave out the biases):

  untied    column c has matrices W1, W2 of its own
  grouped   G neighbouring columns are stacked into a table of S G x C/G, on which one MLP works
  views     G linear maps of C to C/G features first; the column of a feature is that of its G views
  pyramid   the MLP of a block outputs S' < S tokens

Where the paper gives no details, this is the simplest choice: D_S is unchanged; the output of an MLP of groups or
views is split as its input was stacked, and added to X; the G maps have no bias, and each block has its own; a block
that outputs fewer tokens has no skip connection around its token mixing, since the shapes differ.

Shapes: as in mlp_mixer.py, and G groups.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax.numpy as jnp

from mixer import arguments
from mixer.models import mlp_mixer
from mixer.models import stochastic
from mixer.models import validation
from mixer.models.family import ModelFamily


class Untied(nn.Module):
  """An MLP for each channel. [B, S, C] -> [B, S, C]. Its parameters have a leading axis of channels."""
  tokens_mlp_dim: int
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    of_channel = nn.vmap(mlp_mixer.MlpBlock, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=2,
                         out_axes=2)
    return of_channel(self.tokens_mlp_dim, dtype=self.dtype, param_dtype=self.param_dtype, name='mlp')(x)


class Grouped(nn.Module):
  """One MLP for columns of `groups` neighbouring channels. [B, S, C] -> [B, S, C]."""
  tokens_mlp_dim: int
  groups: int
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    batch, tokens, channels = x.shape
    y = jnp.swapaxes(x, 1, 2).reshape(batch, channels // self.groups, self.groups * tokens)
    y = mlp_mixer.MlpBlock(self.tokens_mlp_dim, dtype=self.dtype, param_dtype=self.param_dtype, name='mlp')(y)
    return jnp.swapaxes(y.reshape(batch, channels, tokens), 1, 2)


class Views(nn.Module):
  """One MLP for columns of `groups` views of a feature. [B, S, C] -> [B, S, C]."""
  tokens_mlp_dim: int
  groups: int
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    batch, tokens, channels = x.shape
    y = nn.Dense(channels, use_bias=False, name='views', **dtypes)(x)
    # Channel g C/G + f is feature f of view g; side by side, the views of a feature are neighbours.
    y = jnp.swapaxes(y.reshape(batch, tokens, self.groups, -1), 2, 3).reshape(x.shape)
    y = Grouped(self.tokens_mlp_dim, self.groups, name='grouped', **dtypes)(y)
    return jnp.swapaxes(y.reshape(batch, tokens, -1, self.groups), 2, 3).reshape(x.shape)


class Reducing(nn.Module):
  """One MLP for all channels, from S tokens to another number. [B, S, C] -> [B, tokens, C]."""
  tokens_mlp_dim: int
  tokens: int
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
    y = nn.gelu(dense(self.tokens_mlp_dim)(jnp.swapaxes(x, 1, 2)))
    return jnp.swapaxes(dense(self.tokens)(y), 1, 2)


class Block(nn.Module):
  """mlp_mixer.MixerBlock with another token mixing. [B, S, C], [B] keys or None -> [B, S, C], or S' for S.

  `mixing` builds the token mixing module; it takes its name and dtypes.
  """
  mixing: Callable
  channels_mlp_dim: int
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None, drop_rates=(0., 0.)):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    drop = lambda y, mlp: stochastic.drop_path(y, drop_rates[mlp], stochastic.fold(keys, 2 + mlp), rescale=False)
    y = self.mixing(name='token_mixing', **dtypes)(nn.LayerNorm(**dtypes)(x))
    x = x + drop(y, 0) if y.shape == x.shape else y
    y = nn.LayerNorm(**dtypes)(x)
    return x + drop(mlp_mixer.MlpBlock(self.channels_mlp_dim, name='channel_mixing', **dtypes)(y), 1)


class Mixer(nn.Module):
  """A Mixer with another token mixing, built by `mixing`. Arguments and fields are those of mlp_mixer.MlpMixer."""
  num_classes: int | None
  patch_size: int
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  stochastic_depth: float = 0.
  head_bias_init: float = 0.
  dtype: mlp_mixer.FloatType = 'float32'
  param_dtype: mlp_mixer.FloatType = 'float32'
  platform: str = 'any'

  def mixing(self, block: int) -> Callable:
    """Builds the token mixing module of a block, from its `name` and dtypes."""
    raise NotImplementedError

  @property
  def columns(self) -> int:
    """The number of columns of the table that token mixing works on."""
    return self.hidden_dim

  def output_tokens(self, tokens: int) -> tuple[int, ...]:
    """The number of tokens that each block outputs, where the first one takes `tokens`."""
    return (tokens,) * self.num_blocks

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """As MlpMixer.activations."""
    tokens, sizes = (resolution // self.patch_size)**2, []
    for outputs in self.output_tokens(tokens):
      table = tokens * self.hidden_dim
      hidden = self.columns * self.tokens_mlp_dim + outputs * self.channels_mlp_dim
      sizes.append((table, table + outputs * self.hidden_dim + hidden))
      tokens = outputs
    return sizes

  def __post_init__(self):
    super().__post_init__()
    validation.at_least_one(self, 'num_classes', 'patch_size', *mlp_mixer.SIZES['B'])
    validation.probabilities(self, 'stochastic_depth')
    validation.finite(self, 'head_bias_init')

  @nn.compact
  def __call__(self, images, keys=None):
    validation.patches_tile(self, *images.shape[1:3])
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    rates = mlp_mixer.drop_rates('paper', self.stochastic_depth, self.num_blocks)
    x = nn.Conv(self.hidden_dim, (self.patch_size,) * 2, strides=self.patch_size, name='stem', **dtypes)(images)
    x = x.reshape(x.shape[0], -1, self.hidden_dim)
    for i in range(self.num_blocks):
      block = Block(self.mixing(i), self.channels_mlp_dim, name=f'MixerBlock_{i}', **dtypes)
      x = block(x, stochastic.fold(keys, i), rates[i])
    features = jnp.mean(nn.LayerNorm(name='pre_head_layer_norm', **dtypes)(x), axis=1, dtype=jnp.float32)
    if self.num_classes is None:
      return features
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)


class UntiedMixer(Mixer):
  """An MLP for each channel: "no noticeable improvement"."""

  def mixing(self, block):
    return functools.partial(Untied, self.tokens_mlp_dim)


class GroupedMixer(Mixer, kw_only=True):
  """Groups of stacked channels: linear 5-shot ImageNet top-1 better by less than 1 to 2 points.

  Attributes:
    groups: G; it must divide C.
  """
  groups: int

  def __post_init__(self):
    super().__post_init__()
    if self.groups < 1 or self.hidden_dim % self.groups:
      raise arguments.ArgumentError(f'groups is {self.groups}; it must divide the channels, hidden_dim, {self.hidden_dim}')

  def mixing(self, block):
    return functools.partial(Grouped, self.tokens_mlp_dim, self.groups)

  @property
  def columns(self):
    return self.hidden_dim // self.groups


class ViewsMixer(GroupedMixer):
  """Groups of views of each feature: ImageNet top-5 better by 3 to 4 points for S/32, and not at larger scales."""

  def mixing(self, block):
    return functools.partial(Views, self.tokens_mlp_dim, self.groups)

  def activations(self, resolution):
    return [(table, kept + table) for table, kept in super().activations(resolution)]  # and the views


class PyramidMixer(Mixer, kw_only=True):
  """Fewer tokens in later blocks: on JFT-300M faster at little loss, not so on ImageNet and ImageNet-21k.

  Attributes:
    tokens: how many each block outputs; a number for each.
  """
  tokens: tuple[int, ...]

  def __post_init__(self):
    super().__post_init__()
    if len(self.tokens) != self.num_blocks or any(number < 1 for number in self.tokens):
      raise arguments.ArgumentError(f'tokens is {self.tokens}; it must have the number of tokens that each of the '
                                    f'{self.num_blocks} blocks outputs')

  def mixing(self, block):
    return functools.partial(Reducing, self.tokens_mlp_dim, self.tokens[block])

  def output_tokens(self, tokens):
    return self.tokens


_COMMON = dict(variant_fields=mlp_mixer.variant_fields, documented_by=(mlp_mixer.MlpMixer,))
FAMILIES = (
    ModelFamily(name='untied_mixer', title='untied Mixer', model=UntiedMixer, **_COMMON),
    ModelFamily(name='grouped_mixer', title='grouped Mixer', model=GroupedMixer, **_COMMON),
    ModelFamily(name='views_mixer', title='Mixer of views', model=ViewsMixer, **_COMMON),
    ModelFamily(name='pyramid_mixer', title='pyramid Mixer', model=PyramidMixer, **_COMMON))
