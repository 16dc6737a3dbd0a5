"""The paper's Figures 2, 3 and 4, published and ours, as SVG and PNG in --out.

  python -m paper.figures RUNS... --out=runs/paper

Figures 2 (left) and 3 are drawn from the published tables; of Figures 2 (right) and 4 no values are published, and they
show our runs alone. Each figure is drawn wide and, as NAME_narrow, for a small screen. Figures 5 to 7 are pictures of
weights: python -m tools.show_weights.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import io

import numpy as np

from mixer import storage
from paper import cells
from paper import command_line
from paper import reading
from paper import studies
from paper import tables

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {'Mixer': '#d55e00', 'ViT': '#0072b2', 'BiT': '#009e73'}
OTHERS = ('#7a5195', '#8a6d00', '#56b4e9', '#555555')
LINES = {'original': '-', 'patches': '--', 'pixels': ':'}
MARKS = 'osD^vP'
CORE_DAYS, SPEED = 'core-days (TPUv3 where published)', 'images a second and core (TPUv3 where published)'
MARKED = 'Circles are published values, on TPUv3; stars are ours, on the device that their records name.'


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure of the paper.

  Attributes:
    key: its name in files, such as 'figure3'.
    draw: draws its panels into a list of axes.
    panels: their number; 0 if there is nothing to draw.
    ids: of the records that it shows.
    missing: the command that makes what is missing.
  """
  key: str
  title: str
  caption: str
  draw: Callable
  panels: int
  ids: tuple[str, ...] = ()
  missing: str = ''


def colour(family: str) -> str:
  return COLOURS.get(family) or OTHERS[sum(family.encode()) % len(OTHERS)]


def _family(model: str) -> str:
  """'Mixer' of 'Mixer-B/16'."""
  family = model.split('-')[0].split(',')[0]
  return family if family in COLOURS else 'other'


@dataclasses.dataclass(frozen=True)
class Point:
  """A model in a plane of `x` and ImageNet top-1 in percent."""
  model: str
  x: float
  top1: float
  ours: bool = False


def _points(rows, x: str, collection, crop) -> tuple[list[Point], list[str]]:
  """Published points and ours, and the ids of the records of ours."""
  points, ids = [], []
  for row in rows:
    if row[x] and row['imagenet_top1']:
      points.append(Point(row['model'], float(row[x]), float(row['imagenet_top1'])))
    across = cells.core_days(collection, row) if x == 'tpuv3_core_days' else cells.speed(collection, row)
    scores = cells.accuracy(collection, row, 'imagenet2012', crop)
    if across and scores:  # the newest of each
      text = across[0].text.removeprefix('at least ').replace(',', '')
      points.append(Point(row['model'], float(text), float(scores[0].text), ours=True))
      ids += [across[0].records[0], scores[0].records[0]]
  return points, ids


def _planes(axes, points: Sequence[Sequence[Point]], xlabels: Sequence[str]):
  """A plane in each of some axes."""
  for each in zip(axes, points, xlabels):
    _plane(*each)
  axes[0].figure.draw_without_rendering()  # lays them out
  for each in zip(axes, points):
    _name(*each)


def _plane(axes, points: Sequence[Point], xlabel: str):
  """Models as points over a logarithmic axis."""
  for family in (*COLOURS, 'other'):
    for ours in (False, True):
      these = [point for point in points if _family(point.model) == family and point.ours == ours]
      if these:
        axes.plot([point.x for point in these], [point.top1 for point in these], '*' if ours else 'o',
                  color=COLOURS.get(family, '#777777'), markersize=14 if ours else 6,
                  markeredgecolor='black' if ours else 'white', label=f'{family}, {"ours" if ours else "published"}')
  axes.set(xscale='log', xlabel=xlabel, ylabel='ImageNet top-1, %')
  axes.margins(x=0.12, y=0.12)
  axes.grid(alpha=0.25)
  axes.legend(frameon=False, fontsize=8, loc='lower left' if 'images' in xlabel else 'lower right')


def _name(axes, points: Sequence[Point]):
  """Writes the names of points around them, where they overlap least with other names and points."""
  # In printers' points.
  places = axes.transData.transform([(point.x, point.top1) for point in points]) * 72 / axes.figure.dpi
  sides = [7 if point.ours else 3 for point in points]
  taken = [(x - side, y - side, x + side, y + side) for (x, y), side in zip(places, sides)]
  for point, (x, y), side in sorted(zip(points, places, sides), key=lambda each: -each[1][1]):
    width, height = 3.9 * len(point.model), 8
    boxes = {}
    for right, up in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
      left = x + right * (side + 2) - width * (1 - right) / 2
      bottom = y + up * (side + 2) - height * (1 - up) / 2
      boxes[right, up] = left, bottom, left + width, bottom + height
    right, up = min(boxes, key=lambda way: sum(_shared(boxes[way], other) for other in taken))
    taken.append(boxes[right, up])
    axes.annotate(point.model, (point.x, point.top1), xytext=(right * (side + 2), up * (side + 2)),
                  textcoords='offset points', ha=('right', 'center', 'left')[right + 1],
                  va=('top', 'center', 'bottom')[up + 1], fontsize=7, color='#333333')


