"""A command that trains and computes nothing waits for no library that it does not need."""

import subprocess
import sys

import pytest

from conftest import ROOT

OF_DATA = {'tensorflow', 'tensorflow_datasets', 'clu', 'keras', 'matplotlib'}
OF_TRAINING = {'jax', 'flax', 'orbax', 'optax', 'scipy', 'input_pipeline'}
DIGITS = '--config=configs/mixer_digits.py'

# Runs a program, and prints which modules it has imported. -X importtime would leave out those of importlib.
PROGRAM = """
import atexit
import runpy
import sys
atexit.register(lambda: print('MODULES', *sys.modules))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


def imported(*command):
  """The top-level names of all modules that a program imports."""
  done = subprocess.run([sys.executable, '-c', PROGRAM, *command], cwd=ROOT, capture_output=True, text=True)
  names = done.stdout.rpartition('MODULES ')[2].split()
  assert 'absl.flags' in names, done.stderr
  return {name.split('.')[0] for name in names}


@pytest.mark.parametrize('command', [('--help',), ('--helpfull',), ('--list',), (DIGITS, '--nosuch=1'), (DIGITS, '--process_id=x')],
                         ids=' '.join)
def test_train_py_takes_neither_jax_nor_data_for_what_flags_alone_decide(command):
  assert not imported('train', *command) & (OF_DATA | OF_TRAINING)


@pytest.mark.parametrize('command', [
    ('train', DIGITS, '--help'),
    ('train', DIGITS, '--workdir=no_such/folder', '--config.model.depth=8'),
], ids=' '.join)
def test_takes_no_library_that_only_data_need(command):
  assert not imported(*command) & OF_DATA


@pytest.mark.parametrize('tool', ['predict', 'evaluate', 'convert', 'export'])
def test_help_of_the_tools_of_weights_takes_neither_jax_nor_data(tool):
  assert not imported(f'tools.{tool}', '--help') & (OF_DATA | OF_TRAINING)


def test_what_one_config_or_what_comes_after_the_first_step_needs_is_taken_then():
  program = ('import sys; from mixer.run import metric_logger, model_card; from mixer.training import train_step; '
             "metric_logger.TensorBoardWriter('no_such_folder').close(); "
             "print([name for name in ('matplotlib', 'scipy.special', 'tensorflow', 'clu') if name in sys.modules])")
  assert subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True).stdout == '[]\n'


def test_tensorflow_and_the_digits_come_without_keras_and_scikit_learn():
  program = ('import sys; from mixer.data.lazy import tf, tfds; from mixer.data.builders import digits; tf.constant(1); tfds.core; '
             "print([name for name in ('keras', 'sklearn', 'pandas') if name in sys.modules]); print(tf.keras.layers.Dense.__name__)")
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout == '[]\nDense\n'
