"""Class names and labels against those of a model."""

import types

import pytest
import tensorflow as tf

from mixer.data import classes

WEIGHTS = classes.ModelClasses(2, ['blue', 'red'], 'the weights', 'Evaluate on others')


def images(*names):
  return types.SimpleNamespace(name='these images', class_names=list(names) or None)


def test_the_same_names_or_none_are_taken():
  WEIGHTS.check(images('blue', 'red'))
  WEIGHTS.check(images())
  classes.ModelClasses(2).check(images('red', 'zebra'))
  classes.ModelClasses().check(images('red'))


@pytest.mark.parametrize('names, text', [
    (('red', 'zebra'), "the classes of the weights are 'blue', 'red', and those of these images are 'red', 'zebra': 'blue' "
                       "only among the former; 'zebra' only among the latter. Evaluate on others"),
    (('red', 'blue'), "the same in another order: class 0 is 'blue' in the former and 'red' in the latter. Evaluate"),
    (('blue',), "those of these images are 'blue': 'red' only among the former. Evaluate"),
    (('blue', 'Re\u0301d', 'Red '), r"They differ in case, spaces or accents alone: 'red' and 'Red '. Evaluate"),
])
def test_other_names_are_refused_and_both_lists_shown(names, text):
  with pytest.raises(ValueError) as refused:
    WEIGHTS.check(images(*names))
  assert text in str(refused.value)


def test_long_lists_are_cut_short():
  ids = [f'n{k:08}' for k in range(1000)]
  with pytest.raises(ValueError, match=r"are 'n00000000', .* 'n00000007', ... \(1,000 in all\), and those of .*: 'n00000500' onl"
                     ) as refused:
    classes.ModelClasses(1000, ids, 'the weights').check(images(*ids[:500], *ids[501:], 'x'))
  assert len(str(refused.value)) < 500


def test_where_a_side_has_no_names_the_numbers_are_compared():
  with pytest.raises(ValueError, match="the number of classes of the weights is 2, and that of these images is 1: 'red'. Evaluate"):
    classes.ModelClasses(2, None, 'the weights', 'Evaluate').check(images('red'))


@pytest.mark.parametrize('label, said', [(3, 3), (-1, -1), ([0, 3], 3), ([-2, 0], -2), (2**31 - 1, 2**31 - 1)])
def test_a_label_that_is_none_of_the_classes_is_an_error(label, said):
  check = tf.function(lambda x: classes.within({'label': x}, 3)['label'])
  with pytest.raises(tf.errors.InvalidArgumentError, match=rf'its label is.*\[{said}\].*the 3 classes are numbered 0 to 2'):
    check(tf.constant(label))


@pytest.mark.parametrize('label', [0, 2, [0, -1], [-1, -1]])
def test_labels_of_the_classes_and_padding_are_taken(label):
  assert classes.within({'label': tf.constant(label)}, 3)['label'].numpy().tolist() == label
