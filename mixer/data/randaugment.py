"""RandAugment (Cubuk et al., 2020): a few operations drawn for each image, all at one magnitude.

The paper applies two, at a magnitude of 0, 10, 15 or 20 (Table 4), drawn from the 16 of the authors' code, which is
pp/archive/autoaugment.py of github.com/google-research/big_vision. Level 10 is the top of the operations' original
range, and higher levels extrapolate; from it follows how far each one goes:

  operation                                        at level m               0     10    15    20
  Rotate, degrees                                  30 m/10                  0     30    45    60
  ShearX, ShearY                                   0.3 m/10                 0     0.3   0.45  0.6
  TranslateX, TranslateY, pixels                   100 m/10                 0     100   150   200
  Posterize, bits kept                             int(4 m/10), 1 to 8      1     4     6     8
  Solarize, the value from which it inverts        int(256 m/10) mod 256    0     0     128   0
  SolarizeAdd, what it adds to values below 128    int(110 m/10)            0     110   165   220
  Color, Contrast, Brightness, Sharpness, factor   1.8 m/10 + 0.1           0.1   1.9   2.8   3.7
  Cutout, half a side in pixels                    int(40 m/10)             0     40    60    80
  AutoContrast, Equalize, Invert                   the same at all

The paper's numbers were computed with the accidents of that code, and so they are kept:
- Solarize: the threshold was cast to uint8, which takes it modulo 256. So it inverts all at 0, 10 and 20.
- Posterize weakens as the level rises, and keeps one bit where it should keep none: TensorFlow shifts by 7 bits at most.
- Contrast blends with a grey that has nothing to do with the image: a 256th of the number of its pixels, at most 255.
  At 224 x 224 it is 196.
- Color and Sharpness drop the fraction of what they blend with, and Color's grey is a little too bright.
- Level 0 is no identity: Posterize, Solarize and the factors act at 0, too.

100 and 40 pixels are of ImageNet's images; at 32 pixels they leave grey alone. For CIFAR the paper has AutoAugment's scale
(section 3), whose authors' code for CIFAR moves by 10 pixels at level 10 and cuts out 20 a side: 10 and 10 here. Meta
Pseudo Labels (google-research, data_utils.py) has 4 and 4. Both go on to cut out 16 pixels a side of each image
(`preprocess.cutout`), and the paper does, too (section 4.2).

What each operation gives is what that code gives, of which tests/randaugment_authors.npz has outputs: exactly, but for
Color in one pixel of 30,000, where float32 rounds another way. Where TensorFlow itself depends on the CPU, in Sharpness,
those outputs and ours are of one with fused multiply-add, as all with AVX2 or NEON are.
"""

import functools
import math

import cv2
import numpy as np

# tf.data already gives each core an image of its own. Threads of OpenCV's would only fight them for the same cores.
cv2.setNumThreads(0)

VALUES = np.arange(256, dtype=np.float32)  # all that a pixel can be; float32, so that blends round as Pillow's do
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
# TensorFlow's rgb_to_grayscale takes values to [0, 1] by 255, and back by 255.5.
_TO_GREY = np.array([[0.2989, 0.587, 0.114]], np.float32) * np.float32(255.5 / 255)
_GREY = 128


def apply(image: np.ndarray, seed: np.ndarray, layers: int, magnitude: float, translate: float = 100.,
          cutout: float = 40.) -> np.ndarray:
  """Applies `layers` operations, one after the other. [H, W, 3] uint8, [2] int64 -> [H, W, 3] uint8.

  Which ones, their directions and places are a function of the seed alone, whatever the machine, process or thread.
  `translate` and `cutout` are how far images are moved, and half a side of what is cut out, in pixels at level 10.
  """
  rng = generator(seed)
  names, of_size = list(OPERATIONS), {'TranslateX': (translate,), 'TranslateY': (translate,), 'Cutout': (cutout,)}
  for index in rng.integers(len(names), size=layers):
    image = OPERATIONS[names[index]](image, magnitude, rng, *of_size.get(names[index], ()))
  return image


