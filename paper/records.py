"""Our measurements as records: one JSON object per line, with "format": 1.

Its "kind" is "run" (a training run, which python -m paper.collect makes of a work directory), "evaluation"
(tools.evaluate --out), "throughput" (tools.throughput) or "count" (paper.count).
"""

import dataclasses
import functools
import hashlib
import json

from mixer import jsonl
from mixer import safe_io
from mixer import storage

FORMAT = 1


class Unreadable(ValueError):
  """A record or a run that is skipped; the text says why, and how to fix it."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, or an evaluation of weights.

  Attributes:
    name: for people; nothing is matched by it.
    config: as in config.json, all durations in steps.
    commit: of the code; 'unknown' if not recorded.
    device, devices: the hardware, and how many of them; None if not recorded.
    steps: how many were trained.
    examples: the number of images that each evaluation has scored: {'test': 360}.
    metrics: of the last evaluation: {'test/top1': 0.98}.
    curve: (step, metrics) of every evaluation.
    time: when it last began or ended, in UTC; of older runs that of the file of its records.
    core_seconds: wall time times devices, over all starts; None if not recorded.
    core_seconds_whole: whether that is all: killed starts do not record when they ended.
    origin: of a run that started from other weights, {'published': NAME} or {'config': ..., 'origin': ...}; None if it
      was trained from scratch, or the other run is not available.
    source: the file or folder, for people.
  """
  name: str
  config: dict
  steps: int
  examples: dict
  metrics: dict
  curve: list
  commit: str = 'unknown'
  device: str | None = None
  devices: int | None = None
  versions: dict = dataclasses.field(default_factory=dict)
  time: str | None = None
  core_seconds: float | None = None
  core_seconds_whole: bool = True
  origin: dict | None = None
  kind: str = 'run'
  source: str = ''

  @functools.cached_property
  def id(self) -> str:
    """Equal for a work directory and a record collected from it, and for a run repeated bit for bit."""
    return identity(self.kind, self.config, self.steps, self.metrics)

  @property
  def seed(self) -> int | None:
    return self.config.get('seed')

  @property
  def finished(self) -> bool:
    return self.kind == 'evaluation' or self.steps >= self.config['total_steps']


@dataclasses.dataclass(frozen=True)
class Throughput:
  """The speed of a model at the best of the batch sizes that tools.throughput has tried."""
  model: str
  variant: str
  resolution: int
  dtype: str
  batch_size: int
  images_per_s_per_core: float
  gmacs: float | None = None
  device: str | None = None
  devices: int | None = None
  versions: dict = dataclasses.field(default_factory=dict)
  commit: str = 'unknown'
  config_hash: str | None = None
  time: str | None = None
  source: str = ''

  @functools.cached_property
  def id(self) -> str:
    return identity(*(value for name, value in vars(self).items() if name not in ('source', 'id')))


@dataclasses.dataclass(frozen=True)
class Count:
  """Sizes of a model as the code builds it, by paper.count: parameters, and multiply-adds of an image."""
  model: str
  variant: str
  resolution: int
  params_without_head: int
  params_1000_classes: int
  gmacs: float
  fields: dict = dataclasses.field(default_factory=dict)
  commit: str = 'unknown'
  versions: dict = dataclasses.field(default_factory=dict)
  time: str | None = None
  source: str = ''

  @functools.cached_property
  def id(self) -> str:
    return identity(self.model, self.variant, self.resolution, self.params_without_head, self.gmacs)


KINDS = {'run': Run, 'evaluation': Run, 'throughput': Throughput, 'count': Count}
# The types by their names in the dataclasses.
TYPES = {'int': int, 'float': (int, float), 'str': str, 'dict': dict, 'list': list, 'bool': bool}


