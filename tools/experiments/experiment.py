"""Trains all arms of an experiment on small real images, with several seeds, and makes a table.

  python -m tools.experiment permutations                    # Fig. 4, on CIFAR-10
  python -m tools.experiment data_scale --dataset=mnist5k    # Fig. 2 right, on 5,000 digits of MNIST
  python -m tools.experiment appendix_a --seeds=5            # what did not help (App. A), on scikit-learn's digits
  python -m tools.experiment recipes --dataset=FOLDER        # recipes beyond the paper: SAM, CutMix and others

TFDS downloads CIFAR-10; --dataset=FOLDER takes its images from a folder with train/CLASS and test/CLASS.
Each run has its own folder in the work directory. Finished runs are skipped, so the same command resumes an interrupted
one, and --seeds=5 after --seeds=3 trains two more of each. table.md, results.json and picture.png in the work directory
are rewritten after every run. SIGTERM and Ctrl-C stop the current run as they stop train.py, and then all.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import io
import itertools
import json
import pathlib
import shlex
import statistics

from matplotlib import figure
from matplotlib import ticker
import tqdm

from configs import recipes
from mixer.run import records
from mixer.run import run_history
from mixer import storage
from mixer import user_errors
from tools import sweep

TOP1 = {'test/top1': 'top-1 on the test split'}
PROBE = {'other/5shot': 'linear 5-shot top-1 on the digits 5 to 9', 'val/top1': 'top-1 on the digits 0 to 4'}
COLOURS = ('#1f77b4', '#ff7f0e', '#2ca02c', '#d62728', '#9467bd', '#8c564b', '#e377c2', '#7f7f7f', '#bcbd22', '#17becf')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What to train: each of `models` in each of `arms`, which are the parts of the config's argument.

  Attributes:
    title: the paper's name for it.
    models: the first part of the argument.
    arms: its last part; ('',) where it has none.
    scored: the records of a run's evaluations -> the one that counts, and a description of it.
    over_steps: whether the picture shows the arms over the steps, and else over the arms.
    baseline: the arm that the table compares the others with, or None.
    datasets: {value of --dataset: {metric: what it is, for people}}, the default and the main one first. Where a run has
      an average of its weights, its is taken. A folder of images stands for cifar10.
  """
  title: str
  models: tuple[str, ...]
  arms: tuple[str, ...]
  scored: tuple[Callable, str]
  over_steps: bool = False
  baseline: str | None = None
  datasets: dict = dataclasses.field(default_factory=lambda: {'cifar10': TOP1, 'mnist5k': PROBE})

  def dataset_of(self, dataset: str) -> str:
    """The one of `datasets` that `dataset` is: itself, or cifar10 for a folder."""
    return dataset if dataset in self.datasets else 'cifar10'


LAST = (lambda rows: rows[-1]), 'after the last step'
# Of equal ones the first, since max keeps it.
EARLY_STOPPED = (lambda rows: max(rows, key=lambda row: row['val/top1'])), 'at the best upstream validation'

EXPERIMENTS = {
    'permutations': Experiment('Permuted pixels (Fig. 4)', ('mixer', 'vit', 'bit'), ('original', 'patches', 'pixels'),
                               LAST, over_steps=True, baseline='original'),
    'data_scale': Experiment('The role of data scale (Fig. 2 right)', ('mixer_s', 'mixer', 'mixer_l', 'vit', 'bit'),
                             ('0.03', '0.1', '0.3', '1'), EARLY_STOPPED),
    'appendix_a': Experiment('Other ways of token mixing (App. A)', ('plain', 'untied', 'grouped', 'views', 'pyramid'),
                             ('',), LAST, datasets={'digits': PROBE}),
    'recipes': Experiment('Recipes beyond the paper', tuple(recipes.RECIPES), ('',), LAST, datasets={'cifar10': TOP1}),
}


