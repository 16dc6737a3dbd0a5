"""ResMLP (Touvron et al., arXiv 2105.03404, section 2): the Mixer's closest relative.

An image becomes a table X of S tokens (non-overlapping patches, in raster order) by C channels. Each block is

  Z = X + diag(g1) (A Aff(X)')'                token mixing: one linear layer across patches    (eq. 2)
  Y = Z + diag(g2) W2 gelu(W1 Aff(Z))          channel mixing: as the Mixer's                   (eq. 3)

with Aff(x) = a x + b for each channel (eq. 1) where the Mixer has a LayerNorm, and layer scale (g1, g2, for each channel,
arXiv 2103.17239). One more Aff, the mean over tokens and one linear layer give the logits. A has a bias, as in the
authors' code. The same as facebookresearch/deit's resmlp_models.py, and timm's ResBlock.

Shapes: B images, H x W pixels, P x P patches, S = HW/P^2 tokens, C hidden_dim, K classes.
"""

import functools
import re
import typing

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mixer import arguments
from mixer.models import family
from mixer.models.family import ModelFamily
from mixer.models.family import TRAINING_ONLY_FIELDS
from mixer.models import scan_blocks
from mixer.models import stochastic
from mixer.models import token_mixing_resize
from mixer.models import validation
from mixer import trees

FloatType = typing.Literal['float32', 'bfloat16']

VARIANTS = {  # Table 1 and the authors' code, which has the first values of layer scale; images of 224 pixels
    'S12': dict(patch_size=16, num_blocks=12, hidden_dim=384, layer_scale_init=0.1),
    'S24': dict(patch_size=16, num_blocks=24, hidden_dim=384, layer_scale_init=1e-5),
    'S36': dict(patch_size=16, num_blocks=36, hidden_dim=384, layer_scale_init=1e-6),
    'B24': dict(patch_size=8, num_blocks=24, hidden_dim=768, layer_scale_init=1e-6),
}
TIMM = {'S12': 'resmlp_12_224', 'S24': 'resmlp_24_224', 'S36': 'resmlp_36_224', 'B24': 'resmlp_big_24_224'}


def variant_fields(variant: str) -> dict:
  """The fields of `ResMlp` for a name such as 'S12'."""
  if variant not in VARIANTS:
    raise arguments.ArgumentError(f"variant is {variant!r}; of a ResMLP it must be one of {', '.join(VARIANTS)}")
  return dict(VARIANTS[variant])


class Affine(nn.Module):
  """Scales and shifts each channel. [..., C] -> [..., C]."""
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:], self.param_dtype).astype(self.dtype)
    return x.astype(self.dtype) * scale + self.param('bias', nn.initializers.zeros, x.shape[-1:],
                                                     self.param_dtype).astype(self.dtype)


class LayerScale(nn.Module):
  """Scales each channel of a branch, by `init` at first. [..., C] -> [..., C]."""
  init: float
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    return x * self.param('scale', nn.initializers.constant(self.init), x.shape[-1:], self.param_dtype).astype(x.dtype)


class Block(nn.Module):
  """Token mixing, then channel mixing: eq. 2 and 3. [B, S, C], [B] keys or None -> [B, S, C].

  `drop_rates` are the probabilities of dropping the one branch and the other; kept branches are rescaled.
  """
  layer_scale_init: float
  dropout_rate: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None, drop_rates=(0., 0.)):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = lambda features, name: nn.Dense(features, kernel_init=nn.initializers.truncated_normal(0.02), name=name,
                                            **dtypes)
    drop = lambda y, layer: stochastic.dropout(y, self.dropout_rate, stochastic.fold(keys, layer))

    def branch(y, number):
      y = LayerScale(self.layer_scale_init, self.param_dtype, name=f'layer_scale_{number}')(y)
      return stochastic.drop_path(y, drop_rates[number], stochastic.fold(keys, 2 + number), rescale=True)

    y = jnp.swapaxes(Affine(name='affine_0', **dtypes)(x), 1, 2)
    x = x + branch(jnp.swapaxes(dense(x.shape[1], 'token_mixing')(y), 1, 2), 0)
    y = Affine(name='affine_1', **dtypes)(x)
    y = drop(nn.gelu(dense(4 * x.shape[-1], 'channel_mixing_0')(y), approximate=False), 0)
    return x + branch(drop(dense(x.shape[-1], 'channel_mixing_1')(y), 1), 1)


