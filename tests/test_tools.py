"""The commands for people, as people run them."""

import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from conftest import ROOT
import example_runs
from tools import evaluate


def run(tool, *arguments, code=0):
  """What a command prints, after it has ended with the exit code expected."""
  done = subprocess.run([sys.executable, '-m', f'tools.{tool}', *arguments], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.fixture(scope='module')
def demo(data_dir):
  return ['--config=configs/mixer_digits.py', f'--config.data.data_dir={data_dir}',
          f'--config.evals.test.data_dir={data_dir}']


def test_check_data_says_what_is_there(demo):
  told = run('check_data', *demo)
  assert re.search(r'^there    data: digits/1.0.0 at .*, split train: 1,437 examples, 10 classes; read by index, since it is',
                   told, re.M)
  assert re.search(r'^there    evals.test: digits/1.0.0 at .*, split test: 360 examples, 10 classes$', told, re.M)


def test_check_data_says_what_is_missing_and_how_to_get_it(data_dir):
  told = run('check_data', '--config=configs/mixer_b16_i1k.py', f'--config.data.data_dir={data_dir}', code=1)
  assert len(re.findall("^MISSING ", told, re.M)) == 3
  assert f'MISSING  data: dataset \'imagenet2012\' is not prepared' in told
  assert f'  python -m tools.prepare imagenet2012 --data_dir={data_dir}' in told


def test_show_batch_draws_the_images_as_the_model_sees_them(demo, tmp_path):
  told = run('show_batch', *demo, '--step=7', '--images=9', f'--out={tmp_path / "batch.png"}')
  assert f'9 of the 128 images of step 7: {tmp_path / "batch.png"}' in told
  picture = np.asarray(PIL.Image.open(tmp_path / 'batch.png').convert('L'))
  assert picture.shape[0] > 300 and len(np.unique(picture)) > 50
  plain = run('show_batch', *demo, '--config.step.mixup=0.', '--step=7', '--images=9', f'--out={tmp_path / "plain.png"}')
  assert 'plain.png' in plain
  assert not np.array_equal(picture, np.asarray(PIL.Image.open(tmp_path / 'plain.png').convert('L')))


def test_bench_input_tells_each_stage_the_limit_and_the_bottleneck(demo):
  told = run('bench_input', *demo, '--seconds=0.5', '--config.data.randaugment_magnitude=10.')
  rows = dict(re.findall(r'^(read|and decode, crop, flip|and augment|limit: decode) +([\d,]+) ', told, re.M))
  speeds = [float(x.replace(',', '')) for x in rows.values()]
  assert len(rows) == 4 and min(speeds) > 0
  assert re.search(r'^bottleneck: (read|decode, crop, flip|augment), \d+% of the time$', told, re.M)


def test_a_tool_without_a_config_says_how(capsys):
  assert '--config is missing: --config=configs/mixer_digits.py' in run('check_data', code=1)


CONFIG = '--config=configs/evaluate_imagenet.py'


@pytest.mark.parametrize('arguments, config', [
    (['--weights={run}'], '{run}/config.json'),
    (['--weights', '{run}', '--config.evals.test.batch_size=8'], '{run}/config.json'),
    (['--weights={run}/checkpoints/100', '--bench'], '{run}/config.json'),
    (['--weights={run}', CONFIG], None), ([CONFIG, '--weights={run}'], None),
    (['--weights=imagenet1k/Mixer-B_16'], None), (['--weights={run}/x.npz'], None), ([], None)])
def test_weights_of_a_run_are_evaluated_by_its_own_config(tmp_path, arguments, config):
  run_dir = example_runs.write(tmp_path / 'run', example_runs.DIGITS, [])
  arguments = ['evaluate', *(argument.format(run=run_dir) for argument in arguments)]
  own = [f'--config={config.format(run=run_dir)}'] if config else []
  assert evaluate.with_config(arguments) == [arguments[0], *own, *arguments[1:]]
