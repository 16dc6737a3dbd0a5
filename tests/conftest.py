"""Eight simulated devices, for all tests. The environment must be set before JAX starts."""

import contextlib
import gc
import os
import pathlib
import signal
import sys

import pytest

if 'tensorflow' not in sys.modules:
  with contextlib.suppress(ImportError):  # PyTorch's builds for GPUs have it, and load it; after TensorFlow it crashes
    import triton  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

os.environ.update(
    JAX_PLATFORMS='cpu',
    XLA_FLAGS='--xla_force_host_platform_device_count=8' + (
        # `make test` compiles in half the time; `make test-all` compiles as users do.
        ' --xla_backend_optimization_level=0' if os.environ.get('TEST_FAST_COMPILE') else ''),
    NPROC='32',  # with fewer threads the devices' collectives deadlock
    TF_CPP_MIN_LOG_LEVEL='2',
    # Many tests compile the same step; it is compiled once.
    JAX_COMPILATION_CACHE_DIR=str(ROOT / '.pytest_cache' / 'compiled'),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0.3')

# A shell has what it starts in the background ignore Ctrl-C, and the programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


# A process may have 65,530 mappings of memory on Linux, and XLA's programs for CPUs take dozens each, for as long as JAX keeps
# them: a worker that trains a hundred times would end in a segmentation fault. A run leaves some 3,000, and reading 8,000
# takes 10 ms.
MANY_MAPPINGS = 8_000


@pytest.fixture(autouse=True)
def frees_compiled_programs():
  yield
  mappings = pathlib.Path('/proc/self/maps')
  if 'jax' in sys.modules and mappings.exists() and mappings.read_bytes().count(b'\n') > MANY_MAPPINGS:
    sys.modules['jax'].clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """An empty directory for TFDS, so that tests prepare what they read."""
  return str(tmp_path_factory.mktemp('tensorflow_datasets'))