def _shared(one, other) -> float:
  """The area that two boxes share, each left, bottom, right, top."""
  return max(0, min(one[2], other[2]) - max(one[0], other[0])) * max(0, min(one[3], other[3]) - max(one[1], other[1]))


def figure2_left(collection: reading.Collection) -> Figure:
  """Table 2's models, and of Table 3 those that the paper's figure adds: BiT-R200x3, and L/16 of Mixer and ViT."""
  points, ids = _points(tables.published('table2_transfer'), 'tpuv3_core_days', collection, 'paper_resize')
  more = [row for row in tables.published('table3_scales') if row['pretrain'] == 'jft300m' and row['epochs'] == '14'
          and (row['model'], row['resolution']) in (('BiT-R200x3', '224'), ('ViT-L/16', '512'), ('Mixer-L/16', '448'))]
  added, more_ids = _points(more, 'tpuv3_core_days', collection, 'paper_crop')
  return Figure('figure2_left', 'Figure 2, left: accuracy and cost of pre-training', (
      'ImageNet top-1 against core-days of pre-training: the models of Table 2 and, of Table 3, BiT-R200x3 and the '
      f'L/16 models at 14 epochs. {MARKED}'),
      lambda axes: _planes(axes[:1], [[*points, *added]], [CORE_DAYS]), 1, (*ids, *more_ids))


def figure3(collection: reading.Collection) -> Figure:
  rows = [row for row in tables.published('table3_scales')
          if (row['pretrain'], row['resolution']) == ('jft300m', '224')]
  costs, ids = _points(rows, 'tpuv3_core_days', collection, 'paper_crop')
  speeds, more_ids = _points(rows, 'images_per_sec_per_core', collection, 'paper_crop')
  return Figure('figure3', 'Figure 3: accuracy, cost and speed at 224 pixels', (
      f'Models pre-trained on JFT-300M, fine-tuned at 224 pixels: Table 3. {MARKED}'),
      lambda axes: _planes(axes, [costs, speeds], [CORE_DAYS, SPEED]), 2, (*ids, *more_ids))


def _curves(axes, runs, metric, colour_, style, label):
  """Mean over seeds at each evaluation, and a band from the least to the greatest."""
  at = [{step: values[metric] for step, values in run.curve if metric in values} for run in runs]
  steps = sorted(set(at[0]).intersection(*at))
  values = np.array([[100 * one[step] for step in steps] for one in at])
  axes.plot(steps, values.mean(0), style, color=colour_, linewidth=1.8, label=label)
  if len(runs) > 1:
    axes.fill_between(steps, values.min(0), values.max(0), color=colour_, alpha=0.15, linewidth=0)


def figure4(collection: reading.Collection) -> list[Figure]:
  """One figure per dataset with runs on permuted pixels; one panel per model."""
  caption = ('{metric} over the steps of training, mean and least to greatest over {seeds} seeds: the original images, '
             f'patches shuffled together with the pixels within them, and all pixels shuffled. {tables.NO_CURVES}')
  results = _of_studies('figure4', 'Figure 4', caption, studies.permutations(collection.runs), _permutations)
  return results or [_nothing('figure4', 'Figure 4: permuted pixels', 'None of the runs has permuted pixels.')]


def _permutations(axes, these: Sequence[studies.Study]):
  lowest = min((100 * values[study.metric] for study in these for run in study.runs for _, values in run.curve
                if study.metric in values), default=0)
  for one, study in zip(axes, these):
    for arm in studies.ARMS_OF_FIGURE_4:
      if arm in study.arms:
        _curves(one, study.arms[arm].runs, study.metric, colour(study.family), LINES[arm], arm)
    one.set(xlabel='step', ylabel=f'{study.metric}, %', ylim=(max(0, lowest - 5), 101))
    one.set_title(study.model, loc='left', fontsize=10)
    one.grid(alpha=0.25)
    one.legend(frameon=False, fontsize=8, loc='lower right')


