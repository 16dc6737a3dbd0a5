"""Imports go downward only: read from the source, without importing anything."""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A package's name stands for all of its modules, which may import each other.
FLOORS = {
    'mixer.arguments': -1, 'mixer.files': -1, 'mixer.image_headers': -1, 'mixer.user_errors': -1,
    'configs': 0,
    'mixer.accelerators': 0, 'mixer.class_names': 0, 'mixer.configuration': 0, 'mixer.crops': 0, 'mixer.devices': 0,
    'mixer.flops': 0, 'mixer.frequencies': 0, 'mixer.limits': 0, 'mixer.losses': 0, 'mixer.metrics': 0, 'mixer.mixup': 0,
    'mixer.permutations': 0,
    'mixer.preprocess': 0, 'mixer.randaugment': 0, 'mixer.processes': 0, 'mixer.provenance': 0,
    'mixer.sanity': 0, 'mixer.schedules': 0, 'mixer.storage': 0, 'mixer.trees': 0, 'mixer.wording': 0,
    'mixer.datasets': 1, 'mixer.models': 1, 'mixer.pictures': 1, 'mixer.records': 1,
    'mixer.command_line': 2, 'mixer.convert': 2, 'mixer.evaluators': 2, 'mixer.history': 2, 'mixer.optim': 2,
    'mixer.checkpoint_reading': 2, 'mixer.summary': 2, 'mixer.train_step': 2,
    'mixer.card': 3, 'mixer.finished': 3, 'mixer.checkpoint': 3, 'mixer.report': 3,
    'mixer.weights': 4, 'input_pipeline': 4,
    'mixer.config_fields': 5, 'paper': 5,
    'train': 6,
    'tools': 7,
    'benchmarks': 8,
}

def modules():
  """{dotted name: path} of all that has a floor."""
  paths = [ROOT / 'train.py', ROOT / 'input_pipeline.py']
  paths += [path for folder in ('mixer', 'configs', 'tools', 'paper', 'benchmarks')
            for path in sorted((ROOT / folder).rglob('*.py'))]
  return {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in paths}


MODULES = modules()


def imports(name):
  """Dotted names of the modules that a module imports, wherever in it."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{name} imports by a relative path; write it out'
      # `from mixer import optim` names a module, `from input_pipeline import prefetch` a part of one.
      found |= {whole if (whole := f'{node.module}.{alias.name}') in MODULES else node.module for alias in node.names}
  return found


def place(name):
  """The entry of FLOORS that a module belongs to."""
  entries = [entry for entry in FLOORS if f'{name}.'.startswith(f'{entry}.')]
  assert entries, f'{name} has no floor; give it one in {pathlib.Path(__file__).name}'
  return entries[0]


@pytest.mark.parametrize('name', [name for name in MODULES if name != 'mixer'])
def test_imports_go_downward(name):
  here = place(name)
  allowed = lambda there: there in (here, 'mixer.configuration') or FLOORS[there] < FLOORS[here]
  wrong = [(name, other) for other in sorted(imports(name) & MODULES.keys() - {'mixer'}) if not allowed(place(other))]
  assert not wrong, (
      f'{name} is of floor {FLOORS[here]}, and FLOORS has the others; pass in what it needs from there')


def test_there_are_no_circles():
  list(graphlib.TopologicalSorter({name: imports(name) & MODULES.keys() for name in MODULES}).static_order())


def test_mixer_itself_imports_nothing_that_takes_time():
  assert imports('mixer') == {'os'}


def test_configs_are_data():
  found = {top for name in MODULES if name.startswith('configs') for module in imports(name)
           if (top := module.split('.')[0]) != 'configs'}
  assert found == {'ml_collections'}


@pytest.mark.parametrize('libraries, users', [
    (('tensorflow', 'tensorflow_datasets'), ('input_pipeline', 'mixer.preprocess', 'mixer.datasets', 'mixer.storage')),
    (('clu',), ('mixer.report',)),
    (('orbax',), ('mixer.checkpoint', 'mixer.checkpoint_reading')),
    (('matplotlib',), ('mixer.pictures',)),
])
def test_only_these_modules_know_a_library(libraries, users):
  knows = lambda name: any(module.split('.')[0] in libraries for module in imports(name))
  found = {place(name) for name in MODULES if knows(name)}
  assert found - {'tools', 'paper', 'benchmarks'} == set(users)
