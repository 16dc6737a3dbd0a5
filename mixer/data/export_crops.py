"""The evaluation crops of mixer/data/preprocess.py in JAX alone, for models that leave this repository.

H and W may be symbolic dimensions (jax.export): one program for images of any size. The authors' two crops drop the
fraction of a level, so that 99.99999 is 99 and 100 is 100: they are computed in the order of TensorFlow's kernels, with
the roundings of these.
"""

import jax
import jax.numpy as jnp


def paper_resize(images, resize: int, resolution: int):
  """preprocess.paper_resize: (i) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  corner = (resize - resolution) // 2
  for axis in (-2, -3):
    images = _bilinear(images.astype(jnp.float32), axis, resize, corner, resolution)
  return images.astype(jnp.uint8)


def paper_crop(images, resize: int, resolution: int):
  """preprocess.paper_crop: (ii) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  sides, sizes = [jnp.asarray(side, jnp.float32) for side in images.shape[-3:-1]], _kept_shape(images, resize)
  weights = [_area(side, size, (size - resolution) // 2, resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  patch = (sides[0] / sizes[0]) * (sides[1] / sizes[1])  # the pixels that become one
  return (_along_height(weights[0], _along_width(weights[1], images)) * (1 / patch)).astype(jnp.uint8)


def antialiased(images, resize: int, resolution: int):
  """preprocess.antialiased. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  sizes = _kept_shape(images, resize)
  weights = [_filtered(_triangle, side, size, (size - resolution) // 2, resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _along_width(weights[1], images)))


def timm(images, resize: int, resolution: int):
  """preprocess.timm: bicubic, as Pillow and torchvision do it. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  sides = [jnp.asarray(side, jnp.int32) for side in images.shape[-3:-1]]
  sizes = [resize * side // jnp.minimum(*sides) for side in sides]
  weights = [_filtered(_cubic, side, size, jnp.round((size - resolution) / 2), resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _whole(_along_width(weights[1], images))))


CROPS = {'paper_resize': paper_resize, 'paper_crop': paper_crop, 'antialiased': antialiased, 'timm': timm}


def _kept_shape(images, shorter):
  sides = [jnp.asarray(side, jnp.float32) for side in images.shape[-3:-1]]
  return [jnp.round(side * (shorter / jnp.minimum(*sides))) for side in sides]


def _bilinear(images, axis, size, corner, resolution):
  """The R pixels from `corner` on along an axis that has become `size` pixels long."""
  side = images.shape[axis]
  place = (corner + jnp.arange(resolution, dtype=jnp.float32) + 0.5) * (side / jnp.float32(size)) - 0.5
  take = lambda index: jnp.take(images, jnp.clip(index.astype(jnp.int32), 0, side - 1), axis)
  below, above = take(jnp.floor(place)), take(jnp.ceil(place))
  share = (place - jnp.floor(place)).reshape(-1, *(1,) * (-axis - 1))
  return below + (above - below) * share


# The following two give the weights [R, side] of a side's pixels in the R pixels from `corner` on, after the side has
# become `size` pixels long.


def _area(side, size, corner, resolution):
  """How much of each pixel is covered, in pixels."""
  scale = side / jnp.float32(size)
  place = corner + jnp.arange(resolution, dtype=jnp.float32)
  start, end = (place * scale)[:, None], ((place + 1) * scale)[:, None]
  pixels = jnp.arange(side + 1, dtype=jnp.float32)  # one more, which rounding may reach, counts as the last
  first = jnp.where(pixels + 1 > end, scale, pixels + 1 - start)
  others = jnp.where(pixels + 1 > end, end - pixels, 1)
  overlap = jnp.where((pixels + 1 > start) & (pixels < end), jnp.where(pixels < start, first, others), 0)
  return overlap[:, :-1].at[:, -1].add(overlap[:, -1])


def _filtered(kernel, side, size, corner, resolution):
  """With antialiasing: where the side becomes shorter, the kernel becomes as much wider."""
  scale = side / jnp.float32(size)
  centre = (corner + jnp.arange(resolution) + 0.5) * scale
  x = jnp.abs(jnp.arange(side) + 0.5 - centre[:, None]) / jnp.maximum(scale, 1)
  weights = kernel(x)
  return weights / weights.sum(1, keepdims=True)


def _triangle(x):
  return jnp.maximum(0, 1 - x)


def _cubic(x):
  return jnp.where(x < 1, (1.5 * x - 2.5) * x * x + 1, jnp.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def _along_height(weights, images):
  return jnp.einsum('rh,...hwc->...rwc', weights, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _along_width(weights, images):
  return jnp.einsum('rw,...hwc->...hrc', weights, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _whole(images):
  return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)
