"""The rules of configs: sections that are callables' keywords, durations, and which configs are of the same run.

A config is a tree of plain values. Each of its sections holds the keyword arguments of one callable, so that a
misspelt or superfluous field is an error, and a default stands in the callable's signature alone.
"""

import ast
import collections.abc
import contextlib
import difflib
import functools
import inspect
import math
import os
import pathlib
import re
import types
import typing

import ml_collections

from mixer import arguments

# The fields of a config itself; '_epochs' may stand for '_steps'. The others are sections.
FIELDS = ('seed', 'total_steps', 'log_every_steps', 'eval_every_steps', 'model', 'data', 'step', 'optimizer',
          'checkpoint', 'evals')
OPTIONAL_FIELDS = ('start_from', 'probes')
DURATIONS = {field: field.removesuffix('steps') + 'epochs' for field in FIELDS if field.endswith('_steps')}
TOTALS = ('total_steps', 'total_epochs')
SHORTENED_FROM = 'shortened_from'  # holds the total of a config whose total the command line has replaced
NOT_FIELDS = ('contents', 'contents_sample', 'contents_features')  # further keys of a run's config.json
SECTIONS = ('model', 'data', 'step', 'optimizer', 'checkpoint', 'evals', 'start_from', 'probes')

IS_FOLDER = ' files, '  # in 'contents', of the images of a folder: `folder_source.FolderSource.contents`
# Fields that may change when a run is resumed: they touch neither the data, the model nor the steps.
MUTABLE_ON_RESUME = ('log_every_steps', 'eval_every_steps', 'checkpoint', 'evals', 'probes', 'data.data_dir',
                     'data.threads')


def check(config: ml_collections.ConfigDict):
  """Raises a ValueError unless the config has the fields that a run needs, and no others."""
  if set(config) and set(config) <= {'evals', 'probes'}:
    raise ValueError('the config has nothing to train, only config.evals; use it with python -m tools.evaluate')
  for field in SECTIONS:
    if field in config:
      _check_section(f'config.{field}', config[field])
  for section in ('evals', 'probes'):
    for name, part in config[section].items() if section in config else ():
      _check_section(f'config.{section}.{name}', part)
  check_fields(config)
  for field in FIELDS:
    if field not in config and DURATIONS.get(field) not in config:
      also = f' (or config.{DURATIONS[field]})' if field in DURATIONS else ''
      raise ValueError(f'config.{field}{also} is missing')
  for field, in_epochs in DURATIONS.items():
    if in_epochs in config:
      check_type(f'config.{in_epochs}', config[in_epochs], float)
    if field in config:
      check_type(f'config.{field}', config[field], int | float)
      _steps(f'config.{field}', config[field], 1)
  check_type('config.seed', config.seed, int)
  with named('config'):
    arguments.check(dict(seed=config.seed), at_least=0, below=2**31)
  if 'num_classes' not in config.model:
    raise ValueError('config.model.num_classes is missing; None stands for as many as the training data have')
  probes = probes_of(config)
  for section, names in (('evals', config.evals), ('probes', probes)):
    for name in names:
      if not re.fullmatch(r'[\w-]+', name):
        raise ValueError(f'config.{section}.{name}: results and pictures are named after it; use letters, digits, _ and '
                         '- alone')
    if 'train' in names:
      raise ValueError(f"config.{section}.train: 'train' is the name of the steps' own metrics; choose another")
  for name in set(config.evals) & set(probes):
    raise ValueError(f'config.evals.{name} and config.probes.{name} have the same name, and so would their results; '
                     'rename one')


def check_fields(config: ml_collections.ConfigDict):
  """Raises a ValueError if the config itself, outside of its sections, has a field that is unknown."""
  check_names('', {name: None for name in config if name != SHORTENED_FROM},
              (*FIELDS, *OPTIONAL_FIELDS, *DURATIONS.values()))


def _check_section(path, value):
  if not isinstance(value, (dict, ml_collections.ConfigDict)):
    raise ValueError(f'{path} is {value!r}; it must be a section: {path}.FIELD=VALUE')


