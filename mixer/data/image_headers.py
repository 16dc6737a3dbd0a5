"""What the header of an image file claims, read before anything is allocated for its pixels.

A few bytes may claim 60,000 x 60,000 pixels. What is read here is what TensorFlow's decoders go by; Pillow would not
do: it sees a GIF's first frame alone where TensorFlow makes room for all, and makes room for a WebP when it opens it.
JPEG and PNG have a place in mixer/data/preprocess.py, in the graph: they are the most common.
"""

import struct
from typing import NamedTuple

FORMATS = 'JPEG, PNG, GIF, WEBP, BMP'  # TensorFlow would also take JPEG XL


def pixels(data: bytes) -> int | None:
  """How many pixels TensorFlow makes room for: of a GIF, WebP or BMP file, all frames together.

  0 where its header is cut off, and None of what is none of these.
  """
  try:
    if data.startswith(b'GIF8'):
      return _gif(data)
    if data.startswith(b'BM'):
      width, height = struct.unpack_from('<ii', data, 18)
      return abs(width * height)
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
      return _webp(data)
  except (struct.error, IndexError):
    return 0  # the decoder will say so
  return None


def _webp(data):
  kind = data[12:16]
  if kind == b'VP8X':
    side = lambda place: 1 + int.from_bytes(data[place:place + 3], 'little')
    return side(24) * side(27)
  if kind == b'VP8L':
    bits, = struct.unpack_from('<I', data, 21)
    return (1 + bits % 2**14) * (1 + (bits >> 14) % 2**14)
  width, height = struct.unpack_from('<HH', data, 26)
  return width % 2**14 * (height % 2**14)  # above are two bits of scaling


def _gif(data):
  """The sum of the frames or, where that is more, the smallest canvas that has room for each of them."""
  frames, place = [(0, 0)], 13 + _colours(data[10])
  try:
    while data[place:place + 1] in (b',', b'!'):
      if data[place:place + 1] == b',':
        *size, flags = struct.unpack_from('<HHB', data, place + 5)
        frames.append(size)
        place += 11 + _colours(flags)
      else:
        place += 2
      while length := data[place]:
        place += 1 + length
      place += 1
  except (struct.error, IndexError):
    pass  # cut off; the frames before count
  widths, heights = zip(*frames)
  return max(max(widths) * max(heights), sum(width * height for width, height in frames))


def _colours(flags):
  """The size in bytes of a GIF's table of colours."""
  return 3 * 2**(1 + flags % 8) if flags & 128 else 0


class First(NamedTuple):
  """The first image of a file.

  Attributes:
    pixels: how many the header claims; 0 where it is cut off.
    plain: whether TensorFlow decodes it to what people see: grey or RGB in 8 bits, opaque and upright.
  """
  pixels: int
  plain: bool


def first(data: bytes) -> First | None:
  """None of what is none of FORMATS. What is cut off counts as plain, and TensorFlow says what it misses."""
  for start, read in ((b'\xff\xd8\xff', _first_jpeg), (b'\x89PNG\r\n\x1a\n', _first_png), (b'GIF8', _first_gif),
                      (b'BM', _first_bmp), (b'RIFF', _first_webp)):
    if data.startswith(start):
      try:
        return read(data)
      except (struct.error, IndexError):
        return First(0, True)
  return None


def orientation(exif: bytes) -> int:
  """How EXIF data says that an image is turned, 1 (upright) to 8; 1 of data that say nothing or are damaged."""
  start = 6 if exif.startswith(b'Exif\0\0') else 0
  try:
    order = {b'II': '<', b'MM': '>'}[exif[start:start + 2]]
    place = start + struct.unpack_from(order + 'I', exif, start + 4)[0]
    number, = struct.unpack_from(order + 'H', exif, place)
    for entry in range(place + 2, place + 2 + 12 * number, 12):
      tag, kind, _, value = struct.unpack_from(order + 'HHIH', exif, entry)
      if tag == 0x112:
        return value if kind == 3 and 1 <= value <= 8 else 1
  except (KeyError, struct.error):
    pass
  return 1


def _first_jpeg(data):
  size, components, exif, place = (0, 0), 3, b'', 2
  while True:
    marker, length = struct.unpack_from('>HH', data, place)
    if marker == 0xffff:  # a byte of filling
      place += 1
      continue
    if marker == 0xffda:  # the pixels
      return First(size[0] * size[1], components in (1, 3) and orientation(exif) == 1)
    if marker == 0xffe1 and data[place + 4:place + 10] == b'Exif\0\0':
      exif = exif or data[place + 4:place + 2 + length]
    elif 0xffc0 <= marker <= 0xffcf and marker not in (0xffc4, 0xffc8, 0xffcc):
      *size, components = struct.unpack_from('>HHB', data, place + 5)
    place += 2 + length


def _first_png(data):
  width, height, bits, colours = struct.unpack_from('>IIBB', data, 16)
  plain, place = bits == 8 and colours in (0, 2), 8  # grey and RGB
  while plain and place + 8 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, place)
    plain = kind not in (b'tRNS', b'eXIf')
    place += 12 + length
  return First(width * height, plain)


def _first_gif(data):
  width, height = struct.unpack_from('<HH', data, 6)
  return First(width * height, False)


def _first_bmp(data):
  size, = struct.unpack_from('<I', data, 14)
  if size == 12:  # of OS/2
    width, height = struct.unpack_from('<HH', data, 18)
    return First(width * height, False)
  width, height, _, bits, compression = struct.unpack_from('<iiHHI', data, 18)
  return First(abs(width * height), (bits, compression) == (24, 0))


def _first_webp(data):
  kind, bits = data[12:16], data[20:25]
  hidden = {b'VP8X': 0x1a, b'VP8L': 0x10}  # where what is set: alpha, EXIF data, frames; alpha
  return First(_webp(data), kind == b'VP8 ' or (kind in hidden and not bits[0 if kind == b'VP8X' else 4] & hidden[kind]))
