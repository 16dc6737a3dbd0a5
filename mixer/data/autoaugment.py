"""AutoAugment (Cubuk et al., arXiv 1805.09501): for each image one of a policy's pairs of operations is drawn.

CIFAR10 is the policy of its Table 7: 25 pairs of (operation, probability, magnitude), as torchvision, tensorflow/models
(official/vision/ops/augment.py) and DeepVoltaire/AutoAugment have it; 20 of them are also in the authors' own list.
What a magnitude means is of the authors' code for CIFAR, in Pillow (tensorflow/models, research/autoaugment,
augmentation_transforms.py):

  operation                                        at magnitude m             7       9
  Rotate, degrees                                  int(30 m/10)               21      27
  ShearY                                           0.3 m/10                   0.21    0.27
  TranslateX, TranslateY, pixels of 32             int(10 m/10)               7       9
  Posterize, bits kept                             4 - int(4 m/10)            2       1
  Solarize, the value from which it inverts        256 - int(256 m/10)        77      26
  Color, Contrast, Brightness, Sharpness, factor   1.8 m/10 + 0.1             1.36    1.72
  AutoContrast, Equalize, Invert                   the same at all

The first three go either way. What they bring in from outside is black, and in the end becomes CIFAR-10's mean colour:
but not if AutoContrast, Equalize, Invert, Posterize or Solarize comes after, which drop the alpha channel that marks it.

torchvision and DeepVoltaire divide the ranges of the paper's Table 6 into nine steps instead, so that TranslateX reaches
150/331 of the side, 14 pixels, at 9; Posterize keeps 8 to 4 bits; the factors are 1 + 0.1 m or 1 - 0.1 m, either way;
outside is black or grey. Here a translation is in 32nds of the side, also of larger images.
"""

import functools
import math

import cv2
import numpy as np

from mixer.data import randaugment

CIFAR10 = (
    (('Invert', 0.1, 7), ('Contrast', 0.2, 6)),
    (('Rotate', 0.7, 2), ('TranslateX', 0.3, 9)),
    (('Sharpness', 0.8, 1), ('Sharpness', 0.9, 3)),
    (('ShearY', 0.5, 8), ('TranslateY', 0.7, 9)),
    (('AutoContrast', 0.5, 8), ('Equalize', 0.9, 2)),
    (('ShearY', 0.2, 7), ('Posterize', 0.3, 7)),
    (('Color', 0.4, 3), ('Brightness', 0.6, 7)),
    (('Sharpness', 0.3, 9), ('Brightness', 0.7, 9)),
    (('Equalize', 0.6, 5), ('Equalize', 0.5, 1)),
    (('Contrast', 0.6, 7), ('Sharpness', 0.6, 5)),
    (('Color', 0.7, 7), ('TranslateX', 0.5, 8)),
    (('Equalize', 0.3, 7), ('AutoContrast', 0.4, 8)),
    (('TranslateY', 0.4, 3), ('Sharpness', 0.2, 6)),
    (('Brightness', 0.9, 6), ('Color', 0.2, 8)),
    (('Solarize', 0.5, 2), ('Invert', 0.0, 3)),
    (('Equalize', 0.2, 0), ('AutoContrast', 0.6, 0)),
    (('Equalize', 0.2, 8), ('Equalize', 0.6, 4)),
    (('Color', 0.9, 9), ('Equalize', 0.6, 6)),
    (('AutoContrast', 0.8, 4), ('Solarize', 0.2, 8)),
    (('Brightness', 0.1, 3), ('Color', 0.7, 0)),
    (('Solarize', 0.4, 5), ('AutoContrast', 0.9, 3)),
    (('TranslateY', 0.9, 9), ('TranslateY', 0.7, 9)),
    (('AutoContrast', 0.9, 2), ('Solarize', 0.8, 3)),
    (('Equalize', 0.8, 8), ('Invert', 0.1, 3)),
    (('TranslateY', 0.7, 9), ('AutoContrast', 0.9, 1)),
)
POLICIES = {'cifar10': CIFAR10}  # config.data.autoaugment
MEAN = (125, 123, 114)  # of CIFAR-10's training images

_TO_GREY = np.array([[19595, 38470, 7471, 2**15]], np.float32) / 2**16  # Pillow's; all sums are exact in float32


def apply(image: np.ndarray, seed: np.ndarray, policy: tuple = CIFAR10) -> np.ndarray:
  """Applies one of a policy's pairs, each of its two operations at its probability. [H, W, 3] uint8 -> the same.

  The pair, what is left out and the directions are a function of the seed, [2] int64, alone.
  """
  which, *drawn = randaugment.generator(seed).random(5)
  pair = policy[int(which * len(policy))]
  return operate(image, [(name, magnitude, 1 if sign < 0.5 else -1) for (name, probability, magnitude), chance, sign
                         in zip(pair, drawn[::2], drawn[1::2]) if chance < probability])


