"""Our values for the cells of Tables 2 and 3: scores, speeds and core-days of the runs that belong to a row.

A `row` is one of published/table2_transfer.csv or table3_scales.csv. Only the second has the number of epochs.
"""

from collections.abc import Iterator, Sequence
import statistics

from configs import vtab as vtab_tasks
from paper import matching
from paper import reading
from paper import records
from paper import studies
from paper.render import Value

# The five of "Avg. 5" (section 3): TFDS's names. The paper's means are of the original labels.
AVERAGE_5 = ('imagenet2012', 'cifar10', 'cifar100', 'oxford_iiit_pet', 'oxford_flowers102')
# The split that is scored, as TFDS calls it. ImageNet's ReaL labels are of its validation images.
SPLITS = {'imagenet2012': 'validation', 'imagenet2012_real': 'validation'}


def accuracy(collection: reading.Collection, row: dict, task: str, crop: str) -> tuple[Value, ...]:
  """Each run's score, newest first, and their mean if they are seeds of one config."""
  scored = list(_scores(collection, row, task, crop))
  values = [Value(percent(score), (run.id,), '' if row['resolution'] else f'at {matching.resolution(run)}')
            for run, score in scored]
  if len({run.seed for run, _ in scored}) == len(scored) > 1 and len({studies.key(run) for run, _ in scored}) == 1:
    values.append(_mean(scored, f'mean of {len(scored)} seeds'))
  return tuple(values)


def average(collection: reading.Collection, row: dict, crop: str) -> tuple[Value, ...]:
  """The mean of the newest score of each of the five tasks, if all of them have one."""
  newest = [next(_scores(collection, row, task, crop), None) for task in AVERAGE_5]
  return (_mean(newest, 'mean of 5 tasks'),) if all(newest) else ()


def vtab(collection: reading.Collection, row: dict) -> tuple[Value, ...]:
  """The mean over the tasks of VTAB-1k, at 224 or 448 pixels by their images, if all of them have a run."""
  newest = [next(_of_task(collection, row, task), None) for task in vtab_tasks.TASKS.values()]
  return (_mean(newest, f'mean of {len(newest)} tasks'),) if all(newest) else ()


def _of_task(collection, row, task) -> Iterator:
  expected = task['dataset'], task['train'], task['label']
  for run in collection.runs:
    data = run.config.get('data') or {}
    if (data.get('dataset'), data.get('split'), data.get('label', 'label')) == expected and _is_of(run, row):
      yield from ((run, score) for score in matching.scores(run, matching.dataset(data), 'top1', split=task['test']))


def _scores(collection, row, task, crop) -> Iterator[tuple[records.Run, float]]:
  metric = 'precision_at_1' if task == 'imagenet2012_real' else 'top1'
  fits = lambda side: _fits(row, side)
  if row['model'].startswith('BiT') and task.startswith('imagenet2012'):
    crop = 'paper_resize'  # in Table 3, too
  elif row['model'].startswith('BiT') and task.startswith('cifar') and not row['resolution']:
    fits = lambda side: side == 128  # BiT-HyperRule's for small images
  for run in collection.runs:
    if _is_of(run, row) and fits(matching.resolution(run)):
      for score in matching.scores(run, task, metric, crop, SPLITS.get(task, 'test')):
        yield run, score


def _is_of(run, row) -> bool:
  """Whether a run has the model and the pre-training of a row."""
  config, origin = matching.trained(run)
  pretraining = matching.pretraining(config, origin)
  return (run.finished and matching.plain(config) and matching.label(config['model']) == matching.of_row(row)
          and pretraining is not None and pretraining[0] == row['pretrain']
          and ('epochs' not in row or matching.same_epochs(row['epochs'], pretraining[1])))


def _fits(row, side: int) -> bool:
  # Table 2 fine-tunes at a higher resolution than 224, and does not print that of the baselines.
  return side == int(row['resolution']) if row['resolution'] else side > 224


def speed(collection: reading.Collection, row: dict) -> tuple[Value, ...]:
  """Images a second and core of TPUs, as in the paper; those of other hardware are in `tables.speeds`."""
  return tuple(Value(f'{one.images_per_s_per_core:,.0f}', (one.id,), f'{one.dtype}, {one.device}')
               for one in collection.throughputs if (one.device or '').startswith('TPU')
               and matching.named(one) == matching.of_row(row) and _fits(row, one.resolution))


def core_days(collection: reading.Collection, row: dict) -> tuple[Value, ...]:
  """Of our pre-trainings, on whatever device; a model at a higher resolution is the one that was trained at 224."""
  of_row = [run for run in collection.runs if run.kind == 'run' and not run.config.get('start_from')
            and run.core_seconds is not None and _is_of(run, row)]
  return tuple(Value(('' if run.core_seconds_whole else 'at least ') + f'{run.core_seconds / 86400:,.3g}', (run.id,),
                     f'{run.devices} x {run.device}') for run in of_row)


def percent(value: float) -> str:
  """Without its sign, as in the paper."""
  return f'{100 * value:.2f}'


def _mean(scored: Sequence[tuple[records.Run, float]], note: str) -> Value:
  return Value(percent(statistics.mean(score for _, score in scored)), tuple(run.id for run, _ in scored), note)
