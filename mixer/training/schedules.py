"""Learning rates as functions of the step: linear warmup, then a decay until the last step."""

from collections.abc import Sequence
import dataclasses

import optax

from mixer import arguments


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Called with a step, from 0, its learning rate; the highest that it has, and the one after the last step."""
  rate: optax.Schedule
  peak: float
  last: float

  def __call__(self, step):
    return self.rate(step)


def linear(*, peak: float, total_steps: int, warmup_steps: int = 0, end: float | None = None,
           end_factor: float | None = None) -> Schedule:
  """From 0 up to `peak` over the warmup, then straight down: the paper's pre-training (section 3).

  Args:
    warmup_steps: at least 0, and fewer than the run has.
    end: the learning rate after the last step, at least 0, as in the authors' vision_transformer; 0 if it and
      `end_factor` are omitted.
    end_factor: the same as a fraction of the peak, 0 to 1, as in the authors' big_vision; set one of the two.
  """
  arguments.check(dict(warmup_steps=warmup_steps, end=end, end_factor=end_factor), at_least=0)
  arguments.check(dict(end_factor=end_factor), at_most=1)
  if end is not None and end_factor is not None:
    raise arguments.ArgumentError(f'end is {end} and end_factor is {end_factor}, which is {end_factor * peak} at this '
                                  'peak; set only one of them')
  last = (end or 0.) if end_factor is None else end_factor * peak
  return _after_warmup(optax.linear_schedule(peak, last, total_steps - warmup_steps), peak, last, warmup_steps)


def cosine(*, peak: float, total_steps: int, warmup_steps: int = 0, end: float = 0.) -> Schedule:
  """From 0 up to `peak` over the warmup, then half a cosine down to `end`: the paper's fine-tuning (section 3).

  Args:
    warmup_steps: at least 0, and fewer than the run has.
    end: the learning rate after the last step; at least 0.
  """
  arguments.check(dict(warmup_steps=warmup_steps, end=end), at_least=0)
  decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=end / peak if peak else 0.)
  return _after_warmup(decay, peak, end, warmup_steps)


def steps(*, peak: float, total_steps: int, drops: Sequence[float], warmup_steps: int = 0) -> Schedule:
  """From 0 up to `peak` over the warmup, then a tenth of it, a hundredth and so on: BiT's pre-training (section 3.3).

  Args:
    drops: where it drops, as fractions of all steps: 30, 60 and 80 epochs of 90 are 1/3, 2/3 and 8/9.
    warmup_steps: at least 0, and fewer than the run has.

  Raises:
    ValueError: if `drops` do not increase from the end of the warmup to below 1.
  """
  arguments.check(dict(warmup_steps=warmup_steps), at_least=0)
  for drop in drops:
    arguments.check(dict(drops=drop), above=0, at_most=1)
  boundaries = [warmup_steps, *(round(drop * total_steps) for drop in drops), total_steps]
  if sorted(set(boundaries)) != boundaries:
    raise ValueError(f'config.optimizer.schedule.drops is {tuple(drops)}, at steps {boundaries[1:-1]}; they must '
                     f'increase, after the {warmup_steps} steps of warmup and before the last of {total_steps}')
  # optax counts them from the end of the warmup.
  after = optax.piecewise_constant_schedule(peak, {boundary - warmup_steps: 0.1 for boundary in boundaries[1:-1]})
  return _after_warmup(after, peak, peak * 0.1**len(drops), warmup_steps)


def _after_warmup(decay, peak, last, warmup_steps):
  return Schedule(optax.join_schedules([optax.linear_schedule(0, peak, warmup_steps), decay], [warmup_steps]), peak, last)


SCHEDULES = {'linear': linear, 'cosine': cosine, 'steps': steps}
