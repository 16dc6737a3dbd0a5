"""This repository's model: trained as train.py does it, applied as evaluations do it.

  seq 4 | python -m benchmarks.ours training --model=B/16 --batch=8
  seq 4 | python -m benchmarks.ours training --model=B/16 --batch=8 --dtype=bfloat16
  seq 4 | python -m benchmarks.ours training --model=B/16 --batch=8 --stock_malloc
  seq 4 | python -m benchmarks.ours compiling --model=B/16 --batch=8 --remat
"""

import functools
import time

import jax
import numpy as np

from benchmarks import contender
from benchmarks import workloads
import input_pipeline
from mixer import configuration
from mixer.data import prefetch
from mixer.data import process_shard
from mixer.evaluators import classification
from mixer import models
from mixer.run import devices
from mixer.training import optim
from mixer.training import train_step


def build(config, image_shape):
  """(init, p_train_step) as train.py makes them of a config, with images of (H, W, 3)."""
  model = configuration.instantiate(models.build, 'model', config.model)
  optimizer, learning_rate = configuration.instantiate(optim.build, 'optimizer', config.optimizer,
                                                       total_steps=config.total_steps)
  init = functools.partial(train_step.init, model, optimizer, image_shape, config.seed,
                           config.step.get('ema'))
  return init, configuration.instantiate(train_step.make_train_step, 'step', config.step, model=model,
                                         optimizer=optimizer, learning_rate=learning_rate, seed=config.seed)


def data_of(config) -> input_pipeline.TrainBatches:
  return configuration.instantiate(input_pipeline.train_batches, 'data', config.data, seed=config.seed,
                                   shard=process_shard.ProcessShard.current())


def step_rates(config, seconds: float):
  """`contender.rates` of the config's training step, on its first batch again and again, which lies on the devices."""
  data = data_of(config)
  init, p_train_step = build(config, data.image_shape)
  batch = next(prefetch.prefetch_to_device(data.start(0)))
  compiled, _ = train_step.compile_ahead(p_train_step, jax.eval_shape(init), data.shapes)()
  state = devices.init_replicated(init)

  def run(number):
    nonlocal state
    for _ in range(number):
      state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))
  return contender.rates(run, config.data.batch_size, seconds)


def scorer_rates(config, seconds: float):
  """`contender.rates` of scoring the same batch of fake images again and again."""
  model = configuration.instantiate(models.build, 'model', config.model)
  data = data_of(config)
  init, _ = build(config, data.image_shape)
  params = devices.init_replicated(lambda: init().params)
  batch = next(data.start(0))
  batch['mask'] = np.ones(batch['label'].shape, np.float32)
  batch = next(prefetch.prefetch_to_device([batch]))
  scorer = classification.Scorer(model, config.step.loss)
  run = lambda number: scorer(params, [batch] * number, number * config.data.batch_size)
  return contender.rates(run, config.data.batch_size, seconds)


def compiling(config):
  """Turns that compile the training step anew, and tell what that takes, and the memory that the step will."""
  jax.config.update('jax_enable_compilation_cache', False)  # that on the disk
  data = data_of(config)
  yield []
  while True:
    init, p_train_step = build(config, data.image_shape)
    state = jax.eval_shape(init)
    began = time.monotonic()
    _, memory = train_step.compile_ahead(p_train_step, state, data.shapes)()
    yield [dict(quantity='compile time', unit='s', value=time.monotonic() - began),
           dict(quantity='temporary memory', unit='MiB', value=memory.temp_size_in_bytes / 2**20)]


def main():
  parser = contender.parser(__doc__, ('training', 'inference', 'compiling'))
  contender.add_dtype(parser)
  parser.add_argument('--stock_malloc', action='store_true', help='leave the C library to give memory back')
  parser.add_argument('--remat', action='store_true', help='recompute each block in the backward pass, and scan them')
  parser.add_argument('--sam', action='store_true', help='take steps of GSAM, whose groups are a batch each')
  flags = parser.parse_args()
  if not flags.stock_malloc:
    devices.tune_glibc_malloc()  # as train.py and the tools do
  fields = dict(scan=True, remat='block') if flags.remat else {}
  config = workloads.config(flags.model, flags.batch, dtype=flags.dtype, **fields)
  if flags.sam:
    config.step.sam = dict(rho_max=0.5, rho_min=0.2, alpha=0.01, images_per_perturbation=flags.batch)
  name = 'ours', *(['remat'] if flags.remat else []), *(['GSAM'] if flags.sam else []), *(['stock malloc'] if flags.stock_malloc else [])
  turns = {'training': lambda: contender.speed(lambda: step_rates(config, flags.seconds)),
           'inference': lambda: contender.speed(lambda: scorer_rates(config, flags.seconds)),
           'compiling': lambda: compiling(config)}
  contender.serve(turns[flags.kind](), contender=', '.join(name), quantity=flags.kind,
                  model=flags.model, batch=flags.batch, dtype=flags.dtype)


if __name__ == '__main__':
  main()
