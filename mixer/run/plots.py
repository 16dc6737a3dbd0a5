"""Plots of a run: learning curves, predictions, weights."""

import io
import pathlib

import matplotlib
from matplotlib import figure
from matplotlib import ticker
import numpy as np

from mixer.data import class_names as class_names_lib
from mixer.run import goodput as goodput_lib
from mixer import storage
from mixer.wording import counted

matplotlib.use('Agg')

MAX_CHARS = 18  # of a line above an image
RIGHT, WRONG = '#2a7f3f', '#c0392b'


def learning_curves(records: list[dict], path):
  """Draws loss, error in percent, learning rate and gradient norm over the steps, from a run's records.

  Training loss and error are means over the steps since the previous record, if the records have them.
  """
  series = {}
  for record in records:
    for name, value in record.items():
      series.setdefault(name, []).append((record['step'], value))
  mean = lambda name: f'{name}_mean' if f'{name}_mean' in series else name
  ending = lambda *ends: [name for name in series if name.endswith(ends) and not name.startswith('train/')]
  panels = [('loss', [mean('train/loss'), *ending('/loss')]),
            ('top-1 error, %', [mean('train/top1'), *ending('/top1', '/precision_at_1')]),
            ('learning rate', ['train/learning_rate']), ('gradient norm', ['train/grad_norm'])]
  canvas = figure.Figure(figsize=(11, 6.5), layout='constrained')
  for axes, (title, names) in zip(canvas.subplots(2, 2).flat, panels):
    names, least = [name for name in names if name in series], []
    for name in names:
      steps, values = np.array(series[name], float).T
      values = 100 * (1 - values) if title.startswith('top-1') else values
      label = name.split('/')[0] + (', mean since the last point' if name.endswith('_mean') else '')
      if title.startswith('top-1') and not name.startswith('train/'):
        label += f', {values[-1]:.2f} at the end'
      axes.plot(steps, values, '.-' if len(steps) < 100 else '-', linewidth=1.2, label=label)
      least.append(values.min())
    axes.set_title(title, loc='left')
    axes.set_xlabel('step')
    axes.grid(alpha=0.25)
    if title != 'learning rate' and min(least, default=0) > 0:
      _logarithmic(axes)
    if title in ('loss', 'top-1 error, %') and names:
      axes.legend(frameon=False)
  _save(canvas, path, dpi=110)


def goodput(lines: list[dict], path):
  """Draws which part of a run's time went to what, from the lines of `goodput.read`, over the time since its first start.

  The parts are those of the time until then, so that the right edge shows the account of the whole run.
  """
  accounts = [account for number in range(1, len(lines) + 1) if (account := goodput_lib.account(lines[:number]))]
  unit, of_unit = ('hours', 3600) if accounts[-1].total >= 7200 else ('minutes', 60)
  times = [account.total / of_unit for account in accounts]
  words = goodput_lib.KINDS | goodput_lib.LOST
  colors = dict(zip(words, (RIGHT, '#8e8e93', '#c7c7cc', '#e6a23c', '#3b7dd8', '#8fb8ed', WRONG, '#4a4a4a'), strict=True))
  kinds = [kind for kind in words if any(account.seconds[kind] > 0.001 * account.total for account in accounts)]
  canvas = figure.Figure(figsize=(9, 4.5), layout='constrained')
  axes = canvas.subplots()
  axes.stackplot(times, [[100 * account.seconds[kind] / account.total for account in accounts] for kind in kinds],
                 labels=[f'{words[kind]}, {accounts[-1].seconds[kind] / accounts[-1].total:.1%}' for kind in kinds],
                 colors=[colors[kind] for kind in kinds])
  axes.set(xlim=(min(times), max(times)), ylim=(0, 100), xlabel=f'{unit} since the first start', ylabel='% of the time so far')
  axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False, reverse=True)
  _save(canvas, path, dpi=110)


def _logarithmic(axes):
  """A logarithmic scale whose ticks are plain numbers."""
  axes.set_yscale('log')
  low, high = axes.get_ylim()
  decades = np.log10(high / low)
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
  axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def predictions(sample, class_names, path, columns: int = 10):
  """Draws images with the predicted class and its probability; wrong ones come first, in red, with the true class.

  Args:
    sample: of a split: `evaluators.sample.Sample`.
    class_names: K strings, WordNet ids of which are shown as words; or None to show the indices of the classes.
  """
  name = lambda k: class_names_lib.words(k if class_names is None else class_names[k])
  labels = sample.labels.reshape(len(sample.labels), -1)
  hits = (labels == sample.guesses[:, None]).any(1)
  truth = lambda k: '' if hits[k] else '\nis ' + ', '.join(name(label) for label in labels[k] if label >= 0)
  grid(sample.images, [f'{name(sample.guesses[k])}  {sample.probabilities[k]:.0%}{truth(k)}' for k in range(len(labels))],
       f'{len(labels):,} of {counted(sample.classified, "image")}, wrong ones first (red): {sample.wrong:,} wrong in all, '
       f'{sample.wrong / sample.classified:.2%}', path, columns, [RIGHT if hit else WRONG for hit in hits])


