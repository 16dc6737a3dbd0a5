"""Work on a stream of items by threads, in order."""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures


def map_in_order(function: Callable, items: Iterable, threads: int) -> Iterator:
  """Yields function(item) of each item in their order; at most 4 * threads are under way or wait to be taken.

  For work that releases the GIL, as Pillow does while it decodes, and files while they are read.
  """
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    begun = collections.deque()
    for item in items:
      begun.append(pool.submit(function, item))
      if len(begun) > 4 * threads:
        yield begun.popleft().result()
    while begun:
      yield begun.popleft().result()
