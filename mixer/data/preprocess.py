"""Plain functions of one image: decoding, training crops and flips, evaluation crops. Pixels are uint8 throughout.

Every random choice is a function of the seed that is passed in, so an example looks the same whoever prepares it.
"""

import re

import numpy as np

from mixer.data import image_headers
from mixer.data.lazy import tf

MAX_PIXELS = 80_000_000  # of an image; larger ones are no photographs for training, and would take gigabytes to decode
# Numbers: TensorFlow resizes floats in half the time, to the same numbers, but large images would take gigabytes so.
RESIZED_AS_FLOATS = 2**24
MAX_RATIO = 50  # of its sides: a strip whose shorter side is resized to 256 takes gigabytes


def within_limits(encoded):
  """The same bytes, unless an image's header claims more than MAX_PIXELS: then an error. [] bytes -> [] bytes."""
  def of_png():
    size = tf.io.decode_raw(encoded, tf.int32, little_endian=False, fixed_length=24)[4:]  # in the 17th to 24th byte
    return tf.reduce_prod(tf.cast(size, tf.int64))

  def of_others():
    # In Python, which is slow, since only one thread runs it at a time.
    claimed = tf.ensure_shape(tf.numpy_function(_claimed, [encoded], tf.int64, stateful=False), [])
    return sure(claimed, claimed >= 0, f'it is not one of {image_headers.FORMATS}')

  is_png = tf.strings.substr(encoded, 0, 8) == b'\x89PNG\r\n\x1a\n'
  return _within(encoded, tf.cond(tf.io.is_jpeg(encoded), lambda: _area(tf.io.extract_jpeg_shape(encoded)),
                                  lambda: tf.cond(is_png, of_png, of_others)))


def _claimed(data):
  pixels = image_headers.pixels(np.array(data, object).item())  # outside a graph, bytes come in an array
  return np.int64(-1 if pixels is None else pixels)


def _area(shape):
  return tf.reduce_prod(tf.cast(shape[:2], tf.int64))


def _within(x, pixels):
  return sure(x, pixels <= MAX_PIXELS, 'its header claims', pixels, f'pixels; the limit is {MAX_PIXELS:,}')


def sure(x, condition, *said):
  """`x`, once the condition holds; else an error that says the rest."""
  with tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=said)]):
    return tf.identity(x)


def decode(encoded):
  """An image file's pixels, as RGB; of an animated GIF, the first frame. [] bytes -> [H, W, 3] uint8."""
  image = tf.io.decode_image(within_limits(encoded), channels=3, expand_animations=False)
  return tf.ensure_shape(image, [None, None, 3])


def reason(error: 'tf.errors.OpError') -> str:
  """What TensorFlow says of a file that it cannot decode, without the names of its operations."""
  said = error.message.split(' [Op:')[0].split('}} ')[-1].split('\n\t [[')[0]
  said = re.sub(r'\AError in user-defined function .*? iterator: \S+: ', '', said)
  return re.sub(r'\Aassertion failed: \[(.*)\]\Z', lambda match: match[1].replace('] [', ' '), said)


def inception_crop(encoded, resolution: int, min_area: float, pad: int, seed, antialias: bool = False):
  """Decodes a random part of an image and resizes it (bilinear). [] bytes -> [resolution, resolution, 3] uint8.

  The part covers `min_area` to all of the image's area, at an aspect ratio of 3/4 to 4/3 (paper, section 3). Of a JPEG
  that is not padded, only that part is decoded.

  Args:
    pad: black pixels to add on each side before, so that small images are also shifted and shrunk.
    antialias: whether each pixel is a mean of all those that it covers; the paper's is of the nearest four.
    seed: [2] ints.
  """
  def box(shape):
    _, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape, tf.zeros([0, 0, 4]), seed, min_object_covered=0., area_range=(min_area, 1.),
        aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True)
    # Its place is drawn here: that function never reaches the last row and column, which tells on small images.
    room = tf.cast(shape[:2] - size[:2] + 1, tf.float32)
    place = tf.random.stateless_uniform([2], tf.random.experimental.stateless_fold_in(seed, 0))  # size took `seed`
    corner = tf.cast(place * room, tf.int32)
    return tf.concat([corner, size[:2]], 0)

  def of_jpeg():
    shape = tf.io.extract_jpeg_shape(encoded)
    return tf.io.decode_and_crop_jpeg(_within(encoded, _area(shape)), box(shape), channels=3)

  def of_any():
    pixels = tf.pad(decode(encoded), [[pad, pad], [pad, pad], [0, 0]])
    window = box(tf.shape(pixels))
    return tf.slice(pixels, tf.pad(window[:2], [[0, 1]]), tf.pad(window[2:], [[0, 1]], constant_values=3))

  crop = of_any() if pad else tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_any)
  return _square(crop, resolution, antialias)


def random_crop(encoded, resize: int, resolution: int, seed, pad: int = 0, antialias: bool = False):
  """Decodes an image, resizes it to resize x resize whatever its shape, and cuts out a square at a random place.

  [] bytes -> [R, R, 3] uint8. The seed is [2] ints. `pad` is of black pixels to add on each side of the resized image.
  Without it, this is the fine-tuning of the paper's predecessors (BiT, section 3.3); with 4 at 32 pixels, CIFAR's usual
  crop (He et al., arXiv 1512.03385, section 4.2).
  """
  corner = tf.random.stateless_uniform([2], seed, 0, resize + 2 * pad - resolution + 1, tf.int32)
  image = _square(decode(encoded), resize, antialias)
  image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]]) if pad else image
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [resolution, resolution, 3])


