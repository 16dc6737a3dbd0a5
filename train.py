"""Trains a model on the images that a config names, or goes on where the run in the work directory stopped.

  python train.py --config=configs/mixer_digits.py --workdir=runs/digits
  python train.py --list
"""

from concurrent import futures
import contextlib
import functools
import itertools
import sys

from mixer.run import finished

if __name__ == '__main__' and (done := finished.load_for_command_line(sys.argv)):
  sys.exit(print(done))  # at once: what is imported below takes ten seconds

from absl import flags
import jax
import ml_collections

import input_pipeline
from input_pipeline import prefetch
from mixer import config_fields
from mixer import configuration
from mixer.data.process_shard import ProcessShard
from mixer import evaluators
from mixer import models
from mixer.run import checkpoint
from mixer.run import config_flags
from mixer.run import devices
from mixer.run import distributed
from mixer.run import metric_logger
from mixer.run import model_card
from mixer.run import preemption
from mixer.run import summary
from mixer.training import optim
from mixer.training import train_step
from mixer import weights

WORKDIR = flags.DEFINE_string('workdir', None, 'For checkpoints, records and pictures, on a disk or in a bucket (gs://); '
                              'by default runs/NAME_OF_CONFIG.')
LIST = flags.DEFINE_bool('list', False, 'Name the configs there are, and stop.')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'This is one of several processes, which JAX finds by itself: on '
                                'a TPU slice, under SLURM, Open MPI or GKE.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, where JAX does not find it.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes there are, beside --coordinator.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0, beside --coordinator.')
JOIN_TIMEOUT = flags.DEFINE_integer('join_timeout', 300, 'How long to wait for the other processes to start, in seconds.')
LOST_TIMEOUT = flags.DEFINE_integer('lost_timeout', 60, 'After how long a silent process is taken for lost, in seconds.')


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Runs `config` to its end in `workdir`. Returns the metrics of the evaluations at the end: {'test/top1': ...}.

  Raises:
    preemption.Preempted: if it was asked to stop; the same call resumes.
  """
  configuration.check(config)
  data, evals, probes = input_pipeline.build_datasets(config, ProcessShard.current())
  config = configuration.with_classes(config, data.source.class_names)
  config = configuration.epochs_to_steps(config, data.source.num_examples / data.batch_size,
                                         distributed.print_on_main_process)
  total_steps = config.total_steps
  run = {**config.to_dict(), **data.identity}
  distributed.assert_equal_across_processes({**run, 'workdir': workdir})

  model = configuration.instantiate(models.build, 'model', config.model)
  optimizer, learning_rate = configuration.instantiate(optim.build, 'optimizer', config.optimizer, total_steps=total_steps)
  init = functools.partial(train_step.init, model, optimizer, data.image_shape, config.seed)
  update = configuration.instantiate(train_step.parallel, 'step', config.step, hidden=('devices',), model=model,
                              optimizer=optimizer, learning_rate=learning_rate, seed=config.seed)
  compiled = train_step.prepared(update, jax.eval_shape(init), data.shapes)
  preemption_handler = preemption.PreemptionHandler()
  evaluate = evaluators.Evaluators(model, config.step.loss, evals, probes, configuration.probes_of(config),
                                   lambda batches: preemption_handler.check_before_each(prefetch(batches)))

  with contextlib.ExitStack() as opened:
    checkpoints = opened.enter_context(configuration.instantiate(
        checkpoint.Checkpoints, 'checkpoint', config.checkpoint, workdir=workdir, run=run,
        class_names=data.source.class_names, metrics=evaluate.metrics))
    pool = opened.enter_context(futures.ThreadPoolExecutor())
    compiling = pool.submit(compiled)  # meanwhile the state and the first images are fetched
    state, unfinished = checkpoints.restore(jax.eval_shape(init))
    if state is None:
      state = devices.init_replicated(init)
      if 'start_from' in config:
        state = state.replace(params=configuration.instantiate(
            weights.start, 'start_from', config.start_from, wanted=state.params))
    state = jax.device_put(state, devices.replicated())  # where it is not yet
    first_step = int(state.step)
    batches = prefetch(itertools.islice(data.start(first_step), total_steps - first_step))
    update, memory = compiling.result()
    # From here on signals are handled, until the last checkpoint is complete.
    with preemption_handler, opened.pop_all(), metric_logger.MetricLogger(
        workdir, first_step, total_steps, data.batch_size) as logger:
      logger.info(summary.describe(model=model, params=state.params, memory=memory, source=data.source,
                                   first_step=first_step, batch_size=data.batch_size, resolution=data.resolution,
                                   total_steps=total_steps))
      due = lambda step, every_steps: step % every_steps == 0 or step == total_steps

      def conclude(step):
        keep = step >= total_steps  # examples, for a picture
        results = logger.log_eval(evaluate(state.params, keep)) if due(step, config.eval_every_steps) else {}
        logger.write()
        if due(step, checkpoints.every_steps):
          logger.check_finite()
          logger.flush()
          checkpoints.save(step, state, results)
        return results

      step = first_step
      try:
        results = conclude(step) if unfinished or step >= total_steps else {}
        for step, batch in enumerate(batches, first_step + 1):
          state, metrics = update(state, batch)
          devices.block_on_simulated_devices(metrics)
          logger.log_step(step, metrics)
          if due(step, config.log_every_steps):
            logger.log_progress()
          preemption_handler.check()
          results = conclude(step)
      except preemption.Preempted:
        logger.check_finite()
        logger.write()
        logger.flush()
        checkpoints.save_interrupted(step, state)
        raise
  model_card.write_artifacts(workdir, run=run, source=data.source, evals=evals, params=state.params, results=results,
                             samples=evaluate.samples)
  return results


def main(arguments):
  if LIST.value:
    for path, line in configuration.describe_all('configs'):
      print(f'{path:<32} {line}')
    return
  config = config_flags.config(arguments)
  devices.initialize(lambda: distributed.initialize_distributed(
      DISTRIBUTED.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, join_timeout=JOIN_TIMEOUT.value,
      lost_timeout=LOST_TIMEOUT.value))
  workdir = WORKDIR.value or config_flags.default_workdir()
  try:
    described = metric_logger.describe(results := train(config, workdir))
  except preemption.Preempted:
    distributed.print_on_main_process(f'Interrupted. State saved; run the same command to resume: {workdir}')
    sys.exit(preemption.EXIT_PREEMPTED)
  except jax.errors.JaxRuntimeError as error:
    distributed.add_oom_hint(error)
    raise
  finished.save(workdir, config, results, described)
  distributed.print_on_main_process(f'{described}\nrecords, checkpoints and plots: {workdir}')


if __name__ == '__main__':
  config_flags.run(main, describe=config_fields.describe)
