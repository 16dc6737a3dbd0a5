"""Accuracy and loss over a split, each example counted once.

If examples have one class each, the metrics are top-1 and top-5. If they have any number of classes, they are
precision@1 and recall@5, and these and the loss are over the examples that have a class: ReaL leaves out the others.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mixer.data import normalize
from mixer.evaluators import sample
from mixer.run import devices
from mixer.training import losses
from mixer.training import metrics
from mixer import trees

OF_ONE_CLASS = {'top1': lambda logits, batch, targets: metrics.top_k_hit(logits, batch['label'], 1),
                'top5': lambda logits, batch, targets: metrics.top_k_hit(logits, batch['label'], 5)}
OF_CLASSES = {'precision_at_1': lambda logits, batch, targets: metrics.precision_at_1(logits, targets),
              'recall_at_5': lambda logits, batch, targets: metrics.recall_at_5(logits, targets)}


def metric_names(source, num_classes: int) -> list[str]:
  """The metrics for a source's examples of which higher is better, the main one first."""
  shape, _ = source.labels['label']
  return list(_hits(several=bool(shape), num_classes=num_classes))


def _hits(several: bool, num_classes: int) -> dict:
  """OF_CLASSES or OF_ONE_CLASS; without the top-5 metric, which is always 1, if there are up to five classes."""
  main, of_five = (OF_CLASSES if several else OF_ONE_CLASS).items()
  return dict([main, of_five] if num_classes > 5 else [main])


class Scorer:
  """Scores a model's parameters on the batches of a split.

  Batches are {'image': [D, b, H, W, 3] uint8, 'label': [D, b] or [D, b, L], 'mask': [D, b]}, D devices of b examples,
  and may have 'weight': [D, b, L].

  Attributes:
    sample: of the last split that was scored with `keep`.
  """

  def __init__(self, model, loss: str):
    loss_function, probabilities = losses.LOSSES[loss], losses.PROBABILITIES[loss]
    self.sample: sample.Sample | None = None

    def score(params, batch):
      logits = model.apply(trees.variables(params), normalize.normalize_images(batch['image']))
      targets = losses.targets(batch, logits.shape[-1])
      classified = batch['mask'] * (targets > 0).any(axis=1)
      several = batch['label'].ndim > 1
      hits = {name: hit(logits, batch, targets) for name, hit in _hits(several, logits.shape[-1]).items()}
      sums = {'examples': batch['mask'].sum(), 'classified': classified.sum(),
              'of_class': classified @ (targets > 0).astype('float32'),
              'loss': jnp.vdot(classified if several else batch['mask'], loss_function(logits, targets)),
              **{name: jnp.vdot(classified, hit) for name, hit in hits.items()}}
      outputs = {'hit': next(iter(hits.values())), 'classified': classified, 'guess': logits.argmax(-1),
                 'probability': probabilities(logits).max(-1)}
      return jax.lax.psum(sums, 'batch'), outputs

    self._score = jax.pmap(score, axis_name='batch', in_axes=(None, 0), out_axes=(None, 0))

  def __call__(self, params, batches: Iterable[dict], num_examples: int, keep: bool = False) -> dict[str, float]:
    """{'top1', 'top5', 'loss', 'examples'}, or {'precision_at_1', 'recall_at_5', 'loss', 'examples', 'classified'}.

    They are sums over all batches, divided once by the number of examples that have a class; the loss of examples with
    one class each is divided by the number of all. A model of up to five classes has no 'top5' or 'recall_at_5'.

    Args:
      keep: whether to set `sample`.

    Raises:
      RuntimeError: if the number of examples scored is not `num_examples`, that of the split, or none has a class.
    """
    totals, sampler = {}, sample.Sampler() if keep else None
    scored = ((*self._score(params, batch), batch if keep else None) for batch in batches)
    for sums, outputs, batch in devices.dispatch_ahead(scored):
      for name, value in jax.device_get(sums).items():
        totals[name] = totals.get(name, 0.) + np.asarray(value, np.float64)
      if keep:
        sampler.add(batch, outputs)
    of_class = totals.pop('of_class', np.zeros(1))
    examples, classified = (round(float(totals.pop(name, 0))) for name in ('examples', 'classified'))
    if examples != num_examples:
      raise RuntimeError(f'the evaluation scored {examples} examples, and the split has {num_examples}')
    if not classified:
      raise RuntimeError(f'none of the {examples} examples of the split has a class to score by')
    of_several = 'top1' not in totals
    scores = {name: float(total) / (examples if name == 'loss' and not of_several else classified)
              for name, total in totals.items()}
    if keep:
      hits = next(total for name, total in totals.items() if name in ('top1', 'precision_at_1'))
      self.sample = sampler.sample(wrong=classified - round(float(hits)), classified=classified,
                                   most_frequent=round(float(of_class.max())))
    return {**scores, 'examples': examples, **({'classified': classified} if of_several else {})}