def flip(image, seed):
  """Mirrors left and right with probability one half. [H, W, 3] -> [H, W, 3]. The seed is [2] ints."""
  return tf.image.stateless_random_flip_left_right(image, seed)


def cutout(image, side: int, seed):
  """Greys out a square of side x side pixels around any pixel, or what lies in the image of it. [H, W, 3] -> [H, W, 3].

  DeVries and Taylor, arXiv 1708.04552; place and extent are as in AutoAugment's code for CIFAR, whose sides are
  even. That fills in 0 of the normalized images, their mean; here it is grey, whatever the images. The seed is [2] ints.
  """
  shape = tf.shape(image)[:2]
  place = tf.cast(tf.random.stateless_uniform([2], seed) * tf.cast(shape, tf.float32), tf.int32) - side // 2
  rows, columns = ((tf.range(shape[axis]) >= place[axis]) & (tf.range(shape[axis]) < place[axis] + side)
                   for axis in (0, 1))
  return tf.where((rows[:, None] & columns)[..., None], tf.constant(128, image.dtype), image)


def permute(image, order):
  """The pixels in another order: pixel order[k], along the rows, comes to place k. [H, W, 3], [H W] ints -> the same.

  Without an order (None) the image stays as it is.
  """
  return image if order is None else tf.reshape(tf.gather(tf.reshape(image, [-1, 3]), order), tf.shape(image))


def paper_resize(image, resize: int, resolution: int):
  """Resizes to resize x resize, whatever the shape, and takes the centre: (i) of App. C. -> [R, R, 3] uint8."""
  return _centre(_square(image, resize, antialias=False), resolution)


def paper_crop(image, resize: int, resolution: int):
  """Resizes the shorter side to `resize`, keeping the shape, and takes the centre: (ii) of App. C. -> [R, R, 3] uint8.

  By area, as in the authors' code; the paper does not name the method.
  """
  return _centre(_truncated(_resize(image, _kept_shape(image, resize), 'area')), resolution)


def antialiased(image, resize: int, resolution: int):
  """Resizes the shorter side to `resize`, bilinear with antialiasing, and takes the centre. -> [R, R, 3] uint8.

  For images that become much smaller, as photographs at 32 or 64 pixels do: the paper's crops were made for 224 from
  some 500, and (i) leaves speckle of smaller ones. Shapes are kept, since models of own images see them so in training;
  squashing scores no better, and bars beside the image, or sharper filters, worse. With `resize` equal to
  `resolution` nothing of the shorter side is cut off.
  """
  return _centre(_rounded(_resize(image, _kept_shape(image, resize), 'bilinear', antialias=True)), resolution)


def timm(image, resize: int, resolution: int):
  """As timm scores its Mixers: bicubic with antialiasing, keeping the shape, and the centre. -> [R, R, 3] uint8.

  The longer side is rounded down, and the corner of the crop to even numbers, as in torchvision. One axis is resized
  after the other with whole pixels in between, as in Pillow.
  """
  shape = tf.shape(_no_strip(image))[:2]
  size = resize * shape // tf.reduce_min(shape)
  for part in (tf.stack([shape[0], size[1]]), size):
    image = _rounded(_resize(image, part, 'bicubic', antialias=True))
  corner = tf.cast(tf.round((size - resolution) / 2), tf.int32)
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [resolution, resolution, 3])


EVALUATION_CROPS = {'paper_resize': paper_resize, 'paper_crop': paper_crop, 'antialiased': antialiased, 'timm': timm}


def _kept_shape(image, shorter):
  """[height, width] once the shorter side has become `shorter` pixels long."""
  sides = tf.cast(tf.shape(_no_strip(image))[:2], tf.float32)
  return tf.cast(tf.round(sides * (shorter / tf.reduce_min(sides))), tf.int32)


def _no_strip(image):
  shape = tf.shape(image)[:2]
  return sure(image, tf.reduce_max(shape) <= MAX_RATIO * tf.reduce_min(shape), shape[1], 'x', shape[0],
              f'pixels; the limit of a crop that keeps the shape is sides of {MAX_RATIO} to 1')


def _centre(image, size):
  corner = (tf.shape(image)[:2] - size) // 2
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [size, size, 3])


def _square(image, side, antialias):
  resized = _resize(image, (side, side), 'bilinear', antialias)
  return _rounded(resized) if antialias else _truncated(resized)


def _resize(image, size, method, antialias=False):
  """[H, W, 3] uint8 -> [*size, 3] float32."""
  resize = lambda image: tf.image.resize(image, size, method, antialias=antialias)
  return tf.cond(tf.size(image) <= RESIZED_AS_FLOATS, lambda: resize(tf.cast(image, tf.float32)), lambda: resize(image))


def _truncated(image):
  """As the authors' code: the tf.cast in big_vision's pp/ops_image.py drops the fraction of a level."""
  return tf.cast(image, tf.uint8)


def _rounded(image):
  """As Pillow. Antialiased methods may leave the range of uint8."""
  return tf.saturate_cast(tf.round(image), tf.uint8)
