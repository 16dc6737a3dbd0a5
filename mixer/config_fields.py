"""What the fields of a config mean, from the signatures and docstrings of the functions whose keywords they are."""

from collections.abc import Callable, Iterator
import ast
import dataclasses
import inspect
import pathlib
import re
import typing

import docstring_parser
import ml_collections

import input_pipeline
from mixer import configuration
from mixer.data import sources
from mixer.evaluators import fewshot
from mixer import models
from mixer.run import checkpoint
from mixer.training import optim
from mixer.training import sam
from mixer.training import schedules
from mixer.training import train_step
from mixer import weights

REQUIRED = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Field:
  """A field that a section may have: its type, also as text, its default or REQUIRED, and a sentence of what it means."""
  name: str
  type: str
  default: typing.Any
  meaning: str
  annotation: typing.Any = REQUIRED


def run(*, seed: int, total_steps: int, log_every_steps: int, eval_every_steps: int):
  """The fields of a config that are in no section.

  Args:
    seed: of the first parameters, the order of the images, augmentation and dropout; at least 0 and below 2**31.
    total_steps: how long to train; at least 1.
    log_every_steps: how often to log the metrics of the steps; at least 1.
    eval_every_steps: how often to evaluate; at least 1, and at the end in any case.
  """


def fields_of(function: Callable, *docs: Callable, hidden=()) -> dict[str, Field]:
  """The fields of a section that is `function`'s keywords. `docs` say what they mean, the last one that does."""
  meanings = {name: text for source in docs or (function,) for name, text in _arguments(source).items()}
  return {name: Field(name, _type(p.annotation), p.default, meanings.get(name, ''), p.annotation)
          for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD and name not in hidden}


def _arguments(function) -> dict[str, str]:
  """The first sentence on each argument, or attribute, in a docstring of Google's style; 'a, b: ...' is on both."""
  sentence = lambda text: re.split(r'(?<!App\.)(?<=\.) (?=[A-Z(])', ' '.join(text.split()))[0]
  parsed = docstring_parser.google.parse(inspect.getdoc(function) or '')
  return {name: sentence(part.description or '') for part in parsed.params for name in part.arg_name.split(', ')}


def _type(annotation) -> str:
  if typing.get_origin(annotation) is typing.Literal:
    return ' | '.join(map(repr, typing.get_args(annotation)))
  text = '' if annotation is REQUIRED else inspect.formatannotation(annotation)
  return re.sub(r'\b(typing|collections\.abc)\.', '', text)


def of_model(name: str, variant: str | None = None) -> dict[str, Field]:
  """Those of a model; without the sizes that its variant has."""
  family = models.FAMILIES[name]
  with configuration.named('config.model'):
    sizes = family.variant_fields(variant) if variant else ()
  bases = [base for base in reversed(family.model.__mro__) if base.__module__.startswith('mixer.')]
  fields = fields_of(family.model, *family.documented_by, *bases, hidden=('parent', 'name', 'platform', 'axis_name', *sizes))
  return {**fields_of(models.build), **fields}


def of_optimizer(name: str) -> dict[str, Field]:
  return {**fields_of(optim.build, hidden=('total_steps', 'schedule')), **fields_of(optim.ALGORITHMS[name])}


def of_schedule(name: str) -> dict[str, Field]:
  named = Field('name', 'str', REQUIRED, f'one of {", ".join(schedules.SCHEDULES)}.')
  return {'name': named, **fields_of(schedules.SCHEDULES[name], hidden=('peak', 'total_steps'))}


DATA = fields_of(input_pipeline.train_batches, input_pipeline.train_batches, sources.open_split, hidden=('seed', 'shard', 'num_classes'))
EVALUATION = fields_of(input_pipeline.eval_batches, input_pipeline.eval_batches, sources.open_split,
                       hidden=('shard', 'model_classes'))
STEP = fields_of(train_step.make_train_step, hidden=('model', 'optimizer', 'learning_rate', 'seed', 'devices'))
SAM = fields_of(sam.Sam)
CHECKPOINT = fields_of(checkpoint.Checkpoints, checkpoint.Checkpoints.__init__, hidden=('workdir', 'run', 'metrics', 'class_names'))
PROBE = fields_of(fewshot.Probe, fewshot.Probe.__init__, hidden=('model', 'num_classes'))
START = fields_of(weights.start, hidden=('fresh_params',))
RUN = fields_of(run)


def sections(config: ml_collections.ConfigDict) -> Iterator[tuple[str, ml_collections.ConfigDict, dict[str, Field]]]:
  """(path, values, fields that it may have) of each section of a config, the whole first."""
  name_in = lambda section, table: section.get('name') if section.get('name') in table else next(iter(table))
  yield '', config, RUN
  for path in ('model', 'data', 'step', 'optimizer', 'checkpoint', 'start_from'):
    if path not in config:
      continue
    section = config[path]
    if path == 'model':
      yield path, section, of_model(name_in(section, models.FAMILIES), section.get('variant'))
    elif path == 'optimizer':
      yield path, section, of_optimizer(name_in(section, optim.ALGORITHMS))
      if hasattr(schedule := section.get('schedule'), 'items'):
        yield f'{path}.schedule', schedule, of_schedule(name_in(schedule, schedules.SCHEDULES))
    else:
      yield path, section, {'data': DATA, 'step': STEP, 'checkpoint': CHECKPOINT, 'start_from': START}[path]
      if path == 'step' and hasattr(section.get('sam'), 'items'):
        yield 'step.sam', section.sam, SAM
  for name, section in config.get('evals', {}).items():
    yield f'evals.{name}', section, EVALUATION
  for name, section in (config.get('probes') or {}).items():
    yield f'probes.{name}', section, PROBE
    for part in ('train', 'test'):
      if hasattr(section.get(part), 'items'):
        yield f'probes.{name}.{part}', section[part], EVALUATION