def generator(seed: np.ndarray) -> np.random.Generator:
  """What draws for an image, of its seed, [2] int64."""
  return np.random.Generator(np.random.Philox(key=np.asarray(seed, np.int64).astype(np.uint64)))


# Values: each pixel's new value depends on its old one, by a table for all channels or one for each.


def autocontrast(image):
  """Stretches each channel to all of 0 to 255; a constant one stays. [H, W, 3] uint8 -> [H, W, 3] uint8."""
  # A dimension at a time: far faster than both at once.
  low, high = (x.astype(np.float32) for x in (image.min(0).min(0), image.max(0).max(0)))
  scale = np.float32(255) / np.maximum(high - low, 1)
  return look_up(image, np.where(high > low, VALUES[:, None] * scale - low * scale, VALUES[:, None]))


def equalize(image):
  """Evens out each channel's histogram; one with too few pixels stays. [H, W, 3] uint8 -> [H, W, 3] uint8."""
  counts = np.stack([cv2.calcHist([image], [c], None, [256], [0, 256]) for c in range(3)], -1).astype(np.int64)
  below = counts.cumsum(0) - counts
  step = np.where(counts > 0, below, 0).max(0) // 255  # the pixels below the brightest value, over 255 steps
  return look_up(image, np.where(step > 0, (below + step // 2) // np.maximum(step, 1), VALUES[:, None]))


def invert(image):
  return 255 - image


def posterize(image, bits: int):
  """Keeps the highest bits of each value, and at least one of them."""
  return image & np.uint8(0xff << 8 - min(max(bits, 1), 8) & 0xff)


def solarize(image, threshold: int):
  """Inverts the values from the threshold on, which is taken modulo 256."""
  threshold %= 256
  return look_up(image, np.where(VALUES < threshold, VALUES, 255 - VALUES))


def solarize_add(image, amount: int):
  """Brightens the darker half of the values."""
  return look_up(image, np.where(VALUES < 128, VALUES + amount, VALUES))


# Enhancements: a factor of 0 gives the other image, 1 the image itself, and more extrapolates.


def color(image, factor: float):
  """The other image is the grey of each pixel."""
  grey = cv2.transform(image.astype(np.float32), _TO_GREY).astype(np.uint8)
  return _blend(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), image, factor)


def contrast(image, factor: float):
  """The other image is one grey, which depends on the image's size alone."""
  grey = np.float32(min(image.shape[0] * image.shape[1] // 256, 255))
  return look_up(image, grey + np.float32(factor) * (VALUES - grey))


def brightness(image, factor: float):
  """The other image is black."""
  return look_up(image, np.float32(factor) * VALUES)


def sharpness(image, factor: float):
  """The other image is smoothed, except at its border."""
  smooth = image.copy()
  smooth[1:-1, 1:-1] = cv2.filter2D(image.astype(np.float32), -1, SMOOTH)[1:-1, 1:-1]  # without the fraction
  return _blend(smooth, image, factor)


# Geometry: the nearest pixel, and grey outside the image.


def rotate(image, degrees: float):
  """Turns counterclockwise about the centre."""
  angle = np.float32(degrees) * np.float32(np.pi / 180)
  cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))  # alike on all CPUs; those of NumPy are not
  y, x = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
  half = np.float32(2)
  return _warp(image, (cos, -sin, (x - (cos * x - sin * y)) / half), (sin, cos, (y - (sin * x + cos * y)) / half))


def shear_x(image, slope: float):
  """Moves each row to the left by `slope` times its distance from the first."""
  return _warp(image, (1, slope, 0), (0, 1, 0))


def shear_y(image, slope: float):
  """Moves each column up by `slope` times its distance from the first."""
  return _warp(image, (1, 0, 0), (slope, 1, 0))


def translate_x(image, pixels: float):
  """Moves to the left."""
  return _warp(image, (1, 0, pixels), (0, 1, 0))


def translate_y(image, pixels: float):
  """Moves up."""
  return _warp(image, (1, 0, 0), (0, 1, pixels))


def cutout(image, half: int, y: int, x: int):
  """Greys out the square of 2 * half pixels a side around a place, or what lies in the image of it."""
  image = image.copy()
  image[max(0, y - half):y + half, max(0, x - half):x + half] = _GREY
  return image


OPERATIONS = {  # name: function of (image, level, rng), or also of how far it goes at level 10
    'AutoContrast': lambda image, level, rng: autocontrast(image),
    'Equalize': lambda image, level, rng: equalize(image),
    'Invert': lambda image, level, rng: invert(image),
    'Rotate': lambda image, level, rng: rotate(image, _sign(rng) * level / 10 * 30),
    'Posterize': lambda image, level, rng: posterize(image, int(level / 10 * 4)),
    'Solarize': lambda image, level, rng: solarize(image, int(level / 10 * 256)),
    'Color': lambda image, level, rng: color(image, _factor(level)),
    'Contrast': lambda image, level, rng: contrast(image, _factor(level)),
    'Brightness': lambda image, level, rng: brightness(image, _factor(level)),
    'Sharpness': lambda image, level, rng: sharpness(image, _factor(level)),
    'ShearX': lambda image, level, rng: shear_x(image, _sign(rng) * level / 10 * 0.3),
    'ShearY': lambda image, level, rng: shear_y(image, _sign(rng) * level / 10 * 0.3),
    'TranslateX': lambda image, level, rng, most=100: translate_x(image, _sign(rng) * level / 10 * most),
    'TranslateY': lambda image, level, rng, most=100: translate_y(image, _sign(rng) * level / 10 * most),
    'Cutout': lambda image, level, rng, most=40: cutout(image, int(level / 10 * most), *_place(image, rng)),
    'SolarizeAdd': lambda image, level, rng: solarize_add(image, int(level / 10 * 110)),
}


def _factor(level):
  return level / 10 * 1.8 + 0.1


def _sign(rng):
  return 1 - 2 * rng.integers(2)


def _place(image, rng):
  return rng.integers(image.shape[0]), rng.integers(image.shape[1])


def look_up(image, table):
  """Replaces each value by its entry in a table, clipped and without its fraction. The table is [256] or [256, 3]."""
  table = np.clip(table, 0, 255).astype(np.uint8)
  return cv2.LUT(image, table if table.ndim == 1 else table[None])


def _blend(other, image, factor):
  # OpenCV rounds, Pillow and the authors drop the fraction: just short of a half makes the one the other.
  return cv2.addWeighted(image, factor, other, 1 - factor, -0.499)


def _warp(image, to_x, to_y):
  """Fills each pixel (x, y) from the one next to (to_x . (x, y, 1), to_y . (x, y, 1)); (0, 0) is the first pixel."""
  places = _places(image.shape[0], image.shape[1], tuple(map(float, to_x)), tuple(map(float, to_y)))
  return cv2.remap(image, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=[_GREY] * 3)


@functools.lru_cache(maxsize=16)  # a run has ten: two directions of five operations, at one size and one level
def _places(height, width, to_x, to_y):
  """The pixel from which each is filled, or one outside. -> [H, W, 2] int16."""
  x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
  places = []
  for (a, b, c), side in ((to_x, width), (to_y, height)):
    # In float32 and in this order, and halves away from zero, as in TensorFlow's projective transform.
    place = (np.float32(a) * x + np.float32(b) * y + np.float32(c)).astype(np.float64)
    places.append(np.clip(np.trunc(place + np.copysign(0.5, place)), -1, side))
  return np.stack(places, -1).astype(np.int16)
