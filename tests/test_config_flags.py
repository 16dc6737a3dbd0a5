"""The command line of train.py and the tools: fields of a config, its file, and how errors of the user's end."""

import re
import subprocess
import sys

from absl import app
from absl import flags
import ml_collections
import numpy as np
import pytest

from conftest import ROOT
import example_runs
from mixer import configuration
from mixer.run import config_flags
from mixer.run import distributed
from mixer import user_errors


def parse(config, *arguments):
  """The config of a command line."""
  values = flags.FlagValues()
  chosen, fields = config_flags.define(values)
  assert config_flags.parse(['train.py', f'--config={config}', *arguments], values) == ['train.py']
  loaded = config_flags.load(chosen.value)
  configuration.set_fields(loaded, fields.value)
  return loaded


def digits(*fields):
  return parse(ROOT / 'configs/mixer_digits.py', *(f'--config.{field}' for field in fields))


# Fields


@pytest.mark.parametrize('arguments, path, value', [
    (['--config.seed=7'], 'seed', 7),
    (['--config.seed', '7'], 'seed', 7),
    (['-config.seed=7'], 'seed', 7),
    (['--config.data.flip'], 'data.flip', True),
    (['--config.data.flip', '--config.seed=1'], 'data.flip', True),
    (['--config.data.flip', '--config.seed=1'], 'seed', 1),
    (['--config.data.flip', '--config.model.scan', '--config.seed', '1'], 'seed', 1),
    (['--noconfig.data.flip'], 'data.flip', False),
    (['--config.data.flip=true'], 'data.flip', True),
    (['--config_field=data.resize=9'], 'data.resize', 9),
    (['--config.data.split=train[:90%]'], 'data.split', 'train[:90%]'),
    (['--config.data.dataset=/a=b'], 'data.dataset', '/a=b'),
    (['--config.data.dataset=123'], 'data.dataset', '123'),  # it was a text, and stays one
    (['--config.optimizer.clip_norm=None'], 'optimizer.clip_norm', None),
    (['--config.model.num_classes=None'], 'model.num_classes', None),
    (['--config.optimizer.learning_rate=1'], 'optimizer.learning_rate', 1.),
    (['--config.start_from.weights=runs/x', '--config.start_from.head=given'], 'start_from',
     {'weights': 'runs/x', 'head': 'given'}),
    (['--config.probes.few.train.split=a'], 'probes', {'few': {'train': {'split': 'a'}}}),
    (['--config.start_from={"weights": "runs/x"}'], 'start_from', {'weights': 'runs/x'}),
    (['--config.total_epochs=0.5'], 'total_epochs', 0.5),
    (['--config.seed=1', '--config.seed=2'], 'seed', 2),
])
def test_a_field_is_set(arguments, path, value):
  config = parse(ROOT / 'configs/mixer_digits.py', *arguments).to_dict()
  for name in path.split('.'):
    config = config[name]
  assert config == value and type(config) is type(value)


def test_a_field_that_another_refers_to_changes_both(tmp_path):
  config = parse(f'{ROOT}/configs/mixer_finetune.py:b16_i21k,cifar10', '--config.data.data_dir=/d',
                 '--config.data.resolution=160')
  assert config.evals.test.data_dir == '/d' and config.evals.test.resolution == 160


def test_none_is_none_in_a_field_of_text_too():
  config = parse(f'{ROOT}/configs/mixer_finetune.py:b16_i21k,cifar10', '--config.data.data_dir=/d',
                 '--config.data.data_dir=None', '--config.start_from.token_mixing=None')
  assert config.data.data_dir is None and config.evals.test.data_dir is None and config.start_from.token_mixing is None


def test_a_tuple_stays_one():
  config = parse(f'{ROOT}/configs/mixer_b16_jft.py', '--config.probes.imagenet.shots=10')
  assert config.probes.imagenet.shots == (10,)
  assert parse(f'{ROOT}/configs/mixer_b16_jft.py', '--config.probes.imagenet.shots=1,5').probes.imagenet.shots == (1, 5)


