"""MLP-Mixer (arXiv 2105.01601, section 2 and Table 1).

An image becomes a table X of S tokens (non-overlapping patches, in raster order) by C channels. Each block is

  U[:, c] = X[:, c] + W2 gelu(W1 LayerNorm(X)[:, c])     token mixing: each channel alike    (eq. 1)
  Y[s, :] = U[s, :] + W4 gelu(W3 LayerNorm(U)[s, :])     channel mixing: each token alike    (eq. 1)

and a LayerNorm, the mean over tokens and one linear layer give the logits. The equations leave out the biases that
the paper's code (App. E) has. Modules carry that code's names, so the published checkpoints' arrays fit as they are.

Shapes: B images, H x W pixels, P x P patches, S = HW/P^2 tokens, C hidden_dim, D_S tokens_mlp_dim,
D_C channels_mlp_dim, K classes.
"""

import typing

import flax.linen as nn
import jax.numpy as jnp

from mixer import configuration
from mixer.models import stochastic

FloatType = typing.Literal['float32', 'bfloat16']

SIZES = {  # Table 1. The paper's seven models are S/32, S/16, B/32, B/16, L/32, L/16 and H/14.
    'S': dict(num_blocks=8, hidden_dim=512, tokens_mlp_dim=256, channels_mlp_dim=2048),
    'B': dict(num_blocks=12, hidden_dim=768, tokens_mlp_dim=384, channels_mlp_dim=3072),
    'L': dict(num_blocks=24, hidden_dim=1024, tokens_mlp_dim=512, channels_mlp_dim=4096),
    'H': dict(num_blocks=32, hidden_dim=1280, tokens_mlp_dim=640, channels_mlp_dim=5120),
}

# Whether a kept branch is divided by its probability of being kept. The paper does not say; the authors' code does
# not, and 'paper' follows it. 'rescaled' is what timm and later Scenic do.
STOCHASTIC_DEPTH_RULES = {'paper': False, 'big_vision': False, 'rescaled': True}


def variant_fields(variant: str) -> dict:
  """The fields of `MlpMixer` for a name such as 'B/16': a size of Table 1 and a patch size in pixels."""
  size, _, patch_size = variant.partition('/')
  if size not in SIZES or not patch_size.isdecimal() or int(patch_size) == 0:
    raise ValueError(f"config.model.variant is {variant!r}; it must be one of the sizes {', '.join(SIZES)}, a slash "
                     "and the patch size in pixels: 'B/16'")
  return dict(SIZES[size], patch_size=int(patch_size))


def drop_rates(rule: str, rate: float, num_blocks: int) -> list[tuple[float, float]]:
  """The probability of dropping (token mixing, channel mixing) in each block, rising linearly from 0 to `rate`.

  'paper' and 'rescaled' rise over the 2 * num_blocks MLPs, "from 0 for the first MLP to p for the last" (App. B);
  'big_vision' rises over the blocks, whose two MLPs share one probability, as in the authors' released config.
  """
  ramp = lambda place, last: rate * place / max(last, 1)
  if rule == 'big_vision':
    return [(ramp(i, num_blocks - 1),) * 2 for i in range(num_blocks)]
  last = 2 * num_blocks - 1
  return [(ramp(2 * i, last), ramp(2 * i + 1, last)) for i in range(num_blocks)]


class MlpBlock(nn.Module):
  """Dense, GELU (tanh form), Dense, each followed by dropout. [B, M, N], [B] keys or None -> [B, M, N].

  The paper has no dropout layer in its listing; the places are those of Scenic and timm.
  """
  mlp_dim: int
  dropout_rate: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None):
    dense = lambda features: nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype)
    y = nn.gelu(dense(self.mlp_dim)(x))
    y = stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 0))
    y = dense(x.shape[-1])(y)
    return stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 1))


class MixerBlock(nn.Module):
  """Token mixing, then channel mixing: eq. 1. [B, S, C], [B] keys or None -> [B, S, C]."""
  tokens_mlp_dim: int
  channels_mlp_dim: int
  dropout_rate: float = 0.
  drop_rates: tuple[float, float] = (0., 0.)
  rescale: bool = False
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    drop = lambda y, mlp: stochastic.drop_branch(y, self.drop_rates[mlp], stochastic.fold(keys, 2 + mlp), self.rescale)
    y = nn.LayerNorm(**dtypes)(x)
    y = jnp.swapaxes(y, 1, 2)
    y = MlpBlock(self.tokens_mlp_dim, self.dropout_rate, name='token_mixing', **dtypes)(y, stochastic.fold(keys, 0))
    y = jnp.swapaxes(y, 1, 2)
    x = x + drop(y, 0)
    y = nn.LayerNorm(**dtypes)(x)
    y = MlpBlock(self.channels_mlp_dim, self.dropout_rate, name='channel_mixing', **dtypes)(y, stochastic.fold(keys, 1))
    return x + drop(y, 1)


class MlpMixer(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, C] where num_classes is None.

  Attributes:
    num_classes: K, or None for the features before the head (the mean over tokens).
    patch_size: P; it must divide H and W.
    num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim: L, C, D_S and D_C of Table 1.
    dropout_rate: of both layers of every MLP; 0 in all of the paper's runs (Table 4).
    stochastic_depth: the probability of dropping the last residual branch (Table 4).
    stochastic_depth_rule: how that probability rises with depth, and what becomes of kept branches: `drop_rates`.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the blocks' computation. The features' mean and the head are float32.
    param_dtype: of the parameters.
  """
  num_classes: int | None
  patch_size: int
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  dropout_rate: float = 0.
  stochastic_depth: float = 0.
  stochastic_depth_rule: str = 'paper'
  head_bias_init: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, images, keys=None):
    height, width = images.shape[1:3]
    if height % self.patch_size or width % self.patch_size:
      raise ValueError(f'the images are {height} x {width} pixels, which patches of {self.patch_size} x '
                       f'{self.patch_size} do not tile; choose data.resolution as a multiple of model.patch_size')
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    rescale = configuration.choose('model', 'stochastic_depth_rule', self.stochastic_depth_rule, STOCHASTIC_DEPTH_RULES)
    rates = drop_rates(self.stochastic_depth_rule, self.stochastic_depth, self.num_blocks)

    x = nn.Conv(self.hidden_dim, (self.patch_size,) * 2, strides=self.patch_size, name='stem', **dtypes)(images)
    x = x.reshape(x.shape[0], -1, self.hidden_dim)
    for i in range(self.num_blocks):
      x = MixerBlock(self.tokens_mlp_dim, self.channels_mlp_dim, self.dropout_rate, rates[i], rescale,
                     name=f'MixerBlock_{i}', **dtypes)(x, stochastic.fold(keys, i))
    x = nn.LayerNorm(name='pre_head_layer_norm', **dtypes)(x)
    features = jnp.mean(x, axis=1, dtype=jnp.float32)
    if self.num_classes is None:
      return features
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)
