"""HaloNet (Vaswani et al., arXiv 2103.12731): a ResNet whose 3 x 3 convolutions are local attention, in blocks.

An image goes through a stem and a max pool, then through four stages of units, each with M channels inside:

  y = relu(shortcut(x) + norm(conv(relu(norm(attention(relu(norm(conv(x)))))))))     C -> M -> r_v M -> r_b M channels

and the mean over places and one linear layer give the logits. conv has kernels of 1 x 1. M is 64, 128, 256 and 512. The
first unit of every stage but the first halves height and width, by attention for every second place alone.

Attention: a map is divided into blocks of b x b places. All places of a block attend to the same (b + 2h) x (b + 2h) places, the
block and a halo of h places around it, with zeros beyond the border, which are not masked:

  y = softmax(Q K' / sqrt(d) + Q R') V      by heads of d channels of Q and K

R are embeddings of the rows and columns from the place to those it attends to; heads share them. There is no projection after it.

No code and no weights were published. What the paper leaves open was chosen such that H0 to H7 have the paper's number of
parameters (tests/test_halonet.py); timm's halonet_h1 differs in `heads`, `position_embeddings` and `offsets`; with those settings the
logits agree.

Shapes: B images, H x W pixels, M width, A heads, F features of the last stage, K classes. Any H and W whose maps have even
sides where they are halved do; maps that blocks do not tile are extended by zeros, and cut afterwards.
"""

import functools
import re
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mixer import arguments
from mixer.models import family
from mixer.models.family import ModelFamily
from mixer.models.family import TRAINING_ONLY_FIELDS
from mixer.models import halonet_names
from mixer.models import stochastic
from mixer.models import validation
from mixer import trees

FloatType = typing.Literal['float32', 'bfloat16']

# b, h, r_v, r_b, units of the third stage, channels of the last convolution: HaloNet, Table 2.
VARIANTS = {
    'H0': (8, 3, 1., 0.5, 7, None),
    'H1': (8, 3, 1., 1., 10, None),
    'H2': (8, 3, 1., 1.25, 11, None),
    'H3': (10, 3, 1., 1.5, 12, 1024),
    'H4': (12, 2, 1., 3., 12, 1280),
    'H5': (14, 2, 2.5, 2., 23, 1536),
    'H6': (8, 4, 3., 2.75, 24, 1536),
    'H7': (10, 3, 4., 3.5, 26, 2048),
}
RESNET = 'ResNet-50'
TABLE_2 = 'H4-base128-conv12'  # the Mixer paper's: widths from 128, and convolutions in two stages
NAMES = (*VARIANTS, TABLE_2, RESNET)
TABLES = 'attention/rows', 'attention/columns'  # of embeddings
STEMS = {'large': 7, 'small': 3}  # pixels of the kernel
POSITION_EMBEDDINGS, OFFSETS = ('concatenated', 'summed'), ('places', 'queries')


def variant_fields(variant: str) -> dict:
  """The fields of `HaloNet` for one of NAMES; 'ResNet-50' has convolutions of 3 x 3 in all stages."""
  if variant == RESNET:
    return dict(units=(3, 4, 6, 3), output_ratio=4., conv_stages=4, block_size=2, halo_size=0)  # without attention
  if variant == TABLE_2:
    return dict(variant_fields('H4'), base_width=128, conv_stages=2)
  if variant not in VARIANTS:
    raise arguments.ArgumentError(f'variant is {variant!r}; of a HaloNet it must be one of {", ".join(NAMES)}')
  block_size, halo_size, value_ratio, output_ratio, units, final_width = VARIANTS[variant]
  return dict(block_size=block_size, halo_size=halo_size, value_ratio=value_ratio, output_ratio=output_ratio,
              units=(3, 3, units, 3), final_width=final_width)


