"""Learning rates at single steps, by hand."""

import re

import numpy as np
import pytest

from mixer import schedules


def at(schedule, steps):
  return [float(schedule(step)) for step in steps]


def test_linear():
  rate = schedules.linear(peak=0.8, total_steps=14, warmup_steps=4, end=0.2)
  np.testing.assert_allclose(at(rate, range(5)), [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(at(rate, [9, 14, 20]), [0.5, 0.2, 0.2], rtol=1e-6)
  np.testing.assert_allclose(np.diff(at(rate, range(4, 15))), -0.06, rtol=1e-5)


def test_cosine():
  rate = schedules.cosine(peak=0.8, total_steps=14, warmup_steps=4, end=0.2)
  np.testing.assert_allclose(at(rate, range(5)), [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
  expected = [0.2 + 0.6 * (1 + np.cos(np.pi * k / 10)) / 2 for k in range(11)]
  np.testing.assert_allclose(at(rate, range(4, 15)), expected, rtol=1e-5)
  np.testing.assert_allclose(at(rate, [20]), [0.2], rtol=1e-5)


def test_steps():
  rate = schedules.steps(peak=0.8, total_steps=20, warmup_steps=4, drops=(0.3, 0.5, 0.9))
  np.testing.assert_allclose(at(rate, range(5)), [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(at(rate, range(5, 20)), [0.8] + [0.08] * 4 + [0.008] * 8 + [0.0008] * 2, rtol=1e-5)


@pytest.mark.parametrize('drops, steps', [((0.1, 0.5), '[2, 10]'), ((0.5, 0.5), '[10, 10]'), ((0.5, 1.), '[10, 20]')])
def test_steps_that_do_not_rise_are_refused(drops, steps):
  message = f'drops is {drops}, at the steps {steps}; they must rise, after the 4 steps of warmup'
  with pytest.raises(ValueError, match=re.escape(message)):
    schedules.steps(peak=0.8, total_steps=20, warmup_steps=4, drops=drops)


@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_without_a_warmup_it_starts_at_the_peak_and_ends_at_zero(name):
  rate = schedules.SCHEDULES[name](peak=0.8, total_steps=10)
  np.testing.assert_allclose(at(rate, [0, 5, 10]), [0.8, 0.4, 0], atol=1e-6)


def test_the_papers_pretraining():
  """10k steps of warmup to 1e-3, then straight down (section 3); 1e-5 at the end as in the authors' code."""
  rate = schedules.SCHEDULES['linear'](peak=1e-3, total_steps=93_000, warmup_steps=10_000, end=1e-5)
  np.testing.assert_allclose(at(rate, [0, 5_000, 10_000, 30_750, 93_000]), [0, 5e-4, 1e-3, 7.525e-4, 1e-5], rtol=1e-4)