def operate(image: np.ndarray, operations: list[tuple[str, int, int]]) -> np.ndarray:
  """Applies operations of (name, magnitude, 1 or -1 for the direction). [H, W, 3] uint8 -> [H, W, 3] uint8."""
  inside = None  # the alpha channel, unless it is 1 everywhere
  for name, magnitude, sign in operations:
    if name in _MATRICES:
      places = _places(*image.shape[:2], name, sign * magnitude)
      warp = functools.partial(cv2.remap, map1=places, map2=None, interpolation=cv2.INTER_NEAREST,
                               borderMode=cv2.BORDER_CONSTANT, borderValue=0)
      image, inside = warp(image), warp(np.ones(image.shape[:2], np.uint8) if inside is None else inside)
    else:
      image = _OF_VALUES[name](image, magnitude)
      inside = None if name in _OPAQUE else inside
  if inside is not None:
    image[inside == 0] = MEAN
  return image


# Values. A factor of 0 gives the other image, 1 the image itself, and more extrapolates: Pillow's ImageEnhance.


def _autocontrast(image, magnitude):
  low, high = (x.astype(float) for x in (image.min(0).min(0), image.max(0).max(0)))
  scale = 255 / np.maximum(high - low, 1)
  return randaugment.look_up(image, np.where(high > low, randaugment.VALUES[:, None] * scale - low * scale, randaugment.VALUES[:, None]))


def _color(image, magnitude):
  return _blend(_grey(image)[..., None], image, magnitude)


def _contrast(image, magnitude):
  grey = _grey(image)
  return randaugment.look_up(image, _blend(int(grey.sum() / grey.size + 0.5), randaugment.VALUES, magnitude))


def _sharpness(image, magnitude):
  smooth = image.copy()
  smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, randaugment.SMOOTH)[1:-1, 1:-1]
  return _blend(smooth, image, magnitude)


_OF_VALUES = {
    'AutoContrast': _autocontrast,
    'Equalize': lambda image, magnitude: randaugment.equalize(image),
    'Invert': lambda image, magnitude: randaugment.invert(image),
    'Posterize': lambda image, magnitude: randaugment.posterize(image, 4 - int(4 * magnitude / 10)),
    'Solarize': lambda image, magnitude: randaugment.look_up(
        image, np.where(randaugment.VALUES < 256 - int(256 * magnitude / 10), randaugment.VALUES, 255 - randaugment.VALUES)),
    'Color': _color,
    'Contrast': _contrast,
    'Brightness': lambda image, magnitude: randaugment.brightness(image, _factor(magnitude)),
    'Sharpness': _sharpness,
}
_OPAQUE = ('AutoContrast', 'Equalize', 'Invert', 'Posterize', 'Solarize')


def _grey(image):
  """[H, W, 3] uint8 -> [H, W] uint8."""
  return cv2.transform(image.astype(np.float32), _TO_GREY).astype(np.uint8)


def _factor(magnitude):
  return np.float32(1.8 * magnitude / 10 + 0.1)


def _blend(other, image, magnitude):
  other = np.asarray(other, np.float32)
  return np.clip(other + _factor(magnitude) * (image - other), 0, 255).astype(np.uint8)


# Geometry: the nearest pixel. From (x, y) of a pixel's centre, each gives the place in the image that fills it.


def _rotation(height, width, magnitude):
  angle = math.radians(int(30 * magnitude / 10))  # counterclockwise about the centre
  cos, sin = math.cos(angle), math.sin(angle)
  x, y = width / 2, height / 2
  return (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)


_MATRICES = {
    'Rotate': _rotation,
    'ShearY': lambda height, width, magnitude: ((1, 0, 0), (0.3 * magnitude / 10, 1, 0)),
    'TranslateX': lambda height, width, magnitude: ((1, 0, int(magnitude * width / 32)), (0, 1, 0)),
    'TranslateY': lambda height, width, magnitude: ((1, 0, 0), (0, 1, int(magnitude * height / 32))),
}


@functools.lru_cache(maxsize=64)
def _places(height, width, name, magnitude):
  """The pixel from which each is filled, or one outside. -> [H, W, 2] int16."""
  x, y = np.arange(width), np.arange(height)[:, None]
  places = []
  for (a, b, c), side in zip(_MATRICES[name](height, width, magnitude), (width, height)):
    # In 65,536ths, as Pillow computes.
    a, b, c = (math.floor(2**16 * number + 0.5) for number in (a, b, c + a / 2 + b / 2))
    places.append(np.clip(a * x + b * y + c >> 16, -1, side))
  return np.stack(places, -1).astype(np.int16)
