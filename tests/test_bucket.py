"""Work directories in a bucket, on a stand-in for Google Cloud Storage on this machine."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from mixer.run import checkpoint_integrity
from mixer.run import records

bucket_server = pytest.importorskip('bucket_server', reason='needs trustme: the extra test')

FLAGS = ['--config=configs/mixer_digits.py', '--config.total_steps=6', '--config.log_every_steps=2',
         '--config.eval_every_steps=3', '--config.checkpoint.every_steps=2',
         '--config.optimizer.schedule.warmup_steps=2', '--config.data.batch_size=32',
         '--config.evals.test.batch_size=120', '--config.model.num_blocks=1', '--config.model.hidden_dim=16',
         '--config.model.dropout_rate=0.1']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def server():
  with bucket_server.serve() as running:
    yield running


@pytest.fixture(autouse=True)
def well(server):
  server.refuse = lambda method, path: None


@pytest.fixture(scope='module')
def python(server, data_dir):
  """Starts Python where gs://bucket is the server's. TensorFlow and others read the environment when they start."""
  environment = {**os.environ, **server.environment, 'XLA_FLAGS': '', 'TFDS_DATA_DIR': data_dir}

  def start(*arguments):
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)
  return start


@pytest.fixture(scope='module')
def train(python):
  return lambda workdir: python('train.py', f'--workdir={workdir}', *FLAGS)


def ended(process):
  """What a process that ends well has printed."""
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return output


def download(server, name, folder):
  """Brings gs://bucket/NAME to a folder on the disk, and returns its path."""
  for path, blob in list(server.bucket.blobs.items()):
    if path.startswith(f'{name}/') and not path.endswith('/'):
      (folder / path).parent.mkdir(parents=True, exist_ok=True)
      (folder / path).write_bytes(blob.data)
  return folder / name


def logged(workdir):
  """The records, without what depends on the machine's speed."""
  return [{name: x for name, x in record.items() if name != 'images_per_s_per_core'}
          for record in records.read(workdir / 'records.jsonl')]


@pytest.fixture(scope='module')
def on_disk(train, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('disk')
  ended(train(workdir))
  return workdir


@pytest.fixture(scope='module')
def run(server, train):
  """gs://bucket/run: killed in the middle of a save, refused the data when it starts again, and then ended.

  Returns:
    What the run said that was refused the data.
  """
  process = train('gs://bucket/run')

  def kill(method, path):
    if method == 'POST' and re.search('checkpoints/4/.*ocdbt', path):
      process.kill()
      return 503
  server.refuse = kill
  process.communicate()
  assert process.returncode == -9
  names = [name for name in server.bucket.blobs if name.startswith('run/checkpoints/')]
  assert 'run/checkpoints/2/commit_success.txt' in names
  assert 'run/checkpoints/4/' in names and 'run/checkpoints/4/commit_success.txt' not in names

  server.refuse = lambda method, path: 403 if method == 'GET' and 'checkpoints/2/default/' in path else None
  refused = train('gs://bucket/run')
  said, _ = refused.communicate()
  assert refused.returncode == 1, said

  failures = {}
  def fail_at_first(method, path):
    kind = (method, path.split('?')[0].rpartition('/o')[0])
    failures[kind] = failures.get(kind, 0) + 1
    return 503 if failures[kind] <= 2 else None
  server.refuse = fail_at_first
  ended(train('gs://bucket/run'))
  return said


def test_a_run_that_is_killed_in_a_save_ends_in_a_bucket_bit_for_bit_as_on_a_disk(server, run, on_disk, tmp_path):
  workdir = download(server, 'run', tmp_path)
  assert logged(workdir) == logged(on_disk)
  for step in (4, 6):
    (one, _), (other, _) = (checkpoint_integrity.read_params(folder, step) for folder in (workdir, on_disk))
    assert checkpoint_integrity.checksums(one) == checkpoint_integrity.checksums(other)
  assert json.loads((workdir / 'config.json').read_text()) == json.loads((on_disk / 'config.json').read_text())
  assert {path.name for path in workdir.iterdir()} - {path.name for path in on_disk.iterdir()} <= {'interrupted'}
  for name in ('learning_curves.png', 'predictions_test.png'):
    assert (workdir / name).read_bytes()[:4] == b'\x89PNG'


COMPILES = """
import jax
from mixer.run import devices
jax.config.update('jax_compilation_cache_dir', None)
devices.initialize(workdir='gs://bucket/cached')
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.monitoring.register_event_listener(lambda name, **_: print(name))
print(jax.jit(lambda x: 2 * x)(21.))
"""


def test_compiled_programs_are_kept_in_the_work_directory(python, server):
  first = ended(python('-c', COMPILES))
  assert '42.0' in first and 'cache_misses' in first and 'cache_hits' not in first
  name, = (name for name in server.bucket.blobs if name.startswith('cached/xla/'))
  assert name.endswith('.xla')
  second = ended(python('-c', COMPILES))
  assert '42.0' in second and 'cache_hits' in second and 'cache_misses' not in second
  server.refuse = lambda method, path: 403
  refused = ended(python('-c', COMPILES))
  assert '42.0' in refused and 'cache_hits' not in refused
  assert 'xla cannot be read (' in refused or 'compiled programs cannot be kept in gs://bucket/cached/xla' in refused
