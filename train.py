"""Trains a model as a config says, or resumes the run in the work directory.

  python train.py --config=configs/mixer_digits.py --workdir=runs/digits
  python train.py --list
"""

from concurrent import futures
import contextlib
import functools
import itertools
import sys

from absl import flags
from etils import epy
import ml_collections

from mixer import configuration
from mixer.configuration import instantiate
from mixer.run import config_flags
from mixer.run import run_flags

with epy.lazy_imports():  # each at its first use, which --help, --list and a refused flag end before
  import jax

  import input_pipeline
  from mixer import config_fields
  from mixer.data import prefetch
  from mixer.data import process_shard
  from mixer import evaluators
  from mixer import models
  from mixer.run import checkpoint
  from mixer.run import devices
  from mixer.run import distributed
  from mixer.run import finished
  from mixer.run import goodput
  from mixer.run import metric_logger
  from mixer.run import model_card
  from mixer.run import preemption
  from mixer.run import profiling
  from mixer.run import summary
  from mixer.training import optim
  from mixer.training import train_step
  from mixer import weights

WORKDIR = flags.DEFINE_string('workdir', None, 'For checkpoints, records and pictures, on disk or in a bucket (gs://); '
                              'default: runs/NAME_OF_CONFIG.')
LIST = flags.DEFINE_bool('list', False, 'List the configs, and exit.')
flags.adopt_module_key_flags(run_flags)


def train(config: ml_collections.ConfigDict, workdir: str, profile_steps=None, wandb=None) -> dict[str, float]:
  """Trains to the last step and returns the final metrics, {'test/top1': ...}. Raises Preempted if asked to stop."""
  config_fields.check(config)
  data, evals, probes = input_pipeline.build_datasets(config, process_shard.ProcessShard.current())
  config = configuration.with_classes(config, data.source.class_names)
  config = configuration.epochs_to_steps(config, data.source.num_examples / data.batch_size, distributed.print_on_main_process)
  total_steps = config.total_steps
  run = {**config.to_dict(), **data.identity}
  distributed.assert_equal_across_processes({**run, 'workdir': workdir})

  model = instantiate(models.build, 'model', config.model)
  optimizer, learning_rate = instantiate(optim.build, 'optimizer', config.optimizer, total_steps=total_steps)
  init = functools.partial(train_step.init, model, optimizer, data.image_shape, config.seed, config.step.get('ema'))
  p_train_step = instantiate(train_step.make_train_step, 'step', config.step, hidden=('devices',), model=model,
                             optimizer=optimizer, learning_rate=learning_rate, seed=config.seed)
  compile_step = train_step.compile_ahead(p_train_step, jax.eval_shape(init), data.shapes)
  preemption_handler, clock = preemption.PreemptionHandler(), goodput.Clock()
  evaluate = evaluators.Evaluators(model, config.step.loss, evals, probes, configuration.probes_of(config),
                                   lambda batches: preemption_handler.check_before_each(prefetch.prefetch_to_device(batches)),
                                   ema=config.step.get('ema') is not None)

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(instantiate(
        checkpoint.Checkpoints, 'checkpoint', config.checkpoint, workdir=workdir, run=run, metrics=evaluate.metrics,
        class_names=data.source.class_names))
    compiling = stack.enter_context(futures.ThreadPoolExecutor()).submit(compile_step)  # while data loads
    state, unfinished = checkpoints.restore(jax.eval_shape(init))
    if state is None:
      state = devices.init_replicated(init)
      if 'start_from' in config:
        state = state.with_weights(instantiate(weights.start, 'start_from', config.start_from, fresh_params=state.weights))
    state = jax.device_put(state, devices.replicated())  # a no-op for what init_replicated has made
    step = first_step = int(state.step)
    batches = prefetch.prefetch_to_device(itertools.islice(data.start(first_step), total_steps - first_step))
    with clock.of('compilation'):
      p_train_step, memory = compiling.result()
    p_train_step = profiling.trace(p_train_step, profile_steps, workdir, first_step, total_steps)
    forward_flops, peak_speed = summary.flops_and_peak_speed(model, state.weights, data.resolution, config.step)
    # From here until the last checkpoint is complete, a signal to stop is handled.
    stack.callback(clock.count, 'checkpoints')  # for which the end of the loop waits
    with preemption_handler, metric_logger.MetricLogger(workdir, first_step, total_steps, data.batch_size, peak_speed, wandb) \
        as logger, clock.loop(workdir, step, total_steps), stack.pop_all():
      logger.info(summary.describe(model, state.params, forward_flops, data, memory, first_step, total_steps))
      should_run = lambda step, every_steps: step % every_steps == 0 or step == total_steps

      def evaluate_and_checkpoint(step):
        results = {}
        if should_run(step, config.eval_every_steps):
          logger.check_finite()  # after the devices have taken the steps
          with clock.of('evaluation'):
            results = logger.log_eval(evaluate(state.weights, step >= total_steps, state.ema))
        logger.write()
        if should_run(step, checkpoints.every_steps):
          logger.write_and_flush()
          with clock.of('checkpoints'):
            checkpoints.save(step, state, results)
        return results

      try:
        results = evaluate_and_checkpoint(step) if unfinished or step >= total_steps else {}
        for step, batch in enumerate(clock.each(batches), first_step + 1):
          state, metrics = p_train_step(state, batch)
          devices.block_on_simulated_devices(metrics)
          logger.log_step(step, metrics)
          if should_run(step, config.log_every_steps):
            logger.log_progress()
          preemption_handler.check()
          results = evaluate_and_checkpoint(step)
      except preemption.Preempted:
        logger.write_and_flush()
        with clock.of('checkpoints'):
          checkpoints.save_interrupted(step, state)
        raise
  model_card.write_artifacts(workdir, run=run, source=data.source, evals=evals, params=state.weights, results=results,
                             samples=evaluate.samples)
  return results


def main(arguments):
  if LIST.value:
    return print('\n'.join(f'{path:<32} {line}' for path, line in configuration.describe_all('configs')))
  if done := finished.load_for_command_line(sys.argv):
    return print(done)
  config = config_flags.config(arguments)
  workdir = WORKDIR.value or config_flags.default_workdir()
  devices.initialize(run_flags.initialize, cache=config_flags.CACHE.value, workdir=workdir)
  try:
    described = metric_logger.describe(results := train(config, workdir, run_flags.PROFILE_STEPS.value, run_flags.WANDB.value))
  except preemption.Preempted:
    distributed.print_on_main_process(f'Interrupted. State saved; run the same command to resume: {workdir}')
    sys.exit(preemption.EXIT_PREEMPTED)
  except jax.errors.JaxRuntimeError as error:
    distributed.add_oom_hint(error)
    raise
  finished.save(workdir, config, results, described)
  distributed.print_on_main_process(f'{described}\nrecords, checkpoints and plots: {workdir}')


if __name__ == '__main__':
  config_flags.run(main, describe=lambda path, config: config_fields.describe(path, config))
