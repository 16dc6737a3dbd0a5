"""What the devices of this machine need of the programs that feed them."""

from collections.abc import Callable, Iterable, Iterator
import ctypes
import difflib
import glob
import importlib.util
import sys

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of mallopt(3)
# Of the packages by which JAX computes elsewhere, what is there on a machine that has such devices.
SEEN_IN = {'libtpu': ('/dev/accel*', '/dev/vfio/[0-9]*'),
           'jax_plugins': ('/dev/nvidia[0-9]*', '/dev/nvidiactl', '/dev/dxg', '/dev/kfd')}
# What JAX_PLATFORMS may hold, and the package by which JAX has it.
PLATFORMS = {'cpu': 'jax', 'cuda': 'jax[cuda13]', 'gpu': 'jax[cuda13]', 'tpu': 'jax[tpu]'}


def start(join: Callable[[], None] = lambda: None):
  """Has JAX start its devices, after `keep_memory` and `join`, by which other processes are joined.

  Raises:
    SystemExit: in one line, if JAX cannot use what JAX_PLATFORMS says.
  """
  keep_memory()
  join()
  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:
    if jax.distributed.is_initialized():
      raise  # the others must be left as after any error
    raise SystemExit(_no_devices(jax.config.jax_platforms or '', str(error))) from error


def _no_devices(platforms: str, error: str) -> str:
  """What to do about it that JAX starts no device, in one line."""
  reason = ' '.join(error.removeprefix('Unable to initialize backend ').split(" (set JAX_PLATFORMS=''")[0].split())
  said = f'JAX_PLATFORMS is {platforms!r}, which JAX cannot use here{reason and f" ({reason})"}. '
  first = platforms.split(',')[0]
  if first in PLATFORMS:
    said += f'If it is not installed: pip install "{PLATFORMS[first]}=={jax.__version__}". '
  elif near := difflib.get_close_matches(first.lower(), PLATFORMS, n=1):
    said += f'Did you mean {near[0]}? '
  return said + f'Expected one of {", ".join(PLATFORMS)}; without JAX_PLATFORMS, JAX takes the best that it finds'


def keep_memory():
  """Where a CPU computes, has the C library keep the memory that one step gives back for the next one.

  A step's temporary arrays take hundreds of megabytes, which the kernel would hand out, page by page and zeroed, at each
  step anew. `python -m benchmarks --parts=training` has a step without that, as 'ours, stock malloc'. The process holds
  more memory so.

  To be called before JAX is asked for devices: each thread that it starts for them would get a heap of its own, which
  gives memory back whatever it is told. A heap that is there before, as that of a thread of TensorFlow's, stays in use.
  Of use with glibc alone; elsewhere nothing is done. Measured on two cores; of many, some might wait for the heap.
  """
  if (library := _glibc()) and computes_on_cpu():
    library.mallopt(M_ARENA_MAX, 1)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_memory_back():
  """Has the C library give back what it keeps of freed memory, of all its heaps. Of use with glibc alone."""
  if library := _glibc():
    library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
  library = ctypes.CDLL(None) if sys.platform == 'linux' else None
  return library if hasattr(library, 'gnu_get_libc_version') else None


def computes_on_cpu() -> bool:
  """Whether JAX will find no accelerator: a guess by jax_platforms and the machine, which starts no devices."""
  if jax.config.jax_platforms:
    return jax.config.jax_platforms.split(',')[0] == 'cpu'
  return not any(importlib.util.find_spec(package) and any(map(glob.glob, paths)) for package, paths in SEEN_IN.items())


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
