"""Scores weights by a config's evaluations and few-shot probes.

  python -m tools.evaluate --weights=imagenet1k/Mixer-B_16 --config=configs/evaluate_imagenet.py
  python -m tools.evaluate --weights=runs/digits --bench     # of a run, with its own config unless --config is passed

Images are taken at the resolution of the weights, whatever the config's.
"""

import json
import pathlib
import time

from absl import app
from absl import flags
from etils import epath
from etils import epy

from mixer import configuration
from mixer.data import crop_sizes
from mixer.run import config_flags
from mixer.run import provenance
from tools import weights_flags

with epy.lazy_imports():  # JAX with them, which --help and a wrong flag need not wait for
  import jax

  import input_pipeline
  from mixer.data import classes
  from mixer.data import prefetch
  from mixer.data import process_shard
  from mixer import evaluators
  from mixer import models
  from mixer.run import devices
  from mixer.run import metric_logger
  from mixer import weights
  from mixer.weights import published

WEIGHTS = flags.DEFINE_string('weights', None, 'A published name, an .npz or .safetensors file, a work directory or a '
                              'checkpoint in one.')
MEAN, STD = (flags.DEFINE(weights_flags.Numbers(), name, None, f'{text[0].upper()}{text[1:]}.')
             for name, text in weights_flags.PIXELS.items())
AVERAGE = flags.DEFINE_bool('average', False, f'{weights_flags.AVERAGE[0].upper()}{weights_flags.AVERAGE[1:]}.')
PREPROCESSING = flags.DEFINE_enum('preprocessing', None, list(crop_sizes.NAMES),
                                  f'{weights_flags.CROPS}; by default that of the config.')
RESIZE = flags.DEFINE_integer('resize', None, 'The side in pixels before the crop; by default in proportion to the '
                              f'resolution as in the config; if it has none, {weights_flags.SIDES}.', lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, "By default the config's.", lower_bound=1)
OUT = flags.DEFINE_string('out', None, 'A JSON file for the results.')
BENCH = flags.DEFINE_bool('bench', False, 'Also compare the speed of the evaluation with the forward pass alone.')
BENCH_BATCHES = 8


def fields_for(section, resolution: int) -> dict:
  """The fields of an evaluation, updated by the flags and the resolution of the weights."""
  fields = dict(section.items())
  if 'resize' in fields:  # in proportion
    fields['resize'] = round(section.resize * resolution / section.resolution)
  overrides = {'crop': PREPROCESSING.value, 'resize': RESIZE.value, 'batch_size': BATCH_SIZE.value}
  return {**fields, 'resolution': resolution, **{name: value for name, value in overrides.items() if value is not None}}


def classes_of(loaded: 'weights.Weights') -> 'classes.ModelClasses':
  """The classes of the weights, which the images' must equal."""
  return classes.ModelClasses(
      loaded.model['num_classes'], loaded.class_names, 'the weights',
      'Evaluate on images of the same classes under the same names, or fine-tune the weights on these first')


def described(loaded: 'weights.Weights', config) -> dict:
  """What was scored and how, in the form of a run's config.json, for the paper's tables (python -m paper)."""
  variant = models.LOADABLE[loaded.model['name']].variant_of(loaded.model)
  return {
      'model': {'name': loaded.model['name'], 'variant': variant} if variant else loaded.model,
      'start_from': {'weights': WEIGHTS.value, 'average': AVERAGE.value},
      'evals': {name: fields_for(section, loaded.resolution) for name, section in config.evals.items()}}


def bench(scorer, params, batches) -> str:
  """Compares the speed of an evaluation with the forward pass alone, on one of its batches that is on the devices."""
  first = next(prefetch.prefetch_to_device(batches))
  real = int(first['mask'].sum())
  scorer(params, [first], real)  # compiles

  def seconds(batches, number):
    start = time.monotonic()
    scorer(params, batches, number)
    return time.monotonic() - start

  alone = BENCH_BATCHES * batches.batch_size / seconds([first] * BENCH_BATCHES, BENCH_BATCHES * real)
  number = batches.source.num_examples
  whole = len(batches) * batches.batch_size / seconds(prefetch.prefetch_to_device(batches), number)
  return f'{whole:,.1f} images/s, {whole / alone:.0%} of the forward pass alone ({alone:,.1f} images/s)'


