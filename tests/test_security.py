"""No file that is read can run code: held on the source, and while files of all kinds are read."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from test_layers import MODULES

# Modules whose files are programs, or that run their input.
MODULES_THAT_RUN = {'pickle', 'cPickle', '_pickle', 'pickletools', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve',
                    'jsonpickle', 'yaml', 'torch', 'runpy', 'code', 'codeop', 'ctypes'}
CALLS_THAT_RUN = {'eval', 'exec', 'compile', '__import__', 'import_module', 'system', 'popen', 'load_module',
                  'spec_from_file_location', 'py_func', 'read_pickle', 'load_model'}
CALLS_THAT_UNPACK = {'extract', 'extractall', 'unpack_archive'}  # members to paths that an archive names
IN_THEIR_PLACE = {'re.compile', 'lowered.compile'}  # the latter is a step that JAX compiles
ALLOWED = {'mixer.run.config_flags': ['util.spec_from_file_location'],  # the program that --config names
           'mixer.run.preemption': ['ctypes'], 'mixer.run.devices': ['ctypes'],  # the C library's settings; no file is read
           'tools.planning.page': ['importlib.import_module'],  # this project's own configs
           'paper.tables': ['importlib.import_module'],  # the same
           'benchmarks.timm': ['torch', 'importlib.import_module', 'torch.compile'],  # models with random weights
           'benchmarks.matmul': ['torch']}  # products of its own numbers


def dotted(node):
  """'np.load' of np.load; of a longer path its last two parts."""
  if isinstance(node, ast.Attribute):
    before = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, 'id', '')
    return f'{before}.{node.attr}'
  return getattr(node, 'id', '')


def violations(source):
  """What in a program may run code that a file holds, or write where an archive says."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from {alias.name.split('.')[0] for alias in node.names} & MODULES_THAT_RUN
    elif isinstance(node, ast.ImportFrom):
      yield from {node.module.split('.')[0]} & MODULES_THAT_RUN
    elif isinstance(node, ast.Call):
      name, keywords = dotted(node.func), {k.arg: getattr(k.value, 'value', None) for k in node.keywords}
      last = name.split('.')[-1]
      if last in CALLS_THAT_RUN | CALLS_THAT_UNPACK and name not in IN_THEIR_PLACE:
        yield name
      if last in ('load', 'read_array', 'fromfile', 'memmap') and name.split('.')[0] in ('np', 'numpy', 'format'):
        if keywords.get('allow_pickle', True) is not False:
          yield name
      if keywords.get('shell') is True or keywords.get('allow_pickle'):
        yield name


@pytest.mark.parametrize('name', MODULES)
def test_nothing_in_the_source_runs_what_a_file_holds(name):
  assert list(violations(MODULES[name].read_text())) == ALLOWED.get(name, [])


@pytest.mark.parametrize('source', [
    'import pickle', 'from joblib import load', 'import torch.hub', 'def f():\n  import yaml', 'eval(x)', 'exec(x)',
    'compile(x, y, z)', 'importlib.import_module(x)', 'os.system(x)', 'np.load(x)', 'np.load(x, allow_pickle=True)',
    'np.lib.format.read_array(x)', 'np.load(x, allow_pickle=y)', 'tar.extractall(x)', 'archive.extract(x)',
    'shutil.unpack_archive(x)', 'subprocess.run(x, shell=True)', 'numpy.fromfile(x)'])
def test_it_would_be_seen(source):
  assert list(violations(source))


@pytest.mark.parametrize('path', sorted((ROOT / '.github/workflows').iterdir()), ids=lambda path: path.name)
def test_workflows_run_actions_of_fixed_commits_and_may_read_alone(path):
  text = path.read_text()
  actions = re.findall('uses: *(.*?)(?: +#.*)?\n', text)
  assert actions and all(re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', action) for action in actions)
  assert re.findall('^permissions:\n((?: .*\n)*)', text, re.M) == ['  contents: read\n'] and text.count('permissions:') == 1


READ_ALL = '''
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
seen = []
sys.addaudithook(lambda event, arguments: seen.append(arguments) if event == 'pickle.find_class' else None)

import test_security
test_security.read_all(folder)
print('classes that were unpickled:', seen)
'''


def read_all(folder):
  """Reads a file of each kind that is read. Imports are inside, so that they come after the hook."""
  import numpy as np

  import example_images
  import example_weights
  import input_pipeline
  from mixer import weights
  from mixer.data import process_shard
  from mixer.data.builders import manifests
  from mixer.data.builders import imagenet_tar
  import test_imagenet21k
  import test_multilabel
  import test_weights

  test_weights.make_run(folder / 'run')
  weights.load(folder / 'run')
  loaded = weights.Weights(example_weights.params(), test_weights.MODEL, 8, 'softmax_xent', None, '')
  for name in 'w.npz', 'w.safetensors':
    weights.save(loaded, folder / name)
    weights.load(folder / name)
  (folder / 'images/train/class').mkdir(parents=True)
  (folder / 'images/train/class/1.png').write_bytes(example_images.file('png'))
  rows = [{'image': '1.png', 'labels': []}]
  test_multilabel.write_lines(folder / 'train.jsonl', rows)
  test_multilabel.write_parquet(folder / 'train.parquet', rows)
  for suffix in 'jsonl', 'parquet':
    assert len(list(manifests.entries(folder / f'train.{suffix}', folder, {}))) == 1
  test_imagenet21k.tar_of_tars(folder / 'small.tar.gz', mode='w:gz')
  with (folder / 'small.tar.gz').open('rb') as file:
    assert sum(len(list(images)) for *_, images in imagenet_tar.read(file, 'small.tar.gz', imagenet_tar.TARS)) == 26
  fields = dict(batch_size=8, resolution=8, seed=0, shard=process_shard.ProcessShard(0, 1, 1))
  for dataset in (dict(dataset=str(folder / 'images'), fraction=0.9999), dict(dataset='digits', data_dir=str(folder))):
    for _ in range(2):  # the second time with the hashes of the first
      next(input_pipeline.train_batches(**dataset, split='train', **fields).start(0))
  np.savez(folder / 'w.npz', a=np.array([print]))
  with pytest.raises(ValueError, match='Python objects, which are not read'):
    weights.load(folder / 'w.npz')


@pytest.mark.slow
def test_nothing_is_unpickled_while_files_are_read(tmp_path):
  done = subprocess.run([sys.executable, '-c', READ_ALL, str(tmp_path)], cwd=ROOT / 'tests', capture_output=True,
                        text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == 'classes that were unpickled: []'
