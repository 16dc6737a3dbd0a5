"""Vision Transformer (arXiv 2010.11929, section 3.1 and Table 1).

An image becomes a table X of non-overlapping patches, in raster order, by C channels, below a class token of its own;
position embeddings are added to all. Each block is

  U = X + softmax(Q K' / sqrt(C / heads)) V W + b, by heads, with Q, K, V linear in LayerNorm(X)      (eq. 2)
  Y = U + W2 gelu(W1 LayerNorm(U))                                                                    (eq. 3)

and a LayerNorm, the class token (or the mean over patches), in pre-training one hidden layer with tanh, and one linear
layer give the logits. Modules carry the names of the published checkpoints, so their arrays fit as they are; these
count a block's parts together: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3.

Shapes: B images, H x W pixels, P x P patches, N tokens (HW/P^2 and the class token), C hidden_dim, D mlp_dim,
F features (representation_size, or else C), K classes.
"""

import re
import typing

import flax.linen as nn
import jax.numpy as jnp

from mixer import arguments
from mixer.models import family
from mixer.models.family import ModelFamily
from mixer.models import position_embeddings
from mixer.models import scan_blocks
from mixer.models import stochastic
from mixer.models import validation
from mixer.models import vit_cpu
from mixer.models import vit_names
from mixer import trees

FloatType = typing.Literal['float32', 'bfloat16']

SIZES = {  # ViT, Table 1. Its models are B/32, B/16, L/32, L/16 and H/14.
    'B': dict(num_blocks=12, hidden_dim=768, mlp_dim=3072, num_heads=12),
    'L': dict(num_blocks=24, hidden_dim=1024, mlp_dim=4096, num_heads=16),
    'H': dict(num_blocks=32, hidden_dim=1280, mlp_dim=5120, num_heads=16),
}


def variant_fields(variant: str) -> dict:
  """The fields of `VisionTransformer` for a name such as 'B/16': a size of Table 1 and a patch size in pixels."""
  size, _, patch_size = variant.partition('/')
  if size not in SIZES or not patch_size.isdecimal() or int(patch_size) == 0:
    raise arguments.ArgumentError(f"variant is {variant!r}; of a ViT it must be one of the sizes {', '.join(SIZES)}, a "
                                  "slash and the patch size in pixels: 'B/16'")
  return dict(SIZES[size], patch_size=int(patch_size))


def drop_rates(rate: float, num_blocks: int) -> list[tuple[float, float]]:
  """The probability of dropping (attention, MLP) in each block, rising linearly over the blocks from 0 to `rate`."""
  return [(rate * i / max(num_blocks - 1, 1),) * 2 for i in range(num_blocks)]


class PositionEmbeddings(nn.Module):
  """Adds one embedding to each token. [B, N, C] -> the same."""
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    embeddings = self.param('pos_embedding', nn.initializers.normal(0.02), (1, *x.shape[1:]), self.param_dtype)
    return x + embeddings.astype(x.dtype)


class MlpBlock(nn.Module):
  """Dense, GELU (tanh form), Dense, each followed by dropout. [B, N, C], [B] keys or None -> [B, N, C]."""
  mlp_dim: int
  dropout_rate: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None):
    dense = lambda features: nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype,
                                      kernel_init=nn.initializers.xavier_uniform(),
                                      bias_init=nn.initializers.normal(1e-6))
    y = nn.gelu(dense(self.mlp_dim)(x))
    y = stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 0))
    y = dense(x.shape[-1])(y)
    return stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 1))


class EncoderBlock(nn.Module):
  """Attention, then the MLP: eq. 2 and 3. [B, N, C], [B] keys or None -> [B, N, C].

  `drop_rates` are the probabilities of dropping the one branch and the other; kept branches are not rescaled.
  """
  mlp_dim: int
  num_heads: int
  dropout_rate: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None, drop_rates=(0., 0.)):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    drop = lambda y, branch: stochastic.drop_path(y, drop_rates[branch], stochastic.fold(keys, 2 + branch), False)
    y = nn.LayerNorm(name='LayerNorm_0', **dtypes)(x)
    y = nn.MultiHeadDotProductAttention(
        self.num_heads, kernel_init=nn.initializers.xavier_uniform(), force_fp32_for_softmax=True,
        name='MultiHeadDotProductAttention_1', **dtypes)(y)
    y = stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, 0))
    x = x + drop(y, 0)
    y = nn.LayerNorm(name='LayerNorm_2', **dtypes)(x)
    y = MlpBlock(self.mlp_dim, self.dropout_rate, name='MlpBlock_3', **dtypes)(y, stochastic.fold(keys, 1))
    return x + drop(y, 1)


