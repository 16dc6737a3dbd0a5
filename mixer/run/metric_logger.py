"""What a run tells: a bar or lines for people, TensorBoard events, records for programs, and its history."""

import math
import sys
import time

from clu import metric_writers
import jax
import tqdm

from mixer.run import accelerators
from mixer.run import records
from mixer.run import run_history
from mixer import storage
from mixer.wording import counted

WORDS = {'top1': 'top-1 {:.2%}', 'top5': 'top-5 {:.2%}', 'precision_at_1': 'precision@1 {:.2%}',
         'recall_at_5': 'recall@5 {:.2%}', 'loss': 'loss {:.4f}'}
MEANS = ('loss', 'top1')  # of a step's metrics, those of which the mean over the steps since the last line is logged, too
SECONDS_UNSEEN = 120  # what is told reaches a bucket after these at the latest
ADVICE = 'Lower the learning rate, lengthen the warmup or clip the gradients'


class Report:
  """Takes the metrics of every step and of the evaluations, and tells them when asked to.

  Only the first process tells anything. Use it as a context: leaving it closes the files.

  What has not been logged at a checkpoint yet is kept in unlogged.jsonl, so that a run that is stopped there logs the
  same means as one that is not: {"step": 281, "steps": 5, "loss": the sum over these 5 steps}.
  """

  def __init__(self, workdir, first_step: int, total_steps: int, batch_size: int):
    """`first_step` steps have been taken before, of `total_steps` in all, of `batch_size` images each."""
    workdir = storage.path_of(workdir)
    tells = jax.process_index() == 0
    self._total, self._batch_size = total_steps, batch_size
    self._records = records.Writer(workdir / 'records.jsonl' if tells else None, first_step)
    self._unlogged = workdir / 'unlogged.jsonl' if tells else None
    # Of the metrics in MEANS, over the 'steps' since the last line.
    self._sums = records.at(self._unlogged, first_step) if tells else {}
    self._outbox = storage.StagingDir(workdir / 'tensorboard')
    self._events = metric_writers.create_default_writer(str(self._outbox.here), just_logging=not tells)
    self._flushed = time.monotonic()
    at_terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(total=total_steps, initial=first_step, unit='step', smoothing=0, dynamic_ncols=True,
                          disable=not (tells and at_terminal))
    self._prints_lines = tells and not at_terminal
    self._step = first_step
    self._history = run_history.History(workdir, first_step, total_steps)
    self._unread = []  # (step, metrics) that the devices may still be computing
    self._latest, self._values = {}, {}
    self._restart_clock()

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    self._bar.close()
    try:
      self.flush()
      self._history.end(self._step)
    finally:
      self._records.close()
      self._events.close()
      self._outbox.close()

  def say(self, text: str):
    """A message to the person who watches."""
    if jax.process_index() == 0:
      self._bar.write(text, file=sys.stderr)

  def step(self, step: int, metrics: dict):
    """Takes the metrics of a step, without waiting for them."""
    self._step = step
    self._unread.append((step, metrics))
    self._bar.update()

  def check(self):
    """Waits for the steps so far.

    Raises:
      FloatingPointError: naming the first step whose loss or gradient is not finite.
    """
    unread, self._unread = self._unread, []
    for step, metrics in jax.device_get(unread):
      self._latest = {name: float(x) for name, x in metrics.items()}
      if not (math.isfinite(self._latest['loss']) and math.isfinite(self._latest['grad_norm'])):
        raise FloatingPointError(
            f'step {step}: the loss is {self._latest["loss"]} and the gradient norm {self._latest["grad_norm"]}. '
            f'No checkpoint was written since. {ADVICE}')
      seen = {'steps': 1, **{name: self._latest[name] for name in MEANS if name in self._latest}}
      self._sums = {name: self._sums.get(name, 0) + value for name, value in seen.items()}

  def log(self):
    """Logs the latest step's metrics, and the means of loss and accuracy and the speed since the last line."""
    self.check()
    steps = self._step - self._clock_step
    seconds = time.monotonic() - self._clock
    speed = steps * self._batch_size / max(seconds, 1e-9) / jax.device_count()
    number = self._sums.pop('steps')
    means = {name: total / number for name, total in self._sums.items()}
    self._sums = {}
    self._values |= {f'train/{name}': value for name, value in self._latest.items()}
    self._values |= {f'train/{name}_mean': value for name, value in means.items()}
    self._values['images_per_s_per_core'] = speed  # of a device: the name is older than the runs on CPUs
    progress = ', '.join(WORDS[name].format(value) for name, value in means.items())
    progress += f', {speed:,.0f} images/s/{accelerators.noun(jax.devices()[0].device_kind)}'
    self._bar.set_postfix_str(progress)
    if self._prints_lines:
      left = _duration((self._total - self._step) * seconds / max(steps, 1))
      self.say(f'step {self._step:,} of {self._total:,} ({self._step / self._total:.1%}), {progress}, {left} left')
    self._restart_clock()

  def evaluated(self, metrics: dict[str, float]) -> dict[str, float]:
    """Tells the metrics of evaluations, by names such as 'test/top1', and returns them.

    Raises:
      FloatingPointError: naming the first step, or else the metric, that is not finite.
    """
    self.check()
    for name, value in metrics.items():
      if not math.isfinite(value):
        raise FloatingPointError(f'after step {self._step}: {name} is {value}. No checkpoint was written since. '
                                 f'{ADVICE}')
    self._values |= metrics
    if metrics:
      self.say(f'step {self._step:,}, ' + describe(metrics))
    self._restart_clock()
    return metrics

  def write(self):
    """Writes what was told of this step to the records and to TensorBoard."""
    if self._values:
      self._records.write(self._step, self._values)
      self._events.write_scalars(self._step, self._values)
      if time.monotonic() - self._flushed > SECONDS_UNSEEN:
        self.flush()
    self._values = {}

  def flush(self):
    """Makes sure that what was written is where it belongs."""
    if self._sums and not self._unread and self._unlogged:
      unlogged = records.Writer(self._unlogged, self._step)
      unlogged.write(self._step, self._sums)
      unlogged.flush()
      unlogged.close()
    self._records.flush()
    self._events.flush()
    self._outbox.send()
    self._flushed = time.monotonic()

  def _restart_clock(self):
    self._clock, self._clock_step = time.monotonic(), self._step


def describe(metrics: dict[str, float]) -> str:
  """Evaluations in words, each with the number of examples it rests on."""
  names = [name.removesuffix('/examples') for name in metrics if name.endswith('/examples')]
  shots = {key: f'{key} {{:.2%}}' for name in metrics if (key := name.split('/')[-1]).endswith('shot')}
  told = lambda name: ', '.join(words.format(metrics[f'{name}/{key}']) for key, words in {**WORDS, **shots}.items()
                                if f'{name}/{key}' in metrics)
  return '; '.join(f'{name}: {told(name)} on {counted(metrics[f"{name}/examples"], "image")}' for name in names)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes} min' if hours else f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
