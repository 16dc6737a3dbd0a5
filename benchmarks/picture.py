"""Bars of the medians, with lines from the least to the greatest sample."""

import matplotlib
from matplotlib import figure

from benchmarks import summary

matplotlib.use('Agg')

COLOURS = {'ours': '#2a7f3f', 'train': '#2a7f3f', 'split': '#2a7f3f', 'ours, remat': '#7fbf8f',
           'ours, stock malloc': '#7fbf8f', 'augmented': '#7fbf8f', 'listing': '#4878a8',
           'timm': '#c98a3a', 'timm, compiled': '#a8562a'}
OTHERS = '#999999'


def draw(samples: list[dict], path):
  """A panel for each quantity, model and batch that several contenders were measured in."""
  panels = {}
  for identity, taken in summary.by_identity(samples).items():
    quantity, model, batch, dtype, contender = identity
    spread = summary.Spread.of([sample['value'] for sample in taken])
    panels.setdefault((quantity, model, batch, taken[0]['unit']), []).append((contender, dtype, spread))
  columns = 3
  rows = -(-len(panels) // columns)
  canvas = figure.Figure(figsize=(4.6 * columns, 2.3 * rows), layout='constrained')
  grid = canvas.subplots(rows, columns, squeeze=False).flat
  for axes, ((quantity, model, batch, unit), bars) in zip(grid, panels.items()):
    for place, (contender, dtype, spread) in enumerate(bars):
      axes.barh(place, spread.median, color=COLOURS.get(contender, OTHERS), height=0.7)
      axes.plot([spread.least, spread.greatest], [place, place], color='black', linewidth=1.2)
      axes.text(max(spread.median, spread.greatest), place, f' {summary.figures(spread.median)}', va='center', fontsize=8)
    axes.set_yticks(range(len(bars)), [contender + (', bf16' if dtype == 'bfloat16' else '')
                                       for contender, dtype, _ in bars], fontsize=8)
    axes.set_xlim(0, 1.22 * max(spread.greatest for _, _, spread in bars))
    axes.invert_yaxis()
    axes.tick_params(axis='x', labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    words = [quantity, model, f'batch {batch}' if batch else None]
    axes.set_title(f'{", ".join(filter(None, words))} ({unit})', fontsize=9, loc='left')
  for axes in canvas.axes[len(panels):]:
    axes.axis('off')
  canvas.savefig(path, dpi=110)
