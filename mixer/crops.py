"""The evaluation crops of mixer/preprocess.py in JAX alone, for models that leave this repository.

Resizing and cropping are linear in each axis, so each crop is two matrices of weights, [R, H] and [R, W], and whole
pixels in the end. H and W may be symbolic dimensions (jax.export): one program for images of any size.
"""

import jax
import jax.numpy as jnp


def paper_resize(images, resize: int, resolution: int):
  """preprocess.paper_resize: (i) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  corner = (resize - resolution) // 2
  weights = [_bilinear(side, resize, corner, resolution) for side in images.shape[-3:-1]]
  return _whole(_along_height(weights[0], _along_width(weights[1], images)))


def paper_crop(images, resize: int, resolution: int):
  """preprocess.paper_crop: (ii) of App. C. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  sides = [jnp.asarray(side, jnp.float32) for side in images.shape[-3:-1]]
  sizes = [jnp.round(side * (resize / jnp.minimum(*sides))) for side in sides]
  weights = [_area(side, size, (size - resolution) // 2, resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _along_width(weights[1], images)))


def timm(images, resize: int, resolution: int):
  """preprocess.timm: bicubic, as Pillow and torchvision do it. [..., H, W, 3] uint8 -> [..., R, R, 3] uint8."""
  sides = [jnp.asarray(side, jnp.int32) for side in images.shape[-3:-1]]
  sizes = [resize * side // jnp.minimum(*sides) for side in sides]
  weights = [_bicubic(side, size, jnp.round((size - resolution) / 2), resolution)
             for side, size in zip(images.shape[-3:-1], sizes)]
  return _whole(_along_height(weights[0], _whole(_along_width(weights[1], images))))


CROPS = {'paper_resize': paper_resize, 'paper_crop': paper_crop, 'timm': timm}


def side_before(resolution: int, resize: int | None) -> int:
  """The side before the crop, in pixels: `resize`, or 256 for 224 (App. C) and in that proportion for others.

  Raises:
    ValueError: if it is smaller than the crop.
  """
  resize = resize or round(resolution * 8 / 7)
  if resize < resolution:
    raise ValueError(f'--resize is {resize}, smaller than the crop: the model takes {resolution} x {resolution} pixels')
  return resize


# Each of the following gives the weights [R, side] of a side's pixels in the R pixels from `corner` on, after the side
# has become `size` pixels long.


def _bilinear(side, size, corner, resolution):
  place = (corner + jnp.arange(resolution) + 0.5) * (side / jnp.float32(size)) - 0.5
  distance = jnp.clip(place, 0, side - 1)[:, None] - jnp.arange(side)
  return jnp.maximum(0, 1 - jnp.abs(distance))


def _area(side, size, corner, resolution):
  scale = side / jnp.float32(size)
  start = ((corner + jnp.arange(resolution)) * scale)[:, None]
  pixels = jnp.arange(side)
  overlap = jnp.minimum(pixels + 1, start + scale) - jnp.maximum(pixels, start)
  return jnp.maximum(0, overlap) / scale


def _bicubic(side, size, corner, resolution):
  scale = side / jnp.float32(size)
  centre = (corner + jnp.arange(resolution) + 0.5) * scale
  x = jnp.abs(jnp.arange(side) + 0.5 - centre[:, None]) / jnp.maximum(scale, 1)
  weights = jnp.where(x < 1, (1.5 * x - 2.5) * x * x + 1, jnp.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
  return weights / weights.sum(1, keepdims=True)


def _along_height(weights, images):
  return jnp.einsum('rh,...hwc->...rwc', weights, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _along_width(weights, images):
  return jnp.einsum('rw,...hwc->...hrc', weights, images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _whole(images):
  return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)
