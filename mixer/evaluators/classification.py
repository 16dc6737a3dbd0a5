"""Top-1, top-5 and loss over a split, each example counted once."""

from collections.abc import Iterable

import jax
import numpy as np

from mixer import devices
from mixer import losses
from mixer import metrics
from mixer import models


class Scorer:
  """Scores a model's parameters, replicated over the devices, on the batches of a split.

  Batches are {'image': [D, b, H, W, 3] uint8, 'label': [D, b] or [D, b, L], 'mask': [D, b]}, D devices of b examples.
  """

  def __init__(self, model, loss: str):
    loss_function = losses.LOSSES[loss]

    def score(params, batch):
      logits = model.apply({'params': params}, models.scale(batch['image']))
      labels, mask = batch['label'], batch['mask']
      values = {'top1': metrics.top_k_hit(logits, labels, 1), 'top5': metrics.top_k_hit(logits, labels, 5),
                'loss': loss_function(logits, losses.targets(labels, logits.shape[-1])), 'examples': mask}
      return jax.lax.psum({name: (mask * value).sum() for name, value in values.items()}, 'batch'), logits

    self._score = jax.pmap(score, axis_name='batch', out_axes=(None, 0))

  def __call__(self, params, batches: Iterable[dict], num_examples: int) -> dict[str, float]:
    """{'top1', 'top5', 'loss', 'examples'}: sums over all batches, divided once by the number of examples.

    Raises:
      RuntimeError: if another number of examples was scored than `num_examples`, the split's.
    """
    totals = dict.fromkeys(('top1', 'top5', 'loss', 'examples'), 0.)
    under_way = []  # one batch, so that the devices go on while its sums are fetched
    for batch in batches:
      under_way.append(self._score(params, batch)[0])
      devices.settle(under_way)
      if len(under_way) > 1:
        _add(totals, under_way.pop(0))
    for sums in under_way:
      _add(totals, sums)
    examples = round(totals.pop('examples'))
    if examples != num_examples:
      raise RuntimeError(f'the evaluation scored {examples} examples, and the split has {num_examples}')
    return {**{name: total / examples for name, total in totals.items()}, 'examples': examples}

  def predictions(self, params, batch: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """This host's (images, labels, logits) of one batch, without the filling."""
    _, logits = self._score(params, batch)
    real = np.asarray(batch['mask']).reshape(-1) > 0
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[real]
    return flat(batch['image']), flat(batch['label']), flat(logits)


def _add(totals, sums):
  for name, value in jax.device_get(sums).items():
    totals[name] += float(value)
