"""Initialization of JAX's devices, host memory and dispatch."""

from collections.abc import Callable, Iterable, Iterator
import ctypes
import difflib
import glob
import importlib.util
import sys

import jax
import numpy as np

from mixer.run import compilation_cache

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of mallopt(3)
# Packages by which JAX uses accelerators, and the device files of a machine that has one.
DEVICE_FILES = {'libtpu': ('/dev/accel*', '/dev/vfio/[0-9]*'),
                'jax_plugins': ('/dev/nvidia[0-9]*', '/dev/nvidiactl', '/dev/dxg', '/dev/kfd')}
# Values of JAX_PLATFORMS, and the package that provides each.
PLATFORMS = {'cpu': 'jax', 'cuda': 'jax[cuda13]', 'gpu': 'jax[cuda13]', 'tpu': 'jax[tpu]'}


def initialize(connect: Callable[[], None] = lambda: None, *, cache: bool = True, workdir=None):
  """Initializes JAX's devices, after `tune_glibc_malloc` and `connect`, which connects to other processes.

  Args:
    connect: see above.
    cache: whether to load and keep compiled programs: `compilation_cache.enable`.
    workdir: of a run, for the same.

  Raises:
    SystemExit: in one line, if JAX cannot use the platforms in JAX_PLATFORMS.
  """
  tune_glibc_malloc()
  connect()
  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:
    if jax.distributed.is_initialized():
      raise  # the excepthook exits without waiting for the other processes
    raise SystemExit(_no_devices(jax.config.jax_platforms or '', str(error))) from error
  if cache:
    compilation_cache.enable(workdir)
  else:
    jax.config.update('jax_enable_compilation_cache', False)


def _no_devices(platforms: str, error: str) -> str:
  """One line on why JAX initializes no device, and what to do."""
  reason = ' '.join(error.removeprefix('Unable to initialize backend ').split(" (set JAX_PLATFORMS=''")[0].split())
  message = f'JAX_PLATFORMS is {platforms!r}, which JAX cannot use here{reason and f" ({reason})"}. '
  first = platforms.split(',')[0]
  if first in PLATFORMS:
    message += f'If it is not installed: pip install "{PLATFORMS[first]}=={jax.__version__}". '
  elif near := difflib.get_close_matches(first.lower(), PLATFORMS, n=1):
    message += f'Did you mean {near[0]}? '
  return message + f'Expected one of {", ".join(PLATFORMS)}; without JAX_PLATFORMS, JAX uses the best available'


def tune_glibc_malloc():
  """Makes glibc keep the memory that one step frees for the next one, where a CPU computes.

  A step's temporary arrays take hundreds of megabytes, which the kernel would otherwise map and zero, page by page, at
  each step. `python -m benchmarks --parts=training` measures a step without this as 'ours, stock malloc'. The process
  holds more memory in return.

  Call it before JAX initializes its devices: each thread that it starts for them would get a heap of its own, which
  ignores these settings. A heap that exists before, such as that of a TensorFlow thread, stays in use. Does nothing
  without glibc. Measured on two cores; with many, some might wait for the heap.
  """
  if (library := _glibc()) and computes_on_cpu():
    library.mallopt(M_ARENA_MAX, 1)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def release_free_memory():
  """Makes glibc return the freed memory of all its heaps to the system. Does nothing without glibc."""
  if library := _glibc():
    library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
  library = ctypes.CDLL(None) if sys.platform == 'linux' else None
  return library if hasattr(library, 'gnu_get_libc_version') else None


def computes_on_cpu() -> bool:
  """Whether JAX will have no accelerator: a guess from jax_platforms and the machine, which initializes no devices."""
  if jax.config.jax_platforms:
    return jax.config.jax_platforms.split(',')[0] == 'cpu'
  return not any(importlib.util.find_spec(package) and any(map(glob.glob, files))
                 for package, files in DEVICE_FILES.items())


def replicated(devices=None) -> jax.sharding.NamedSharding:
  """The sharding of an array that each of these devices holds whole, by default each of this process's."""
  mesh = jax.sharding.Mesh(np.array(devices or jax.local_devices()), ('batch',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def init_replicated(init: Callable):
  """init(), a tree of arrays, computed in place: whole on each of this process's devices."""
  # XLA's CPU compiler takes a second for each random array; at this level a third of it, with the same numbers.
  options = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None
  return jax.jit(init, out_shardings=replicated(), compiler_options=options)()


def block_on_simulated_devices(results):
  """Waits for `results` where several devices are simulated on a CPU.

  Queued collectives can occupy all threads of XLA's CPU client and deadlock.
  """
  if jax.default_backend() == 'cpu' and jax.device_count() > 1:
    jax.block_until_ready(results)


def dispatch_ahead(results: Iterable) -> Iterator:
  """The same results in order, each once the next is dispatched: the devices keep working while one is fetched."""
  pending = []
  for result in results:
    block_on_simulated_devices(result)
    pending.append(result)
    if len(pending) > 1:
      yield pending.pop(0)
  yield from pending
