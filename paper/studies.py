"""Runs that differ in one thing and the seed: permutations (Fig. 4), data scale (Fig. 2 right), models (App. A)."""

from collections.abc import Sequence
import dataclasses
import json
import statistics

from paper import matching
from paper import records

# Fields that make no other experiment: where things are stored, and what is logged and kept.
NOT_THE_EXPERIMENT = ('seed', 'data_dir', 'threads', 'log_every_steps', 'eval_every_steps', 'checkpoint.every_steps',
                      'checkpoint.keep_latest', 'checkpoint.keep_every_steps')
PERMUTATION = ('permutation', 'permutation_patch', 'permutation_seed')
ARMS_OF_FIGURE_4 = ('original', 'patches', 'pixels')
ORIGINAL_FRACTION = 1.
NOT_HELPFUL = ('untied_mixer', 'grouped_mixer', 'views_mixer', 'pyramid_mixer')  # mixer/models/appendix_a.py


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that are alike but for their seeds, newest first.

  `runs` has one of each seed, the newest; `older` the others.
  """
  runs: tuple[records.Run, ...]
  older: tuple[records.Run, ...] = ()

  @classmethod
  def of(cls, runs: Sequence[records.Run]):
    newest = {}
    for run in runs:
      newest.setdefault(run.seed, run)
    return cls(tuple(newest.values()), tuple(run for run in runs if newest[run.seed] is not run))


@dataclasses.dataclass(frozen=True)
class Study:
  """What one field does to one model, all else being equal.

  Attributes:
    data: what the runs were trained on, for people.
    model: its label.
    family: 'Mixer', 'ViT', 'BiT', or the model's name.
    arms: {value of the field: the runs}, in the order of the values.
  """
  data: str
  model: str
  family: str
  arms: dict

  @property
  def runs(self) -> list[records.Run]:
    return [run for group in self.arms.values() for run in group.runs]

  @property
  def metrics(self) -> list[str]:
    """What the arms are compared by: few-shot probes first, as in the paper, then the accuracies of evaluations."""
    return metrics_of(self.runs)

  @property
  def metric(self) -> str:
    """The one that is drawn."""
    return self.metrics[0]


def metrics_of(runs: Sequence[records.Run]) -> list[str]:
  """The metrics that all of the runs have and that are better when higher."""
  common = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
  return ([name for name in common if name.endswith('shot')]
          + [name for name in common if name.endswith(('/top1', '/precision_at_1'))])


def permutations(runs: Sequence[records.Run]) -> list[Study]:
  """Figure 4: of each model and data that have been trained with permuted pixels."""
  arm = lambda run: run.config['data'].get('permutation') or 'original'
  return [study for study in _studies(runs, arm, PERMUTATION) if set(study.arms) - {'original'}]


def data_scale(runs: Sequence[records.Run]) -> list[Study]:
  """Figure 2 right: of each model that has been trained on several parts of its data."""
  arm = lambda run: run.config['data'].get('fraction', ORIGINAL_FRACTION)
  alike = []  # runs of as many steps, but for the rounding of epochs: the study is one at equal steps
  for run in runs:
    steps = run.config['total_steps']
    group = next((group for group in alike if abs(group[0].config['total_steps'] - steps) < 0.03 * steps), None)
    group.append(run) if group else alike.append([run])
  return [study for group in alike
          for study in _studies(group, arm, ('fraction', 'total_steps', 'warmup_steps', 'contents', 'contents_sample'))
          if len(study.arms) > 1]


def appendix_a(runs: Sequence[records.Run]) -> list[Study]:
  """What did not help: of each data, recipe and size, the plain Mixer and the others that were trained.

  The arms are labels of models, and the study has none of its own.
  """
  arm = lambda run: matching.label(run.config['model'])
  of_models = _studies(runs, arm, ('model.name', 'model.groups', 'model.tokens'))
  return [dataclasses.replace(study, model='', family='Mixer') for study in of_models
          if any(run.config['model']['name'] in NOT_HELPFUL for run in study.runs)]


def _studies(runs, arm, field) -> list[Study]:
  studies = {}
  for run in runs:
    if run.kind == 'run' and run.finished:
      same = key(run, *field)
      studies.setdefault(same, {}).setdefault(arm(run), []).append(run)
  result = []
  for arms in studies.values():
    first = next(iter(arms.values()))[0]
    result.append(Study(data=data_of(first), model=matching.label(first.config['model']),
                        family=matching.family(first.config['model']),
                        arms={value: Group.of(arms[value]) for value in sorted(arms)}))
  return sorted((study for study in result if study.metrics), key=lambda study: (study.data, study.model))


def key(run: records.Run, *fields: str) -> str:
  """Equal for runs that differ in these fields, their seeds and NOT_THE_EXPERIMENT alone."""
  return json.dumps(matching.without(run.config, *NOT_THE_EXPERIMENT, *fields), sort_keys=True)


def data_of(run: records.Run) -> str:
  """'digits at 8 x 8 pixels'."""
  section = run.config['data'] if run.kind == 'run' else next(iter(run.config['evals'].values()))
  return (f'{section.get("dataset", "data unknown")} at {section["resolution"]} x {section["resolution"]} pixels'
          + matching.resized(run.config))


def groups(runs: Sequence[records.Run]) -> list[Group]:
  """Runs by what they are, but for the seed."""
  by_key = {}
  for run in runs:
    by_key.setdefault(key(run), []).append(run)
  return [Group.of(alike) for alike in by_key.values()]


def early_stopped(run: records.Run, metric: str) -> float:
  """A metric at the best evaluation by `config.checkpoint.best`; without it, at the end.

  The data-scale study stops early by the upstream validation (section 3.3).
  """
  by = run.config.get('checkpoint', {}).get('best')
  points = [values for _, values in run.curve if by in values and metric in values]
  return max(points, key=lambda values: values[by])[metric] if points else run.metrics[metric]


@dataclasses.dataclass(frozen=True)
class Spread:
  """The mean, the least and the greatest of some values, and their number."""
  mean: float
  least: float
  greatest: float
  number: int

  @classmethod
  def of(cls, values: Sequence[float]):
    return cls(statistics.mean(values), min(values), max(values), len(values))

  @property
  def about(self) -> str:
    """In percent: '98.06 to 98.61, 3 seeds'."""
    if self.number == 1:
      return '1 seed'
    return f'{100 * self.least:.2f} to {100 * self.greatest:.2f}, {self.number} seeds'
