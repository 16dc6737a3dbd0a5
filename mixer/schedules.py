"""Learning rates as functions of the step: linear warmup, then a decay until the last step."""

import optax


def linear(*, peak: float, total_steps: int, warmup_steps: int = 0, end: float = 0.) -> optax.Schedule:
  """From 0 up to `peak` over the warmup, then straight down to `end`: the paper's pre-training (section 3)."""
  return _after_warmup(optax.linear_schedule(peak, end, total_steps - warmup_steps), peak, warmup_steps)


def cosine(*, peak: float, total_steps: int, warmup_steps: int = 0, end: float = 0.) -> optax.Schedule:
  """From 0 up to `peak` over the warmup, then half a cosine down to `end`: the paper's fine-tuning (section 3)."""
  decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=end / peak if peak else 0.)
  return _after_warmup(decay, peak, warmup_steps)


def _after_warmup(decay, peak, warmup_steps):
  return optax.join_schedules([optax.linear_schedule(0, peak, warmup_steps), decay], [warmup_steps])


SCHEDULES = {'linear': linear, 'cosine': cosine}
