"""TFDS builders `digits`, `few_digits` and `other_digits`: the 1,797 handwritten digits that come inside scikit-learn.

The optical recognition of handwritten digits data (Alpaydin and Kaynak, 1998; UCI), test part: 8 x 8 grey images. They
need no download, so they prepare themselves on first use.
"""

from etils import epy
import numpy as np
import tensorflow_datasets as tfds

with epy.lazy_imports():  # to prepare them, not to read them
  from sklearn import datasets
  from sklearn import model_selection


class Digits(tfds.core.GeneratorBasedBuilder):
  """Images of 8 x 8 grey pixels and their digit: 1,437 to train and 360 to test, each class split alike."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(10)
  ABOUT = __doc__
  HOMEPAGE = 'https://archive.ics.uci.edu/dataset/80'
  SIDE, TEST = 8, 360  # pixels; images to test on

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        description=self.ABOUT,
        homepage=self.HOMEPAGE,
        supervised_keys=('image', 'label'),
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(self.SIDE, self.SIDE, 1), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=map(str, self.CLASSES))}))

  def _arrays(self):
    """All images, [N, SIDE, SIDE, 1] uint8, and their digits, [N] ints."""
    images, labels = datasets.load_digits(return_X_y=True)
    # The values are 0 to 16, and PNG's are 0 to 255.
    return np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8), labels

  def _split_generators(self, dl_manager):
    images, labels = self._arrays()
    train, test = stratified(labels, self.TEST)
    return {'train': self._generate_examples(images, labels, train),
            'test': self._generate_examples(images, labels, test)}

  def _generate_examples(self, images, labels, indices):
    for index in indices[np.isin(labels[indices], self.CLASSES)]:
      yield int(index), {'image': images[index], 'label': self.CLASSES.index(labels[index])}


class FewDigits(Digits):
  """The same splits' digits 0 to 4 alone, to pre-train on some classes and transfer to all."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(5)


class OtherDigits(Digits):
  """The same splits' digits 5 to 9 alone, to probe what was pre-trained on the others."""

  VERSION = tfds.core.Version('1.0.0')
  CLASSES = range(5, 10)


def split_indices():
  """Which of scikit-learn's rows are for training and which for testing. -> [1437], [360] ints."""
  return stratified(datasets.load_digits().target, Digits.TEST)


def stratified(labels, test: int):
  """Which rows are for training and which, `test` of them, for testing, each class split alike. [N] -> two of ints."""
  return model_selection.train_test_split(np.arange(len(labels)), test_size=test, stratify=labels,
                                                  random_state=0)
