"""What was compiled once is loaded, and computes the same bit for bit; a cache that is damaged or cannot be used only costs time."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache
import numpy as np
import pytest

from conftest import ROOT
from mixer.run import compilation_cache
from mixer.run import devices
from mixer.training import train_step
import test_train_step

OPTIONS = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs',
           'jax_persistent_cache_enable_xla_caches', 'jax_enable_compilation_cache', 'jax_compilation_cache_max_size')


@pytest.fixture(autouse=True)
def restored(monkeypatch):
  """JAX's settings of the other tests after each."""
  before = {name: getattr(jax.config, name) for name in OPTIONS}
  monkeypatch.setattr(compilation_cache.compilation_cache, 'get_file_cache', None)  # monkeypatch restores it
  monkeypatch.setattr(compilation_cache, 'MIN_COMPILE_S', 0.)
  monkeypatch.delenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


@pytest.fixture
def events():
  """Counts JAX's events since it was cleared: {'cache_hits': 2, ...}."""
  counts = {}

  def count(name, **_):
    counts[name.rpartition('/')[2]] = counts.get(name.rpartition('/')[2], 0) + 1
  jax.monitoring.register_event_listener(count)
  yield counts
  jax.monitoring.unregister_event_listener(count)


@pytest.fixture
def use(events):
  """Enables the cache in a folder as a new process would."""
  def enable(folder):
    jax.config.update('jax_compilation_cache_dir', folder and str(folder))
    compilation_cache.enable()
    jax.clear_caches()
    events.clear()
  return enable


def three_steps():
  """(all arrays after three training steps with all kinds of noise, the step's memory)."""
  model = test_train_step.a_model(dropout_rate=0.1, stochastic_depth=0.2)
  optimizer, learning_rate = test_train_step.an_optimizer()
  step = train_step.make_train_step(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0,
                                    loss='softmax_xent', mixup=0.2)
  state = jax.device_put(test_train_step.start(model, optimizer), devices.replicated())
  batches = [jax.tree.map(lambda x: x.reshape(jax.device_count(), -1, *x.shape[1:]), test_train_step.a_batch(seed))
             for seed in range(3)]
  step, memory = train_step.compile_ahead(step, jax.eval_shape(lambda: state), batches[0])()
  for batch in batches:
    before = state
    state, metrics = step(state, batch)
    devices.block_on_simulated_devices(metrics)
    assert all(x.is_deleted() for x in jax.tree.leaves(before.params))  # donated
  return jax.tree.leaves(jax.device_get((state, metrics))), memory


def same(one, other):
  return len(one) == len(other) and all(x.tobytes() == y.tobytes() for x, y in zip(one, other))


def test_a_loaded_step_computes_bit_for_bit_what_the_compiled_one_does(tmp_path, use, events):
  use('')
  expected, memory = three_steps()
  use(tmp_path / 'new' / 'folder')
  assert same(three_steps()[0], expected) and events['cache_misses'] and not events.get('cache_hits')
  use(tmp_path / 'new' / 'folder')
  loaded, its_memory = three_steps()
  assert same(loaded, expected) and events['cache_hits'] and not events.get('cache_misses')
  for size in ('alias_size_in_bytes', 'temp_size_in_bytes', 'argument_size_in_bytes', 'output_size_in_bytes'):
    assert getattr(its_memory, size) == getattr(memory, size) > 0


def double(x=np.arange(4.)):
  return jax.jit(lambda x: 2 * x)(x)


def entry(folder):
  path, = folder.glob('jit__lambda*')
  return path


