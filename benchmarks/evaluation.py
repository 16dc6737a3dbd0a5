"""The evaluation of a split, from JPEGs to its scores, beside the scoring alone of a batch that lies on the devices.

  seq 4 | python -m benchmarks.evaluation split --model=S/16 --batch=32
"""

import time

import numpy as np

from benchmarks import contender
from benchmarks import jpegs
from benchmarks import ours
from benchmarks import workloads
import input_pipeline
from mixer import configuration
from mixer.data import prefetch
from mixer.data import process_shard
from mixer.evaluators import classification
from mixer import models
from mixer.run import devices


def turns(flags):
  devices.tune_glibc_malloc()  # as tools.evaluate does
  config = workloads.config(flags.model, flags.batch)
  section = dict(dataset=flags.dataset or jpegs.prepare(), split='test', batch_size=flags.batch,
                 resolution=config.data.resolution)
  batches = configuration.instantiate(input_pipeline.eval_batches, 'evals.test', section, shard=process_shard.ProcessShard.current())
  init, _ = ours.build(config, (section['resolution'], section['resolution'], 3))
  params = devices.init_replicated(lambda: init().params)
  scorer = classification.Scorer(configuration.instantiate(models.build, 'model', config.model), config.step.loss)
  number = batches.source.num_examples
  first = next(prefetch.prefetch_to_device(batches))
  real = int(np.sum(first['mask']))
  scorer(params, [first], real)  # compiles
  yield []
  while True:
    began = time.monotonic()
    if flags.kind == 'split':
      scorer(params, prefetch.prefetch_to_device(batches), number)
    else:
      scorer(params, [first] * len(batches), len(batches) * real)
    yield [dict(unit='images/s', value=len(batches) * flags.batch / (time.monotonic() - began))]


def main():
  parser = contender.parser(__doc__, ('split', 'forward'))
  contender.add_dataset(parser)
  flags = parser.parse_args()
  contender.serve(turns(flags), contender=flags.kind, quantity=contender.of_dataset('evaluation', flags),
                  model=flags.model, batch=flags.batch, dtype='float32')


if __name__ == '__main__':
  main()
