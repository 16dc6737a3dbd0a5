"""Plain functions of one image: decoding, training crops and flips, evaluation crops. Pixels are uint8 throughout.

Every random choice is a function of the seed that is passed in, so an example looks the same whoever prepares it.
"""

import tensorflow as tf


def decode(encoded):
  """An image file's pixels, as RGB; of an animated GIF, the first frame. [] bytes -> [H, W, 3] uint8."""
  return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])


def reason(error: tf.errors.OpError) -> str:
  """What TensorFlow says of a file that it cannot decode, without the names of its operations."""
  return error.message.split(' [Op:')[0].split('}} ')[-1]


def inception_crop(encoded, resolution: int, min_area: float, pad: int, seed):
  """Decodes a random part of an image and resizes it (bilinear). [] bytes -> [resolution, resolution, 3] uint8.

  The part covers `min_area` to all of the image's area, at an aspect ratio of 3/4 to 4/3 (paper, section 3). Of a JPEG
  that is not padded, only that part is decoded.

  Args:
    pad: black pixels to add on each side before, so that small images are also shifted and shrunk.
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
    return tf.io.decode_and_crop_jpeg(encoded, box(tf.io.extract_jpeg_shape(encoded)), channels=3)

  def of_any():
    pixels = tf.pad(decode(encoded), [[pad, pad], [pad, pad], [0, 0]])
    window = box(tf.shape(pixels))
    return tf.slice(pixels, tf.pad(window[:2], [[0, 1]]), tf.pad(window[2:], [[0, 1]], constant_values=3))

  crop = of_any() if pad else tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_any)
  return _resize(crop, (resolution, resolution), 'bilinear')


def random_crop(encoded, resize: int, resolution: int, seed):
  """Decodes an image, resizes it to resize x resize whatever its shape, and cuts out a square at a random place.

  The fine-tuning of the paper's predecessors (BiT, section 3.3). [] bytes -> [R, R, 3] uint8. The seed is [2] ints.
  """
  corner = tf.random.stateless_uniform([2], seed, 0, resize - resolution + 1, tf.int32)
  image = _resize(decode(encoded), (resize, resize), 'bilinear')
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [resolution, resolution, 3])


def flip(image, seed):
  """Mirrors left and right with probability one half. [H, W, 3] -> [H, W, 3]. The seed is [2] ints."""
  return tf.image.stateless_random_flip_left_right(image, seed)


def paper_resize(image, resize: int, resolution: int):
  """Resizes to resize x resize, whatever the shape, and takes the centre: (i) of App. C. -> [R, R, 3] uint8."""
  return _centre(_resize(image, (resize, resize), 'bilinear'), resolution)


def paper_crop(image, resize: int, resolution: int):
  """Resizes the shorter side to `resize`, keeping the shape, and takes the centre: (ii) of App. C. -> [R, R, 3] uint8.

  By area, as in the authors' code; the paper does not name the method.
  """
  height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
  factor = resize / tf.minimum(height, width)
  size = tf.cast(tf.round(tf.stack([height, width]) * factor), tf.int32)
  return _centre(_resize(image, size, 'area'), resolution)


def timm(image, resize: int, resolution: int):
  """As timm scores its Mixers: bicubic with antialiasing, keeping the shape, and the centre. -> [R, R, 3] uint8.

  The longer side is rounded down, and the corner of the crop to even numbers, as in torchvision. One axis is resized
  after the other with whole pixels in between, as in Pillow.
  """
  shape = tf.shape(image)[:2]
  size = resize * shape // tf.reduce_min(shape)
  for part in (tf.stack([shape[0], size[1]]), size):
    image = _resize(image, part, 'bicubic', antialias=True)
  corner = tf.cast(tf.round((size - resolution) / 2), tf.int32)
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [resolution, resolution, 3])


EVALUATION_CROPS = {'paper_resize': paper_resize, 'paper_crop': paper_crop, 'timm': timm}


def _centre(image, size):
  corner = (tf.shape(image)[:2] - size) // 2
  return tf.slice(image, tf.pad(corner, [[0, 1]]), [size, size, 3])


def _resize(image, size, method, antialias=False):
  # Bilinear values can end a rounding error outside the range of uint8, bicubic ones far outside.
  return tf.saturate_cast(tf.round(tf.image.resize(image, size, method, antialias=antialias)), tf.uint8)