DAMAGE = {'a flipped bit': lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
          'a flipped bit of the digest': lambda content: content[:-1] + bytes([content[-1] ^ 1]),
          'half': lambda content: content[:len(content) // 2], 'nothing': lambda content: b''}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_noticed_compiled_again_and_replaced(tmp_path, use, events, damage, caplog):
  use(tmp_path)
  double()
  good = entry(tmp_path).read_bytes()
  entry(tmp_path).write_bytes(damage(good))
  use(tmp_path)
  assert double().tolist() == [0, 2, 4, 6]
  assert f'the compiled program {entry(tmp_path)} is damaged, and is compiled again' in caplog.text
  assert not events.get('cache_hits')
  use(tmp_path)
  caplog.clear()
  assert double().tolist() == [0, 2, 4, 6] and events['cache_hits'] and not caplog.text


def test_a_file_that_cannot_be_read_is_named(tmp_path, use, caplog):
  use(tmp_path)
  double()
  path = entry(tmp_path)
  path.unlink()
  path.mkdir()
  use(tmp_path)
  assert double().tolist() == [0, 2, 4, 6]
  assert f'the compiled program {path} cannot be read (' in caplog.text


def test_a_folder_that_cannot_be_written_is_reported_once(tmp_path, use, caplog):
  (tmp_path / 'file').touch()
  use(tmp_path / 'file' / 'xla')
  assert double().tolist() == [0, 2, 4, 6] and float(jax.jit(lambda x: x / 2)(3.)) == 1.5
  told, = [record.message for record in caplog.records if 'compiled programs cannot be kept in' in record.message]
  assert f'{tmp_path}/file/xla ([Errno {errno.ENOTDIR}]' in told
  assert 'Set JAX_COMPILATION_CACHE_DIR to a folder for them, or --nocompilation_cache' in told


def test_a_full_disk_keeps_no_half_of_a_file(tmp_path, use, caplog, monkeypatch):
  def full(path, content, original=pathlib.Path.write_bytes):
    original(path, content[:10])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  use(tmp_path)
  assert double().tolist() == [0, 2, 4, 6]
  assert 'No space left on device' in caplog.text and not list(tmp_path.iterdir())


def test_the_least_recently_used_are_deleted_beyond_the_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(compilation_cache, 'MAX_BYTES', 3000)
  (tmp_path / 'of_somebody_else').write_bytes(bytes(5000))
  programs = compilation_cache.Programs(tmp_path)
  for age, key in enumerate('abc'):
    programs.put(key, bytes(900))
    os.utime(tmp_path / f'{key}.xla', (age, age))
  assert programs.get('a') == bytes(900)  # now the latest
  programs.put('d', bytes(900))
  assert {path.name for path in tmp_path.iterdir()} == {'a.xla', 'c.xla', 'd.xla', 'of_somebody_else'}
  jax.config.update('jax_compilation_cache_max_size', 1000)
  programs.put('e', bytes(900))
  assert {path.name for path in tmp_path.iterdir()} == {'e.xla', 'of_somebody_else'}


@pytest.mark.parametrize('chosen, workdir, processes, expected', [
    (None, None, 1, '/home/of/me/.cache/mixer/xla'), (None, '/runs/b16', 1, '/home/of/me/.cache/mixer/xla'),
    (None, '/runs/b16', 2, '/runs/b16/xla'), (None, 'gs://bucket/b16', 1, 'gs://bucket/b16/xla'),
    (None, 'gs://bucket/b16', 2, 'gs://bucket/b16/xla'), ('/chosen', 'gs://bucket/b16', 2, '/chosen'), ('', '/runs/b16', 2, ''),
])
def test_the_folder(monkeypatch, chosen, workdir, processes, expected):
  monkeypatch.setenv('HOME', '/home/of/me')
  monkeypatch.setattr(jax, 'process_count', lambda: processes)
  jax.config.update('jax_compilation_cache_dir', chosen)
  compilation_cache.enable(workdir)
  assert jax.config.jax_compilation_cache_dir == expected


def test_without_a_home_directory_nothing_is_kept(monkeypatch):
  monkeypatch.setattr(compilation_cache, 'FOLDER', '~nobody_of_that_name/xla')
  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.enable()
  assert jax.config.jax_compilation_cache_dir is None


def test_the_flag_turns_it_off(tmp_path, use, events):
  use(tmp_path)
  devices.initialize(cache=False)
  double()
  assert not list(tmp_path.iterdir())


FLAGS = ['--config=configs/mixer_digits.py', '--config.total_steps=3', '--config.log_every_steps=1', '--config.data.batch_size=32',
         '--config.optimizer.schedule.warmup_steps=1', '--config.model.num_blocks=1', '--config.evals.test.batch_size=120']


@pytest.mark.slow
def test_train_py_starts_from_the_cache_in_the_home_directory(tmp_path, data_dir):
  environment = {name: value for name, value in os.environ.items() if 'CACHE' not in name}
  environment |= {'HOME': str(tmp_path / 'home'), 'TFDS_DATA_DIR': data_dir, 'JAX_EXPLAIN_CACHE_MISSES': '1'}

  def train(name, *flags):
    done = subprocess.run([sys.executable, 'train.py', *FLAGS, f'--workdir={tmp_path / name}', *flags], cwd=ROOT,
                          env=environment, capture_output=True, text=True, check=True)
    records = re.sub(r'"images_per_s_per_core": [^,}]*', '', (tmp_path / name / 'records.jsonl').read_text())
    return records, 'Writing jit' in done.stderr

  off, wrote = train('off', '--nocompilation_cache')
  folder = tmp_path / 'home/.cache/mixer/xla'
  assert not wrote and not folder.exists()
  first, wrote = train('first')
  assert first == off and wrote
  files = sorted(folder.iterdir())
  assert files and all(path.suffix == '.xla' for path in files)
  second, wrote = train('second')
  assert second == off and not wrote and sorted(folder.iterdir()) == files