def figure2_right(collection: reading.Collection) -> list[Figure]:
  """One figure per dataset with runs on several parts of it."""
  caption = ('{metric} after training on parts of the data at equal steps, mean and least to greatest over {seeds} '
             f'seeds; stopped early where the config keeps the best checkpoint. {tables.NO_CURVES}')
  results = _of_studies('figure2_right', 'Figure 2, right,', caption, studies.data_scale(collection.runs), _data_scale)
  return results or [_nothing('figure2_right', 'Figure 2, right: data scale', 'The runs are not of several parts of '
                              'their data.')]


def _data_scale(axes, these: Sequence[studies.Study]):
  axes = axes[0]
  for study in these:
    size = [other.model for other in these if other.family == study.family].index(study.model)
    arms = sorted(study.arms)
    spreads = [studies.Spread.of([100 * studies.early_stopped(run, study.metric) for run in study.arms[arm].runs])
               for arm in arms]
    axes.errorbar([100 * arm for arm in arms], [one.mean for one in spreads],
                  [[one.mean - one.least for one in spreads], [one.greatest - one.mean for one in spreads]],
                  fmt=MARKS[size % len(MARKS)], linestyle=('-', '--', ':', '-.')[size % 4], color=colour(study.family),
                  capsize=3, linewidth=1.5, markersize=6, label=study.model)
  axes.set(xscale='log', xlabel='part of the training data, %', ylabel=f'{these[0].metric}, %')
  ticks = sorted({100 * arm for study in these for arm in study.arms})
  axes.set_xticks(ticks, [f'{tick:.3g}' for tick in ticks])
  axes.minorticks_off()
  axes.grid(alpha=0.25)
  axes.legend(frameon=False, fontsize=8)


def _of_studies(key, title, caption, of, draw) -> list[Figure]:
  """A figure per dataset and metric. Figure 4 has a panel per model."""
  made = []
  for data, metric in dict.fromkeys((study.data, study.metric) for study in of):
    these = [study for study in of if (study.data, study.metric) == (data, metric)]
    numbers = sorted({len(group.runs) for study in these for group in study.arms.values()})
    seeds = ' to '.join(map(str, numbers[:1] + numbers[1:][-1:]))
    name = ''.join(c if c.isalnum() else '_' for c in f'{key} {data} {metric}')
    made.append(Figure(
        name, f'{title} on {data}', caption.format(metric=metric, seeds=seeds),
        functools.partial(draw, these=these), len(these) if key == 'figure4' else 1,
        tuple(dict.fromkeys(run.id for study in these for run in study.runs))))
  return made


def _nothing(key, title, why) -> Figure:
  return Figure(key, title, f'{tables.NO_CURVES} {why}', lambda axes: None, 0, missing=tables.STUDIES[key][-1])


def all_figures(collection: reading.Collection) -> list[Figure]:
  return [figure2_left(collection), *figure2_right(collection), figure3(collection), *figure4(collection)]


def write(figures: Sequence[Figure], out):
  """Writes NAME.svg, NAME.png and NAME_narrow.svg of each figure that has panels."""
  try:
    import matplotlib
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError('matplotlib is not installed, and the figures need it: pip install -r requirements.txt '
                              '-c requirements.lock. python -m paper.tables does not need it') from error
  from matplotlib import figure as figures_of_matplotlib
  storage.make_folder(out)
  # Equal figures give equal files.
  with matplotlib.rc_context({'svg.hashsalt': 'paper', 'font.size': 10}):
    for figure in figures:
      for narrow in (False, True) if figure.panels else ():
        columns = 1 if narrow or figure.panels == 1 else min(3, figure.panels)
        rows = -(-figure.panels // columns)
        size = (4.2, 3.9 * rows) if narrow else ((8.5, 5.2) if columns == 1 else (11, 4.4 * rows))
        canvas = figures_of_matplotlib.Figure(figsize=size, layout='constrained')
        axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
        figure.draw(axes)
        for unused in axes[figure.panels:]:
          unused.set_axis_off()
        for suffix in ('svg',) if narrow else ('svg', 'png'):
          file = io.BytesIO()
          canvas.savefig(file, format=suffix, dpi=110, metadata={'Date': None} if suffix == 'svg' else {})
          storage.write(out / f'{figure.key}{"_narrow" if narrow else ""}.{suffix}', file.getvalue())


def main(arguments: list[str] | None = None):
  flags, collection = command_line.parse(__doc__, arguments)
  figures = all_figures(collection)
  write(figures, flags.out)
  for figure in figures:
    print(flags.out / f'{figure.key}.svg' if figure.panels else f'{figure.title}: nothing yet; {figure.missing}')


if __name__ == '__main__':
  command_line.run(main)