@dataclasses.dataclass(frozen=True)
class Run:
  """One training: `config` with the values of `fields`."""
  model: str
  arm: str
  seed: int
  config: str
  fields: dict[str, str]
  workdir: pathlib.Path

  def evaluations(self, metrics) -> list[dict]:
    """The records with evaluations of a finished run, else none; `metrics` are those of the average, if it has one."""
    if sweep.result(self.workdir) is None:
      return []
    rows = [row for row in records.read(self.workdir / 'records.jsonl') if set(metrics) <= row.keys()]
    return [row | records.of_weights(row, average=True) for row in rows]

  def seconds(self) -> float:
    """Wall time of the training loop, over all starts."""
    return sum(event.get('seconds', 0.) for event in run_history.read(self.workdir))


def plan(name: str, dataset: str, seeds: int, root: pathlib.Path) -> list[Run]:
  """All runs of an experiment, seed by seed, so that the first ones already show all arms."""
  experiment = EXPERIMENTS[name]
  which = lambda model, arm: ','.join(filter(None, (model, experiment.dataset_of(dataset), arm)))
  folder = {} if dataset in experiment.datasets else {'data.dataset': dataset}
  return [Run(model, arm, seed, f'configs/{name}.py:{which(model, arm)}', {'seed': str(seed), **folder},
              root / f'{which(model, arm)},seed{seed}')
          for seed, model, arm in itertools.product(range(seeds), experiment.models, experiment.arms)]


def results(experiment: Experiment, metrics: dict, runs: Sequence[Run]) -> list[dict]:
  """For each model and arm that has finished runs: the scores of its seeds, their mean and spread.

  -> [{'model', 'arm', 'seeds': [0, ...], METRIC: {'scores': [...], 'mean', 'std', 'min', 'max'}, 'seconds', ...},
  ...]; the standard deviation is that of a sample, and None of one run. `seconds` are those of the fastest seed's training.
  """
  rows = []
  for (model, arm), group in itertools.groupby(sorted(runs, key=lambda run: _place(experiment, run)),
                                               key=lambda run: (run.model, run.arm)):
    group = list(group)
    scored = {run.seed: experiment.scored[0](evaluations) for run in group
              if (evaluations := run.evaluations(metrics))}
    if scored:
      rows.append({'model': model, 'arm': arm, 'seeds': list(scored),
                   'steps': [row['step'] for row in scored.values()],
                   'examples': {key: row[key] for row in scored.values() for key in row if key.endswith('examples')},
                   'seconds': min(run.seconds() for run in group if run.seed in scored),
                   **{metric: spread([row[metric] for row in scored.values()]) for metric in metrics}})
  return rows


def _place(experiment, run):
  return experiment.models.index(run.model), experiment.arms.index(run.arm), run.seed


def spread(scores: list[float]) -> dict:
  return {'scores': scores, 'mean': statistics.mean(scores), 'min': min(scores), 'max': max(scores),
          'std': statistics.stdev(scores) if len(scores) > 1 else None}


def difference(first: dict, second: dict) -> dict:
  """What the mean of the first `spread` is above that of the second: with its standard error, and in standard errors.

  The standard error is sqrt(s1^2 / n1 + s2^2 / n2). Of one seed neither is known, and None.
  """
  mean, error = first['mean'] - second['mean'], None
  if None not in (first['std'], second['std']):
    error = sum(one['std']**2 / len(one['scores']) for one in (first, second))**0.5
  return {'mean': mean, 'standard_error': error, 'standard_errors': mean / error if error else None}


def table(experiment: Experiment, metrics: dict, dataset: str, rows: list[dict]) -> str:
  """In Markdown: for each metric the mean and the range of each model in each arm."""
  arms = [arm for arm in experiment.arms if arm]
  lines = [f'# {experiment.title}, on {dataset}']
  for metric, words in metrics.items():
    cells = {(row['model'], row['arm']): cell(row[metric]) for row in rows}
    lines += ['', f'{words}, {experiment.scored[1]}: mean of the seeds (lowest to highest; how many)'.capitalize(), '',
              f'| model | {" | ".join(arms) or "top-1"} |', '| --- ' * (1 + len(experiment.arms)) + '|']
    lines += [f'| {model} | ' + ' | '.join(cells.get((model, arm), '') for arm in experiment.arms) + ' |'
              for model in experiment.models]
    if experiment.baseline:
      lines += ['', f'Compared with {experiment.baseline}:', '', *_changes(experiment, metric, rows)]
  return '\n'.join(lines) + '\n'


