"""Chooses the images of a split that a picture shows: wrong ones first, spread evenly over the split."""

import dataclasses

import jax
from jax.experimental import multihost_utils
import numpy as np

SIZE = 60
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio: its multiples modulo 2^64 are spread evenly
RIGHT, NONE = np.uint64(2**63), np.uint64(2**64 - 1)  # NONE is the order of no image


@dataclasses.dataclass(frozen=True)
class Sample:
  """At most SIZE examples of a split, wrong ones first, and each in the split's order.

  Attributes:
    images: [N, H, W, 3] uint8.
    labels: [N] or [N, L] ints, padded with -1.
    guesses, probabilities: [N], the class of the highest logit, and its probability.
    wrong: the number of wrong examples of the whole split.
    classified: the number of examples of the split that have a class, and so can be wrong.
    most_frequent: the number of examples of the most frequent class.
  """
  images: np.ndarray
  labels: np.ndarray
  guesses: np.ndarray
  probabilities: np.ndarray
  wrong: int
  classified: int
  most_frequent: int


class Sampler:
  """Collects SIZE examples from the batches of a split as they are scored.

  The choice depends only on their indices in the split: wrong ones before right ones, and of both, those whose index
  times the golden ratio has the smallest fractional part, which are spread evenly over any split. Images are fetched
  from the devices only if one is kept: some hundred of 50,000, and never more than a batch at once.
  """

  def __init__(self):
    self._batches = 0
    self._kept = None  # [n] arrays by name, 'order' ascending

  def add(self, batch: dict, outputs: dict):
    """Adds this process's part of a batch, and its {'hit', 'classified', 'guess', 'probability'}: [D, b] each."""
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])
    outputs = {name: flat(x) for name, x in outputs.items()}
    number = len(outputs['hit'])
    places = (self._batches * jax.process_count() + jax.process_index()) * number + np.arange(number, dtype=np.uint64)
    self._batches += 1
    order = (places * GOLDEN >> np.uint64(1)) | np.where(outputs['hit'] > 0, RIGHT, np.uint64(0))
    order = np.where(outputs['classified'] > 0, order, NONE)
    limit = NONE if self._kept is None or len(self._kept['order']) < SIZE else self._kept['order'][-1]
    chosen = np.argsort(order)[:SIZE]
    chosen = chosen[order[chosen] < limit]
    if chosen.size or self._kept is None:
      candidates = {'order': order, 'place': places, 'image': flat(batch['image']),
                    'label': flat(batch['label']), **outputs}
      candidates = {name: x[chosen] for name, x in candidates.items()}
      self._keep(candidates if self._kept is None else
                 {name: np.concatenate([x, candidates[name]]) for name, x in self._kept.items()})

  def _keep(self, candidates):
    first = np.argsort(candidates['order'])[:SIZE]
    self._kept = {name: x[first] for name, x in candidates.items()}

  def sample(self, *, wrong: int, classified: int, most_frequent: int) -> Sample:
    """The sample of all processes, which all must call this."""
    if jax.process_count() > 1:
      missing = SIZE - len(self._kept['order'])
      pad = lambda name, x: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1),
                                   constant_values=NONE if name == 'order' else 0)
      # As bytes: without x64, JAX would halve the 64-bit numbers.
      whole = {name: pad(name, x) for name, x in self._kept.items()}
      gathered = {name: multihost_utils.process_allgather(np.frombuffer(x.tobytes(), np.uint8))
                  for name, x in whole.items()}
      candidates = {name: np.frombuffer(np.asarray(gathered[name]).tobytes(), x.dtype).reshape(-1, *x.shape[1:])
                    for name, x in whole.items()}
      self._keep({name: x[candidates['order'] < NONE] for name, x in candidates.items()})
    shown = np.lexsort((self._kept['place'], self._kept['hit']))
    kept = {name: x[shown] for name, x in self._kept.items()}
    return Sample(kept['image'], kept['label'], kept['guess'], kept['probability'], wrong, classified, most_frequent)
