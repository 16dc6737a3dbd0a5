"""What the devices of this machine need of the programs that feed them."""

from collections.abc import Iterable, Iterator
import ctypes

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_memory():
  """Where a CPU computes, has the C library keep the memory that one step gives back for the next one.

  A step's temporary arrays take hundreds of megabytes, which the kernel would hand out, page by page and zeroed, at each
  step anew. Of use with glibc alone; elsewhere nothing is done.
  """
  library = ctypes.CDLL(None)
  if jax.default_backend() == 'cpu' and hasattr(library, 'gnu_get_libc_version'):
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def settle(results):
  """Waits for `results` where several devices are simulated on a CPU.

  Queued collectives can take up all the threads of XLA's CPU client and then wait for one another for ever.
  """
  if jax.default_backend() == 'cpu' and jax.device_count() > 1:
    jax.block_until_ready(results)


def one_ahead(results: Iterable) -> Iterator:
  """The same results in order, each when the next is under way: the devices go on while one is fetched."""
  under_way = []
  for result in results:
    settle(result)
    under_way.append(result)
    if len(under_way) > 1:
      yield under_way.pop(0)
  yield from under_way
