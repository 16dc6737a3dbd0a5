"""RandAugment (Cubuk et al., 2020): a few operations drawn for each image, all at one magnitude.

The paper applies two, at a magnitude of 0, 10, 15 or 20 (Table 4), drawn from the 16 of the authors' code. Level 10 is
the top of the operations' original range, and higher levels extrapolate; from it follows how far each one goes:

  operation                                        at level m               0     10    15    20
  Rotate, degrees                                  30 m/10                  0     30    45    60
  ShearX, ShearY                                   0.3 m/10                 0     0.3   0.45  0.6
  TranslateX, TranslateY, pixels                   100 m/10                 0     100   150   200
  Posterize, bits kept                             int(4 m/10), at most 8   0     4     6     8
  Solarize, the value from which it inverts        int(256 m/10)            0     256   384   512
  SolarizeAdd, what it adds to values below 128    int(110 m/10)            0     110   165   220
  Color, Contrast, Brightness, Sharpness, factor   1.8 m/10 + 0.1           0.1   1.9   2.8   3.7
  Cutout, half a side in pixels                    int(40 m/10)             0     40    60    80
  AutoContrast, Equalize, Invert                   the same at all

So Posterize and Solarize weaken as the level rises: from 10 on Solarize does nothing, and at 20 neither does Posterize.
Level 0 is no identity either: it blackens (Posterize), inverts (Solarize) and fades (the factors).

What an operation does is what Pillow does. The authors' Contrast blends with a wrong grey; here it is the mean grey.
"""

import cv2
import numpy as np

# tf.data already gives each core an image of its own. Threads of OpenCV's would only fight them for the same cores.
cv2.setNumThreads(0)

_VALUES = np.arange(256, dtype=np.float32)  # all that a pixel can be; float32, so that blends round as Pillow's do
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
_GREY = 128


def apply(image: np.ndarray, seed: np.ndarray, layers: int, magnitude: float) -> np.ndarray:
  """Applies `layers` operations, one after the other. [H, W, 3] uint8, [2] int64 -> [H, W, 3] uint8.

  Which ones, their directions and places are a function of the seed alone, whatever the machine, process or thread.
  """
  rng = np.random.Generator(np.random.Philox(key=np.asarray(seed, np.int64).astype(np.uint64)))
  operations = list(OPERATIONS.values())
  for index in rng.integers(len(operations), size=layers):
    image = operations[index](image, magnitude, rng)
  return image


# Values: each pixel's new value depends on its old one, by a table for all channels or one for each.


def autocontrast(image):
  """Stretches each channel to all of 0 to 255; a constant one stays. [H, W, 3] uint8 -> [H, W, 3] uint8."""
  low, high = image.min(0).min(0), image.max(0).max(0)  # a dimension at a time: far faster than both at once
  scale = 255 / np.maximum(high - low, 1)
  return _look_up(image, np.where(high > low, _VALUES[:, None] * scale - low * scale, _VALUES[:, None]))


def equalize(image):
  """Evens out each channel's histogram; one with too few pixels stays. [H, W, 3] uint8 -> [H, W, 3] uint8."""
  counts = np.stack([cv2.calcHist([image], [c], None, [256], [0, 256]) for c in range(3)], -1).astype(np.int64)
  below = counts.cumsum(0) - counts
  step = np.where(counts > 0, below, 0).max(0) // 255  # the pixels below the brightest value, over 255 steps
  return _look_up(image, np.where(step > 0, (below + step // 2) // np.maximum(step, 1), _VALUES[:, None]))


def invert(image):
  return 255 - image


def posterize(image, bits: int):
  """Keeps the highest bits of each value."""
  return image & np.uint8(0xff << 8 - min(bits, 8) & 0xff)


def solarize(image, threshold: int):
  """Inverts the values from the threshold on."""
  return _look_up(image, np.where(_VALUES < threshold, _VALUES, 255 - _VALUES))


def solarize_add(image, amount: int):
  """Brightens the darker half of the values."""
  return _look_up(image, np.where(_VALUES < 128, _VALUES + amount, _VALUES))


# Enhancements: a factor of 0 gives the other image, 1 the image itself, and more goes on beyond it.


def color(image, factor: float):
  """The other image is the grey of each pixel."""
  return _blend(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), image, factor)


def contrast(image, factor: float):
  """The other image is the mean grey level."""
  mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
  return _look_up(image, mean + factor * (_VALUES - mean))


def brightness(image, factor: float):
  """The other image is black."""
  return _look_up(image, factor * _VALUES)


def sharpness(image, factor: float):
  """The other image is smoothed, except at its border."""
  smooth = image.copy()
  smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SMOOTH)[1:-1, 1:-1]
  return _blend(smooth, image, factor)


# Geometry: the nearest pixel, and grey where there is none.


def rotate(image, degrees: float):
  """Turns counterclockwise about the centre."""
  cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  y, x = image.shape[0] / 2, image.shape[1] / 2
  return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def shear_x(image, slope: float):
  """Moves each row to the left by `slope` times its distance from the top."""
  return _warp(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image, slope: float):
  """Moves each column up by `slope` times its distance from the left."""
  return _warp(image, [[1, 0, 0], [slope, 1, 0]])


def translate_x(image, pixels: float):
  """Moves to the left."""
  return _warp(image, [[1, 0, pixels], [0, 1, 0]])


def translate_y(image, pixels: float):
  """Moves up."""
  return _warp(image, [[1, 0, 0], [0, 1, pixels]])


def cutout(image, half: int, y: int, x: int):
  """Greys out the square of 2 * half pixels a side around a place, or what lies in the image of it."""
  image = image.copy()
  image[max(0, y - half):y + half, max(0, x - half):x + half] = _GREY
  return image


OPERATIONS = {  # name: function of (image, level, rng)
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
    'TranslateX': lambda image, level, rng: translate_x(image, _sign(rng) * level / 10 * 100),
    'TranslateY': lambda image, level, rng: translate_y(image, _sign(rng) * level / 10 * 100),
    'Cutout': lambda image, level, rng: cutout(image, int(level / 10 * 40), *_place(image, rng)),
    'SolarizeAdd': lambda image, level, rng: solarize_add(image, int(level / 10 * 110)),
}


def _factor(level):
  return level / 10 * 1.8 + 0.1


def _sign(rng):
  return 1 - 2 * rng.integers(2)


def _place(image, rng):
  return rng.integers(image.shape[0]), rng.integers(image.shape[1])


def _look_up(image, table):
  """Replaces each value by its entry in a table, clipped and without its fraction. The table is [256] or [256, 3]."""
  table = np.clip(table, 0, 255).astype(np.uint8)
  return cv2.LUT(image, table if table.ndim == 1 else table[None])


def _blend(other, image, factor):
  # OpenCV rounds, Pillow and the authors drop the fraction: just short of a half makes the one the other.
  return cv2.addWeighted(image, factor, other, 1 - factor, -0.499)


def _warp(image, matrix):
  """Fills each place from the place in the image that the matrix, [2, 3], takes it to; (0, 0) is the image's corner."""
  matrix = np.array(matrix, np.float64)
  matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 1 / 2  # to OpenCV's coordinates, where (0, 0) is a pixel's centre
  matrix[:, 2] += 1e-3  # halfway between pixels, rounding errors would choose, which differ from one CPU to another
  return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_CONSTANT, borderValue=[_GREY] * 3)
