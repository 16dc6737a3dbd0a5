"""Imports between packages go one way, and files are short: read from the source, without importing anything."""

import ast
import graphlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Each may import those before it, and its own modules each other. A new module is in its package, and needs no entry.
LAYERS = ('mixer', 'configs', 'mixer.data', 'mixer.datasets', 'mixer.models', 'mixer.training', 'mixer.run', 'mixer.evaluators',
          'mixer.weights', 'mixer.api', 'input_pipeline', 'mixer.config_fields', 'paper', 'train', 'tools', 'benchmarks')
MAX_LINES, PAGE = 400, 150  # of a file outside tests, and of train.py


def modules():
  """{dotted name: path} of all but the tests."""
  paths = [ROOT / 'train.py', ROOT / 'input_pipeline.py']
  paths += [path for folder in ('mixer', 'configs', 'tools', 'paper', 'benchmarks')
            for path in sorted((ROOT / folder).rglob('*.py'))]
  return {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in paths}


MODULES = modules()


def imports(name):
  """Dotted names of the modules that a module imports, wherever in it."""
  names = set()
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{name} imports by a relative path; write it out'
      # `from mixer.training import optim` names a module, `from input_pipeline import train_batches` a part of one.
      names |= {whole if (whole := f'{node.module}.{alias.name}') in MODULES else node.module for alias in node.names}
  return names


def layer(name):
  """The entry of LAYERS that a module belongs to: the longest that its name starts with."""
  return max((entry for entry in LAYERS if f'{name}.'.startswith(f'{entry}.')), key=len)


@pytest.mark.parametrize('name', MODULES)
def test_imports_go_one_way(name):
  allowed = LAYERS[:LAYERS.index(layer(name)) + 1]
  wrong = sorted(other for other in imports(name) & MODULES.keys() - {'mixer.api' * (name == 'mixer')}
                 if layer(other) not in allowed)
  assert not wrong, f'{name} may import from {", ".join(allowed)}; pass in what it needs of {", ".join(wrong)}'


@pytest.mark.parametrize('name', MODULES)
def test_files_are_short(name):
  lines = len(MODULES[name].read_text().splitlines())
  assert lines <= (PAGE if name == 'train' else MAX_LINES), f'{MODULES[name].name} has {lines} lines'


def test_imports_are_acyclic():
  list(graphlib.TopologicalSorter({name: imports(name) & MODULES.keys() for name in MODULES}).static_order())


def test_mixer_itself_imports_nothing_that_takes_time():
  assert imports('mixer') == {'os', 'mixer.api'}  # the latter at its first use: tests/test_api.py


def test_configs_are_data():
  libraries = {top for name in MODULES if name.startswith('configs') for module in imports(name)
               if (top := module.split('.')[0]) != 'configs'}
  assert libraries - sys.stdlib_module_names == {'ml_collections'}


@pytest.mark.parametrize('libraries, users', [
    (('tensorflow', 'tensorflow_datasets', 'mixer.data.lazy'), ('input_pipeline', 'mixer.data', 'mixer.storage')),
    (('clu',), ('mixer.run.metric_logger',)),
    (('orbax',), ('mixer.run.checkpoint', 'mixer.run.checkpoint_integrity')),
    (('matplotlib',), ('mixer.run.plots',)),
])
def test_only_these_modules_know_a_library(libraries, users):
  knows = {name for name in MODULES if any({module, module.split('.')[0]} & {*libraries} for module in imports(name))}
  known_to = {next((user for user in users if f'{name}.'.startswith(f'{user}.')), name) for name in knows}
  assert {name for name in known_to if layer(name) not in ('tools', 'paper', 'benchmarks')} == set(users)