def _changes(experiment, metric, rows):
  """'- bit, pixels: -20.1 points, 35 % of the score, 29.5 standard errors' for each model and arm but the baseline."""
  scores = {(row['model'], row['arm']): row[metric] for row in rows}
  for (model, arm), values in scores.items():
    base = scores.get((model, experiment.baseline))
    if base and arm != experiment.baseline:
      change = difference(values, base)
      errors = change['standard_errors']
      known = '' if errors is None else f', {abs(errors):.1f} standard errors'
      yield (f'- {model}, {arm}: {change["mean"] * 100:+.1f} points, {abs(change["mean"]) / base["mean"]:.0%} of the '
             f'score{known}')


def cell(values: dict) -> str:
  """'61.3 % (60.1 to 62.0; 3)'."""
  return (f'{values["mean"] * 100:.1f} % ({values["min"] * 100:.1f} to {values["max"] * 100:.1f}; '
          f'{len(values["scores"])})')


def draw(experiment: Experiment, metrics: dict, title: str, runs: Sequence[Run], rows: list[dict]) -> bytes:
  """The picture of the finished runs, as PNG: means as lines or points, ranges as bands, seeds as dots."""
  main = next(iter(metrics))
  if experiment.over_steps:
    canvas = figure.Figure(figsize=(4 * len(experiment.models), 3.8), layout='constrained')
    for axes, model in zip(canvas.subplots(1, len(experiment.models), sharey=True), experiment.models):
      _over_steps(axes, model, experiment.arms, main, runs)
      axes.set(title=model, xlabel='step')
    canvas.axes[0].set_ylabel(metrics[main])
  else:
    canvas = figure.Figure(figsize=(11, 4.2), layout='constrained')
    axes_of = canvas.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (metric, words) in zip(axes_of, metrics.items()):
      (_over_arms if len(experiment.arms) > 1 else _side_by_side)(axes, experiment, metric, rows)
      axes.set_title(words, loc='left', fontsize=10)
  canvas.suptitle(title)
  # Of the panel with the most: those with unfinished runs may lack some.
  labelled = max((axes.get_legend_handles_labels() for axes in canvas.axes), key=lambda pair: len(pair[0]))
  if labelled[0]:
    canvas.legend(*labelled, loc='outside right center', frameon=False)
  for axes in canvas.axes:
    axes.grid(alpha=0.25)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  file = io.BytesIO()
  canvas.savefig(file, dpi=110, format='png')
  return file.getvalue()


def _over_steps(axes, model, arms, metric, runs):
  for arm, colour in zip(arms, COLOURS):
    curves = [rows for run in runs if (run.model, run.arm) == (model, arm) and (rows := run.evaluations([metric]))]
    if curves:
      steps = [row['step'] for row in curves[0]]
      scores = list(zip(*([row[metric] for row in curve] for curve in curves)))
      axes.plot(steps, list(map(statistics.mean, scores)), '.-', color=colour, label=arm)
      axes.fill_between(steps, list(map(min, scores)), list(map(max, scores)), color=colour, alpha=0.15, linewidth=0)


def _over_arms(axes, experiment, metric, rows):
  for model, colour in zip(experiment.models, COLOURS):
    points = [(float(row['arm']), row[metric]) for row in rows if row['model'] == model]
    if points:
      x, values = zip(*points)
      axes.plot(x, [value['mean'] for value in values], '.-', color=colour, label=model)
      axes.fill_between(x, *([value[end] for value in values] for end in ('min', 'max')), color=colour, alpha=0.15,
                        linewidth=0)
  axes.set(xscale='log', xlabel='part of the training images')
  axes.set_xticks([float(arm) for arm in experiment.arms], [f'{float(arm):.0%}' for arm in experiment.arms])
  axes.minorticks_off()