def with_config(arguments: list[str]) -> list[str]:
  """The command line, with --config of the run or its checkpoint in --weights added unless it has one."""
  values = flags.FlagValues()
  flags.DEFINE_string('weights', '', '', values)
  flags.DEFINE_string('config', None, '', values)
  values(arguments[:1] + [word for word in arguments[1:] if not word.startswith(('--config.', '--noconfig.'))],
         known_only=True)
  path = epath.Path(values.weights).expanduser()
  if path.name.isdecimal() and not (path / 'config.json').exists():
    path = path.parent.parent
  own = [] if values.config or not (path / 'config.json').exists() else [f'--config={path / "config.json"}']
  return arguments[:1] + own + arguments[1:]


def main(arguments):
  if WEIGHTS.value is None:  # not a required flag, so that --help needs none
    raise app.UsageError('--weights is missing: a published name, a file of weights, or the work directory of a run')
  if config_flags.CONFIG.value is None:
    raise app.UsageError(f'--config is missing, and --weights={WEIGHTS.value} is not a run with a config.json: '
                         '--config=configs/evaluate_imagenet.py')
  config = config_flags.config(arguments)
  devices.initialize(cache=config_flags.CACHE.value)
  loaded = weights.load(WEIGHTS.value, MEAN.value, STD.value, AVERAGE.value)
  print(loaded.describe())
  loaded.check_head(WEIGHTS.value)
  if OUT.value and not pathlib.Path(OUT.value).parent.is_dir():
    raise app.UsageError(f'--out is {OUT.value}; the folder {pathlib.Path(OUT.value).parent} does not exist')
  shard = process_shard.ProcessShard.current()
  open_one = lambda path, section, model_classes: configuration.instantiate(
      input_pipeline.eval_batches, path, fields_for(section, loaded.resolution), shard=shard,
      model_classes=model_classes)
  evals = {name: open_one(f'evals.{name}', section, classes_of(loaded)) for name, section in config.evals.items()}
  for name, batches in evals.items():
    print(f'{name}: {batches.source.name}; {batches.crop}, {batches.resize} to {batches.resolution} pixels')
  settings = configuration.probes_of(config)
  probes = {}
  for name, section in settings.items():
    path, like = f'probes.{name}.test', f'probes.{name}.train'
    shots = open_one(like, section.train, classes.ModelClasses())
    probes[name] = shots, open_one(path, section.test, classes.ModelClasses.of(shots, path, like))

  model = configuration.instantiate(models.build, 'model', loaded.model)
  params = jax.device_put(loaded.params, devices.replicated())
  evaluate = evaluators.Evaluators(model, loaded.loss, evals, probes, settings, prefetch.prefetch_to_device)
  results = {}
  is_run = pathlib.Path(WEIGHTS.value).is_dir()
  known = None if is_run else published.TABLE.get(published.name_of(WEIGHTS.value) or WEIGHTS.value)
  for scores in evaluate.each(params):
    print(metric_logger.describe(scores), flush=True)
    name = next(iter(scores)).split('/')[0]
    section = config.evals.get(name)
    if known and section and section.split in ('validation', 'test') and (top1 := known.published_top1(section.dataset)):
      print(f'{name}: {top1:.2f}% is published of these weights')
    results |= scores
  if OUT.value:
    pathlib.Path(OUT.value).write_text(json.dumps({
        'format': 1, 'kind': 'evaluation', 'name': WEIGHTS.value, 'config': described(loaded, config),
        'commit': provenance.commit(), 'versions': provenance.versions(), 'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'time': provenance.now(),
        'weights': loaded.describe(), 'preprocessing': {name: batches.crop for name, batches in evals.items()},
        'resize': {name: batches.resize for name, batches in evals.items()}, **results}, indent=2) + '\n')
  for name, batches in evals.items() if BENCH.value else ():
    print(f'{name}: {bench(evaluate.scorer, params, batches)}')


if __name__ == '__main__':
  config_flags.run(main, prepare=with_config)
