"""Image files as our builders store them: RGB JPEGs that decode whole, known by their content."""

import hashlib
import io

import numpy as np
import PIL.Image
import tensorflow as tf

from mixer import preprocess

MAX_PIXELS = 80_000_000  # larger ones are no photographs for training, and would take gigabytes to decode
FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF')  # Pillow has others that start other programs
MAX_RATIO = 50  # of its sides: a strip whose shorter side is resized to 256 takes gigabytes
QUALITY = 95  # of what is re-encoded


class Unreadable(ValueError):
  """The bytes are no image that can be decoded; the message says why."""


def content_hash(data: bytes) -> str:
  """A file's content as a name: 32 hexadecimal digits."""
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def as_jpeg(data: bytes) -> bytes:
  """`data` itself if it is an RGB JPEG of one image, else its first image re-encoded as one.

  Transparent pixels are laid on white. Every image is decoded whole, so that damaged ones are found here.

  Raises:
    Unreadable: if it cannot be decoded, or has more than MAX_PIXELS pixels.
  """
  try:
    image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
      raise Unreadable(f'{width} x {height} pixels; at most {MAX_PIXELS:,} are taken')
    if max(width, height) > MAX_RATIO * min(width, height):
      raise Unreadable(f'{width} x {height} pixels; sides of at most {MAX_RATIO} to 1 are taken')
    if image.format == 'JPEG' and image.mode == 'RGB':
      # By TensorFlow, as in training: it refuses some files that Pillow takes. An eighth of the size spares nothing of
      # what a damage could be found in, and a third of the time.
      tf.io.decode_jpeg(data, channels=3, ratio=8)
      return data
    image.load()
    image = _rgb(image)
  except Unreadable:
    raise
  except tf.errors.OpError as error:
    raise Unreadable(preprocess.reason(error)) from error
  except PIL.UnidentifiedImageError as error:
    raise Unreadable(f'it is none of {", ".join(FORMATS)}') from error  # Pillow's text holds a memory address
  except Exception as error:  # Pillow raises many kinds for damaged files.
    raise Unreadable(str(error) or type(error).__name__) from error
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=QUALITY)
  return file.getvalue()


def _rgb(image):
  if image.mode.startswith('I'):  # 16 bits of grey; Pillow would cut them off at 255
    return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert('RGB')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    return PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, 'white'), image).convert('RGB')
  return image.convert('RGB')
