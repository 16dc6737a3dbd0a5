"""Pictures of a run, for people."""

import matplotlib
from matplotlib import figure
import numpy as np

matplotlib.use('Agg')

RIGHT, WRONG = '#2a7f3f', '#c0392b'


def learning_curves(records: list[dict], path):
  """Draws loss, evaluation accuracy, learning rate and gradient norm over the steps, from a run's records."""
  series = {}
  for record in records:
    for name, value in record.items():
      series.setdefault(name, []).append((record['step'], value))
  losses = [name for name in series if name.endswith('/loss')]
  accuracies = [name for name in series if name.endswith('/top1')]
  panels = [('loss', losses, 'log'), ('top-1 error', accuracies, 'log'),
            ('learning rate', ['train/learning_rate'], 'linear'), ('gradient norm', ['train/grad_norm'], 'log')]
  canvas = figure.Figure(figsize=(11, 6.5), layout='constrained')
  for axes, (title, names, scale) in zip(canvas.subplots(2, 2).flat, panels):
    for name in names:
      steps, values = np.array(series[name], float).T
      values = 1 - values if title == 'top-1 error' else values
      axes.plot(steps, values, '.-' if len(steps) < 100 else '-', linewidth=1.2, label=name.split('/')[0])
    if title == 'top-1 error' and names:
      steps, values = series[names[0]][-1]
      axes.set_title(f'{title}; at the end {names[0]} {values:.2%} right', loc='left')
    else:
      axes.set_title(title, loc='left')
    axes.set(xlabel='step', yscale=scale)
    axes.grid(alpha=0.25)
    if len(names) > 1 or title == 'loss':
      axes.legend(frameon=False)
  canvas.savefig(path, dpi=110)


def predictions(images, labels, logits, class_names, path, rows: int = 6, columns: int = 10):
  """Draws images with the predicted class and its softmax share; wrong ones come first, in red, with the truth.

  Args:
    images: [B, H, W, 3] uint8.
    labels: [B] ints.
    logits: [B, K].
    class_names: K strings.
  """
  shares = np.exp(logits - logits.max(-1, keepdims=True))
  shares /= shares.sum(-1, keepdims=True)
  guesses = logits.argmax(-1)
  order = np.argsort(guesses == labels, kind='stable')[:rows * columns]
  wrong = int((guesses != labels).sum())
  canvas = figure.Figure(figsize=(1.25 * columns, 1.55 * rows + 0.5), layout='constrained')
  canvas.suptitle(f'{len(labels)} images of the split: {len(labels) - wrong} right, {wrong} wrong (red, shown first)',
                  x=0.01, ha='left')
  grid = canvas.subplots(rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.axis('off')
  for axes, k in zip(grid.flat, order):
    right = guesses[k] == labels[k]
    axes.imshow(images[k], interpolation='nearest')
    truth = '' if right else f'\nis {class_names[labels[k]]}'
    axes.set_title(f'{class_names[guesses[k]]}  {shares[k, guesses[k]]:.0%}{truth}', fontsize=8, pad=2,
                   color=RIGHT if right else WRONG)
  canvas.savefig(path, dpi=110)
