import importlib
import inspect
import pathlib
import subprocess
import sys

import jax
import pytest

from conftest import ROOT
import golden
import input_pipeline
from mixer import checkpoint
from mixer import configuration
from mixer import models
from mixer import optim
from mixer import train_step
from mixer.evaluators import classification

NAMES = [pathlib.Path(path).stem for path, _ in configuration.describe_all(ROOT / 'configs')]
PAPER = ['b16_i1k', 'l16_i1k', 'b16_i21k', 'l16_i21k', 's32_jft', 's16_jft', 'b32_jft', 'b16_jft', 'l32_jft', 'l16_jft',
         'h14_jft']


def load(name):
  return importlib.import_module(f'configs.{name}').get_config()


def test_every_config_of_the_paper_is_there():
  assert {f'mixer_{name}' for name in PAPER} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_resolved_config_is_the_golden(name):
  golden.check(f'config_{name}', '\n'.join(f'{path} = {value!r}'
                                           for path, value in sorted(configuration.flat(load(name)).items())))


@pytest.mark.parametrize('name', NAMES)
def test_every_field_is_read_and_the_model_and_optimizer_can_be_built(name):
  config = load(name)
  configuration.check(config)
  config = configuration.in_steps(config, steps_per_epoch=3_467.)
  model = models.build(**config.model)
  optimizer, learning_rate = optim.build(**config.optimizer, total_steps=config.total_steps)
  side = config.data.resolution
  state = jax.eval_shape(lambda: train_step.init(model, optimizer, (side, side, 3), config.seed))
  assert state.params['head']['bias'].shape == (config.model.num_classes,)
  # The data need not be there: the signatures say which fields are read.
  reads(input_pipeline.train_batches, 'data', config.data, seed=0, hosts=None)
  for evaluation, fields in config.evals.items():
    reads(input_pipeline.eval_batches, f'evals.{evaluation}', fields, name='', hosts=None)
  reads(train_step.parallel, 'step', config.step, model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0)
  reads(checkpoint.Checkpoints, 'checkpoint', config.checkpoint, workdir='', run={}, metrics=())
  classification.Scorer(model, config.step.loss)


def reads(function, section, fields, **given):
  """Raises unless `function` takes the fields of a section; it is not called."""
  stand_in = lambda **_: None
  stand_in.__signature__ = inspect.signature(function)
  configuration.call(stand_in, section, fields, **given)


@pytest.mark.parametrize('name', NAMES)
def test_docstring_names_the_command(name):
  assert f'--config=configs/{name}.py' in (ROOT / 'configs' / f'{name}.py').read_text()


def test_configs_load_without_jax_and_tensorflow():
  program = ('import importlib, sys\n'
             'for name in ("jax", "tensorflow", "flax"): sys.modules[name] = None\n'
             f'for name in {NAMES}: importlib.import_module("configs." + name).get_config()\n')
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


def test_list_names_every_config_with_a_line():
  printed = subprocess.run([sys.executable, 'train.py', '--list'], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.splitlines()
  assert [line.split()[0] for line in printed] == [f'configs/{name}.py' for name in NAMES]
  assert all(len(line.split(maxsplit=1)[1]) > 20 for line in printed)
