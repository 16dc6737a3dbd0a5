"""People's own image files: as our builders store them, and as image folders and tools.predict see them.

One way to see them all: upright as their EXIF data say, transparent pixels on white, 8 bits a channel, the first frame.
"""

import contextlib
import hashlib
import io

import numpy as np
import PIL.Image
import simplejpeg

from mixer.data import image_headers
from mixer.data.lazy import tf
from mixer.data import preprocess

MAX_BYTES = 2**27  # of a file
FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF')  # Pillow has others that start other programs
QUALITY = 95  # of what is re-encoded


class Unreadable(ValueError):
  """The bytes are no image that can be decoded; the message says why."""


def read(path) -> bytes:
  """A file, or its start if it is too large for `as_jpeg`."""
  parts, size = [], 0
  with path.open('rb') as file:
    while size <= MAX_BYTES and (part := file.read(2**20)):
      parts.append(part)
      size += len(part)
  return b''.join(parts)


def content_hash(data: bytes) -> str:
  """A file's content as a name: 32 hexadecimal digits."""
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def as_jpeg(data: bytes, upright: bool = True) -> bytes:
  """`data` itself if it is an RGB JPEG of one image, else its first image re-encoded as one.

  Transparent pixels are laid on white. Every image is decoded whole, so that damaged ones fail here.

  Args:
    upright: whether to turn images as their EXIF data say, or to leave them as ImageNet's are read: as they are stored.

  Raises:
    Unreadable: if it cannot be decoded, has more than MAX_BYTES, or more pixels or a longer shape than preprocess.py
      takes.
  """
  if len(data) > MAX_BYTES:
    raise Unreadable(f'more than {MAX_BYTES:,} bytes')
  with _as_unreadable():
    image = _open(data)
    width, height = image.size
    if max(width, height) > preprocess.MAX_RATIO * min(width, height):
      raise Unreadable(f'{width} x {height} pixels; the limit is sides of {preprocess.MAX_RATIO} to 1')
    turned = upright and image_headers.orientation(image.info.get('exif', b'')) != 1
    if image.format == 'JPEG' and image.mode == 'RGB' and not turned:
      # By TensorFlow, as in training: it refuses some files that Pillow takes. An eighth of the size reads all the
      # data, so that any damage shows, in a third of the time.
      try:
        tf.io.decode_jpeg(data, channels=3, ratio=8)
      except tf.errors.OpError as error:
        raise Unreadable(preprocess.reason(error)) from error
      return data
    return _saved(_decoded(image, upright), 'JPEG', quality=QUALITY)


def decode(data: bytes) -> np.ndarray:
  """A file's pixels as training sees them, `preprocess.decode` of `normalize`, without TensorFlow. -> [H, W, 3] uint8.

  Raises:
    Unreadable: if it cannot be decoded, or has more than MAX_BYTES or more pixels than preprocess.py takes.
  """
  if len(data) > MAX_BYTES:
    raise Unreadable(f'more than {MAX_BYTES:,} bytes')
  first = image_headers.first(data)
  with _as_unreadable():
    if first and first.plain and data.startswith(b'\xff\xd8'):
      _check(first.pixels)
      as_tensorflow = dict(colorspace='RGB', fastdct=True, fastupsample=False)  # its less exact cosine transform
      try:
        return simplejpeg.decode_jpeg(data, **as_tensorflow)
      except ValueError as error:
        if not str(error).startswith('Corrupt JPEG data'):  # of which TensorFlow only warns
          raise
        return simplejpeg.decode_jpeg(data, **as_tensorflow, strict=False)
    return np.asarray(_decoded(_open(data, image_headers.FORMATS.split(', ')), upright=True))


def upright(image: PIL.Image.Image) -> np.ndarray:
  """The pixels of Pillow's image as people see it. -> [H, W, 3] uint8.

  Raises:
    Unreadable: if it cannot be decoded, or has numbers of no fixed range.
  """
  if image.mode in ('I', 'F'):
    raise Unreadable(f"it has Pillow's mode {image.mode!r}, whose numbers have no fixed range; convert it to L or RGB")
  with _as_unreadable():
    return np.asarray(_decoded(image, upright=True))


