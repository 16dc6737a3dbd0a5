"""BiT-ResNet (Big Transfer, arXiv 1912.11370, section 3.3): a ResNet-v2 with group norm and standardised kernels.

An image goes through a root convolution and a max pool, then through blocks of units, each with M channels inside:

  h = relu(norm(x))
  y = x + conv1(relu(norm(conv3(relu(norm(conv1(h)))))))     C = 4M -> M -> M -> 4M channels

and group norm, ReLU, the mean over places and one linear layer give the logits. conv1 and conv3 have kernels of 1 x 1
and 3 x 3. The first unit of each block takes conv1(h) for x in the sum, since its channels change, and from
the second block on it halves height and width, in its 3 x 3 kernel. In each block M is twice that of the one before.

A convolution uses its kernel less its mean, divided by its standard deviation, over all but the output channels
(weight standardisation, arXiv 1903.10520), and has no bias. It pads with zeros, alike on all sides, which 'SAME' would
not with a stride of 2; so does the pool, whose input may be negative. All of this is as in the code of google-research/
big_transfer, and timm's ResNetV2 gives the same logits (tests/test_bit_resnet.py). big_vision's bit_paper.py pads the
pool with -inf, and so its features of the same weights differ a little.

Shapes: B images, H x W pixels, F = 4M features of the last block, K classes. Any H and W do.
"""

import collections
import functools
import re
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer import arguments
from mixer.models import bit_resnet_names
from mixer.models import family
from mixer.models.family import ModelFamily
from mixer.models import validation
from mixer import trees

FloatType = typing.Literal['float32', 'bfloat16']

# Units of each block by the number of layers: He et al. (arXiv 1603.05027) and, of 200, big_vision's models/bit.py. The
# Mixer paper's Tables 2 and 3 have R50x1, R50x2, R152x1, R152x2, R152x4 and R200x3; BiT itself has R101x3, too.
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}

GROUPS = 32  # of channels, in every norm (arXiv 1803.08494)
# The fast variance loses digits where the mean is large.
GroupNorm = functools.partial(nn.GroupNorm, GROUPS, epsilon=1e-5, use_fast_variance=False)
ROOTS = {'large': 7, 'small': 3}  # pixels of the root's kernel


def variant_fields(variant: str) -> dict:
  """The fields of `BitResNet` for a name such as 'R50x1': a number of layers and a factor of the width."""
  match = re.fullmatch(r'R(\d+)x([1-9]\d*)', variant)
  if not match or int(match[1]) not in UNITS:
    raise arguments.ArgumentError(f"variant is {variant!r}; it must be R, one of the numbers of layers "
                                  f"{', '.join(map(str, UNITS))}, an x and the factor of the width: 'R50x1'")
  return dict(units=UNITS[int(match[1])], width_factor=int(match[2]))


