"""Copies of prepared datasets with smaller images: how a record becomes one, and how a copy says that it is one.

`python -m tools.prepare DIR --out=NEW --shorter_side=384` makes them. Pixels stay as training sees them: TFDS datasets are
read without regard to EXIF data and transparency (preprocess.decode).
"""

import collections
import dataclasses
import functools
import io
import json

from google.protobuf import message
import numpy as np
import PIL.Image

from mixer import arguments
from mixer.data import image_files
from mixer.data import image_headers
from mixer.data.lazy import tf
from mixer.data.lazy import tfds
from mixer.data import preprocess
from mixer import limits
from mixer import safe_io
from mixer import wording

FIELD = 'resized'  # of a copy's metadata.json
ORIENTATION = 0x112  # EXIF's tag
RESIZED, KEPT, UNREADABLE = 'resized', 'kept', 'unreadable'


@dataclasses.dataclass(frozen=True)
class Resize:
  """Makes the shorter side of each image at most `shorter_side` pixels; smaller images stay byte for byte.

  Bicubic with antialiasing (Pillow's). PNG files stay PNG, all others become JPEGs of `quality`, grey ones of one channel.
  Of the metadata only the orientation stays, which other readers may heed. The same bytes give the same bytes.
  """
  shorter_side: int
  quality: int = image_files.QUALITY

  def __post_init__(self):
    arguments.check(dict(shorter_side=self.shorter_side), at_least=32, at_most=limits.MAX_SIDE)
    arguments.check(dict(quality=self.quality), at_least=1, at_most=100)

  def __str__(self):
    return f'shorter side at most {self.shorter_side}, JPEG quality {self.quality}'

  def record(self, record: bytes) -> tuple[bytes, str]:
    """-> a serialized example with the smaller image, and RESIZED; or the same bytes, and KEPT or UNREADABLE."""
    try:
      example = tf.train.Example.FromString(record)
      image, = example.features.feature['image'].bytes_list.value
      smaller = self.image(image)
    except (message.DecodeError, ValueError, tf.errors.OpError):
      return record, UNREADABLE
    if smaller is image:
      return record, KEPT
    example.features.feature['image'].bytes_list.value[:] = [smaller]
    return example.SerializeToString(deterministic=True), RESIZED

  def image(self, data: bytes) -> bytes:
    """An image file -> a smaller one, or `data` itself if it is small enough. Raises tf.errors.OpError as training does."""
    pixels = _decode()(data).numpy()
    height, width = pixels.shape[:2]
    if min(height, width) <= self.shorter_side:
      return data
    is_grey = all(np.array_equal(pixels[..., 0], pixels[..., k]) for k in (1, 2))
    scale = self.shorter_side / min(height, width)
    image = PIL.Image.fromarray(pixels[..., 0] if is_grey else pixels).resize(
        (round(width * scale), round(height * scale)), PIL.Image.Resampling.BICUBIC)
    form, options = ('PNG', {}) if data.startswith(b'\x89PNG') else ('JPEG', dict(quality=self.quality))
    if (orientation := _orientation(data)) != 1:
      exif = options['exif'] = PIL.Image.Exif()
      exif[ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()

  def check(self, builder):
    """Raises a ValueError unless a copy, by its builder, is one of images of many sizes and not itself resized."""
    info, place = builder.info, builder.data_path
    if stated := (info.metadata or {}).get(FIELD):
      raise ValueError(f'{place} is itself a resized copy ({stated}); resize the original')
    if info.file_format not in (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.TFRECORD):
      raise ValueError(f'{place} is stored as {info.file_format.value}; only array_record and tfrecord are resized')
    image = info.features['image'] if 'image' in info.features else None
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
      raise ValueError(f"feature 'image' of {place} is {image!r}; only images in 8 bits are resized")
    if None not in image.shape[:2]:
      raise ValueError(f'all images of {place} are {image.shape[1]} x {image.shape[0]} pixels, as its features.json says; '
                       'only images of many sizes are resized')

  def mark(self, folder, info: dict, sizes: dict[str, int]):
    """Makes a copy say what it is: in its metadata.json, for programs, and in the description of `info`, for people.

    Args:
      info: of its dataset_info.json, changed in place.
      sizes: {split: bytes of its records}.
    """
    path = folder / 'metadata.json'
    metadata = safe_io.read_json_object(path) if path.exists() else {}
    path.write_text(json.dumps(metadata | {FIELD: str(self)}, indent=2))
    info['description'] = f'A resized copy: {self}.\n\n{info.get("description", "")}'.strip()
    for split in info['splits']:
      split['numBytes'] = str(sizes[split['name']])


def describe(counts: collections.Counter, before: int, after: int) -> str:
  """What became of the images, by the second results of `Resize.record`, and of their bytes. One line."""
  unreadable = (f', {counts[UNREADABLE]:,} cannot be decoded and stay as they are (python -m tools.check_data --decode names '
                'them)') if counts[UNREADABLE] else ''
  return (f'{counts[RESIZED]:,} images resized, {counts[KEPT]:,} small enough{unreadable}; {after / max(before, 1):.2f} of the '
          f'bytes: {before / 2**20:,.1f} MiB before, {after / 2**20:,.1f} MiB now')


def stated(metadata) -> str:
  """What a copy's metadata says of resizing, to be added to what it is called: ', resized: ...', or ''.

  The form that `wording.resized` finds again.
  """
  return f'{wording.RESIZED}{metadata[FIELD]}' if metadata.get(FIELD) else ''


@functools.cache
def _decode():
  return tf.function(preprocess.decode, input_signature=[tf.TensorSpec([], tf.string)])


def _orientation(data):
  try:
    image = PIL.Image.open(io.BytesIO(data), formats=image_headers.FORMATS.split(', '))
  except OSError:  # TensorFlow could read it, and training does not look for more
    return 1
  return image_headers.orientation(image.info.get('exif', b''))