def _side_by_side(axes, experiment, metric, rows):
  for row in rows:
    place = experiment.models.index(row['model'])
    axes.plot([place] * len(row['seeds']), row[metric]['scores'], 'o', color=COLOURS[place], alpha=0.5)
    axes.plot([place - 0.3, place + 0.3], [row[metric]['mean']] * 2, color=COLOURS[place])
  axes.set_xticks(range(len(experiment.models)), experiment.models)


def write(name: str, dataset: str, runs: Sequence[Run], root: pathlib.Path) -> str:
  """Writes results.json, table.md and picture.png of the runs that are finished. Returns the table."""
  experiment = EXPERIMENTS[name]
  metrics = experiment.datasets[experiment.dataset_of(dataset)]
  rows = results(experiment, metrics, runs)
  folder = pathlib.Path(dataset).name
  text = table(experiment, metrics, folder, rows)
  storage.write(root / 'results.json', json.dumps(
      {'format': 1, 'experiment': name, 'dataset': dataset, 'scored': experiment.scored[1], 'results': rows}, indent=2))
  storage.write(root / 'table.md', text)
  storage.write(root / 'picture.png', draw(experiment, metrics, f'{experiment.title}, on {folder}', runs, rows))
  return text


def train_all(name: str, dataset: str, seeds: int, root: pathlib.Path):
  """Trains what is not yet trained, and prints the table.

  Raises:
    subprocess.CalledProcessError, sweep.Stopped: as `sweep.train` does; what is finished is kept.
  """
  runs = plan(name, dataset, seeds, root)
  root.mkdir(parents=True, exist_ok=True)
  for run in tqdm.tqdm(runs, unit='run', desc=name, smoothing=0, dynamic_ncols=True):
    new = sweep.result(run.workdir) is None
    sweep.train(run.config, run.workdir, run.fields)
    if new:
      write(name, dataset, runs, root)
  print(f'{write(name, dataset, runs, root)}\ntable, numbers and picture: {root}')


def resolved(dataset: str, names) -> str:
  """`dataset`, if it is one of `names`; else the absolute path of the folder, so that a resumed run has the same one."""
  return dataset if dataset in names else str(pathlib.Path(dataset).resolve())


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('name', choices=EXPERIMENTS)
  parser.add_argument('--dataset', help='cifar10, or a folder with its images, train/CLASS and test/CLASS; mnist5k, which '
                      'needs the extra mnist; of appendix_a digits')
  parser.add_argument('--seeds', type=int, default=3, help='the number of runs of each arm; default: 3')
  parser.add_argument('--workdir', type=pathlib.Path, help='the parent of the folders of the runs; default: '
                      'runs/experiments/NAME_DATASET')
  parser.add_argument('--dry_run', action='store_true', help='print the commands and run none')
  flags = parser.parse_args(arguments)
  experiment = EXPERIMENTS[flags.name]
  flags.dataset = flags.dataset or next(iter(experiment.datasets))
  takes_folders = 'cifar10' in experiment.datasets
  if flags.dataset not in experiment.datasets and not (takes_folders and pathlib.Path(flags.dataset).is_dir()):
    folder = ', or a folder with the images of CIFAR-10' if takes_folders else ''
    parser.error(f'--dataset is {flags.dataset}; of {flags.name} it must be {" or ".join(experiment.datasets)}{folder}')
  flags.dataset = resolved(flags.dataset, experiment.datasets)
  if flags.seeds < 1:
    parser.error(f'--seeds is {flags.seeds}; it must be at least 1, and 3 or more to show a spread')
  return flags


@user_errors.in_one_line
def main(arguments: list[str]):
  flags = parse(arguments)
  root = (flags.workdir or pathlib.Path(f'runs/experiments/{flags.name}_{pathlib.Path(flags.dataset).name}')).expanduser()
  if flags.dry_run:
    for run in plan(flags.name, flags.dataset, flags.seeds, root):
      print(shlex.join(sweep.command(run.config, run.workdir, run.fields)))
    return
  with sweep.exit_if_stopped():
    train_all(flags.name, flags.dataset, flags.seeds, root)


if __name__ == '__main__':
  main()