class StandardizedConv(nn.Module):
  """A convolution with a kernel of mean 0 and variance 1. [B, H, W, C] -> [B, H / stride, W / stride, features].

  The kernel is `size` x `size` pixels, an odd number. Height and width are rounded up.
  """
  features: int
  size: int
  stride: int = 1
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape, self.param_dtype).astype(jnp.float32)
    axes = (0, 1, 2)
    # The variance is passed in, as the way JAX computes it loses digits where the mean is large.
    kernel = jax.nn.standardize(kernel, axes, kernel.mean(axes, keepdims=True), kernel.var(axes, keepdims=True), 1e-10)
    return jax.lax.conv_general_dilated(
        x.astype(self.dtype), kernel.astype(self.dtype), (self.stride,) * 2, [(self.size // 2,) * 2] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


class Unit(nn.Module):
  """The bottleneck of three convolutions a, b and c, with a skip connection. [B, H, W, C] -> [B, H', W', 4 M]."""
  width: int
  stride: int = 1
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'

  @nn.compact
  def __call__(self, x):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm, conv = functools.partial(GroupNorm, **dtypes), functools.partial(StandardizedConv, **dtypes)
    h = nn.relu(norm(name='a_norm')(x))
    if x.shape[-1] != 4 * self.width or self.stride > 1:
      x = conv(4 * self.width, 1, self.stride, name='proj')(h)
    h = conv(self.width, 1, name='a')(h)
    h = conv(self.width, 3, self.stride, name='b')(nn.relu(norm(name='b_norm')(h)))
    return x + conv(4 * self.width, 1, name='c')(nn.relu(norm(name='c_norm')(h)))


class Block(nn.Module):
  """A sequence of units. [B, H, W, C] -> [B, H / stride, W / stride, 4 M]."""
  units: int
  width: int
  stride: int
  remat: str
  dtype: FloatType
  param_dtype: FloatType

  @nn.compact
  def __call__(self, x):
    unit = functools.partial(nn.remat(Unit) if self.remat == 'block' else Unit, self.width, dtype=self.dtype,
                             param_dtype=self.param_dtype)
    for i in range(self.units):
      x = unit(stride=1 if i else self.stride, name=f'unit{i + 1:02d}')(x)
    return x


class BitResNet(nn.Module):
  """Images to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K] float32; [B, F] where num_classes is None.

  The keys are unused, as this model has no noise. No convolution starts at zero.

  Attributes:
    num_classes: K, or None for the features before the head (the mean over places).
    units: how many units each block has.
    width_factor: the first block's M is 64 times that, and a multiple of 32.
    root: 'large' for the paper's, 7 x 7 pixels with stride 2 and a max pool of 3 x 3 with stride 2; 'small' for 3 x 3
      pixels with stride 1 and no pool, as is usual for images of up to 32 pixels, of which 'large' would leave 2 x 2
      places of 8 x 8.
    head_bias_init: the head's first bias; about -log(K) for a sigmoid loss. Its kernel starts at zero.
    dtype: of the blocks' computation. Kernels are standardised in float32; the features' mean and the head are float32.
    param_dtype: of the parameters.
    remat: 'block' keeps of each unit only its input for the backward pass, which computes the rest again.
    platform: what it is to run on; the implementation is the same for all.
  """
  num_classes: int | None
  units: tuple[int, ...]
  width_factor: float
  root: typing.Literal['large', 'small'] = 'large'
  head_bias_init: float = 0.
  dtype: FloatType = 'float32'
  param_dtype: FloatType = 'float32'
  remat: typing.Literal['none', 'block'] = 'none'
  platform: str = 'any'

  def __post_init__(self):
    super().__post_init__()
    validation.at_least_one(self, 'num_classes')
    validation.finite(self, 'head_bias_init', 'width_factor')
    validation.one_of(self, 'root', ROOTS)
    lists = isinstance(self.units, tuple | list) and self.units  # a list, of a JSON file
    if not lists or not all(isinstance(number, int) and number > 0 for number in self.units):
      raise arguments.ArgumentError(f'units is {self.units}; it must have at least one block, and each block at least one '
                                    'unit: (3, 4, 6, 3)')
    width = 64 * self.width_factor
    if width <= 0 or width % GROUPS:
      raise arguments.ArgumentError(f'width_factor is {self.width_factor}, which makes {width:g} channels; {GROUPS} groups '
                                    f'must divide them: choose a multiple of {GROUPS / 64}')

  @nn.compact
  def __call__(self, images, keys=None):
    del keys
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width = int(64 * self.width_factor)
    x = StandardizedConv(width, ROOTS[self.root], 2 if self.root == 'large' else 1, name='root_block', **dtypes)(images)
    if self.root == 'large':
      x = nn.max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), window_shape=(3, 3), strides=(2, 2))
    for i, units in enumerate(self.units):
      x = Block(units, width * 2**i, 2 if i else 1, self.remat, **dtypes, name=f'block{i + 1}')(x)
    x = nn.relu(GroupNorm(name='norm', **dtypes)(x))
    features = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    if self.num_classes is None:
      return features
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head', param_dtype=self.param_dtype,
                    bias_init=nn.initializers.constant(self.head_bias_init), dtype=jnp.float32)(features)

  def activations(self, resolution: int) -> list[tuple[int, int]]:
    """(numbers in its input, numbers kept for the backward pass) of root and units, for one square image.

    An estimate: the inputs and the results of the first two convolutions are kept, and the rest is recomputed.
    """
    halved = lambda side: -(-side // 2)
    large, width, channels = self.root == 'large', int(64 * self.width_factor), int(64 * self.width_factor)
    side = halved(resolution) if large else resolution
    sizes = [(3 * resolution**2, 3 * resolution**2 + side**2 * channels)]
    side = halved(side) if large else side
    for i, units in enumerate(self.units):
      for j in range(units):
        table, before = side**2 * channels, side
        side = halved(side) if i and not j else side
        sizes.append((table, table + (before**2 + side**2) * width * 2**i))
        channels = 4 * width * 2**i
    return sizes


def fields_from_params(params) -> dict:
  """The fields of the `BitResNet` that a tree of arrays belongs to, read off the names and shapes.

  Raises:
    ValueError: with the arrays that are missing, unexpected or of another shape, next to the nearest BiT-ResNet's.
  """
  shapes = trees.shapes(params)
  kernel = shapes.get('root_block/kernel', ())
  kernel = kernel if len(kernel) == 4 else (7, 7, 3, 64)
  head = shapes.get('head/kernel', shapes.get('head/bias', ()))
  modules = {'/'.join(name.split('/')[:2]) for name in shapes}
  numbers = collections.Counter(unit.split('/')[0] for unit in modules if re.fullmatch(r'block\d+/unit\d+', unit))
  # Widths double from block to block; more than ten of them are not a model of ours.
  units = tuple(numbers[f'block{i + 1}'] or 1 for i in range(min(len(numbers), 10))) or UNITS[50]
  width = max(kernel[3] // GROUPS, 1) * GROUPS
  fields = dict(num_classes=head[-1] if head and head[-1] else None, units=units,
                width_factor=width // 64 if width % 64 == 0 else width / 64,
                root='small' if kernel[0] == ROOTS['small'] else 'large')

  # All units of a block but the first are alike, so two of each block are traced.
  model = BitResNet(**{**fields, 'units': tuple(min(number, 2) for number in units)})
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  expected = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  for i, number in enumerate(units):
    block = expected[f'block{i + 1}']
    block |= {f'unit{j:02d}': block['unit02'] for j in range(3, number + 1)}
  family.check_shapes(shapes, trees.shapes(expected), 'BiT-ResNet')
  return fields


def variant_of(fields: dict) -> str | None:
  """'R50x1' for the fields of a variant, None for others."""
  for layers, units in UNITS.items():
    variant = f'R{layers}x{fields["width_factor"]:g}'
    if tuple(fields['units']) == units and fields['root'] == 'large' and re.fullmatch(r'R\d+x\d+', variant):
      return variant
  return None


# The resolution of roots: that of the Mixer paper's Table 3, and what is usual for small ones.
FAMILY = ModelFamily(
    name='bit_resnet', title='BiT', model=BitResNet, variant_fields=variant_fields,
    default_resolution=lambda fields: {'large': 224, 'small': 32}[fields['root']],
    fields_from_params=fields_from_params, sizes=('units', 'width_factor', 'root'),
    array_pattern=r'(root_block|block\d+|norm)/', variant_of=variant_of, stem='root_block', stem_is_linear=False,
    npz=bit_resnet_names.NPZ)
