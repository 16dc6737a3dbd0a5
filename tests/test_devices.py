"""Tests of mixer/run/devices.py: the allocator is tuned in time, on CPUs only."""

import ctypes
import os
import re
import subprocess
import sys

import jax
import pytest

from conftest import ROOT
from mixer.run import devices

GLIBC = pytest.mark.skipif(not (sys.platform == 'linux' and hasattr(ctypes.CDLL(None), 'gnu_get_libc_version')),
                           reason='it is for glibc')
# Computes in the threads of JAX's client, and lets glibc print all its heaps.
HEAPS = '''
import ctypes
import jax
from jax._src import xla_bridge
from mixer.run import devices
{first}
assert not xla_bridge.backends_are_initialized()
x = jax.numpy.ones((64, 64))
jax.block_until_ready([jax.jit(lambda x: x @ x + i)(x) for i in range(8)])
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, 'stdout'))
library.fflush(None)
'''


def heaps(first: str) -> int:
  environment = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_'))}
  done = subprocess.run([sys.executable, '-c', HEAPS.format(first=first)], capture_output=True, text=True, check=True,
                        env=environment)
  return done.stdout.count('<heap nr=')


@GLIBC
def test_one_heap_where_a_cpu_computes():
  assert heaps('') > 1
  assert heaps('devices.tune_glibc_malloc()') == 1


@GLIBC
def test_heaps_stay_as_they_are_where_an_accelerator_computes():
  assert heaps('devices.computes_on_cpu = lambda: False; devices.tune_glibc_malloc()') > 1


# Frees memory that glibc was made to keep.
FREED = '''
import ctypes
import jax
from mixer.run import devices
jax.config.update('jax_platforms', 'cpu')
devices.tune_glibc_malloc()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096 // 2**20
pieces = [library.malloc(2**20) for _ in range(300)]
for piece in pieces:
  ctypes.memset(piece, 1, 2**20)
for piece in pieces[:-1]:  # the last one holds the heap's end
  library.free(piece)
kept = resident()
devices.release_free_memory()
print(kept - resident())
'''


@GLIBC
def test_memory_is_released_when_asked():
  done = subprocess.run([sys.executable, '-c', FREED], capture_output=True, text=True, check=True)
  assert int(done.stdout) > 250  # MiB


@pytest.fixture
def set_platforms():
  """Sets the platforms that JAX should use."""
  before = jax.config.jax_platforms
  yield lambda platforms: jax.config.update('jax_platforms', platforms)
  jax.config.update('jax_platforms', before)


@pytest.mark.parametrize('platforms, expected', [('cpu', True), ('cpu,tpu', True), ('tpu', False), ('cuda,cpu', False)])
def test_the_configured_platform_counts(platforms, expected, set_platforms):
  set_platforms(platforms)
  assert devices.computes_on_cpu() is expected


@pytest.mark.parametrize('package, device, expected', [('json', 'accel0', False), ('json', 'null', True),
                                                       ('no_such_package', 'accel0', True)])
def test_else_an_accelerator_is_a_package_and_a_device(package, device, expected, set_platforms, monkeypatch, tmp_path):
  set_platforms('')
  (tmp_path / device).touch()
  monkeypatch.setattr(devices, 'DEVICE_FILES', {package: (f'{tmp_path}/accel*', f'{tmp_path}/other*')})
  assert devices.computes_on_cpu() is expected


# Runs a program up to that call.
IN_TIME = '''
from jax._src import xla_bridge
from mixer.run import devices
import runpy
import sys
devices.tune_glibc_malloc = lambda: sys.exit(77 if not xla_bridge.backends_are_initialized() else 'too late')
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
'''
DIGITS = '--config=configs/mixer_digits.py'


@pytest.mark.slow
@pytest.mark.parametrize('program', [
    ('train', DIGITS), ('train', DIGITS, '--coordinator=localhost:1', '--num_processes=2', '--process_id=0'),
    ('tools.evaluate', DIGITS, '--weights=no_such'), ('tools.predict', '--weights=no_such', 'no_such.png'),
    ('tools.throughput', '--models=mlp_mixer:S/32', '--out=no_such.jsonl')], ids=' '.join)
def test_programs_call_it_before_jax_has_devices(program):
  done = subprocess.run([sys.executable, '-c', IN_TIME, *program], capture_output=True, text=True)
  assert done.returncode == 77, done.stderr


STARTS = 'from mixer.run import devices; devices.initialize(); import jax; print(jax.default_backend())'


@pytest.mark.parametrize('platforms, said', [
    ('cuda', r'which JAX cannot use here( \(.*\))?\. If it is not installed: pip install "jax\[cuda13\]==[\d.]+"\. Expected one of '
             'cpu, cuda, gpu, tpu; without JAX_PLATFORMS, JAX uses the best available'),
    ('cpuu', r"which JAX cannot use here \('cpuu': .*\)\. Did you mean cpu\? Expected one of"),
    ('Cpu', r'which JAX cannot use here \(.*\)\. Did you mean cpu\?'),
    ('best', r'which JAX cannot use here \(.*\)\. Expected one of cpu'),
])
def test_a_platform_that_is_not_here_is_reported_in_a_line_with_what_to_install(platforms, said):
  done = subprocess.run([sys.executable, '-c', STARTS], capture_output=True, text=True, cwd=ROOT,
                        env={**os.environ, 'JAX_PLATFORMS': platforms})
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert re.search(f'^JAX_PLATFORMS is {platforms!r}, {said}', done.stderr.splitlines()[-1])


@pytest.mark.parametrize('platform, package', [('gpu', 'jax[cuda13]'), ('tpu', 'jax[tpu]')])
def test_each_platform_has_its_package(monkeypatch, platform, package):
  monkeypatch.setattr(jax, 'devices', lambda: (_ for _ in ()).throw(RuntimeError(
      f"Unable to initialize backend '{platform}': ABORTED:\n locked. (set JAX_PLATFORMS='' to automatically choose)")))
  monkeypatch.setattr(devices, 'tune_glibc_malloc', lambda: None)
  monkeypatch.setattr(type(jax.config), 'jax_platforms', platform, raising=False)
  with pytest.raises(SystemExit) as ended:
    devices.initialize()
  assert f"({platform!r}: ABORTED: locked.). If it is not installed: pip install \"{package}==" in str(ended.value)
