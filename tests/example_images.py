"""Small image files of every format that is read, and the same with headers that claim other sizes."""

import functools
import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image

PIXELS = np.stack([*np.mgrid[60:120:2, 50:130:2], np.full((30, 40), 90)], -1).astype(np.uint8)

# name: (Pillow's format and options, of the image)
KINDS = {'jpeg': ('JPEG', {}), 'progressive jpeg': ('JPEG', {'progressive': True}), 'png': ('PNG', {}),
         'gif': ('GIF', {}), 'webp': ('WEBP', {}), 'lossless webp': ('WEBP', {'lossless': True}), 'bmp': ('BMP', {})}


def file(kind: str, pixels=PIXELS) -> bytes:
  form, options = KINDS[kind]
  data = io.BytesIO()
  PIL.Image.fromarray(pixels).save(data, form, **options)
  return data.getvalue()


def animated(form: str, number: int = 3) -> bytes:
  """Of frames that are all different and so are all stored whole."""
  frames = [PIL.Image.fromarray((PIXELS + 80 * k).astype(np.uint8)) for k in range(number)]
  data = io.BytesIO()
  frames[0].save(data, form, save_all=True, append_images=frames[1:])
  return data.getvalue()


def claiming(kind: str, width: int, height: int) -> bytes:
  """A file of 40 x 30 pixels whose header claims another size."""
  data = bytearray(file(kind))
  if kind == 'png':
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  elif 'jpeg' in kind:
    start = data.index(b'\xff\xc2' if 'progressive' in kind else b'\xff\xc0')
    data[start + 5:start + 9] = struct.pack('>HH', height, width)
  elif kind == 'gif':
    start = _descriptor(data)
    data[6:10] = data[start + 5:start + 9] = struct.pack('<HH', width, height)
  elif kind == 'webp':
    data[26:30] = struct.pack('<HH', width, height)
  elif kind == 'lossless webp':
    bits, = struct.unpack_from('<I', data, 21)
    data[21:25] = struct.pack('<I', width - 1 | height - 1 << 14 | bits >> 28 << 28)
  else:
    data[18:26] = struct.pack('<ii', width, height)
  return bytes(data)


def _descriptor(data):
  """Where a GIF's first image is described: after the table of colours and the extensions."""
  place = 13 + 3 * 2**(1 + data[10] % 8)
  while data[place:place + 1] == b'!':
    place += 2
    while data[place]:
      place += 1 + data[place]
    place += 1
  return place


SQUARE = np.stack([*np.mgrid[20:180:10, 250:90:-10], np.full((16, 16), 90)], -1).astype(np.uint8)  # [16, 16, 3]
# What is stored is turned by this, so that it is SQUARE once its orientation is heeded.
TURNED = {1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
          5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
          8: lambda x: np.rot90(x, -1)}


