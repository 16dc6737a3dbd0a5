"""MLP-Mixer (arXiv 2105.01601, section 2 and Table 1).

An image becomes a table X of S tokens (non-overlapping patches, in raster order) by C channels. Each block is

  U[:, c] = X[:, c] + W2 gelu(W1 LayerNorm(X)[:, c])     token mixing: each channel alike    (eq. 1)
  Y[s, :] = U[s, :] + W4 gelu(W3 LayerNorm(U)[s, :])     channel mixing: each token alike    (eq. 1)

and a LayerNorm, the mean over tokens and one linear layer give the logits. The equations leave out the biases that
the paper's code (App. E) has. Modules carry that code's names, so the published checkpoints' arrays fit as they are.

Shapes: B images, H x W pixels, P x P patches, S = HW/P^2 tokens, C hidden_dim, D_S tokens_mlp_dim,
D_C channels_mlp_dim, K classes.
"""

import functools
import re
import typing

import flax.linen as nn
import jax.numpy as jnp

from mixer import arguments
from mixer.models import family
from mixer.models.family import ModelFamily
from mixer.models.family import TRAINING_ONLY_FIELDS
from mixer.models import mlp_mixer_cpu
from mixer.models import mlp_mixer_names
from mixer.models import scan_blocks
from mixer.models import stochastic
from mixer.models import token_mixing_resize
from mixer.models import validation
from mixer import trees

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
    raise arguments.ArgumentError(f"variant is {variant!r}; it must be one of the sizes {', '.join(SIZES)}, a slash "
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

  The paper has no dropout layer in its listing; the places are those of Scenic and timm. `on_gpu` takes less memory:
  `scan_blocks.product`.
  """
  mlp_dim: int
  dropout_rate: float = 0.
  on_gpu: bool = False
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None):
    dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
    y = nn.gelu(dense(self.mlp_dim)(x))
    y = stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 0))
    y = dense(x.shape[-1], dot_general=scan_blocks.product if self.on_gpu else None)(y)
    return stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 1))


class MixerBlock(nn.Module):
  """Token mixing, then channel mixing: eq. 1. [B, S, C], [B] keys or None -> [B, S, C].

  `drop_rates` are the probabilities of dropping the one branch and the other.
  """
  tokens_mlp_dim: int
  channels_mlp_dim: int
  dropout_rate: float = 0.
  rescale: bool = False
  on_gpu: bool = False
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None, drop_rates=(0., 0.)):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    mlp_block = functools.partial(MlpBlock, dropout_rate=self.dropout_rate, on_gpu=self.on_gpu, **dtypes)
    drop = lambda y, mlp: stochastic.drop_path(y, drop_rates[mlp], stochastic.fold(keys, 2 + mlp), self.rescale)
    y = nn.LayerNorm(**dtypes)(x)
    y = jnp.swapaxes(y, 1, 2)
    y = mlp_block(self.tokens_mlp_dim, name='token_mixing')(y, stochastic.fold(keys, 0))
    y = jnp.swapaxes(y, 1, 2)
    x = x + drop(y, 0)
    y = nn.LayerNorm(**dtypes)(x)
    y = mlp_block(self.channels_mlp_dim, name='channel_mixing')(y, stochastic.fold(keys, 1))
    return x + drop(y, 1)


class MlpMixer(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, C] where num_classes is None.

  Attributes:
    num_classes: K, or None for the features before the head (the mean over tokens); in a config, None is as many as the
      training data have.
    patch_size: P, the side of a patch in pixels; it must divide H and W.
    num_blocks: the number of layers of Table 1.
    hidden_dim: C of Table 1, the channels of a token.
    tokens_mlp_dim: D_S of Table 1, the width of the token-mixing MLPs.
    channels_mlp_dim: D_C of Table 1, the width of the channel-mixing MLPs.
    tiles: K of App. C: the token-mixing MLPs are K^2 times as wide as tokens_mlp_dim, for images of K times the
      resolution.
    dropout_rate: of both layers of every MLP; 0 in all of the paper's runs (Table 4).
    stochastic_depth: the probability of dropping the last residual branch (Table 4).
    stochastic_depth_rule: how that probability rises with depth, and what becomes of kept branches: `drop_rates`.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the blocks' computation. The features' mean and the head are float32.
    param_dtype: of the parameters.
    scan: whether the blocks are one loop, which compiles once; the parameters are the same.
    remat: 'block' keeps of each block only its input for the backward pass, which computes the rest again. To save
      memory on a CPU it needs `scan`.
    platform: what it is to run on, with the same results: 'cpu' has its own implementation (mlp_mixer_cpu.py), and on a
      'gpu' blocks keep less for the backward pass (scan_blocks.py). Neither has forward-mode derivatives (jax.jvp); 'any'
      has them.

  With `capture_intermediates` (or the collection 'intermediates' mutable) it runs module by module, whatever `platform`
  and `scan` say, so that the outputs of all its modules are recorded.
  """
  num_classes: int | None
  patch_size: int
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  tiles: int = 1
  dropout_rate: float = 0.
  stochastic_depth: float = 0.
  stochastic_depth_rule: str = 'paper'
  head_bias_init: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'
  scan: bool = False
  remat: typing.Literal['none', 'block'] = 'none'
  platform: str = 'any'

  def __post_init__(self):
    super().__post_init__()
    validation.at_least_one(self, 'num_classes', 'patch_size', 'tiles', *SIZES['B'])
    validation.probabilities(self, 'dropout_rate', 'stochastic_depth')
    validation.finite(self, 'head_bias_init')
    validation.one_of(self, 'stochastic_depth_rule', STOCHASTIC_DEPTH_RULES)

  @nn.compact
  def __call__(self, images, keys=None):
    validation.patches_tile(self, *images.shape[1:3])
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    rates = drop_rates(self.stochastic_depth_rule, self.stochastic_depth, self.num_blocks)

    if self.platform == 'cpu' and not scan_blocks.modules_must_run(self):
      features = mlp_mixer_cpu.features(self, self.variables['params'], images, keys, rates)
    else:
      x = nn.Conv(self.hidden_dim, (self.patch_size,) * 2, strides=self.patch_size, name='stem', **dtypes)(images)
      x = x.reshape(x.shape[0], -1, self.hidden_dim)
      sizes = (self.tiles**2 * self.tokens_mlp_dim, self.channels_mlp_dim, self.dropout_rate, self.rescales, self.platform == 'gpu')
      x = scan_blocks.apply(self, MixerBlock, sizes, x, keys, rates, 'MixerBlock')
      x = nn.LayerNorm(name='pre_head_layer_norm', **dtypes)(x)
      features = jnp.mean(x, axis=1, dtype=jnp.float32)
    if self.num_classes is None:
      return features
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)

  @property
  def rescales(self) -> bool:
    """Whether branches that stochastic depth keeps are divided by their probability."""
    return STOCHASTIC_DEPTH_RULES[self.stochastic_depth_rule]

  def blocks_of(self, params) -> list[dict]:
    """The parameters of each block, in their order."""
    return [params[f'MixerBlock_{i}'] for i in range(self.num_blocks)]

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """(numbers in its input, numbers kept for the backward pass) of each block, for one square image.

    An estimate: of each MLP the input, and the hidden layer before its GELU, are kept, and the rest is recomputed.
    """
    tokens = (resolution // self.patch_size)**2
    table = tokens * self.hidden_dim
    hidden = self.hidden_dim * self.tokens_mlp_dim * self.tiles**2 + tokens * self.channels_mlp_dim
    return [(table, 2 * table + hidden)] * self.num_blocks


def fields_from_params(params) -> dict:
  """The fields of the `MlpMixer` that a tree of arrays belongs to, read off the shapes.

  Token-mixing MLPs that were widened for another resolution give the tokens_mlp_dim of the arrays, for `tiles` 1.

  Raises:
    ValueError: with the arrays that are missing, unexpected or of another shape, next to those of the nearest Mixer.
  """
  shapes = trees.shapes(params)
  size = family.size_in(shapes)
  b16 = variant_fields('B/16')  # the sizes to compare with where the arrays do not show them
  tokens = size('MixerBlock_0/token_mixing/Dense_0/kernel', 0, 196)
  fields = dict(
      num_classes=size('head/kernel', 1, size('head/bias', 0, None)),
      patch_size=size('stem/kernel', 0, b16['patch_size']),
      num_blocks=len({m[1] for name in shapes if (m := re.match(r'MixerBlock_(\d+)/', name))}) or b16['num_blocks'],
      hidden_dim=size('stem/kernel', 3, b16['hidden_dim']),
      tokens_mlp_dim=size('MixerBlock_0/token_mixing/Dense_0/kernel', 1, b16['tokens_mlp_dim']),
      channels_mlp_dim=size('MixerBlock_0/channel_mixing/Dense_0/kernel', 1, b16['channels_mlp_dim']))

  family.check_shapes(shapes, family.shapes_of(MlpMixer, fields, tokens, 'MixerBlock_'), 'Mixer')
  return fields


def variant_of(fields: dict) -> str | None:
  """'B/16' for the fields of a size of Table 1, 'B/16, token MLPs x4' for wider token-mixing MLPs, None for others."""
  for size, sizes in SIZES.items():
    times, rest = divmod(fields['tokens_mlp_dim'], sizes['tokens_mlp_dim'])
    if not rest and all(fields[name] == sizes[name] for name in sizes if name != 'tokens_mlp_dim'):
      return f'{size}/{fields["patch_size"]}' + (f', token MLPs x{times}' if times > 1 else '')
  return None


def resolution_of(params) -> int:
  """The side in pixels of the square images that a Mixer's token-mixing MLPs take.

  Raises:
    ValueError: if the number of tokens is no square.
  """
  tokens = params['MixerBlock_0']['token_mixing']['Dense_0']['kernel'].shape[0]
  return family.side_of_grid(tokens, f'the token-mixing MLPs take {tokens} tokens') * params['stem']['kernel'].shape[0]


def fields_for_resolution(resolution: int) -> dict:
  """App. C's wider token mixing, for a multiple of the paper's 224 pixels."""
  return dict(tiles=resolution // 224) if resolution > 224 and resolution % 224 == 0 else {}


def token_filters(params, block: int):
  """The hidden units of a block's token-mixing MLP, the rows of W1 in eq. 1. -> [D_S, S]."""
  return params[f'MixerBlock_{block}']['token_mixing']['Dense_0']['kernel'].T


FAMILY = ModelFamily(
    name='mlp_mixer', title='Mixer', model=MlpMixer, variant_fields=variant_fields,
    training_only_fields=(*TRAINING_ONLY_FIELDS, 'tiles', 'stochastic_depth_rule'),
    fields_for_resolution=fields_for_resolution, finetune_config='configs/mixer_finetune.py:b16_i21k,cifar10',
    fields_from_params=fields_from_params, sizes=('patch_size', *SIZES['B']),
    fields_in_params=lambda model: dict(tokens_mlp_dim=model.tokens_mlp_dim * model.tiles**2),
    array_pattern=r'(stem|MixerBlock_\d+|pre_head_layer_norm)/', block_pattern=r'MixerBlock_(\d+)/',
    tokens='pre_head_layer_norm',
    variant_of=variant_of, resolution_of=resolution_of,
    any_resolution=lambda name, shape: '(any)' if '/token_mixing/' in name else shape,
    resize=token_mixing_resize.fit, resize_methods=('block_diagonal', 'interpolated'), token_filters=token_filters,
    npz=mlp_mixer_names.NPZ, timm=mlp_mixer_names.TIMM)