def instantiate(function, section: str, fields, hidden=(), **keywords):
  """function(**fields, **keywords), where `fields` are those of config.<section>.

  Args:
    function: a class or function whose parameters are the fields of the section, less `keywords` and `hidden`.
    section: the path of the section in the config, for errors.
    fields: the section.
    hidden: parameters of `function` that are no fields.

  Raises:
    ValueError: naming the section and the field, if the function does not take a field, lacks one, expects it of another
      type, or refuses its value by an ArgumentError.
  """
  _check_section(f'config.{section}', fields)
  fields = dict(fields)
  known = {name: p for name, p in inspect.signature(function).parameters.items()
           if name not in keywords and name not in hidden}
  if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
    check_names(section, fields, known)
  for name, p in known.items():
    if p.default is p.empty and p.kind is not p.VAR_KEYWORD and name not in fields:
      raise ValueError(f'config.{section}.{name} is missing; set it in the config or by --config.{section}.{name}=')
    if name in fields:
      check_type(f'config.{section}.{name}', fields[name], p.annotation)
  with named(f'config.{section}'):
    return function(**fields, **keywords)


@contextlib.contextmanager
def named(path: str):
  """Puts the path of a section before the name of an argument that is refused."""
  try:
    yield
  except arguments.ArgumentError as error:
    raise ValueError(f'{path}.{error}') from error


def check_type(path: str, value, annotation):
  """Raises a ValueError unless the value of a field is of the type of a function's parameter."""
  origin = typing.get_origin(annotation)
  kinds = typing.get_args(annotation) if origin in (typing.Literal, typing.Union, types.UnionType) else (annotation,)
  if origin is typing.Literal and value not in kinds:
    raise ValueError(_must_be_one_of(path, value, kinds))
  sequences = [kind for kind in kinds if typing.get_origin(kind) in (tuple, collections.abc.Sequence)]
  if sequences and isinstance(value, tuple | list):
    for k, element in enumerate(value):
      check_type(f'{path}[{k}]', element, typing.get_args(sequences[0])[0])
  elif all(kind in (int, float, str, bool, type(None)) or kind in sequences for kind in kinds):
    accepted = tuple(kind for kind in kinds if kind not in sequences) + (int,) * (float in kinds)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
      expected = ' or '.join('None' if kind is type(None) else 'a sequence' if kind in sequences else kind.__name__
                             for kind in kinds)
      raise ValueError(f'{path} is {value!r}, of type {type(value).__name__}; it must be {expected}')


def lookup(section: str, field: str, name: str, table: dict):
  """table[name], or a ValueError that lists the names that the field may have."""
  if name not in table:
    raise ValueError(_must_be_one_of(f'config.{section}.{field}', name, table))
  return table[name]


def _must_be_one_of(path, value, names):
  return f'{path} is {value!r}; it must be one of {", ".join(map(repr, names))}'


def check_names(section: str, fields, known):
  """Raises a ValueError with the nearest known name if `fields` holds another one."""
  path = lambda name: '.'.join(filter(None, ['config', section, name]))
  for name in fields:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f'Did you mean {path(near[0])}? ' if near else ''
      raise ValueError(f'unknown field {path(name)}. {hint}Valid fields: {", ".join(sorted(known))}')


def epochs_to_steps(config: ml_collections.ConfigDict, steps_per_epoch: float, say=print) -> ml_collections.ConfigDict:
  """A copy in which every duration is in steps: each field `x_epochs` has become `x_steps`, rounded up.

  This is the one place where epochs become steps. Where the command line has shortened the run, the warmup of its
  schedule is shortened in proportion, and `say` is called with a line about it.

  Raises:
    ValueError: if a section has a duration in both units, one that is not a number, or one below a step; a warmup may be
      0, but must be shorter than the run.
  """
  resolved = _epochs_to_steps(config, steps_per_epoch, 'config')
  planned = None
  if SHORTENED_FROM in resolved:
    planned = resolved[SHORTENED_FROM].get('total_steps')
    del resolved[SHORTENED_FROM]
  optimizer, total = resolved.get('optimizer'), resolved.get('total_steps')
  schedule = optimizer.get('schedule') if isinstance(optimizer, ml_collections.ConfigDict) else None
  warmup = schedule.get('warmup_steps') if isinstance(schedule, ml_collections.ConfigDict) else None
  if not warmup or not total:
    return resolved
  if planned and total < planned:
    schedule.warmup_steps = warmup * total // planned
    say(f'warmup shortened to {schedule.warmup_steps:,} of {warmup:,} steps, as the run was to {total:,} of {planned:,}; '
        f'--config.optimizer.schedule.warmup_steps={warmup} keeps it')
  if schedule.warmup_steps >= total:
    name = 'warmup_epochs' if 'warmup_epochs' in config.optimizer.schedule else 'warmup_steps'
    total_name = next(name for name in TOTALS if name in config)
    show = lambda name, value, steps: f'config.{name} is {value}' + (f' ({steps:,} steps)' if 'epochs' in name else '')
    raise ValueError(show(f'optimizer.schedule.{name}', config.optimizer.schedule[name], warmup) + ', and '
                     + show(total_name, config[total_name], total)
                     + '; the warmup must be shorter than the run: shorten it, or lengthen the run')
  return resolved


