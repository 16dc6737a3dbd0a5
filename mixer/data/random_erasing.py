"""Random erasing (Zhong et al., arXiv 1708.04896): a box of an image becomes noise.

As timm's RandomErasing in its mode 'pixel', with which DeiT trains at a probability of 0.25. The box has 2 % to a third
of the image's area (the paper: to 0.4), and its height is 0.3 to 1 / 0.3 of its width, log-uniform (the authors' code:
uniform). One that does not fit is drawn again, up to 10 times in all.

timm's noise is standard normal and takes the place of pixels that are normalised by ImageNet's mean and standard
deviation. Pixels are uint8 here, and the noise has that mean and standard deviation, each channel of each pixel its own.
It is rounded, and the 3 to 4 % of it that are below 0 or above 255 are clipped.
"""

import math

import numpy as np

from mixer.data import randaugment

AREA = 0.02, 1 / 3
LOG_ASPECT = math.log(0.3), -math.log(0.3)
ATTEMPTS = 10
MEAN = 255 * np.array([0.485, 0.456, 0.406], np.float32)
STD = 255 * np.array([0.229, 0.224, 0.225], np.float32)


def apply(image: np.ndarray, seed: np.ndarray, probability: float) -> np.ndarray:
  """Erases a box with some probability. [H, W, 3] uint8, [2] int64 -> [H, W, 3] uint8, a function of the seed alone."""
  rng = randaugment.generator(seed)
  if rng.random() >= probability:
    return image
  height, width, channels = image.shape
  for _ in range(ATTEMPTS):
    area, aspect = height * width * rng.uniform(*AREA), math.exp(rng.uniform(*LOG_ASPECT))
    h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if h < height and w < width:
      y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
      noise = MEAN + STD * rng.standard_normal((h, w, channels), np.float32)
      image = image.copy()
      image[y:y + h, x:x + w] = np.clip(np.rint(noise), 0, 255)
      break
  return image
