"""The artifacts of a finished run for people: plots, and card.md, which says what the model is and how to use it.

The card is made from the work directory (config.json's fields, history.jsonl) and the final evaluation, so that
starting a finished run again writes the same one.
"""

from collections.abc import Sequence
import json
import shlex
import statistics
import sys

from etils import epy
import jax

from mixer import configuration
from mixer import models
from mixer.run import accelerators
from mixer.run import goodput
from mixer.run import metric_logger
from mixer.run import records
from mixer.run import run_history
from mixer.run import sanity
from mixer import storage
from mixer import trees
from mixer.wording import counted
from mixer.wording import resized

with epy.lazy_imports():  # Matplotlib with it
  from mixer.run import plots


def write_artifacts(workdir, *, run: dict, source, evals: dict, params, results: dict, samples: dict):
  """Writes learning_curves.png, predictions_NAME.png and card.md into a work directory, in the main process.

  The checkpoints and records are complete by then, so that a failure is printed to stderr and not raised. Warnings of
  `sanity` go to stderr and to the card.

  Args:
    run: the resolved config, with the 'contents' of the training images.
    source: of the training images.
    evals: the batches of each evaluation by its name; they have a `source`.
    results: of the final evaluation: {'test/top1': ...}.
    samples: for each evaluation the examples to draw: `evaluators.sample.Sample`.
  """
  if jax.process_index():
    return
  folder = storage.path_of(workdir)
  lines = list(records.read(folder / 'records.jsonl'))
  warnings = []
  parts = {'warnings': lambda path: warnings.extend(sanity.warnings(
      lines, results, samples, loss=run['step']['loss'], num_classes=run['model']['num_classes'],
      pretrained='start_from' in run)),
           'learning_curves.png': lambda path: plots.learning_curves(lines, path)}
  times = goodput.read(workdir)
  utilisations = [line[metric_logger.MFU] for line in lines if metric_logger.MFU in line]
  mfu = statistics.median(utilisations) if utilisations else None
  if account := goodput.account(times):
    print(account if mfu is None else f'{account}; MFU {mfu:.1%}', file=sys.stderr)
    parts['goodput.png'] = lambda path: plots.goodput(times, path)
  for name, sample in samples.items():
    parts[f'predictions_{name}.png'] = (
        lambda path, name=name, sample=sample: plots.predictions(sample, evals[name].source.class_names, path))
  count = trees.count(trees.variables(params)['params'])
  parts['card.md'] = lambda path: storage.write(path, text(
      workdir, run=run, source=source, parameters=count, results=results, events=run_history.read(workdir),
      warnings=warnings, evals={name: batches.source for name, batches in evals.items()},
      mfu=mfu, account=account))
  for name, make in parts.items():
    try:
      make(folder / name)
    except Exception as error:  # of any kind: a plot must not fail the run
      print(f'{folder / name} could not be written: {type(error).__name__}: {error}. The run is complete without it; the '
            'same command tries again', file=sys.stderr)
  for warning in warnings:
    print(f'WARNING: {warning}', file=sys.stderr)


def text(workdir, *, run: dict, source, parameters: int, results: dict, events: list[dict],
         warnings: Sequence[str] = (), evals: dict | None = None, mfu: float | None = None,
         account: goodput.Account | None = None) -> str:
  """The card, in Markdown. The arguments are those of `write_artifacts`.

  `parameters` is their number, `events` the history, `warnings` those of `sanity.warnings`; `evals` are sources here, `mfu`
  is the median of the records, and `account` that of the time.
  """
  config = {name: value for name, value in run.items() if name not in configuration.NOT_FIELDS}
  model, batch = config['model'], config['data']['batch_size']
  epochs = config['total_steps'] * batch / source.num_examples
  if model['name'] in models.LOADABLE:
    kind = models.describe(models.expected_config(model))
  else:
    kind = ' '.join(filter(None, (model['name'], model.get('variant'))))
  name, ema = storage.path_of(workdir).name, config['step'].get('ema')
  parts = [
      f'# {name}',
      f'{kind}, {parameters:,} parameters, {model["num_classes"]:,} classes, {config["data"]["resolution"]} x '
      f'{config["data"]["resolution"]} pixels; {_origin(config)} for {counted(config["total_steps"], "step")} of '
      f'{counted(batch, "image")}, {epochs:,.1f} epochs.',
      *(f'{sanity.CARD_PREFIX}{warning}' for warning in warnings),
      '## Results', _table(('evaluation', 'metric', 'value', 'examples'), _scores(results)),
      f'After step {config["total_steps"]:,}, the last; all others are in [records.jsonl](records.jsonl).' + (
          f' NAME_ema is of the average of the weights (decay {ema}), which --average loads.' if ema else ''),
      '![Learning curves](learning_curves.png)',
      '## Use', "In this repository's folder:",
      '```sh\n' + '\n'.join(_commands(workdir, name, config)) + '\n```',
      '## Data', _table(('for', 'dataset', 'split', 'images'), _data(config, source, results, run['contents'], evals or {})),
      f'Training images: {run["contents"]}.' + (' Classes: [classes.txt](classes.txt).' if source.class_names else ''),
      '## Compute', _table(('', ''), _compute(events, mfu, account)),
      '## Config', '<details><summary>All fields</summary>', f'```json\n{json.dumps(config, indent=2)}\n```', '</details>']
  return '\n\n'.join(parts) + '\n'