def _epochs_to_steps(config, steps_per_epoch, path):
  resolved = ml_collections.ConfigDict()
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      value = _epochs_to_steps(value, steps_per_epoch, f'{path}.{name}')
    elif name.endswith('_epochs'):
      in_epochs, name = name, name.removesuffix('epochs') + 'steps'
      if name in config:
        raise ValueError(f'{path} has both {in_epochs} = {value} and {name} = {config[name]}; remove one of them')
      value = _steps(f'{path}.{in_epochs}', value, steps_per_epoch)
    elif name.endswith('_steps'):
      value = _steps(f'{path}.{name}', value, 1)
    resolved[name] = value
  return resolved


def _steps(path, value, steps_per_unit) -> int | None:
  """A duration in steps, which are counted in int32. A float is accepted for steps if it is a whole number."""
  if value is None:
    return None
  unit = path.rpartition('_')[2]
  value = int(value) if unit == 'steps' and isinstance(value, float) and value.is_integer() else value
  check_type(path, value, int if unit == 'steps' else float)
  if not -math.inf < value < math.inf:
    raise ValueError(f'{path} is {value}; it must be a finite number')
  # The small slack keeps 0.1 epochs of 1,000 steps at 100, whatever the binary fractions.
  steps = math.ceil(value * steps_per_unit - 1e-6) if abs(value) < 2**31 else value
  least = 0 if path.endswith(('.warmup_steps', '.warmup_epochs')) else 1
  if not least <= steps < 2**31 or value < 0:
    shown = f'{value}, which is {steps:,} steps' if unit == 'epochs' else value
    batches = f'; with config.data.batch_size, an epoch has {steps_per_unit:.3g} steps' * (steps_per_unit < 1)
    raise ValueError(f'{path} is {shown}; it must be at least {least}{" step" if unit == "epochs" else ""} and below 2**31'
                     + batches)
  return steps


def probes_of(config: ml_collections.ConfigDict):
  """The section `probes`, which a config may leave out."""
  return config.probes if 'probes' in config else {}


def with_classes(config: ml_collections.ConfigDict, class_names) -> ml_collections.ConfigDict:
  """A copy in which model.num_classes, where it is None, has become the number of the training data's classes."""
  resolved = config.copy_and_resolve_references()
  if 'num_classes' in config.model and config.model.num_classes is None:
    if class_names is None:
      raise ValueError('config.model.num_classes is None, and the training data have no classes of their own; set it')
    with resolved.unlocked(), resolved.ignore_type():
      resolved.model.num_classes = len(class_names)
  return resolved


def set_fields(config: ml_collections.ConfigDict, assignments: list[str]):
  """Sets fields by 'FIELD=VALUE', the text of a command line. Missing sections are created.

  A duration replaces the one in the other unit. Where it shortens the run, `epochs_to_steps` will shorten the
  warmup.

  Raises:
    ValueError: if a path leads through a value that is not a section, or replaces a section by such a value.
  """
  before, paths = config.copy_and_resolve_references(), []
  for assignment in assignments:
    path, equals, text = assignment.partition('=')
    *sections, name = path.split('.')
    if not equals or not all((*sections, name)):
      raise ValueError(f'--config.{assignment} is not --config.FIELD=VALUE')
    with config.unlocked(), config.ignore_type():
      holder = config
      for k, section in enumerate(sections):
        if holder.get(section) is None:
          holder[section] = ml_collections.ConfigDict()
        holder = holder[section]
        _check_section(f'config.{".".join(sections[:k + 1])}', holder)
      value = _value_of(text, holder.get_type(name) if name in holder else object)
      if isinstance(holder.get(name), ml_collections.ConfigDict) and not (value is None and sections):
        _check_section(f'config.{path}', value)
      holder[name] = value
    paths.append(path)
  _apply_duration_overrides(config, paths)
  changed = set(paths)
  if changed & set(TOTALS) and not changed & {f'optimizer.schedule.{name}' for name in ('warmup_steps', 'warmup_epochs')}:
    with config.unlocked():
      config[SHORTENED_FROM] = {name: before[name] for name in TOTALS if name in before}


