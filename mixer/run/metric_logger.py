"""Logs a run's metrics: a progress bar or lines for people, JSON lines, TensorBoard."""

import math
import sys
import time

import jax
import tqdm

from mixer.run import accelerators
from mixer.run import records
from mixer.run import run_history
from mixer.run import wandb_writer
from mixer import storage
from mixer.wording import counted
from mixer.wording import duration

FORMATS = {'top1': 'top-1 {:.2%}', 'top5': 'top-5 {:.2%}', 'precision_at_1': 'precision@1 {:.2%}',
           'recall_at_5': 'recall@5 {:.2%}', 'loss': 'loss {:.4f}'}
AVERAGED = ('loss', 'top1')  # metrics of a step whose mean over the steps since the last line is logged, too
MFU = 'mfu'  # in records: the model FLOPs utilisation, a part of the devices' peak
FLUSH_EVERY_S = 120  # how long it may take until a bucket has what was logged
ADVICE = 'Lower the learning rate, lengthen the warmup or clip the gradients'


def make_writers(workdir, first_step: int, wandb: str | None = None) -> list:
  """Where metrics go, besides the terminal. The main process alone has writers.

  To log elsewhere too, add a class with these methods here and an instance to the list:
    write(step, values: dict[str, float]): called at most once a step; {'train/loss': 2.3, 'test/top1': 0.5, ...}.
    flush(): before each checkpoint, and now and then. What was written must be stored when it returns.
    close(): at the end of the run, after flush().

  Args:
    workdir: of the run.
    first_step: the run resumes after it; what was logged of later steps must be dropped.
    wandb: a project of Weights & Biases.
  """
  more = [wandb_writer.WandbWriter(workdir, wandb)] if wandb else []
  return [records.Writer(workdir / 'records.jsonl', first_step), TensorBoardWriter(workdir / 'tensorboard'), *more]


class TensorBoardWriter:
  """Events in a folder. TensorBoard itself hides those of steps that a resumed run repeats."""

  def __init__(self, folder):
    self._staging, self._writer = storage.StagingDir(folder), None

  def write(self, step: int, values: dict[str, float]):
    if self._writer is None:
      from clu import metric_writers  # not before the first step, for it imports TensorFlow
      self._writer = metric_writers.create_default_writer(str(self._staging.path))
    self._writer.write_scalars(step, values)

  def flush(self):
    if self._writer:
      self._writer.flush()
      self._staging.upload()

  def close(self):
    if self._writer:
      self._writer.close()
    self._staging.close()