def identity(*values) -> str:
  """A hash of values: eight hexadecimal digits."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def lines(path, warnings) -> list[tuple[int, dict]]:
  """(number, object) of each line of a file; damaged ones are skipped, with a warning."""
  damaged = []
  rows = jsonl.read(path, damaged)
  if damaged:
    one = len(damaged) == 1
    warnings.append(f'{path}: {len(damaged)} {"line is" if one else "lines are"} cut off or damaged '
                    f'({"line" if one else "lines"} {", ".join(map(str, damaged))}); skipped')
  return rows


def of_object(value: dict, place: str):
  """A record from its JSON. `place` is its file and line, for errors.

  Raises:
    Unreadable: naming the place and the field.
  """
  check_format(value, place)
  kind = value.get('kind', 'run')
  if kind not in KINDS:
    raise Unreadable(f"{place}: 'kind' is {safe_io.show(kind)}; it must be one of {', '.join(KINDS)}")
  fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
  if kind == 'evaluation' and 'metrics' not in value:
    value = {**value, **_of_evaluate(value)}
  values = {name: value[name] for name in fields if name in value and name != 'source'}
  for name, field in fields.items():
    missing = name not in values
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    if missing and required:
      raise Unreadable(f'{place}: {name!r} is missing')
    kinds = tuple(TYPES[kind] for kind in str(_name(field.type)).split(' | ') if kind != 'None')
    absent = missing or (values[name] is None and 'None' in str(field.type))
    if not absent and not isinstance(values[name], kinds[0]):
      raise Unreadable(f'{place}: {name!r} is {safe_io.show(values[name])}; it must be {_name(field.type)}')
  if kind in ('run', 'evaluation'):
    for field in ('metrics', 'examples'):
      for name, number in values[field].items():
        if not isinstance(number, int | float):
          raise Unreadable(f'{place}: {name!r} of {field!r} is {safe_io.show(number)}; it must be a number')
    values['curve'] = [(step, dict(metrics)) for step, metrics in _curve(values['curve'], place)]
    check_config(values['config'], place, whole=kind == 'run')
  if kind == 'evaluation':
    values.setdefault('origin', origin_of(values['config']))
  return KINDS[kind](**values, source=place)


def _of_evaluate(value) -> dict:
  """The fields of a Run that tools.evaluate writes as results on their own, 'val/top1' and the like."""
  results = {name: number for name, number in value.items() if '/' in name}
  metrics = {name: number for name, number in results.items() if not name.endswith('/examples')}
  examples = {name.removesuffix('/examples'): number for name, number in results.items() if name not in metrics}
  return dict(steps=0, curve=[], metrics=metrics, examples=examples)


def check_format(value: dict, place: str):
  """Raises an Unreadable if an object is of a version of its format that this code does not read."""
  version = value.get('format')
  if version != FORMAT:
    what = 'has no "format"' if version is None else f'is of format {safe_io.show(version)}'
    raise Unreadable(f'{place}: the record {what}, and this code reads format {FORMAT}. Write it again with this code '
                     '(for a run, python -m paper.collect WORKDIR), or use the code that wrote it')


def _name(annotation) -> str:
  return annotation if isinstance(annotation, str) else getattr(annotation, '__name__', str(annotation))


def _curve(curve, place):
  for point in curve:
    if not (isinstance(point, list) and len(point) == 2 and isinstance(point[0], int) and isinstance(point[1], dict)):
      raise Unreadable(f"{place}: 'curve' holds {safe_io.show(point)}; each must be [step, {{metric: value}}]")
    yield point


# The fields of a config that are read, by path.
CONFIG = {'model': dict, 'model.name': str}
CONFIG_OF_RUN = {**CONFIG, 'total_steps': int, 'data': dict, 'data.dataset': str, 'data.batch_size': int,
                 'data.resolution': int, 'evals': dict}


def check_config(config: dict, place: str, whole: bool):
  """Raises an Unreadable unless a config has the fields that are read: of a run if `whole`, else of an evaluation."""
  for path, kind in (CONFIG_OF_RUN if whole else CONFIG).items():
    section, _, name = path.rpartition('.')
    value = (config[section] if section else config).get(name)
    if not isinstance(value, kind):
      raise Unreadable(f'{place}: {path} of the config is {safe_io.show(value)}; train.py does not write such a config')
  for name in ('evals', 'start_from', 'checkpoint'):
    if not isinstance(config.get(name) or {}, dict):
      raise Unreadable(f'{place}: {name} of the config is {safe_io.show(config[name])}; it must be a section')
  for name, section in (config.get('evals') or {}).items():
    if not isinstance(section, dict) or type(section.get('resolution')) is not int:
      raise Unreadable(f'{place}: evals.{name} of the config is {safe_io.show(section)}; it must have a resolution')
  if whole and not isinstance(config['data'].get('fraction', 1.), int | float):
    raise Unreadable(f'{place}: data.fraction of the config is {safe_io.show(config["data"]["fraction"])}; it must be a number')
  if not whole and not config.get('start_from'):
    raise Unreadable(f'{place}: the config has no start_from, the section of the weights that were scored')
  if not whole and not config.get('evals'):
    raise Unreadable(f'{place}: the config has no evals, the sections of what was scored')


def origin_of(config, depth: int = 8) -> dict | None:
  """The origin of a run's weights: {'published': NAME}, or the config of another run, {'config', 'origin'}.

  None if it was trained from scratch, or the other run is not available. `depth` ends runs that start from each other
  in a circle.
  """
  weights = (config.get('start_from') or {}).get('weights')
  if not weights or not depth:
    return None
  path = storage.path_of(weights)
  for folder in (path, *list(path.parents)[:2]):  # a work directory, or a checkpoint in one
    if (folder / 'config.json').exists():
      try:
        config = safe_io.read_json_object(folder / 'config.json')
      except ValueError:
        return None
      return {'config': config, 'origin': origin_of(config, depth - 1)}
  return {'published': weights} if weights.count('/') == 1 and '.' not in weights else None


def to_object(record) -> dict:
  """The JSON of a record, which `of_object` reads."""
  fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record) if field.name != 'source'}
  kind = fields.pop('kind', None) or next(name for name, of in KINDS.items() if of is type(record))
  return {'format': FORMAT, 'kind': kind, **({'seed': record.seed} if isinstance(record, Run) else {}), **fields}