def _value_of(text, kind):
  """The value that a text of the command line stands for, in place of one of type `kind`."""
  if text == 'None' or kind is str:
    return None if text == 'None' else text
  try:
    value = ast.literal_eval(text.capitalize() if text in ('true', 'false') else text)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return text
  return value if kind is not tuple or isinstance(value, tuple | list) or value is None else (value,)


def _apply_duration_overrides(config, paths):
  """Deletes `x_epochs` where `paths` sets `x_steps`, and the reverse, so that the command line wins."""
  for path in paths:
    *sections, name = path.split('.')
    stem, _, unit = name.rpartition('_')
    other = f'{stem}_{dict(steps="epochs", epochs="steps").get(unit)}'
    section = functools.reduce(getattr, sections, config)
    if other in section and '.'.join([*sections, other]) not in paths:
      with section.unlocked():
        del section[other]


def flat(config, prefix: str = '') -> dict:
  """{'model.variant': 'B/16', ...}: the leaves of a config by their path."""
  leaves = {}
  for name, value in config.items():
    if isinstance(value, (dict, ml_collections.ConfigDict)):
      leaves |= flat(value, f'{prefix}{name}.')
    else:
      leaves[prefix + name] = list(value) if isinstance(value, tuple) else value
  return leaves


def differences(old, new, old_is: str = 'before', new_is: str = 'now') -> list[str]:
  """The fields that make `new` another run than `old`, a line each with both values, but for MUTABLE_ON_RESUME.

  So are the dataset's names where the images are the same: `_same_images`.
  """
  old, new = flat(old), flat(new)
  same = lambda path: (path in old, old.get(path)) == (path in new, new.get(path))
  ignored = [*MUTABLE_ON_RESUME, 'contents_features']
  if _same_images(old, new):
    ignored += ['data.dataset', 'contents_sample']
  elif not same('contents') or old.get('contents_sample') is None:
    ignored.append('contents_sample')
  mutable = lambda path: any(path == field or path.startswith(field + '.') for field in ignored)
  show = lambda side, path: repr(side[path]) if path in side else 'not set'
  notes = {'contents': '; restore the same file names, with a good image under the name of a bad one'
           if any(IS_FOLDER in str(side.get('contents')) for side in (old, new)) else '; pass the copy that the run began on',
           'contents_sample': '; the images differ, or how they are stored: pass the copy that the run began on'}
  return [f'{path}: {show(old, path)} {old_is}, {show(new, path)} {new_is}{notes.get(path, "")}'
          for path in sorted(old.keys() | new.keys()) if not mutable(path) and not same(path)]


def _same_images(old: dict, new: dict) -> bool:
  """Whether two runs have the same training images, by their flat configs.

  Their `contents` must be equal, and their `contents_sample` or `contents_features`. Where a run of an earlier version has
  no sample, the path decides. So it does for an image folder, where a bad image may have been replaced: at one path the sample may differ.
  The name of a TFDS dataset is not a path: `data.data_dir` and TFDS's default say where it is stored.
  """
  if old.get('contents') is None or old['contents'] != new.get('contents'):
    return False
  absolute = lambda side: os.path.abspath(os.path.expanduser(str(side.get('data.dataset'))))
  if old.get('contents_features') is not None and old['contents_features'] == new.get('contents_features'):
    return True
  samples = old.get('contents_sample'), new.get('contents_sample')
  is_folder = IS_FOLDER in str(old['contents'])
  if None in samples or (is_folder and samples[0] != samples[1]):
    return absolute(old) == absolute(new)
  return samples[0] == samples[1]


def describe_all(folder: str) -> list[tuple[str, str]]:
  """(path, first line of the docstring) of every config in `folder`, without importing any."""
  modules = [(path, ast.parse(path.read_text())) for path in sorted(pathlib.Path(folder).glob('*.py'))]
  return [(path.as_posix(), (ast.get_docstring(module) or '').split('\n')[0]) for path, module in modules
          if any(isinstance(node, ast.FunctionDef) and node.name == 'get_config' for node in module.body)]
