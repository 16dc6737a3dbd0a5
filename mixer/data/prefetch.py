"""Batches sent to this process's devices before they are needed."""

import collections
from collections.abc import Iterable, Iterator
import itertools

import jax
import numpy as np


def prefetch_to_device(batches: Iterable[dict], depth: int = 2) -> Iterator[dict]:
  """The same batches on this process's devices: {name: [D, b, ...]}, split over them by the leading axis.

  The first `depth` are sent by this call, and each further one as one is taken.
  """
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ('batch',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('batch'))
  sent = (jax.device_put(batch, sharding) for batch in batches)
  queue = collections.deque(itertools.islice(sent, depth))

  def draw():
    while queue:
      yield queue.popleft()
      queue.extend(itertools.islice(sent, 1))

  return draw()