def check(config: ml_collections.ConfigDict):
  """Raises a ValueError unless a config has what a run needs, and all fields are known and of their types.

  It reads no data. Values are checked where the sections are used, most of them with the data at hand.
  """
  configuration.check(config)
  tables = {'model': models.FAMILIES, 'optimizer': optim.ALGORITHMS, 'optimizer.schedule': schedules.SCHEDULES}
  for path, values, fields in sections(config):
    if path in tables:
      if 'name' not in values:
        continue  # the fields depend on it
      configuration.lookup(path, 'name', values.name, tables[path])
    if path:
      known = of_model(values.name) if path == 'model' else fields
      plain = {name: value for name, value in values.items()
               if not isinstance(value, ml_collections.ConfigDict) and not _in_epochs(fields, name)}
      configuration.check_names(path, plain, known)
      for name, value in plain.items():
        if not name.endswith('_steps'):  # epochs_to_steps checks durations
          configuration.check_type(f'config.{path}.{name}', value, known[name].annotation)


def describe(path: str, config: ml_collections.ConfigDict) -> str:
  """The text of --help: a config's docstring, its fields with their values, and those that can be added."""
  present, addable = [], []
  for section, values, fields in sections(config):
    full = lambda name: '.'.join(filter(None, ('--config', section, name)))
    for name, value in values.items():
      if not isinstance(value, ml_collections.ConfigDict):
        field = fields.get(name) or _in_epochs(fields, name) or Field(name, '', REQUIRED, 'unknown field')
        present.append((f'{full(name)}={value}', field.type, field.meaning))
    for name, field in fields.items():
      if name not in values and name.removesuffix('steps') + 'epochs' not in values:
        default = 'required' if field.default is REQUIRED else field.default
        addable.append((f'{full(name)}={default}', field.type, field.meaning))
  if 'start_from' not in config:
    addable += [(f'--config.start_from.{name}={"required" if field.default is REQUIRED else field.default}', field.type,
                 field.meaning) for name, field in START.items()]
  return '\n\n'.join([_docstring(path), f'Fields of {path}, with their values:', _columns(present),
                      'Fields that can be added, with their defaults:', _columns(addable),
                      'A field x_steps can also be set as x_epochs. python train.py --help lists the flags of the program.'])


def _in_epochs(fields, name):
  """The field x_epochs, of x_steps."""
  field = fields.get(name.removesuffix('epochs') + 'steps') if name.endswith('_epochs') else None
  return field and dataclasses.replace(field, name=name, type=field.type.replace('int', 'float'))


def _docstring(path):
  file = path.partition('.py:')[0].removesuffix('.py') + '.py'
  if path.endswith('.json'):
    return f'The config of the run in {pathlib.Path(path).parent}.'
  return (ast.get_docstring(ast.parse(pathlib.Path(file).read_text())) or f'{file} has no docstring.').strip()


def _columns(rows: list[tuple[str, str, str]]) -> str:
  widths = [min(max(len(row[k]) for row in rows), 60) for k in range(2)]
  return '\n'.join(f'  {name:<{widths[0]}}  {kind:<{widths[1]}}  {meaning}'.rstrip() for name, kind, meaning in rows)


def page(command: str) -> str:
  """The page of all fields, in Markdown."""
  by_name = lambda title, names, of, other: [(f'{title}: {name}', of(name)) for name in names] if other is None else [
      (f'{title}, all', other)] + [(f'{title}: {name}', {key: field for key, field in of(name).items() if key not in other})
                                   for name in names]
  tables = [('config', RUN), *by_name('config.model', models.FAMILIES, of_model, fields_of(models.build)), ('config.data', DATA),
            ('config.step', STEP), ('config.step.sam, may be left out', SAM),
            *by_name('config.optimizer', optim.ALGORITHMS, of_optimizer,
                     fields_of(optim.build, hidden=('total_steps', 'schedule'))),
            *by_name('config.optimizer.schedule', schedules.SCHEDULES, of_schedule, None),
            ('config.checkpoint', CHECKPOINT), ('config.evals.NAME', EVALUATION), ('config.start_from, may be left out', START),
            ('config.probes.NAME, may be left out', PROBE), ('config.probes.NAME.train and .test', EVALUATION)]
  cell = lambda text: text.replace('|', '\\|')
  parts = [f'''# Fields of a config

With this page you can look up every field of a config: its type, its default, and what it means.

Made by `{command}` from the docstrings of the functions whose
keywords the sections are. `python train.py --config=FILE --help` prints those of one config with their values.

A field is set by `--config.FIELD=VALUE`, such as `--config.optimizer.learning_rate=0.01`; None, where the type allows
it, is written `None`. A duration `x_steps` can also be set as `x_epochs`, which need not be whole.''']
  for title, fields in tables:
    rows = [f'| `{field.name}` | {cell(field.type)} | {"required" if field.default is REQUIRED else f"`{field.default!r}`"} | '
            f'{cell(field.meaning)} |' for field in fields.values()]
    parts.append('\n'.join([f'## {title}\n', '| field | type | default | meaning |', '| --- | --- | --- | --- |', *rows]))
  return '\n\n'.join(parts) + '\n'