class ResMlp(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, C] where num_classes is None.

  Attributes:
    num_classes: K, or None for the features before the head (the mean over tokens); in a config, None is as many as the
      training data have.
    patch_size: P, the side of a patch in pixels; it must divide H and W.
    num_blocks: the number of blocks.
    hidden_dim: C, the channels of a token; the channel-mixing MLPs are four times as wide.
    layer_scale_init: the first value of layer scale: 0.1 for 12 blocks, 1e-5 for 24, 1e-6 for more (section 2).
    dropout_rate: of both layers of every MLP; 0 in all of the paper's runs.
    stochastic_depth: the probability of dropping a residual branch, the same at all depths, as in the authors' code.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the blocks' computation. The features' mean and the head are float32.
    param_dtype: of the parameters.
    scan: whether the blocks are one loop, which compiles once; the parameters are the same.
    remat: 'block' keeps of each block only its input for the backward pass, which computes the rest again. To save
      memory on a CPU it needs `scan`.
    platform: what it is to run on: on a 'gpu' blocks keep less for the backward pass, with the same results
      (scan_blocks.py), and there are no forward-mode derivatives (jax.jvp); 'any' has them.
  """
  num_classes: int | None
  patch_size: int
  num_blocks: int
  hidden_dim: int
  layer_scale_init: float = 0.1
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
    validation.at_least_one(self, 'num_classes', *SIZES)
    validation.probabilities(self, 'dropout_rate', 'stochastic_depth')
    validation.finite(self, 'head_bias_init', 'layer_scale_init')

  @nn.compact
  def __call__(self, images, keys=None):
    validation.patches_tile(self, *images.shape[1:3])
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x = nn.Conv(self.hidden_dim, (self.patch_size,) * 2, strides=self.patch_size, name='stem', **dtypes)(images)
    sizes, rates = (self.layer_scale_init, self.dropout_rate), [(self.stochastic_depth,) * 2] * self.num_blocks
    x = scan_blocks.apply(self, Block, sizes, x.reshape(x.shape[0], -1, self.hidden_dim), keys, rates, 'ResBlock')
    features = jnp.mean(Affine(name='affine', **dtypes)(x), axis=1, dtype=jnp.float32)
    if self.num_classes is None:
      return features
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """(numbers in its input, numbers kept for the backward pass) of each block, for one square image.

    An estimate: the input of each linear layer and what layer scale takes are kept, and the rest is recomputed.
    """
    table = (resolution // self.patch_size)**2 * self.hidden_dim
    # X, Aff(X), A Aff(X), Z, Aff(Z), the hidden layer before its GELU, and what the MLP returns.
    return [(table, 6 * table + 4 * table)] * self.num_blocks


SIZES = ('patch_size', 'num_blocks', 'hidden_dim')


def fields_from_params(params) -> dict:
  """The fields of the `ResMlp` that a tree of arrays belongs to, read off the shapes.

  Raises:
    ValueError: with the arrays that are missing, unexpected or of another shape, next to those of the nearest ResMLP.
  """
  shapes = trees.shapes(params)
  size = family.size_in(shapes)
  fields = dict(
      num_classes=size('head/kernel', 1, size('head/bias', 0, None)), patch_size=size('stem/kernel', 0, 16),
      num_blocks=len({m[1] for name in shapes if (m := re.match(r'ResBlock_(\d+)/', name))}) or 12,
      hidden_dim=size('stem/kernel', 3, 384))
  tokens = size('ResBlock_0/token_mixing/kernel', 0, 196)
  family.check_shapes(shapes, family.shapes_of(ResMlp, fields, tokens, 'ResBlock_'), 'ResMLP')
  return fields


def variant_of(fields: dict) -> str | None:
  """'S12' for the fields of a variant, None for others."""
  return next((name for name, sizes in VARIANTS.items() if all(fields[size] == sizes[size] for size in SIZES)), None)


def resolution_of(params) -> int:
  """The side in pixels of the square images that a ResMLP's token mixing takes.

  Raises:
    ValueError: if the number of tokens is no square.
  """
  tokens = params['ResBlock_0']['token_mixing']['kernel'].shape[0]
  return family.side_of_grid(tokens, f'token mixing takes {tokens} tokens') * params['stem']['kernel'].shape[0]


def resize(params: dict, like: dict, method: str | None) -> dict:
  """Parameters for images of another resolution. Types stay.

  With the matrices of token_mixing_resize.py, A' = R A D^-1 R' and b' = R b: the outputs are resized, and each row of A
  as a filter of the inputs.

  Raises:
    ValueError: if the number of tokens changes, and the method is not 'interpolated'.
  """
  layer = params['ResBlock_0']['token_mixing']['kernel']
  tokens, new = len(layer), like['ResBlock_0']['token_mixing']['kernel'].shape[0]
  if tokens == new:
    return params
  if method != 'interpolated':
    raise ValueError(f"the token mixing of the weights takes {tokens} tokens, and this model's {new}. Set "
                     "config.data.resolution to that of the weights, or config.start_from.token_mixing to 'interpolated'")
  outputs, inputs = token_mixing_resize.resizing_matrices(tokens, new)

  def resized(block):
    kernel, bias = (np.asarray(block['token_mixing'][part]) for part in ('kernel', 'bias'))
    return {**block, 'token_mixing': {'kernel': (inputs @ kernel @ outputs.T).astype(kernel.dtype),
                                      'bias': (outputs @ bias).astype(bias.dtype)}}
  return {name: resized(part) if 'token_mixing' in part else part for name, part in params.items()}


def timm_names(num_blocks: int) -> dict[str, str]:
  """{our name: timm's}."""
  layers, names = {'stem': 'stem.proj', 'head': 'head'}, {}
  affines = {'affine': 'norm'}
  for i in range(num_blocks):
    ours, timms = f'ResBlock_{i}', f'blocks.{i}'
    affines |= {f'{ours}/affine_{k}': f'{timms}.norm{k + 1}' for k in (0, 1)}
    layers |= {f'{ours}/token_mixing': f'{timms}.linear_tokens'}
    layers |= {f'{ours}/channel_mixing_{k}': f'{timms}.mlp_channels.fc{k + 1}' for k in (0, 1)}
    names |= {f'{ours}/layer_scale_{k}/scale': f'{timms}.ls{k + 1}' for k in (0, 1)}
  names |= {f'{ours}/scale': f'{timms}.alpha' for ours, timms in affines.items()}
  names |= {f'{ours}/bias': f'{timms}.beta' for ours, timms in affines.items()}
  return names | family.timm_names({}, layers)


def from_timm(arrays: dict, metadata: dict) -> dict:
  """Arrays with timm's names, of timm's file or the authors', whose affine layers are [C] for timm's [1, 1, C]."""
  del metadata
  authors = {'patch_embed.': 'stem.', '.attn.': '.linear_tokens.', '.mlp.': '.mlp_channels.', '.gamma_': '.ls'}
  rename = lambda name: functools.reduce(lambda name, old: name.replace(old, authors[old]), authors, name)
  flat = lambda name, array: array.reshape(-1) if name.endswith(('.alpha', '.beta')) else array
  return {rename(name): flat(name, array) for name, array in arrays.items()}


def to_timm(arrays: dict) -> tuple[dict, dict]:
  """Arrays with affine layers of [1, 1, C]."""
  affine = lambda name: re.search(r'(^|/)affine(_\d)?/', name)
  return {name: array[None, None] if affine(name) else array for name, array in arrays.items()}, {}


FAMILY = ModelFamily(
    name='resmlp', title='ResMLP', model=ResMlp, variant_fields=variant_fields,
    training_only_fields=(*TRAINING_ONLY_FIELDS, 'layer_scale_init'),
    fields_from_params=fields_from_params, sizes=SIZES, array_pattern=r'(stem|ResBlock_\d+|affine)/',
    block_pattern=r'ResBlock_(\d+)/', variant_of=variant_of, resolution_of=resolution_of,
    any_resolution=lambda name, shape: '(any)' if '/token_mixing/' in name else shape,
    tokens='affine',
    resize=resize, resize_methods=('interpolated',),
    token_filters=lambda params, block: params[f'ResBlock_{block}']['token_mixing']['kernel'].T,
    timm=family.TimmNames(
        pattern=r'blocks\.\d+\.(linear_tokens|gamma_1)', names=timm_names, first_conv='stem.proj', architecture=TIMM.get,
        from_timm=from_timm, to_timm=to_timm, tanh_gelu=False,
        pixels={'^resmlp': family.IMAGENET_PIXELS}))  # as its authors; timm's config.json has a crop_pct of 0.875
