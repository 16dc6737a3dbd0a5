import numpy as np
import pytest

from mixer import trees


def test_flat_and_nested_are_inverses():
  tree = {'a': {'b': {'c': 1}, 'd': 2}, 'e': 3}
  assert trees.flat(tree) == {'a/b/c': 1, 'a/d': 2, 'e': 3}
  assert trees.nested(trees.flat(tree)) == tree


def test_count_is_of_all_numbers():
  assert trees.count({'a': np.zeros((2, 3)), 'b': {'c': np.zeros(5), 'd': np.zeros(())}}) == 12
  assert trees.count({}) == 0


@pytest.mark.parametrize('names', [['a', 'a/b'], ['a/b', 'a'], ['a//b'], ['/a'], ['']])
def test_names_that_make_no_tree(names):
  with pytest.raises(ValueError, match="'.*' (lies below another array: 'a' is one|cannot be the name of an array)"):
    trees.nested(dict.fromkeys(names, 1))


def test_a_name_of_very_many_parts_makes_no_tree():
  assert trees.nested({'/'.join('a' * 20): 1})
  with pytest.raises(ValueError, match=r"'a/a/.*'\.\.\. has 30,000 parts; at most 20 are allowed"):
    trees.nested({'/'.join('a' * 30_000): 1})


def test_compare_shows_what_differs_on_both_sides():
  loaded = trees.shapes({'head': {'bias': np.ones(3)}, 'same': np.ones(2), 'left': np.ones((1, 2))})
  expected = trees.shapes({'head': {'bias': np.ones(4)}, 'same': np.ones(2)})
  lines = trees.compare(loaded, expected, 'file', 'model').splitlines()
  assert [line.split() for line in lines] == [
      [], ['array', 'file', 'model'], ['head/bias', '(3,)', '(4,)'], ['left', '(1,', '2)', '-']]
  assert len({line.index(right) for line, right in zip(lines[1:], ('model', '(4,)', '-'))}) == 1


def test_compare_keeps_its_columns_below_each_other_whatever_the_names():
  lines = trees.compare({'a': (1,), 'b' * 80: (2,)}, {}, 'file', 'model').splitlines()
  assert len({line.index(left) for line, left in zip(lines[1:], ('file', '(1,)', '(2,)'))}) == 1


def test_compare_says_nothing_where_nothing_differs_and_counts_what_it_leaves_out():
  loaded = {str(i): (i,) for i in range(25)}
  assert trees.compare(loaded, dict(loaded), 'a', 'b') == ''
  assert trees.compare(loaded, {}, 'a', 'b').splitlines()[-1] == '  and 5 more'
  names = [line.split()[0] for line in trees.compare(loaded, {'x': (1,), **{f'y{i}': () for i in range(30)}}, 'a', 'b'
                                                     ).splitlines()[2:]]
  assert len(names) == 21 and sum(name in loaded for name in names) == 10
