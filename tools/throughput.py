"""Measures the images per second of models on this machine's devices, as in the paper's Table 3 for TPU v3.

  python -m tools.throughput --models=mlp_mixer:B/16,vit:B/16 --resolutions=224 --dtypes=bfloat16,float32 \\
    --out=runs/throughput.jsonl

For each model the batch size is swept, and the best speed is reported, as in the paper: all powers of two up to
--max_batch, or until memory is exhausted. Only the forward pass is timed, to the logits of 1,000 classes, on random
images on the devices, with float32 parameters; compilation and a first pass are not. Each figure is a median of 5
repeats, or of up to 15 while their middle half spreads by more than 5 %. Mixers at a multiple of 224 pixels have
token-mixing MLPs that are widened as in App. C.

The table goes to stdout. A line of JSON per model is appended to the file:
  {"format": 1, "kind": "throughput", "model": "mlp_mixer", "variant": "B/16", "resolution": 224, "dtype": "bfloat16",
   "batch_size": 64, "images_per_s_per_core": ..., "spread": [..., ...], "gmacs": ...,
   "sweep": [[1, ...], [2, ...], ...], "ended": ..., ...}
`batch_size` and the speed are those of one JAX device; on TPU v2 and v3 that is a core, one of two of a chip. `spread` is
the slowest and the fastest repeat. `gmacs` are multiply-adds of an image, in 1e9. `ended` is why the sweep
ended. `config_hash` names the model's fields, resolution and dtype.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
import tqdm

from mixer import flops
from mixer import models
from mixer.run import accelerators
from mixer.run import devices
from mixer.run import provenance
from mixer import storage
from mixer import trees
from mixer import user_errors

FORMAT = 1
CLASSES = 1000  # Table 3 is of models that were fine-tuned on ImageNet
TRAINED_AT = 224  # pixels, of the models in Table 3
DTYPES = ('bfloat16', 'float32')
REPEATS, MOST_REPEATS = 5, 15
STEADY = 0.05  # of the median: the width of the middle half of the repeats with which no more are needed
MAX_BATCH, MAX_BATCH_OF_CPU = 4096, 64  # on a CPU, a thousand images take minutes


@dataclasses.dataclass(frozen=True)
class Speed:
  """Images/s of one device: the median of some repeats, and the slowest and the fastest of them."""
  median: float
  slowest: float
  fastest: float
  repeats: int


class NoMemory(Exception):
  """A batch does not fit into the memory of the devices."""


def fields_of(model: str, resolution: int, dtype: str) -> dict:
  """The `model` section of a config for 'NAME:VARIANT'."""
  name, _, variant = model.partition(':')
  if name not in models.FAMILIES or not variant:
    raise ValueError(f'--models has {model!r}; it must be NAME:VARIANT, as in mlp_mixer:B/16, and NAME one of '
                     f'{", ".join(models.FAMILIES)}')
  return dict(name=name, variant=variant, num_classes=CLASSES, dtype=dtype,
              **models.FAMILIES[name].fields_for_resolution(resolution))


def planned(name: str, resolution: int, dtype: str) -> dict:
  """What to measure, checked without computing anything: the model, its fields and its multiply-adds."""
  try:
    fields = fields_of(name, resolution, dtype)
    model = models.build(**fields)
    image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), np.float32)
    params = trees.weights(jax.eval_shape(model.init, jax.random.key(0), image))
  except ValueError as error:
    raise ValueError(f'{name} at {resolution}: {error}' if not str(error).startswith('--') else str(error)) from error
  macs = flops.macs(lambda params, image: model.apply(trees.variables(params), image), params, image)
  return dict(model=model, fields=fields, resolution=resolution, dtype=dtype, gmacs=macs / 1e9,
              label=f'{name} at {resolution} in {dtype}')


def timer(model, resolution: int, seconds: float):
  """A function of the batch size of a device: the Speed of one device. It raises NoMemory.

  `seconds` are those of REPEATS repeats together, each of at least one pass.
  """
  count = jax.local_device_count()
  image = np.zeros((1, resolution, resolution, 3), np.float32)
  params = devices.init_replicated(lambda: trees.weights(model.init(jax.random.key(0), image)))
  forward = jax.pmap(lambda params, images: model.apply(trees.variables(params), images), in_axes=(None, 0))
  draw = jax.pmap(lambda key, size: jax.random.uniform(key, (size, resolution, resolution, 3), minval=-1.),
                  static_broadcasted_argnums=1)

  def took(images, passes):
    began = time.perf_counter()
    for _ in range(passes):
      logits = forward(params, images)
      devices.block_on_simulated_devices(logits)
    jax.block_until_ready(logits)
    return time.perf_counter() - began

  def measure(batch_size: int) -> Speed:
    try:
      images = jax.block_until_ready(draw(jax.random.split(jax.random.key(0), count), batch_size))
      took(images, 1)  # compiles
      passes = max(1, math.ceil(seconds / REPEATS / took(images, 1)))
      times = [took(images, passes) for _ in range(REPEATS)]
      while len(times) < MOST_REPEATS and not _steady(times):
        times.append(took(images, passes))
      speed = lambda time: batch_size * passes / time
      return Speed(speed(statistics.median(times)), speed(max(times)), speed(min(times)), len(times))
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
        raise NoMemory from error
      raise
  return measure


def _steady(times: list[float]) -> bool:
  low, middle, high = statistics.quantiles(times, n=4, method='inclusive')
  return high - low <= STEADY * middle


def sweep(measure, max_batch: int, report=lambda batch_size, speed: None) -> tuple[list[tuple[int, Speed]], str]:
  """[(batch size, Speed of one device), ...], and why it ended.

  Args:
    measure: of a batch size: its Speed. It may raise NoMemory.
    max_batch: the largest batch size; all powers of two up to it are measured.
    report: is called with each.
  """
  speeds = []
  for batch_size in itertools.takewhile(lambda size: size <= max_batch, (2**k for k in itertools.count())):
    try:
      speed = measure(batch_size)
    except NoMemory:
      return speeds, f'no memory for batch {batch_size}'
    except jax.errors.JaxRuntimeError as error:  # keeps the speeds before it
      return speeds, f'batch {batch_size}: {storage.first_line(error)}'
    report(batch_size, speed)
    speeds.append((batch_size, speed))
  return speeds, f'--max_batch={max_batch}'


def record(plan: dict, speeds, ended: str, about: dict) -> dict:
  """The line for the file."""
  batch_size, speed = max(speeds, key=lambda pair: pair[1].median)
  fields = plan['fields']
  return {'format': FORMAT, 'kind': 'throughput', 'model': fields['name'], 'variant': fields['variant'],
          'resolution': plan['resolution'], 'dtype': plan['dtype'], 'batch_size': batch_size,
          'images_per_s_per_core': round(speed.median, 3), 'spread': [round(speed.slowest, 3), round(speed.fastest, 3)],
          'repeats': speed.repeats, 'gmacs': round(plan['gmacs'], 4), **about,
          'config_hash': provenance.digest({**fields, 'resolution': plan['resolution']}),
          'time': provenance.now(),
          'sweep': [[size, round(speed.median, 3)] for size, speed in speeds], 'ended': ended}


def table(records: list[dict], noun: str) -> str:
  """Markdown, in the order of the records. `noun` is what a device is called: `accelerators.noun`."""
  lines = [f'| model | resolution | dtype | images/s/{noun} | slowest to fastest repeat | batch of a {noun} | GMACs | '
           'TMAC/s | the sweep ended by |', '| --- | --- | --- | --- | --- | --- | --- | --- | --- |']
  for row in records:
    speed = row['images_per_s_per_core']
    lines.append(f'| {row["model"]} {row["variant"]} | {row["resolution"]} | {row["dtype"]} | {speed:,.4g} | '
                 f'{row["spread"][0]:,.4g} to {row["spread"][1]:,.4g} | {row["batch_size"]:,} | '
                 f'{row["gmacs"]:,.4g} | {speed * row["gmacs"] / 1e3:.3g} | '
                 f'{row["ended"]} |')
  return '\n'.join(lines)


def parse(arguments) -> argparse.Namespace:
  """The flags; a wrong one exits with an error that names it."""
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--models', required=True, help='NAME:VARIANT,...: what models.build takes')
  parser.add_argument('--resolutions', default=str(TRAINED_AT), help='in pixels, default: %(default)s')
  parser.add_argument('--dtypes', default=DTYPES[0], help=f'to compute in: {", ".join(DTYPES)}; default: %(default)s')
  parser.add_argument('--out', required=True, type=pathlib.Path, help='the JSON lines file to append to')
  parser.add_argument('--max_batch', '--max-batch', type=int,
                      default=MAX_BATCH_OF_CPU if devices.computes_on_cpu() else MAX_BATCH,
                      help='of a device; default: %(default)s here')
  parser.add_argument('--seconds', type=float, default=3., help='for the first 5 repeats of each batch size; default: '
                      '%(default)s')
  flags = parser.parse_args(arguments)
  for name, least in (('max_batch', 1), ('seconds', 1e-3)):
    if not getattr(flags, name) >= least:
      parser.error(f'--{name} is {getattr(flags, name)}; it must be at least {least}')
  flags.models, flags.dtypes, resolutions = (x.split(',') for x in (flags.models, flags.dtypes, flags.resolutions))
  for dtype in flags.dtypes:
    if dtype not in DTYPES:
      parser.error(f'--dtypes has {dtype!r}; it must be one of {", ".join(DTYPES)}')
  for resolution in resolutions:
    if not resolution.isdecimal() or not int(resolution):
      parser.error(f'--resolutions has {resolution!r}; it must be a number of pixels, or several: 224,448')
  flags.resolutions = list(map(int, resolutions))
  flags.out = flags.out.expanduser()
  if not flags.out.parent.is_dir() or flags.out.is_dir():
    parser.error(f'--out is {flags.out}; it must be a file in an existing folder')
  try:
    flags.plans = [planned(*what) for what in itertools.product(flags.models, flags.resolutions, flags.dtypes)]
  except ValueError as error:
    parser.error(str(error))
  return flags


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  devices.initialize()  # first: the plans ask JAX for devices
  flags = parse(arguments)
  about = dict(device=jax.devices()[0].device_kind, devices=jax.local_device_count(), machine=provenance.machine(),
               versions=provenance.versions(), commit=provenance.commit())
  records, noun = [], accelerators.noun(about['device'])
  with tqdm.tqdm(flags.plans, unit='model', dynamic_ncols=True, disable=None) as bar:
    for plan in bar:
      bar.set_description(plan['label'])
      report = lambda text: bar.write(f'{plan["label"]}: {text}', file=sys.stderr)
      try:
        measure = timer(plan['model'], plan['resolution'], flags.seconds)
      except (jax.errors.JaxRuntimeError, MemoryError) as error:
        speeds, ended = [], f'the parameters: {storage.first_line(error)}'
      else:
        speeds, ended = sweep(measure, flags.max_batch,
                              lambda size, speed: report(
                                  f'batch {size:,}, {speed.median:,.4g} images/s/{noun} ({speed.slowest:,.4g} to '
                                  f'{speed.fastest:,.4g} in {speed.repeats} repeats)'))
      if not speeds:
        report(f'nothing was measured, and no line written: {ended}')
        continue
      records.append(record(plan, speeds, ended, about))
      storage.append(storage.path_of(flags.out), json.dumps(records[-1]))
      report(f'ended by {ended}')
  print(table(records, noun))
  return 0 if len(records) == len(flags.plans) else 1


if __name__ == '__main__':
  sys.exit(main())
