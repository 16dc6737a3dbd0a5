"""Maps with planted frequencies come out in the order that was planted, each beside its negative."""

import numpy as np
import pytest

from mixer.weights import filter_frequencies

SIDE = 14  # patches of Mixer-B/16 at 224


def wave(rows, columns, phase=0., side=SIDE):
  """A sinusoid of so many cycles along the one side and the other."""
  y, x = np.mgrid[:side, :side] / side
  return np.cos(2 * np.pi * (rows * y + columns * x) + phase)


@pytest.mark.parametrize('rows, columns', [(0, 0), (1, 0), (0, 1), (3, 4), (5, 2), (0, 7), (7, 7)])
def test_a_sinusoid_has_its_own_frequency(rows, columns):
  result, = filter_frequencies.frequency(7 * wave(rows, columns)[None])
  assert result == pytest.approx(np.hypot(rows, columns) / SIDE)


def test_the_frequency_is_a_mean_by_power_over_frequencies_and_channels():
  both = 3 * wave(1, 0) + 4 * wave(0, 5, 1.)
  assert filter_frequencies.frequency(both[None]) == pytest.approx((9 * 1 + 16 * 5) / 25 / SIDE)
  colours = np.stack([3 * wave(1, 0), 4 * wave(0, 5), 0 * wave(1, 1)], axis=-1)
  assert filter_frequencies.frequency(colours[None]) == pytest.approx((9 * 1 + 16 * 5) / 25 / SIDE)


def test_the_frequency_depends_neither_on_place_nor_sign_nor_scale_nor_a_quarter_turn():
  maps = np.random.default_rng(0).normal(size=(5, SIDE, SIDE))
  expected = filter_frequencies.frequency(maps)
  for other in (np.roll(maps, (3, 5), (1, 2)), -maps, 1e-3 * maps, np.rot90(maps, axes=(1, 2))):
    np.testing.assert_allclose(filter_frequencies.frequency(other), expected)


def test_a_map_of_zeros_comes_first_and_is_no_error():
  assert filter_frequencies.frequency(np.zeros((1, 4, 4))) == 0
  assert list(filter_frequencies.paired(np.zeros((2, 4, 4)))) == [0, 1]


@pytest.mark.parametrize('seed', range(5))
def test_planted_sinusoids_are_sorted_each_followed_by_its_negative(seed):
  rng = np.random.default_rng(seed)
  planted = [(rows, columns) for rows in range(6) for columns in range(6)]
  waves = np.array([sign * wave(*cycles, phase=0.7) for cycles in planted for sign in (1, -1)])
  names = [(cycles, sign) for cycles in planted for sign in (1, -1)]
  shuffled = rng.permutation(len(waves))
  scales = rng.uniform(0.5, 2, (len(waves), 1, 1))
  order = filter_frequencies.paired((scales * (waves + rng.normal(size=waves.shape) * 0.02))[shuffled])
  assert sorted(order) == list(range(len(waves)))
  shown = [names[shuffled[place]] for place in order]
  for (cycles, sign), (other_cycles, other_sign) in zip(shown[::2], shown[1::2]):
    assert cycles == other_cycles and sign == -other_sign
  radii = [np.hypot(*cycles) for cycles, _ in shown]
  assert all(after > before - 1e-9 for before, after in zip(radii, radii[1:])), radii


def test_no_map_takes_the_inverse_that_fits_another_better():
  # The first, of the lowest frequency, is nearest to the third, which is the second's exact negative.
  one = wave(1, 0)
  other = 0.8 * wave(1, 0) + 0.6 * wave(0, 4)
  alone = wave(3, 3)
  partner, cosines = filter_frequencies.inverses(np.array([one, other, -other, alone]))
  assert list(partner) == [3, 2, 1, 0]
  np.testing.assert_allclose(cosines, [0, -1, -1, 0], atol=1e-12)
  assert list(filter_frequencies.paired(np.array([one, other, -other, alone]))) == [0, 3, 1, 2]


def test_an_odd_one_out_stands_alone():
  maps = np.array([wave(2, 0), wave(1, 0), -wave(2, 0)])
  partner, cosines = filter_frequencies.inverses(maps)
  assert list(partner) == [2, 1, 0]
  np.testing.assert_allclose(cosines, [-1, 1, -1])
  assert list(filter_frequencies.paired(maps)) == [1, 0, 2]