@functools.cache
def zoo() -> dict:
  """{kind of file: (bytes, what people see of it: [16, 16, 3] uint8, by how many levels a value may differ)}."""
  rgb, grey = PIL.Image.fromarray(SQUARE), PIL.Image.fromarray(SQUARE[..., 0])
  left = np.arange(16) < 8  # where an image with a hole is transparent
  hole = PIL.Image.fromarray(np.where(left, 0, 255)[None].repeat(16, 0).astype(np.uint8))
  white = lambda image: np.where(left[:, None], 255, np.asarray(image.convert('RGB')))
  palette = rgb.quantize(16, dither=PIL.Image.Dither.NONE)
  black_white = rgb.convert('1')
  half = lambda image: _with_alpha(image, PIL.Image.new('L', (16, 16), 128))
  in_16 = np.asarray(grey).astype(np.uint16) * 257 - 100
  in_16_rgb = SQUARE[..., ::-1].astype(np.uint16) * 257 - 100  # as OpenCV has it
  alpha_16 = np.asarray(hole).astype(np.uint16)[..., None] * 257
  index = np.asarray(palette)
  first, other = palette.copy(), PIL.Image.fromarray(255 - SQUARE)
  shown = lambda image: np.asarray(image.convert('RGB'))
  files = {
      'jpeg': (_file(rgb, 'JPEG', quality=100, subsampling=0), SQUARE, 6),
      'grey jpeg': (_file(grey, 'JPEG', quality=100), shown(grey), 6),
      'cmyk jpeg': (_file(rgb.convert('CMYK'), 'JPEG', quality=100, subsampling=0), SQUARE, 6),
      'mpo, turned': (_file(_turned(6), 'MPO', quality=100, subsampling=0, exif=_exif(6), save_all=True,
                            append_images=[other]), SQUARE, 6),
      **{f'jpeg, orientation {k}': (_file(_turned(k), 'JPEG', quality=100, subsampling=0, exif=_exif(k)), SQUARE, 6)
         for k in TURNED},
      'png': (_file(rgb, 'PNG'), SQUARE, 0),
      'png, orientation 6': (_file(_turned(6), 'PNG', exif=_exif(6)), SQUARE, 0),
      'grey png': (_file(grey, 'PNG'), shown(grey), 0),
      '16-bit grey png': (_png(in_16), np.repeat((in_16 >> 8).astype(np.uint8)[..., None], 3, -1), 0),
      '16-bit rgb png': (_png(in_16_rgb), (in_16_rgb[..., ::-1] >> 8).astype(np.uint8), 0),
      '16-bit rgba png': (_png(np.concatenate([in_16_rgb, alpha_16], -1)),
                          np.where(left[:, None], 255, (in_16_rgb[..., ::-1] >> 8).astype(np.uint8)), 0),
      '1-bit png': (_file(black_white, 'PNG'), shown(black_white), 0),
      'palette png': (_file(palette, 'PNG'), shown(palette), 0),
      'palette png with a hole': (_file(palette, 'PNG', transparency=int(index[0, 0])),
                                  np.where((index == index[0, 0])[..., None], 255, shown(palette)), 0),
      'grey png with a transparent level': (_file(grey, 'PNG', transparency=20),
                                            np.where(shown(grey) == 20, 255, shown(grey)), 0),
      'grey png with alpha': (_file(_with_alpha(grey, hole), 'PNG'), white(grey), 0),
      'rgba png': (_file(_with_alpha(rgb, hole), 'PNG'), white(rgb), 0),
      'rgba png, half transparent': (_file(half(rgb), 'PNG'), SQUARE * (128 / 255) + 127, 1),
      'gif': (_file(palette, 'GIF'), shown(palette), 0),
      'gif with a hole': (_file(palette, 'GIF', transparency=int(index[0, 0])),
                          np.where((index == index[0, 0])[..., None], 255, shown(palette)), 0),
      'animated gif': (_file(first, 'GIF', save_all=True, append_images=[other.quantize(16)]), shown(palette), 0),
      'webp': (_file(rgb, 'WEBP', quality=100), SQUARE, 25),
      'lossless webp': (_file(rgb, 'WEBP', lossless=True), SQUARE, 0),
      'rgba webp': (_file(_with_alpha(rgb, hole), 'WEBP', lossless=True, exact=True), white(rgb), 0),
      'lossy rgba webp': (_file(_with_alpha(rgb, hole), 'WEBP', quality=100), white(rgb), 25),
      'animated webp': (_file(rgb, 'WEBP', lossless=True, save_all=True, append_images=[other]), SQUARE, 0),
      'webp, orientation 6': (_file(_turned(6), 'WEBP', lossless=True, exif=_exif(6)), SQUARE, 0),
      '1-bit bmp': (_file(black_white, 'BMP'), shown(black_white), 0),
      '4-bit bmp': (_bmp(4, palette), shown(palette), 0),
      'palette bmp': (_file(palette, 'BMP'), shown(palette), 0),
      'grey bmp': (_file(grey, 'BMP'), shown(grey), 0),
      'bmp': (_file(rgb, 'BMP'), SQUARE, 0),
      '32-bit bmp': (_file(_with_alpha(rgb, hole), 'BMP'), SQUARE, 0),
  }
  for name, colour in (('black', 0), ('white', 255)):  # below a hole, where it must not show
    hidden = np.where(left[:, None], colour, SQUARE).astype(np.uint8)
    files[f'rgba png, {name} below'] = _file(_with_alpha(PIL.Image.fromarray(hidden), hole), 'PNG'), white(rgb), 0
  return files


def _file(image, form, **options):
  data = io.BytesIO()
  image.save(data, form, **options)
  return data.getvalue()


def _turned(orientation):
  return PIL.Image.fromarray(np.ascontiguousarray(TURNED[orientation](SQUARE)))


def _exif(orientation):
  exif = PIL.Image.Exif()
  exif[0x112] = orientation
  return exif


def _with_alpha(image, alpha):
  image = image.copy()
  image.putalpha(alpha)
  return image


def _png(pixels):
  return cv2.imencode('.png', pixels)[1].tobytes()


def _bmp(bits, image):
  """A bitmap of a palette of 16 colours, in 4 bits a pixel."""
  colours = np.asarray(image.getpalette()[:48], np.uint8).reshape(16, 3)[:, ::-1]
  index = np.asarray(image)[::-1]  # from the last row on
  pixels = (index[:, ::2] << 4 | index[:, 1::2]).astype(np.uint8).tobytes()
  table = np.pad(colours, [(0, 0), (0, 1)]).tobytes()
  start = 54 + len(table)
  return (b'BM' + struct.pack('<IHHI', start + len(pixels), 0, 0, start)
          + struct.pack('<IiiHHIIiiII', 40, 16, 16, 1, bits, 0, len(pixels), 0, 0, 16, 16) + table + pixels)
