"""The evaluation crops of mixer/data/preprocess.py without TensorFlow: of NumPy's arrays, and of JAX's.

With JAX, H and W may be symbolic dimensions (jax.export): one program for images of any size. With NumPy, nothing is
compiled for a size. The authors' two crops drop the fraction of a level, so that 99.99999 is 99 and 100 is 100: they are
computed in the order of TensorFlow's kernels, with the roundings of these.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mixer.data import preprocess

PIXELS_AT_ONCE = 2**22  # of a NumPy array, as floats: large photographs would take gigabytes


def paper_resize(images, resize: int, resolution: int):
  """preprocess.paper_resize: (i) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  corner = (resize - resolution) // 2
  for axis in (-2, -3):
    images = _bilinear(images, axis, resize, corner, resolution)
  return images.astype('uint8')


def paper_crop(images, resize: int, resolution: int):
  """preprocess.paper_crop: (ii) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  xp = images.__array_namespace__()
  sides, sizes = [xp.asarray(side, 'float32') for side in images.shape[-3:-1]], _kept_shape(images, resize)
  weights = [_area(xp, side, size, (size - resolution) // 2, resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  patch = (sides[0] / sizes[0]) * (sides[1] / sizes[1])  # the pixels that become one
  return (_along_height(weights[0], _along_width(weights[1], images)) * (1 / patch)).astype('uint8')


def antialiased(images, resize: int, resolution: int):
  """preprocess.antialiased. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  xp = images.__array_namespace__()
  sizes = _kept_shape(images, resize)
  weights = [_filtered(xp, _triangle, side, size, (size - resolution) // 2, resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _along_width(weights[1], images)))


def timm(images, resize: int, resolution: int):
  """preprocess.timm: bicubic, as Pillow and torchvision do it. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  xp = images.__array_namespace__()
  sides = [xp.asarray(side, 'int32') for side in images.shape[-3:-1]]
  sizes = [resize * side // xp.minimum(*sides) for side in sides]
  weights = [_filtered(xp, _cubic, side, size, xp.round((size - resolution) / 2), resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _whole(_along_width(weights[1], images))))


CROPS = {'paper_resize': paper_resize, 'paper_crop': paper_crop, 'antialiased': antialiased, 'timm': timm}


def crop(image, name: str, resize: int, resolution: int):
  """One of CROPS of a NumPy array. [H, W, 3] uint8 -> [R, R, 3] uint8.

  Raises:
    ValueError: if the image is so narrow that a crop that keeps the shape would take gigabytes.
  """
  height, width = image.shape[:2]
  if name != 'paper_resize' and max(height, width) > preprocess.MAX_RATIO * min(height, width):
    raise ValueError(f'{width} x {height} pixels; the limit of a crop that keeps the shape is sides of '
                     f'{preprocess.MAX_RATIO} to 1')
  return CROPS[name](image, resize, resolution)


def _kept_shape(images, shorter):
  xp = images.__array_namespace__()
  sides = [xp.asarray(side, 'float32') for side in images.shape[-3:-1]]
  return [xp.round(side * (shorter / xp.minimum(*sides))) for side in sides]


def _bilinear(images, axis, size, corner, resolution):
  """The R pixels from `corner` on along an axis that has become `size` pixels long, as floats."""
  xp = images.__array_namespace__()
  side = images.shape[axis]
  place = (corner + xp.arange(resolution, dtype='float32') + 0.5) * (side / xp.float32(size)) - 0.5
  take = lambda index: xp.take(images, xp.clip(index.astype('int32'), 0, side - 1), axis).astype('float32')
  below, above = take(xp.floor(place)), take(xp.ceil(place))
  share = (place - xp.floor(place)).reshape(-1, *(1,) * (-axis - 1))
  return below + (above - below) * share


# The following two give the weights [R, side] of a side's pixels in the R pixels from `corner` on, after the side has
# become `size` pixels long.


def _area(xp, side, size, corner, resolution):
  """How much of each pixel is covered, in pixels."""
  scale = side / xp.float32(size)
  place = corner + xp.arange(resolution, dtype='float32')
  start, end = (place * scale)[:, None], ((place + 1) * scale)[:, None]
  pixels = xp.arange(side + 1, dtype='float32')  # one more, which rounding may reach, counts as the last
  first = xp.where(pixels + 1 > end, scale, pixels + 1 - start)
  others = xp.where(pixels + 1 > end, end - pixels, 1)
  overlap = xp.where((pixels + 1 > start) & (pixels < end), xp.where(pixels < start, first, others), 0)
  return xp.concatenate([overlap[:, :-2], overlap[:, -2:-1] + overlap[:, -1:]], axis=1)


def _filtered(xp, kernel, side, size, corner, resolution):
  """With antialiasing: where the side becomes shorter, the kernel becomes as much wider."""
  scale = side / xp.float32(size)
  centre = (corner + xp.arange(resolution, dtype='float32') + xp.float32(0.5)) * scale
  x = xp.abs(xp.arange(side, dtype='float32') + 0.5 - centre[:, None]) / xp.maximum(scale, xp.float32(1))
  weights = kernel(xp, x.astype('float32'))
  return weights / weights.sum(1, keepdims=True)


def _triangle(xp, x):
  return xp.maximum(0, 1 - x)


def _cubic(xp, x):
  return xp.where(x < 1, (1.5 * x - 2.5) * x * x + 1, xp.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def _along_height(weights, images):
  return _sums('rh,...hwc->...rwc', weights, images)


def _along_width(weights, images):
  if isinstance(images, jax.Array):
    return _sums('rw,...hwc->...hrc', weights, images)
  parts = np.array_split(images, math.ceil(images.size / (3 * PIXELS_AT_ONCE)), axis=-3)
  return np.concatenate([_sums('rw,...hwc->...hrc', weights, part) for part in parts], axis=-3)


def _sums(formula, weights, images):
  """Weighted sums of pixels, [..., H, W, 3] of any type, in float32 on TPUs, too."""
  if isinstance(images, jax.Array):
    return jnp.einsum(formula, weights, images.astype('float32'), precision=jax.lax.Precision.HIGHEST)
  return np.einsum(formula, weights.astype('float32'), images.astype('float32'), optimize=True)


def _whole(images):
  xp = images.__array_namespace__()
  return xp.clip(xp.round(images), 0, 255).astype('uint8')
