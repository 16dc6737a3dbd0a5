"""Class names of ImageNet: in the order of the published heads, and readable."""

import pathlib

import numpy as np
import tensorflow_datasets

from mixer.data import class_names
from mixer.evaluators import sample
from mixer.run import plots


def test_the_ids_of_imagenet_1k_are_those_of_tensorflow_datasets():
  path = pathlib.Path(tensorflow_datasets.__file__).parent / 'datasets/imagenet2012/labels.txt'
  assert class_names.wordnet_ids(1000) == path.read_text().split()


def test_googles_21843_classes_are_sorted_and_contain_those_of_imagenet_1k_but_for_one():
  ids, of_1k = class_names.wordnet_ids(21843), class_names.wordnet_ids(1000)
  assert len(ids) == len(set(ids)) == 21843 and ids == sorted(ids)
  assert (ids[0], ids[-1]) == ('n00004475', 'n15102894')
  assert set(of_1k) - set(ids) == {'n04399382'}  # 'teddy': a synset of its own in ILSVRC alone
  both = set(of_1k) & set(ids)
  assert all(class_names.synonyms(1000)[one] == class_names.synonyms(21843)[one] for one in both)


def test_ids_become_words_and_other_names_stay():
  assert class_names.labels(['n01440764', 'n04399382', 'n00004475', 'red', 3, 'n99999999', 'n0144076x', 'tench, Tinca']) == [
      'tench (n01440764)', 'teddy (n04399382)', 'organism (n00004475)', 'red', '3', 'n99999999', 'n0144076x', 'tench, Tinca']
  assert class_names.words('n01491361') == 'tiger shark' and class_names.words('tench') == 'tench'


def test_no_class_is_without_words():
  for number in class_names.FILES:
    assert all(text and text == text.strip() and '\t' not in text for text in class_names.synonyms(number).values())


def test_pictures_of_an_evaluation_have_words(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(plots, 'grid', lambda images, texts, *more: drawn.extend(texts))
  shown = sample.Sample(np.zeros((1, 8, 8, 3), np.uint8), np.array([1]), guesses=np.array([0]), probabilities=np.array([0.9]),
                        wrong=1, classified=1, most_frequent=1)
  plots.predictions(shown, ['n01440764', 'red'], tmp_path / 'x.png')
  assert drawn == ['tench  90%\nis red']