def _windows(x, axis: int, blocks: int, block_size: int, halo_size: int):
  """The places of an axis, by blocks with a halo and zeros beyond the border. [..., n, ...] -> [..., blocks, window, ...]."""
  # By slices: the gradient of a gather is a scatter, whose sums a GPU takes in an order of its own.
  around = -(-halo_size // block_size)  # blocks on each side that a halo reaches into
  beyond = blocks * block_size - x.shape[axis] + around * block_size
  x = jnp.pad(x, [(around * block_size, beyond) if i == axis else (0, 0) for i in range(x.ndim)])
  x = x.reshape(*x.shape[:axis], blocks + 2 * around, block_size, *x.shape[axis + 1:])
  parts = []
  for shift in range(-around, around + 1):
    places = slice(max(-shift * block_size - halo_size, 0), block_size + min(halo_size - shift * block_size, 0))
    parts.append(x[(slice(None),) * axis + (slice(around + shift, around + shift + blocks), places)])
  return jnp.concatenate(parts, axis + 1)


class HaloAttention(nn.Module):
  """Blocked local attention. [B, H, W, C] -> [B, H / stride, W / stride, value_width].

  Attributes:
    width: of queries and keys, of all heads.
    offsets: 'places' for embeddings of the true distances; 'queries' for timm's, which with a stride are those from the number
      of the query in its block.
  """
  width: int
  value_width: int
  block_size: int
  halo_size: int
  heads: int
  stride: int = 1
  position_embeddings: str = 'concatenated'
  offsets: str = 'places'
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    batch, height, width, _ = x.shape
    b, halo, window = self.block_size, self.halo_size, self.block_size + 2 * self.halo_size
    rows, columns = -(-height // b), -(-width // b)  # of blocks
    conv = lambda features, name: nn.Conv(features, (1, 1), use_bias=False, name=name, dtype=self.dtype,
                                          param_dtype=self.param_dtype)
    # Queries: [B, rows, i, columns, j, A, d], with i and j the place in the block.
    asking, places = x[:, ::self.stride, ::self.stride], b // self.stride
    query = jnp.pad(conv(self.width, 'query')(asking), ((0, 0), (0, rows * places - asking.shape[1]),
                                                        (0, columns * places - asking.shape[2]), (0, 0)))
    query = query.reshape(batch, rows, places, columns, places, self.heads, -1)

    def neighbourhoods(y):
      """[B, H, W, C] -> [B, rows, p, columns, q, A, C / A], with p and q the place in the window."""
      for axis, blocks in ((1, rows), (3, columns)):
        y = _windows(y, axis, blocks, b, halo)
      return y.reshape(*y.shape[:5], self.heads, -1)
    key, value = (neighbourhoods(conv(features, name)(x)) for features, name in (
        (self.width, 'key'), (self.value_width, 'value')))

    depth = self.width // self.heads
    logits = jnp.einsum('bricjad,brpcqad->brcaijpq', query, key, preferred_element_type=jnp.float32) / depth**0.5
    steps = np.arange(places) * (self.stride if self.offsets == 'places' else 1)
    relative = np.arange(window) - steps[:, None] + window - 1
    embedding = functools.partial(self.param, init_fn=nn.initializers.normal(depth**-0.5), dtype=self.param_dtype)
    of_rows, of_columns = query, query
    size = depth
    if self.position_embeddings == 'concatenated':
      size = depth // 2
      of_rows, of_columns = query[..., :size], query[..., size:]
    tables = [embedding(name, shape=(2 * window - 1, size)).astype(self.dtype)[relative] for name in ('rows', 'columns')]
    logits += jnp.einsum('bricjad,ipd->brcaijp', of_rows, tables[0], preferred_element_type=jnp.float32)[..., None]
    logits += jnp.einsum('bricjad,jqd->brcaijq', of_columns, tables[1], preferred_element_type=jnp.float32)[..., None, :]

    # Over one axis, since jax2onnx knows no softmax over two.
    weights = jax.nn.softmax(logits.reshape(*logits.shape[:-2], window**2)).reshape(logits.shape).astype(value.dtype)
    y = jnp.einsum('brcaijpq,brpcqad->bricjad', weights, value)
    y = y.reshape(batch, rows * places, columns * places, self.value_width)
    return y[:, :asking.shape[1], :asking.shape[2]]


class Unit(nn.Module):
  """The bottleneck, with a skip connection. [B, H, W, C], [B] keys or None -> [B, H / stride, W / stride, output_width].

  `mixing()` returns the named layer between the two convolutions.
  """
  width: int
  output_width: int
  mixing: typing.Callable
  norm: typing.Callable
  stride: int = 1
  drop_rate: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x, keys=None):
    conv = lambda features, name, stride=1: nn.Conv(features, (1, 1), stride, use_bias=False, name=name, dtype=self.dtype,
                                                    param_dtype=self.param_dtype)
    y = nn.relu(self.norm(name='norm_in')(conv(self.width, 'conv_in')(x)))
    y = nn.relu(self.norm(name='norm_mixing')(self.mixing()(y)))
    y = self.norm(name='norm_out', scale_init=nn.initializers.zeros)(conv(self.output_width, 'conv_out')(y))
    if x.shape[-1] != self.output_width or self.stride > 1:
      x = self.norm(name='norm_shortcut')(conv(self.output_width, 'conv_shortcut', self.stride)(x))
    return nn.relu(x + stochastic.drop_path(y, self.drop_rate, keys, True))


class HaloNet(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, F] where num_classes is None.

  It has running statistics, the collection 'batch_stats': without keys it normalises with them, and with keys, in training, with
  the batch's.

  Attributes:
    num_classes: K, or None for the features before the head (the mean over places).
    units: how many units each stage has.
    block_size: b, the side of a block in places; even, since attention halves it.
    halo_size: h, how many places around a block are attended to.
    value_ratio: r_v, the channels of the values over those of the queries.
    output_ratio: r_b, the channels of a stage's output over those of the queries.
    final_width: channels of a last convolution of 1 x 1; None without.
    base_width: M of the first stage, which doubles from stage to stage.
    heads: of each stage.
    conv_stages: how many stages, from the first one, have convolutions of 3 x 3 for attention; 2 for the hybrid "Conv-12" of
      the Mixer paper's Table 2.
    stem: 'large' for the paper's, 7 x 7 pixels with stride 2 and a max pool of 3 x 3 with stride 2; 'small' for 3 x 3 pixels with
      stride 1 and no pool, for images of up to 64 pixels.
    position_embeddings: 'concatenated' for embeddings of rows and columns that have half of a head's channels each;
      'summed' for such with all of them, as timm's.
    offsets: 'places', or 'queries' for timm's: `HaloAttention`.
    dropout_rate: before the head.
    stochastic_depth: the probability of dropping the last residual branch; it rises linearly over the units from 0.
    batch_norm_momentum: the share of the running statistics that a step keeps.
    batch_norm_epsilon: added to the variance.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the stages' computation. Softmax, the statistics, the features' mean and the head are float32.
    param_dtype: of the parameters.
    remat: 'block' keeps of each unit only its input for the backward pass, which computes the rest again.
    platform: what it is to run on; the implementation is the same for all.
    axis_name: the mapped axis over whose devices the batch's statistics are averaged in training; None for each device's own.
  """
  num_classes: int | None
  units: tuple[int, ...]
  block_size: int
  halo_size: int
  value_ratio: float = 1.
  output_ratio: float = 1.
  final_width: int | None = None
  base_width: int = 64
  heads: tuple[int, ...] = (4, 8, 8, 8)
  conv_stages: int = 0
  stem: typing.Literal['large', 'small'] = 'large'
  position_embeddings: typing.Literal['concatenated', 'summed'] = 'concatenated'
  offsets: typing.Literal['places', 'queries'] = 'places'
  dropout_rate: float = 0.
  stochastic_depth: float = 0.
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-5
  head_bias_init: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'
  remat: typing.Literal['none', 'block'] = 'none'
  platform: str = 'any'
  axis_name: str | None = None

  def __post_init__(self):
    super().__post_init__()
    validation.at_least_one(self, 'num_classes', 'block_size', 'base_width', 'final_width')
    validation.probabilities(self, 'dropout_rate', 'stochastic_depth', 'batch_norm_momentum')
    validation.finite(self, 'head_bias_init')
    arguments.check({name: getattr(self, name) for name in ('value_ratio', 'output_ratio', 'batch_norm_epsilon')}, above=0)
    for name in ('value_ratio', 'output_ratio'):
      channels = self.base_width * getattr(self, name)
      if channels != round(channels):
        raise arguments.ArgumentError(f'{name} is {getattr(self, name)}, which makes {channels:g} channels of the {self.base_width} of '
                                      f'base_width; choose one that makes a whole number: {round(channels) / self.base_width:g}')
    validation.one_of(self, 'stem', STEMS)
    validation.one_of(self, 'position_embeddings', POSITION_EMBEDDINGS)
    validation.one_of(self, 'offsets', OFFSETS)
    for name in ('units', 'heads'):
      numbers = getattr(self, name)  # a list, of a JSON file
      if not isinstance(numbers, tuple | list) or not numbers or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise arguments.ArgumentError(f'{name} is {numbers}; it must have a number of at least 1 for each stage: (3, 3, 10, 3)')
    if len(self.heads) != len(self.units):
      raise arguments.ArgumentError(f'heads is {self.heads}, of {len(self.heads)} stages, and units {self.units}, of '
                                    f'{len(self.units)}; give both for as many')
    if not isinstance(self.halo_size, int) or self.halo_size < 0:
      raise arguments.ArgumentError(f'halo_size is {self.halo_size}; it must be a number of places, at least 0')
    if not 0 <= self.conv_stages <= len(self.units):
      raise arguments.ArgumentError(f'conv_stages is {self.conv_stages}; it must be 0 to {len(self.units)}, of the stages')
    if self.block_size % 2 and max(self.conv_stages, 1) < len(self.units):
      raise arguments.ArgumentError(f'block_size is {self.block_size}, and attention halves blocks from the second stage on; '
                                    f'choose an even one: {self.block_size + 1}')
    for stage, heads in enumerate(self.heads):
      for name, ratio in (('', 1), (' and value_ratio', self.value_ratio)):
        width = round(self.base_width * 2**stage * ratio)
        part = 2 if not name and self.position_embeddings == 'concatenated' else 1  # half a head's channels are rows'
        if stage >= self.conv_stages and width % (heads * part):
          raise arguments.ArgumentError(
              f'heads is {self.heads}; in stage {stage + 1} {heads * part} must divide the {width} channels that base_width'
              f'{name} {"make" if name else "makes"}')

  @nn.compact
  def __call__(self, images, keys=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(
        nn.BatchNorm, use_running_average=keys is None, momentum=self.batch_norm_momentum, epsilon=self.batch_norm_epsilon,
        axis_name=None if keys is None else self.axis_name, **dtypes)
    conv = functools.partial(nn.Conv, use_bias=False, **dtypes)
    size = STEMS[self.stem]
    x = conv(self.base_width, (size, size), 2 if self.stem == 'large' else 1, size // 2, name='stem')(images)
    x = nn.relu(norm(name='norm_stem')(x))
    if self.stem == 'large':
      # Zeros around what relu returns change no maximum. jax2onnx ignores max_pool's own padding, and takes keywords alone.
      x = nn.max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), window_shape=(3, 3), strides=(2, 2))
    unit = nn.remat(Unit) if self.remat == 'block' else Unit
    number, last = 0, max(sum(self.units) - 1, 1)
    for stage, units in enumerate(self.units):
      width = self.base_width * 2**stage
      value_width = round(width * self.value_ratio)
      for i in range(units):
        stride = 2 if stage and not i else 1
        if stride == 2 and any(side % 2 for side in x.shape[1:3]):
          raise ValueError(f'images of {images.shape[1]} x {images.shape[2]} make a map of {x.shape[1]} x {x.shape[2]} places '
                           f'before stage {stage + 1}, which halves it; choose sides that are multiples of '
                           f'{2**(len(self.units) - 1) * (4 if self.stem == "large" else 1)}')
        if stage < self.conv_stages:
          mixing = functools.partial(conv, value_width, (3, 3), stride, 1, name='conv_mixing')
        else:
          mixing = functools.partial(
              HaloAttention, width, value_width, self.block_size, self.halo_size, self.heads[stage], stride,
              self.position_embeddings, self.offsets, name='attention', **dtypes)
        x = unit(width, round(width * self.output_ratio), mixing, norm, stride, self.stochastic_depth * number / last,
                 name=f'stage{stage + 1}_unit{i + 1:02d}', **dtypes)(x, stochastic.fold(keys, number))
        number += 1
    if self.final_width is not None:
      x = conv(self.final_width, (1, 1), name='conv_final')(x)
      x = nn.relu(norm(name='norm_final')(x))
    features = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    if self.num_classes is None:
      return features
    features = stochastic.dropout(features, self.dropout_rate, stochastic.fold(keys, number))
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """(numbers in its input, numbers kept for the backward pass) of stem and units, for one square image.

    An estimate: what convolutions and attention take and return, and the weights of the attention, are kept.
    """
    large = self.stem == 'large'
    side = resolution // 2 if large else resolution
    sizes = [(3 * resolution**2, 3 * resolution**2 + 2 * side**2 * self.base_width)]
    side, channels = side // 2 if large else side, self.base_width
    window = self.block_size + 2 * self.halo_size
    for stage, units in enumerate(self.units):
      width = self.base_width * 2**stage
      for i in range(units):
        before, side = side, side // 2 if stage and not i else side
        table = before**2 * channels
        mixed = 2 * before**2 * width + 2 * side**2 * round(width * self.value_ratio)
        if stage >= self.conv_stages:
          blocks = (-(-before // self.block_size))**2
          mixed += blocks * window**2 * width * (1 + self.value_ratio) + side**2 * window**2 * self.heads[stage]
        channels = round(width * self.output_ratio)
        sizes.append((table, round(table + mixed + 2 * side**2 * channels)))
    return sizes


def fields_from_params(params) -> dict:
  """The fields of the `HaloNet` that a tree of arrays belongs to, read off the names and shapes.

  They do not show the blocks, the heads and the kind of the embeddings: a file's record has those.

  Raises:
    ValueError: with the arrays that are missing, unexpected or of another shape, next to the nearest HaloNet's.
  """
  shapes = trees.shapes(params)
  size = family.size_in(shapes)
  base_width = size('stem/kernel', 3, 64)
  numbers = {}
  for name in shapes:
    if match := re.match(r'stage(\d+)_unit(\d+)/', name):
      numbers[int(match[1])] = max(numbers.get(int(match[1]), 0), int(match[2]))
  units = tuple(numbers.get(stage + 1, 1) for stage in range(min(len(numbers), 10))) or (3, 3, 10, 3)
  first = 'stage1_unit01'
  convolutions = [f'stage{stage + 1}_unit01/conv_mixing/kernel' in shapes for stage in range(len(units))]
  mixed = size(f'{first}/conv_out/kernel', 2, base_width)
  fields = dict(
      num_classes=size('head/kernel', 1, size('head/bias', 0, None)), units=units, base_width=base_width,
      value_ratio=mixed / base_width, output_ratio=size(f'{first}/conv_out/kernel', 3, base_width) / base_width,
      final_width=size('conv_final/kernel', 3, None), conv_stages=sum(convolutions),
      stem='small' if size('stem/kernel', 0, 7) == STEMS['small'] else 'large')

  # All units of a stage but the first are alike, so two of each stage are traced.
  model = HaloNet(**{**fields, 'units': tuple(min(number, 2) for number in units)}, block_size=2, halo_size=0,
                  heads=(1,) * len(units), position_embeddings='summed')
  side = 4 * 2**len(units)
  expected = trees.shapes(trees.weights(jax.eval_shape(
      model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))))
  for stage, number in enumerate(units):
    second = f'stage{stage + 1}_unit02/'
    expected |= {name.replace(second, f'stage{stage + 1}_unit{i:02d}/'): shape for i in range(3, number + 1)
                 for name, shape in expected.items() if second in name}
  expected |= {name: shapes[name] for name in expected if name.endswith(TABLES) and len(shapes.get(name, ())) == 2}
  family.check_shapes(shapes, expected, 'HaloNet')
  return fields


def variant_of(fields: dict) -> str | None:
  """The one of NAMES that has these fields, or None."""
  of_model = {**fields, 'units': tuple(fields['units'])}

  def fits(variant):
    of_variant = variant_fields(variant)
    return all(of_model[name] == (of_variant[name] if name in of_variant else getattr(HaloNet, name)) for name in FAMILY.sizes)
  return next(filter(fits, NAMES), None)


FAMILY = ModelFamily(
    name='halonet', title='HaloNet', model=HaloNet, variant_fields=variant_fields,
    default_resolution=lambda fields: {'large': 256, 'small': 32}[fields['stem']],
    training_only_fields=(*TRAINING_ONLY_FIELDS, 'batch_norm_momentum'),
    fields_from_params=fields_from_params,
    sizes=('units', 'base_width', 'value_ratio', 'output_ratio', 'final_width', 'conv_stages', 'stem'),
    array_pattern=r'(batch_stats|stem|norm_stem|stage\d+_unit\d+|conv_final)/', block_pattern=r'(stage\d+_unit\d+)/', variant_of=variant_of,
    stem_is_linear=False, timm=halonet_names.TIMM)
