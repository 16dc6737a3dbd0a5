"""How fast a config's training images come, what they cost, and where the time goes.

  python -m tools.bench_input --config=configs/mixer_b16_i1k.py --seconds=20

Each row is the pipeline up to that stage. The limit is what this machine's cores decode, whole images, doing nothing
else. Ratios hold beyond this machine; the figures do not.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import time

from absl import app
from absl import flags
import cv2
import numpy as np
import tqdm

import input_pipeline
from mixer import configuration
from mixer.data import batches
from mixer.data import preprocess
from mixer.data import process_shard
from mixer.run import config_flags

SECONDS = flags.DEFINE_float('seconds', 10, 'For each row of the table.', lower_bound=0.1)


def measure(label: str, chunks) -> tuple[float, float]:
  """(images/s, images per CPU-second) of an iterator of numbers of images; the first two chunks warm it up."""
  chunks = iter(chunks)
  for _ in itertools.islice(chunks, 2):
    pass
  number, wall, cpu = 0, time.monotonic(), time.process_time()
  with tqdm.tqdm(desc=label, unit='image', leave=False, disable=None) as bar:
    while time.monotonic() - wall < SECONDS.value:
      number += (chunk := next(chunks))
      bar.update(chunk)
  return number / (time.monotonic() - wall), number / (time.process_time() - cpu)


def stages(data):
  """(name, iterator of numbers of images), each doing what the one before does and something more."""
  count = lambda batches: (len(batch) for batch in batches)
  records = data.records(0).map(lambda position, index, record: record)
  yield 'read', count(batches.batch_and_prefetch(records, data.batch_size).as_numpy_iterator())
  images = lambda data: (batch['image'][0] for batch in data.start(0))
  cropped = dataclasses.replace(data.transform, augment=None, cutout=None, erase=None)
  yield 'and decode, crop, flip', count(images(dataclasses.replace(data, transform=cropped)))
  if data.transform != cropped:
    yield 'and augment', count(images(data))


def decode_limit(data):
  """Numbers of images of the same files, decoded whole by as many threads and dropped."""
  encode = lambda position, index, record: preprocess.within_limits(data.source.parse(record, index)[0])
  files = [np.frombuffer(x, np.uint8) for x in data.records(0).map(encode).take(512).as_numpy_iterator()]
  with concurrent.futures.ThreadPoolExecutor(data.threads) as pool:
    while True:
      yield len(list(pool.map(lambda file: cv2.imdecode(file, cv2.IMREAD_COLOR).shape, files)))


def main(arguments):
  config = config_flags.config(arguments)
  configuration.check(config)
  data = configuration.instantiate(input_pipeline.train_batches, 'data', config.data,
                                   shard=process_shard.ProcessShard(0, 1, 1), seed=config.seed)
  if data.source.is_synthetic:
    raise app.UsageError("the dataset 'fake' has no pipeline to measure")
  rows = {name: measure(name, chunks) for name, chunks in stages(data)}
  limit, _ = measure('limit: decode', decode_limit(data))
  print(f'{data.source.name}: {data.threads} threads on {os.cpu_count()} cores, read {data.source.order}')
  print(f'{"":<24} {"images/s":>10} {"per CPU-second":>15} {"of the limit":>13} {"ms an image":>12}')
  before, took = 0., {}
  for name, (speed, per_cpu) in rows.items():
    took[name], before = 1e3 / speed - before, 1e3 / speed
    print(f'{name:<24} {speed:>10,.0f} {per_cpu:>15,.0f} {speed / limit:>13.0%} {took[name]:>12.3f}')
  print(f'{"limit: decode":<24} {limit:>10,.0f} {"":>15} {1:>13.0%} {1e3 / limit:>12.3f}')
  slowest = max(took, key=took.get)
  print(f'bottleneck: {slowest.removeprefix("and ")}, {took[slowest] / before:.0%} of the time')


if __name__ == '__main__':
  config_flags.run(main)
