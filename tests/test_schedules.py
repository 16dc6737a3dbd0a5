"""Learning rates at single steps, by hand."""

import re

import numpy as np
import pytest

from configs import bit
from configs import mixer_b16_i1k
from configs import vit
from mixer.training import schedules


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
  message = f'drops is {drops}, at steps {steps}; they must increase, after the 4 steps of warmup'
  with pytest.raises(ValueError, match=re.escape(message)):
    schedules.steps(peak=0.8, total_steps=20, warmup_steps=4, drops=drops)


@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_without_a_warmup_it_starts_at_the_peak_and_ends_at_zero(name):
  rate = schedules.SCHEDULES[name](peak=0.8, total_steps=10)
  np.testing.assert_allclose(at(rate, [0, 5, 10]), [0.8, 0.4, 0], atol=1e-6)


@pytest.mark.parametrize('ends, last', [(dict(end=1e-5), 1e-5), (dict(end_factor=1e-5), 2e-8), (dict(), 0)])
def test_the_end_of_a_linear_schedule_is_a_rate_or_a_part_of_the_peak(ends, last):
  rate = schedules.linear(peak=2e-3, total_steps=10, warmup_steps=4, **ends)
  np.testing.assert_allclose(at(rate, [4, 7, 10, 20]), [2e-3, (2e-3 + last) / 2, last, last], rtol=1e-4)


def test_both_ends_of_a_linear_schedule_are_refused():
  with pytest.raises(ValueError, match='end is 1e-05 and end_factor is 0.1, which is 0.2 .*set only one of them'):
    schedules.linear(peak=2., total_steps=10, end=1e-5, end_factor=0.1)


def test_the_papers_pretraining():
  """10k steps of warmup to 1e-3, then straight down (section 3), to 1e-5 of it as in the authors' released config."""
  fields = dict(mixer_b16_i1k.get_config().optimizer.schedule)
  rate = schedules.SCHEDULES[fields.pop('name')](peak=1e-3, total_steps=93_000, **fields)
  np.testing.assert_allclose(at(rate, [0, 5_000, 10_000, 51_500, 93_000]), [0, 5e-4, 1e-3, 5e-4, 1e-8], rtol=1e-3)


@pytest.mark.parametrize('config', [vit.get_config('l16_jft'), vit.get_config('l16_i21k_90'), bit.get_config('r50x1_jft')])
def test_the_vit_papers_pretraining_ends_at_a_rate(config):
  assert dict(config.optimizer.schedule) == dict(name='linear', warmup_steps=10_000, end=1e-5)