class MetricLogger:
  """Collects the metrics of steps and evaluations, and logs them. Only the main process logs.

  Use it as a context: leaving it closes the writers.

  Sums that are not logged yet at a checkpoint are kept in unlogged.jsonl, so that a run that resumes there logs the
  same means as an uninterrupted one: {"step": 281, "steps": 5, "loss": the sum over these 5 steps}.
  """

  def __init__(self, workdir, first_step: int, total_steps: int, batch_size: int, peak_speed: float | None = None,
               wandb: str | None = None):
    """Starts after `first_step` of `total_steps` steps, of `batch_size` images each (over all devices).

    `peak_speed` is that of `summary.flops_and_peak_speed`; with it the utilisation of the devices is logged. `wandb` is a project of
    Weights & Biases, which gets the metrics, too.
    """
    workdir = storage.path_of(workdir)
    is_main = jax.process_index() == 0
    self._total, self._batch_size, self._peak_speed = total_steps, batch_size, peak_speed
    self._writers = make_writers(workdir, first_step, wandb) if is_main else []
    self._unlogged = workdir / 'unlogged.jsonl' if is_main else None
    # Of the metrics in AVERAGED, over the 'steps' since the last line.
    self._sums = records.at(self._unlogged, first_step) if is_main else {}
    self._flushed = time.monotonic()
    at_terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(total=total_steps, initial=first_step, unit='step', smoothing=0, dynamic_ncols=True,
                          disable=not (is_main and at_terminal))
    self._prints_lines = is_main and not at_terminal
    self._step = first_step
    self._history = run_history.History(workdir, first_step, total_steps)
    self._pending = []  # (step, metrics) that the devices may still be computing
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
      for writer in self._writers:
        writer.close()

  def info(self, text: str):
    """Prints a message to stderr, above the progress bar."""
    if jax.process_index() == 0:
      self._bar.write(text, file=sys.stderr)

  def log_step(self, step: int, metrics: dict):
    """Adds the metrics of a step, without waiting for the devices to compute them."""
    self._step = step
    self._pending.append((step, metrics))
    self._bar.update()

  def check_finite(self):
    """Waits for the metrics of all steps so far.

    Raises:
      FloatingPointError: naming the first step whose loss or gradient is not finite.
    """
    pending, self._pending = self._pending, []
    for step, metrics in jax.device_get(pending):
      self._latest = {name: float(x) for name, x in metrics.items()}
      if not (math.isfinite(self._latest['loss']) and math.isfinite(self._latest['grad_norm'])):
        raise FloatingPointError(
            f'step {step}: the loss is {self._latest["loss"]} and the gradient norm {self._latest["grad_norm"]}. '
            f'No checkpoint was written since. {ADVICE}')
      added = {'steps': 1, **{name: self._latest[name] for name in AVERAGED if name in self._latest}}
      self._sums = {name: self._sums.get(name, 0) + value for name, value in added.items()}

  def log_progress(self):
    """Logs the latest step's metrics, and the means of loss and accuracy and the speed since the last line."""
    self.check_finite()
    steps = self._step - self._clock_step
    seconds = time.monotonic() - self._clock
    speed = steps * self._batch_size / max(seconds, 1e-9) / jax.device_count()
    number = self._sums.pop('steps')
    means = {name: total / number for name, total in self._sums.items()}
    self._sums = {}
    self._values |= {f'train/{name}': value for name, value in self._latest.items()}
    self._values |= {f'train/{name}_mean': value for name, value in means.items()}
    self._values['images_per_s_per_core'] = speed  # of a device: the name dates from before runs on CPUs
    progress = ', '.join(FORMATS[name].format(value) for name, value in means.items())
    progress += f', {speed:,.0f} images/s/{accelerators.noun(jax.devices()[0].device_kind)}'
    if self._peak_speed:
      self._values[MFU] = speed / self._peak_speed
      progress += f', MFU {self._values[MFU]:.1%}'
    self._bar.set_postfix_str(progress)
    if self._prints_lines:
      left = duration((self._total - self._step) * seconds / max(steps, 1))
      self.info(f'step {self._step:,} of {self._total:,} ({self._step / self._total:.1%}), {progress}, {left} left')
    self._restart_clock()

  def log_eval(self, metrics: dict[str, float]) -> dict[str, float]:
    """Logs the metrics of evaluations, by names such as 'test/top1', and returns them.

    Raises:
      FloatingPointError: naming the first step, or else the metric, that is not finite.
    """
    self.check_finite()
    for name, value in metrics.items():
      if not math.isfinite(value):
        raise FloatingPointError(f'after step {self._step}: {name} is {value}. No checkpoint was written since. '
                                 f'{ADVICE}')
    self._values |= metrics
    if metrics:
      self.info(f'step {self._step:,}, ' + describe(metrics))
    self._restart_clock()
    return metrics

  def write(self):
    """Passes what was logged at this step to the writers."""
    if self._values:
      for writer in self._writers:
        writer.write(self._step, self._values)
      if time.monotonic() - self._flushed > FLUSH_EVERY_S:
        self.flush()
    self._values = {}

  def write_and_flush(self):
    """Waits for all steps so far, and stores what was logged. Raises a FloatingPointError as `check_finite` does."""
    self.check_finite()
    self.write()
    self.flush()

  def flush(self):
    """Returns when all that was written is stored."""
    if self._sums and not self._pending and self._unlogged:
      unlogged = records.Writer(self._unlogged, self._step)
      unlogged.write(self._step, self._sums)
      unlogged.flush()
      unlogged.close()
    for writer in self._writers:
      writer.flush()
    self._flushed = time.monotonic()

  def _restart_clock(self):
    self._clock, self._clock_step = time.monotonic(), self._step


def describe(metrics: dict[str, float]) -> str:
  """A line for people: each evaluation's metrics, and the number of its examples."""
  names = [name.removesuffix('/examples') for name in metrics if name.endswith('/examples')]
  shots = {key: f'{key} {{:.2%}}' for name in metrics if (key := name.split('/')[-1]).endswith('shot')}
  show = lambda name: ', '.join(text.format(metrics[f'{name}/{key}']) for key, text in {**FORMATS, **shots}.items()
                                if f'{name}/{key}' in metrics)
  return '; '.join(f'{name}: {show(name)} on {counted(metrics[f"{name}/examples"], "image")}' for name in names)
