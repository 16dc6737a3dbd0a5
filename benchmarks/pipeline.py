"""Training images as train.py reads them, and the limit: the same files decoded whole, by as many threads.

  seq 4 | python -m benchmarks.pipeline ours
  seq 4 | python -m benchmarks.pipeline augmented    # with the paper's RandAugment for ImageNet
"""

import itertools
import time

from benchmarks import contender
from benchmarks import jpegs
from benchmarks import workloads
import input_pipeline
from mixer import configuration
from mixer.data import process_shard
from mixer.run import devices
from tools import bench_input

RESOLUTION = 224
READY = 8  # batches that are passed over at the start of a turn: those that the pipeline had ready while others had theirs


def speeds(chunks, ready: int, seconds: float):
  """Images/s of one turn after the other, of an iterator of numbers of images. The first is available at once."""
  next(chunks)

  def forever():
    while True:
      for _ in itertools.islice(chunks, ready):
        pass
      number, began = 0, time.monotonic()
      while time.monotonic() - began < seconds:
        number += next(chunks)
      yield number / (time.monotonic() - began)
  return forever()


def start(flags):
  config = dict(dataset=flags.dataset or jpegs.prepare(), split='train', batch_size=workloads.IMAGES, resolution=RESOLUTION)
  if flags.kind == 'augmented':
    config['randaugment_magnitude'] = 15.
  data = configuration.instantiate(input_pipeline.train_batches, 'data', config, seed=0,
                                   shard=process_shard.ProcessShard(0, 1, 1))
  if flags.kind != 'decode':
    return speeds((batch['image'].shape[1] for batch in data.start(0)), READY, flags.seconds)
  return speeds(bench_input.decode_limit(data), 1, flags.seconds)


def main():
  parser = contender.parser(__doc__, ('ours', 'augmented', 'decode'))
  contender.add_dataset(parser)
  flags = parser.parse_args()
  devices.tune_glibc_malloc()  # as train.py does; the limit has it, too
  contender.serve(contender.speed(lambda: start(flags)), contender=flags.kind, model=None, batch=workloads.IMAGES,
                  quantity=contender.of_dataset('input pipeline', flags), dtype='uint8')


if __name__ == '__main__':
  main()