def grid(images, texts, title: str, path, columns: int = 8, colours=None):
  """Draws images in rows, each below a text of one or two lines. [B, H, W, 3] uint8, B strings, B colours or None."""
  rows = -(-len(images) // columns)
  cell = 1.4  # an image of side 1 and two lines of text above it
  canvas = figure.Figure(figsize=(1.3 * columns, 1.3 * cell * rows + 0.4))
  axes = canvas.add_axes((0.01, 0, 0.98, 1 - 0.4 / canvas.get_figheight()))  # one for all images: many are slow
  axes.set(xlim=(0, 1.1 * columns), ylim=(cell * rows, 0))
  axes.axis('off')
  canvas.text(0.01, 0.985, title, va='top', fontsize=13, parse_math=False)
  for place, (image, text) in enumerate(zip(images, texts)):
    left, bottom = 1.1 * (place % columns), cell * (place // columns + 1)
    axes.imshow(image, interpolation='nearest', extent=(left, left + 1, bottom, bottom - 1), aspect='auto')
    text = '\n'.join(line if len(line) <= MAX_CHARS else line[:MAX_CHARS - 1] + '…' for line in text.split('\n'))
    axes.text(left, bottom - 1.03, text, fontsize=9, color=colours[place] if colours else 'black', va='bottom',
              parse_math=False)
  _save(canvas, path, dpi=100)


def tiles(maps, title: str, path, columns: int = 32):
  """Draws weights as a grid of images, each scaled on its own.

  Args:
    maps: [N, h, w, 3], drawn as colours from the smallest weight to the largest; or [N, h, w], drawn from blue
      (negative) to white (0) to red.
  """
  maps = np.asarray(maps, np.float64)
  axes = tuple(range(1, maps.ndim))
  scaled = lambda x, scale: x / np.where(scale > 0, scale, 1)
  if maps.ndim == 4:
    low = maps.min(axes, keepdims=True)
    colours = scaled(maps - low, maps.max(axes, keepdims=True) - low)
  else:
    size = np.abs(maps).max(axes, keepdims=True)
    colours = matplotlib.colormaps['RdBu_r'](0.5 + scaled(maps, size) / 2)[..., :3]
  height, width = maps.shape[1:3]
  gap = max(1, width // 8)
  rows = -(-len(maps) // columns)
  wall = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
  for place, tile in enumerate(colours):
    top, left = place // columns * (height + gap), place % columns * (width + gap)
    wall[top:top + height, left:left + width] = tile
  pixels = max(1, round(1300 / wall.shape[1]))  # a weight's side in the picture
  edge, above, dpi = 10, 40, 100
  whole = np.array([wall.shape[1] * pixels + 2 * edge, wall.shape[0] * pixels + edge + above])
  canvas = figure.Figure(figsize=whole / dpi)
  place = canvas.add_axes((edge / whole[0], edge / whole[1], wall.shape[1] * pixels / whole[0],
                           wall.shape[0] * pixels / whole[1]))
  place.imshow(wall, interpolation='nearest', aspect='auto')
  place.axis('off')
  canvas.text(edge / whole[0], 1 - 8 / whole[1], title, va='top', fontsize=13, parse_math=False)
  _save(canvas, path, dpi=dpi)


def check_path(name: str, path):
  """Raises a ValueError that names the flag unless a plot can be saved at a path: to be called before the work."""
  path, formats = pathlib.Path(path), figure.Figure().canvas.get_supported_filetypes()
  if path.suffix.removeprefix('.').lower() not in formats:
    raise ValueError(f'{name} is {path}; it must end in one of .{", .".join(formats)}')
  if not path.parent.is_dir() or path.is_dir():
    raise ValueError(f'{name} is {path}, but the folder {path.parent} does not exist' if not path.is_dir() else
                     f'{name} is {path}, which is a folder; expected a file')


def _save(canvas, path, dpi):
  path, file = storage.path_of(path), io.BytesIO()
  canvas.savefig(file, dpi=dpi, format=path.suffix.removeprefix('.') or None)
  storage.write(path, file.getvalue())