class Encoder(nn.Module):
  """Position embeddings, the blocks and the last LayerNorm. [B, N, C], [B] keys or None -> [B, N, C].

  `scan`, `remat` and `platform` are those of `VisionTransformer`.
  """
  num_blocks: int
  mlp_dim: int
  num_heads: int
  dropout_rate: float
  stochastic_depth: float
  dtype: FloatType
  param_dtype: FloatType
  scan: bool
  remat: str
  platform: str

  @nn.compact
  def __call__(self, x, keys=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x = PositionEmbeddings(self.param_dtype, name='posembed_input')(x)
    x = stochastic.dropout(x, self.dropout_rate, stochastic.fold(keys, self.num_blocks))
    sizes = (self.mlp_dim, self.num_heads, self.dropout_rate)
    rates = drop_rates(self.stochastic_depth, self.num_blocks)
    x = scan_blocks.apply(self, EncoderBlock, sizes, x, keys, rates, 'encoderblock')
    return nn.LayerNorm(name='encoder_norm', **dtypes)(x)


class VisionTransformer(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, F] where num_classes is None.

  Attributes:
    num_classes: K, or None for the features before the head; in a config, None is as many as the training data have.
    patch_size: P, the side of a patch in pixels; it must divide H and W.
    num_blocks: the number of layers of ViT's Table 1.
    hidden_dim: C, the channels of a token.
    mlp_dim: D, the width of the MLPs.
    num_heads: of the attention; it must divide hidden_dim.
    pool: 'token' for the class token's features, 'mean' for the mean over patches, without a class token.
    representation_size: of the head's hidden layer, which ViT has in pre-training alone, as wide as C; None without.
    dropout_rate: after the position embeddings and after every dense layer but those of Q, K and V (ViT, App. B.1).
    stochastic_depth: the probability of dropping the last block's branches: `drop_rates`.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the blocks' computation. Softmax and what follows the last LayerNorm are float32.
    param_dtype: of the parameters.
    scan: whether the blocks are one loop, which compiles once; the parameters are the same.
    remat: 'block' keeps of each block only its input for the backward pass, which computes the rest again. To save
      memory on a CPU it needs `scan`.
    platform: what it is to run on, with the same results: 'cpu' has its own implementation (vit_cpu.py), and on a 'gpu'
      blocks keep less for the backward pass (scan_blocks.py). Neither has forward-mode derivatives (jax.jvp); 'any' has
      them.
  """
  num_classes: int | None
  patch_size: int
  num_blocks: int
  hidden_dim: int
  mlp_dim: int
  num_heads: int
  pool: typing.Literal['token', 'mean'] = 'token'
  representation_size: int | None = None
  dropout_rate: float = 0.
  stochastic_depth: float = 0.
  head_bias_init: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'
  scan: bool = False
  remat: typing.Literal['none', 'block'] = 'none'
  platform: str = 'any'

  def __post_init__(self):
    super().__post_init__()
    validation.at_least_one(self, 'num_classes', 'patch_size', 'representation_size', *SIZES['B'])
    validation.probabilities(self, 'dropout_rate', 'stochastic_depth')
    validation.finite(self, 'head_bias_init')
    if self.hidden_dim % self.num_heads:
      raise arguments.ArgumentError(f'num_heads is {self.num_heads}; it must divide hidden_dim, which is {self.hidden_dim}')

  @nn.compact
  def __call__(self, images, keys=None):
    validation.patches_tile(self, *images.shape[1:3])
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    if self.platform == 'cpu' and not scan_blocks.modules_must_run(self):
      rates = drop_rates(self.stochastic_depth, self.num_blocks)
      x = vit_cpu.tokens(self, self.variables['params'], images, keys, rates)
    else:
      x = self._tokens(images, keys, dtypes)
    x = x[:, 0].astype(jnp.float32) if self.pool == 'token' else jnp.mean(x, axis=1, dtype=jnp.float32)
    dense = lambda features, name, **inits: nn.Dense(features, name=name, dtype=jnp.float32,
                                                     param_dtype=self.param_dtype, **inits)
    if self.representation_size is not None:
      x = jnp.tanh(dense(self.representation_size, 'pre_logits')(x))
    if self.num_classes is None:
      return x
    return dense(self.num_classes, 'head', kernel_init=nn.initializers.zeros,
                 bias_init=nn.initializers.constant(self.head_bias_init))(x)

  def _tokens(self, images, keys, dtypes):
    x = nn.Conv(self.hidden_dim, (self.patch_size,) * 2, strides=self.patch_size, name='embedding', **dtypes)(images)
    x = x.reshape(x.shape[0], -1, self.hidden_dim)
    if self.pool == 'token':
      token = self.param('cls', nn.initializers.zeros, (1, 1, self.hidden_dim), self.param_dtype)
      x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.hidden_dim)), x], axis=1)
    return Encoder(self.num_blocks, self.mlp_dim, self.num_heads, self.dropout_rate, self.stochastic_depth,
                   scan=self.scan, remat=self.remat, platform=self.platform, name='Transformer', **dtypes)(x, keys)

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """(numbers in its input, numbers kept for the backward pass) of each block, for one square image.

    An estimate: the results of the matrix products are kept, and the rest is recomputed.
    """
    tokens = (resolution // self.patch_size)**2 + (self.pool == 'token')
    table = tokens * self.hidden_dim
    # Q, K, V, the means of V, the outputs of attention and the MLP; the products of Q and K; the MLP's hidden layer.
    return [(table, 6 * table + self.num_heads * tokens**2 + tokens * self.mlp_dim)] * self.num_blocks


def fields_from_params(params) -> dict:
  """The fields of the `VisionTransformer` that a tree of arrays belongs to, read off the shapes.

  Raises:
    ValueError: with the arrays that are missing, unexpected or of another shape, next to those of the nearest ViT.
  """
  shapes = trees.shapes(params)
  size = family.size_in(shapes)
  b16 = variant_fields('B/16')  # the sizes to compare with where the arrays do not show them
  block = 'Transformer/encoderblock_0/'
  fields = dict(
      num_classes=size('head/kernel', 1, size('head/bias', 0, None)),
      patch_size=size('embedding/kernel', 0, b16['patch_size']),
      num_blocks=len({m[1] for name in shapes if (m := re.match(r'Transformer/encoderblock_(\d+)/', name))})
      or b16['num_blocks'],
      hidden_dim=size('embedding/kernel', 3, b16['hidden_dim']),
      mlp_dim=size(block + 'MlpBlock_3/Dense_0/kernel', 1, b16['mlp_dim']),
      num_heads=size(block + 'MultiHeadDotProductAttention_1/query/kernel', 1, b16['num_heads']),
      pool='token' if 'cls' in shapes else 'mean',
      representation_size=size('pre_logits/kernel', 1, size('pre_logits/bias', 0, None)))
  if fields['hidden_dim'] % fields['num_heads']:
    raise ValueError(f'the arrays are not those of a ViT: they have {fields["num_heads"]} heads, which do not divide '
                     f'{fields["hidden_dim"]} channels')

  tokens = size('Transformer/posembed_input/pos_embedding', 1, 196 + (fields['pool'] == 'token'))
  patches = max(tokens - (fields['pool'] == 'token'), 1)
  family.check_shapes(shapes, family.shapes_of(VisionTransformer, fields, patches, 'Transformer/encoderblock_'), 'ViT')
  return fields


def variant_of(fields: dict) -> str | None:
  """'B/16' for the fields of a size of Table 1, 'B/16, mean over patches' without a class token, None for others."""
  for size, sizes in SIZES.items():
    if all(fields[name] == sizes[name] for name in sizes):
      return f'{size}/{fields["patch_size"]}' + (', mean over patches' if fields['pool'] == 'mean' else '')
  return None


def resolution_of(params) -> int:
  """The side in pixels of the square images that a ViT's position embeddings are for.

  Raises:
    ValueError: if the number of patches is no square.
  """
  patches = params['Transformer']['posembed_input']['pos_embedding'].shape[1] - ('cls' in params)
  return family.side_of_grid(patches, f'the position embeddings are of {patches} patches') * params['embedding']['kernel'].shape[0]


def any_resolution(name: str, shape: tuple):
  """The shape of an array without what depends on the resolution."""
  return f'(1, any, {shape[-1]})' if name.endswith('/pos_embedding') else shape


FAMILY = ModelFamily(
    name='vit', title='ViT', model=VisionTransformer, variant_fields=variant_fields,
    fields_from_params=fields_from_params, sizes=('patch_size', *SIZES['B'], 'pool', 'representation_size'),
    array_pattern=r'(embedding|Transformer|pre_logits)/|cls$', block_pattern=r'Transformer/encoderblock_(\d+)/',
    tokens='encoder_norm',
    variant_of=variant_of, resolution_of=resolution_of, stem='embedding',
    head=('pre_logits', 'head'),  # the first one is used in pre-training alone
    any_resolution=any_resolution, resize=lambda params, like, method: position_embeddings.fit(params, like),
    timm=vit_names.TIMM)
