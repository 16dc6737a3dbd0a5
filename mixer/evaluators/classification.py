"""Accuracy and loss over a split, each example counted once.

Where examples have one class each, the metrics are top-1 and top-5; where they have any number, precision@1 and
recall@5, and these and the loss are over the examples that have a class at all: ReaL leaves out the others.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mixer import devices
from mixer import losses
from mixer import metrics
from mixer import models

OF_ONE_CLASS = {'top1': lambda logits, batch, targets: metrics.top_k_hit(logits, batch['label'], 1),
                'top5': lambda logits, batch, targets: metrics.top_k_hit(logits, batch['label'], 5)}
OF_CLASSES = {'precision_at_1': lambda logits, batch, targets: metrics.precision_at_1(logits, targets),
              'recall_at_5': lambda logits, batch, targets: metrics.recall_at_5(logits, targets)}


def metric_names(source) -> list[str]:
  """The metrics of a source's examples that are the better the higher, the main one first."""
  shape, _ = source.labels['label']
  return list(OF_CLASSES if shape else OF_ONE_CLASS)


class Scorer:
  """Scores a model's parameters, replicated over the devices, on the batches of a split.

  Batches are {'image': [D, b, H, W, 3] uint8, 'label': [D, b] or [D, b, L], 'mask': [D, b]}, D devices of b examples,
  and may have 'weight': [D, b, L].
  """

  def __init__(self, model, loss: str):
    loss_function, probabilities = losses.LOSSES[loss], losses.PROBABILITIES[loss]

    def score(params, batch):
      logits = model.apply({'params': params}, models.scale(batch['image']))
      targets = losses.targets(batch, logits.shape[-1])
      classified = batch['mask'] * (targets > 0).any(axis=1)
      hits, counted = (OF_ONE_CLASS, batch['mask']) if batch['label'].ndim == 1 else (OF_CLASSES, classified)
      sums = {'examples': batch['mask'].sum(), 'classified': classified.sum(),
              'loss': jnp.vdot(counted, loss_function(logits, targets)),
              **{name: jnp.vdot(classified, hit(logits, batch, targets)) for name, hit in hits.items()}}
      return jax.lax.psum(sums, 'batch'), probabilities(logits)

    self._score = jax.pmap(score, axis_name='batch', out_axes=(None, 0))

  def __call__(self, params, batches: Iterable[dict], num_examples: int) -> dict[str, float]:
    """{'top1', 'top5', 'loss', 'examples'}, or {'precision_at_1', 'recall_at_5', 'loss', 'examples', 'classified'}.

    They are sums over all batches, divided once, by the number of examples that have a class; the loss of examples with
    one class each by the number of all.

    Raises:
      RuntimeError: if another number of examples was scored than `num_examples`, the split's, or none has a class.
    """
    totals = {}
    for sums in devices.one_ahead(self._score(params, batch)[0] for batch in batches):
      for name, value in jax.device_get(sums).items():
        totals[name] = totals.get(name, 0.) + float(value)
    examples, classified = (round(totals.pop(name, 0)) for name in ('examples', 'classified'))
    if examples != num_examples:
      raise RuntimeError(f'the evaluation scored {examples} examples, and the split has {num_examples}')
    if not classified:
      raise RuntimeError(f'none of the {examples} examples of the split has a class to score by')
    if 'top1' not in totals:
      scores = {name: total / classified for name, total in totals.items()}
      return {**scores, 'examples': examples, 'classified': classified}
    return {**{name: total / (examples if name == 'loss' else classified) for name, total in totals.items()},
            'examples': examples}

  def predictions(self, params, batch: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """This host's (images, labels, probabilities of the classes) of one batch, without the filling."""
    _, probabilities = self._score(params, batch)
    real = np.asarray(batch['mask']).reshape(-1) > 0
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[real]
    return flat(batch['image']), flat(batch['label']), flat(probabilities)