def normalize(data):
  """The same bytes, or where TensorFlow would not decode what people see, those of a BMP file that it does.

  [] bytes -> [] bytes, in a graph or outside. Most JPEGs are known by two markers and never reach Python.
  """
  def of_others():
    bitmap, wrong = tf.numpy_function(_bitmap, [data], [tf.string, tf.string], stateful=False)
    bitmap = preprocess.sure(tf.ensure_shape(bitmap, []), tf.equal(wrong, b''), wrong)
    return tf.cond(tf.equal(bitmap, b''), lambda: data, lambda: bitmap)

  data = tf.convert_to_tensor(data)  # of plain bytes numpy would drop zeros at their end
  words = tf.io.decode_raw(data, tf.uint16, little_endian=False, fixed_length=22)
  # JFIF, which has no place for EXIF data, then a table of quantization: no other segment lies between.
  is_jfif = tf.reduce_all(tf.gather(words, [0, 1, 2, 10]) == tf.constant([0xffd8, 0xffe0, 16, 0xffdb], tf.uint16))
  return tf.cond(is_jfif, lambda: data, of_others)


def _bitmap(data):
  """-> a BMP file, or nothing where the file can stay as it is; and what is wrong with it, or nothing."""
  data = np.array(data, object).item()  # outside a graph, bytes come in an array
  first = image_headers.first(data)
  answer = lambda bitmap, wrong: (np.array(bitmap, object), np.array(wrong, object))
  if first is None or first.plain:
    return answer(b'', b'')
  try:
    with _as_unreadable():
      return answer(_saved(_decoded(_open(data, image_headers.FORMATS.split(', ')), upright=True), 'BMP'), b'')
  except Unreadable as error:
    return answer(b'', str(error).encode())


def _open(data, formats=FORMATS):
  """Pillow's image of a file, not yet decoded."""
  first = image_headers.first(data)
  _check(first.pixels if first else 0)  # Pillow makes room for a WebP when it opens it
  try:
    image = PIL.Image.open(io.BytesIO(data), formats=formats)
  except PIL.UnidentifiedImageError as error:  # whose text holds a memory address
    raise Unreadable('its header is damaged' if first else f'it is not one of {", ".join(formats)}') from error
  _check(image.width * image.height)
  return image


def _check(pixels):
  if pixels > preprocess.MAX_PIXELS:
    raise Unreadable(f'its header claims {pixels} pixels; the limit is {preprocess.MAX_PIXELS:,}')


def _decoded(image, upright):
  image.load()  # a PNG may have EXIF data after its pixels
  return rgb(image, image_headers.orientation(image.info.get('exif', b'')) if upright else 1)


def _saved(image, form, **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


@contextlib.contextmanager
def _as_unreadable():
  """Whatever goes wrong becomes Unreadable."""
  try:
    yield
  except Unreadable:
    raise
  except Exception as error:  # Pillow raises many kinds for damaged files.
    raise Unreadable(str(error) or type(error).__name__) from error


def rgb(image, orientation):
  """An image of Pillow as people see it: upright, on white, in 8 bits. Goes into the script of tools.export."""
  if image.mode.startswith('I'):  # 16 bits of grey; Pillow would cut them off at 255
    grey = np.asarray(image)
    opaque = grey != image.info.get('transparency', -1)
    image = PIL.Image.merge('LA', [PIL.Image.fromarray(x.astype(np.uint8)) for x in (grey >> 8, opaque * 255)])
  if image.has_transparency_data:
    image = image.convert('RGBA')
    image = PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, 'white'), image)
  way = PIL.Image.Transpose
  turns = {2: way.FLIP_LEFT_RIGHT, 3: way.ROTATE_180, 4: way.FLIP_TOP_BOTTOM, 5: way.TRANSPOSE, 6: way.ROTATE_270,
           7: way.TRANSVERSE, 8: way.ROTATE_90}
  image = image.convert('RGB')
  return image.transpose(turns[orientation]) if orientation in turns else image