def _origin(config):
  if 'start_from' not in config:
    return 'trained from scratch'
  average = 'the average of ' if config['start_from'].get('average') else ''
  return f'fine-tuned from {average}{config["start_from"]["weights"]}'


def _table(header, rows) -> str:
  line = lambda cells: '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in cells) + ' |'
  return '\n'.join(map(line, (header, ['---'] * len(header), *rows)))


def _scores(results):
  """A row for each metric. Accuracies rest on the examples that have a class, where only some have one."""
  for path, value in results.items():
    name, metric = path.split('/')
    if metric in ('examples', 'classified', 'train_examples'):
      continue
    number = results[f'{name}/examples']
    if metric != 'loss':
      number = results.get(f'{name}/classified', number)
    yield name, metric, f'{value:.4f}' if metric == 'loss' else f'{value:.2%}', f'{number:,}'


def _data(config, source, results, contents, evals):
  split = lambda section, contents='': (section['dataset'] + resized(contents), section.get('split', '') + (
      f', {len(section["classes"])} of its classes' if section.get('classes') else '') + (
      f', {section["fraction"]:.3g} of it' if section.get('fraction') else ''))
  yield ('training', *split(config['data'], contents), f'{source.num_examples:,}')
  for name, section in config['evals'].items():
    of = evals[name].contents if name in evals else ''
    yield (name, *split(section, of), f'{results[f"{name}/examples"]:,}')
  for name, section in config.get('probes', {}).items():
    yield (f'{name} (training)', *split(section['train']), f'{results[f"{name}/train_examples"]:,}')
    yield (name, *split(section['test']), f'{results[f"{name}/examples"]:,}')


def _compute(events, mfu, account):
  if not any(event['event'] == 'start' for event in events):
    return [('compute', 'not recorded')]
  totals = run_history.totals(events)
  least = 'at least ' if totals.unended or totals.first_step else ''
  notes = [counted(totals.starts, 'start')]
  if totals.unended:
    notes.append(f'{totals.unended} of them without a recorded end (killed, for example), whose time is unknown')
  if totals.first_step:
    first = 'step was' if totals.first_step == 1 else f'{totals.first_step:,} steps were'
    notes.append(f'the first {first} taken before the history began')
  wall = f'{totals.seconds / 3600:,.1f} h' if totals.seconds >= 3600 else f'{totals.seconds:,.0f} s'
  core_hours = f'{totals.core_hours:,.0f}' if totals.core_hours >= 100 else f'{totals.core_hours:.3g}'
  kinds = {accelerators.noun(event['device']) for event in events if event['event'] == 'start'}
  noun = kinds.pop() if len(kinds) == 1 else 'device'
  return [('hardware', '; then '.join(totals.hardware)),
          ('wall time', f'{least}{wall} in the training loop; {"; ".join(notes)}'),
          (f'{noun}-hours', f'{least}{core_hours}'),
          *([] if mfu is None else [('MFU', f'{mfu:.1%} of the peak in bfloat16, the median of what was logged')]),
          *([('time', f'[{account}](goodput.png)')] if account else []),
          ('commit', ', then '.join(totals.commits)),
          ('versions', '; then '.join(totals.versions))]


def _commands(workdir, name, config):
  """Lines of sh: each command below a comment. They use the config of the run itself."""
  line = lambda *words: ' '.join(map(shlex.quote, words))
  run = str(workdir).rstrip('/')
  weights, own = f'--weights={run}', f'--config={run}/config.json'
  yield from ('# train again', line('python', 'train.py', own, f'--workdir={run}_again'))
  if config['model']['name'] not in models.LOADABLE:  # no tool loads their weights
    return
  yield from ('# evaluate', line('python', '-m', 'tools.evaluate', weights))
  yield from ('# predict, of images or folders of them', line('python', '-m', 'tools.predict', weights, 'photo.jpg'))
  model, tuned, start = config['model'], f'--workdir={run}_tuned', f'--config.start_from.weights={run}'
  recipe = models.LOADABLE[model['name']].finetune_config
  if recipe and 'variant' in model and config['data']['resolution'] == 224:
    yield from ("# fine-tune by the paper's recipe: on CIFAR-10, another task of that config, or a folder of images",
                line('python', 'train.py', f'--config={recipe}', tuned,
                     f'--config.model.variant={model["variant"]}', start))
  else:
    yield from ('# fine-tune with the same config; for other images, set --config.data.dataset and the like',
                line('python', 'train.py', own, tuned, start, '--config.start_from.head=fresh'))
  yield from ('# export', line('python', '-m', 'tools.export', weights, f'--out={name}.stablehlo'))