@pytest.mark.parametrize('fields, message', [
    (['model.name.x=1'], r"^config\.model\.name is 'mlp_mixer'; it must be a section: config\.model\.name\.FIELD=VALUE$"),
    (['data=3'], r'^config\.data is 3; it must be a section: config\.data\.FIELD=VALUE$'),
    (['data..x=3'], r'^--config\.data\.\.x=3 is not --config\.FIELD=VALUE$'),
    (['seed=x'], r"^config\.seed is 'x', of type str; it must be int$"),
    (['optimiser.learning_rate=1'], r'^unknown field config\.optimiser\. Did you mean config\.optimizer\? Valid fields: '),
    (['seed=-1'], r'^config\.seed is -1; it must be at least 0 and below 2\*\*31$'),
    (['total_steps=' + '9' * 400], r'^config\.total_steps is 9{400}; it must be at least 1 and below 2\*\*31$'),
    (['total_steps=2.5'], r'^config\.total_steps is 2\.5, of type float; it must be int$'),
    (['total_steps=None'], r'^config\.total_steps is None, of type NoneType; it must be int or float$'),
    (['data=' + '[' * 500], r'^config\.data is .*it must be a section'),
])
def test_a_field_that_cannot_be_set_is_named(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    configuration.check(digits(*fields))
  assert user_errors.is_users(error.value)


def test_an_evaluation_can_be_added():
  config = digits('evals.other.dataset=digits')
  configuration.check(config)
  assert config.evals.other.to_dict() == {'dataset': 'digits'}


# Files


@pytest.mark.parametrize('path, near', [
    ('configs/mixer_digit.py', 'configs/mixer_digits.py'), ('mixer_digits', 'configs/mixer_digits.py'),
    ('config/mixer_b16_i1k.py', 'configs/mixer_b16_i1k.py'), ('configs/mixer_finetun.py:b16_i21k,cifar10',
                                                              'configs/mixer_finetune.py')])
def test_a_misspelt_path_names_the_nearest_config(path, near, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(FileNotFoundError, match=rf'^--config={re.escape(path)}: no such file .*\. Did you mean {near}\? '
                     'python train.py --list names all configs$'):
    config_flags.load(path)


def test_a_work_directory_names_its_config(tmp_path):
  example_runs.write(tmp_path / 'run', example_runs.DIGITS, [])
  with pytest.raises(FileNotFoundError, match=f'run is a folder; the config of its run is {tmp_path}/run/config.json. py'):
    config_flags.load(str(tmp_path / 'run'))


@pytest.mark.parametrize('text, which, message', [
    ('def get_config(:', '', r'config\.py, line 1: '),
    ('x = 1', '', r'config\.py has no function get_config'),
    ('def get_config(): return {}', '', r'get_config of .* returns a dict; it must return an ml_collections\.ConfigDict'),
    ('def get_config(): pass', ':x', r'has get_config\(\), which takes no name after a colon'),
    ('def get_config(name): pass', '', r'has get_config\(name\), which takes a name after a colon'),
    ('def get_config(name):\n  raise ValueError(f"{name} is none of a, b")', ':x', r'^x is none of a, b$'),
])
def test_a_file_without_a_config_is_an_error_of_the_users(tmp_path, text, which, message):
  (tmp_path / 'config.py').write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    config_flags.load(f'{tmp_path}/config.py{which}')
  assert user_errors.is_users(error.value)


@pytest.mark.parametrize('text', ['def get_config():\n  return {}["x"]', 'def get_config(): pass\nint("x")',
                                  'import json\njson.loads("x")'])
def test_a_bug_in_a_config_keeps_its_traceback(tmp_path, text):
  (tmp_path / 'config.py').write_text(text)
  with pytest.raises(Exception) as error:
    config_flags.load(f'{tmp_path}/config.py')
  assert user_errors.line_of(error.value) is None
  assert any(entry.path == tmp_path / 'config.py' and entry.lineno == 1 for entry in error.traceback)


# A run's own config


def test_the_config_of_a_run_is_read_again(tmp_path):
  example_runs.write(tmp_path / 'run', example_runs.changed(
      example_runs.DIGITS, evals__test__shots=[1, 5], data__data_dir=None), [])
  config = parse(tmp_path / 'run/config.json', '--config.seed=3')
  configuration.check(config)
  assert 'contents' not in config and config.seed == 3
  assert config.evals.test.shots == (1, 5) and config.data.data_dir is None
  assert config.optimizer.learning_rate == example_runs.DIGITS['optimizer']['learning_rate']
  longer = configuration.epochs_to_steps(parse(tmp_path / 'run/config.json', '--config.total_epochs=20'), 10)
  assert longer.total_steps == 200


@pytest.mark.parametrize('text, message', [
    ('{', 'not JSON'), ('[]', 'is not an object'), ('{"a.b": 1}', 'config.json is not the config of a run: .*dots')])
def test_what_is_no_config_of_a_run_is_refused(tmp_path, text, message):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    config_flags.load(str(tmp_path / 'config.json'))
  assert user_errors.is_users(error.value)


# Errors


def raised(function):
  with pytest.raises(Exception) as error:
    function()
  return error.value


@pytest.mark.parametrize('function, users', [
    (lambda: open('/no/such/file'), True),
    (lambda: configuration.check(ml_collections.ConfigDict()), True),
    (lambda: configuration.lookup('step', 'loss', 'x', {}), True),
    (lambda: app.run(1 / 0), False),
    (lambda: int('x'), False),
    (lambda: np.zeros((2, 3)) @ np.zeros(2), False),  # a ValueError of NumPy's
    (lambda: configuration.flat(3), False),
    (lambda: configuration.lookup('step', 'loss', [], {}), False),  # a TypeError within a check
])
def test_errors_of_the_users_are_told_from_bugs(function, users):
  assert user_errors.is_users(raised(function)) == users


def test_an_error_of_the_users_ends_in_a_line_and_with_debug_in_its_traceback(monkeypatch):
  error = raised(lambda: configuration.lookup('step', 'loss', 'x', {'y': 1}))
  assert user_errors.line_of(error) == "error: config.step.loss is 'x'; it must be one of 'y'"
  monkeypatch.setattr(sys, 'argv', ['train.py', '--debug'])
  assert user_errors.line_of(error) is None


def test_a_program_of_argparse_takes_debug(monkeypatch):
  seen = []
  @user_errors.in_one_line
  def main(arguments):
    seen.append(arguments)
    if arguments:
      configuration.lookup('step', 'loss', arguments[0], {'y': 1})
    raise KeyError('a bug')
  with pytest.raises(SystemExit, match="^error: config.step.loss is 'x'; it must be one of 'y'$"):
    main(['x'])
  with pytest.raises(KeyError):
    main([])
  monkeypatch.setattr(sys, 'argv', ['tool', 'x', '--debug'])
  with pytest.raises(ValueError):
    main()
  assert seen == [['x'], [], ['x']]


def test_of_several_processes_one_with_an_error_leaves_alone(monkeypatch):
  left = []
  monkeypatch.setattr(distributed.jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(distributed.preemption, 'exit_immediately', lambda code, message: left.append((code, message)))
  with pytest.raises(SystemExit):
    distributed.exit_with_error('error: x')
  assert left == [(1, 'error: x\nprocess 0 of 1 exits because of this error; the others will lose it')]


PROGRAM = '''
from absl import flags
from mixer.run import config_flags
import sys
NUMBER = flags.DEFINE_integer('number', 1, 'Of a test.')
def main(arguments):
  config = config_flags.config(arguments)
  if config.seed:
    {}['a bug']
config_flags.run(main, describe=lambda name, config: f'{name}: seed {config.seed}')
'''


def run(*arguments):
  return subprocess.run([sys.executable, '-c', PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True)


DIGITS = '--config=configs/mixer_digits.py'


@pytest.mark.parametrize('arguments, code, out, err', [
    (['--config=configs/mixer_digit.py'], 1, '^$', r'^error: --config=configs/mixer_digit.py: no such file .*\n$'),
    (['--config=configs/mixer_digit.py', '--debug'], 1, '^$', r'^Traceback'),
    ([DIGITS, '--numbr=3'], 1, '^$', r"^error: Unknown command line flag 'numbr'\. Did you mean: number \?\n$"),
    ([DIGITS, '--config.seed=1'], 1, '^$', r"(?s)^Traceback.*KeyError: 'a bug'\n$"),
    (['--help'], 0, r'(?s)flags:\n\n  --config: .*--debug: .*--number: Of a test', '^$'),
    ([DIGITS, '--config.seed=4', '--help'], 0, r'^configs/mixer_digits.py: seed 4\n$', '^$'),
])
def test_how_a_program_ends(arguments, code, out, err):
  done = run(*arguments)
  assert done.returncode == code, done.stdout + done.stderr
  assert re.search(out, done.stdout) and re.search(err, done.stderr), done.stdout + done.stderr


def test_a_section_that_no_program_knows_is_named(monkeypatch):
  values = flags.FlagValues()
  path, fields = config_flags.define(values)
  config_flags.parse(['program', f'--config={ROOT}/configs/mixer_digits.py', '--config.evls.test.split=test'], values)
  monkeypatch.setattr(config_flags, 'CONFIG', path)
  monkeypatch.setattr(config_flags, 'FIELDS', fields)
  with pytest.raises(ValueError, match=r'^unknown field config.evls. Did you mean config.evals\?'):
    config_flags.chosen()
