"""What docs/own_images.md says: its configs train, and its commands' results are scored and classify images.

tests/test_pages.py has its commands' flags.
"""

import re
import subprocess
import sys

import pytest

from configs import image_folder
from conftest import ROOT
from mixer import config_fields
from mixer import configuration
from mixer.run import config_flags
import own_images
from tools import predict
import train


@pytest.mark.parametrize('which', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_configs_of_the_page_train(tmp_path, which, capsys):
  root = own_images.photos(tmp_path / 'root', 'train', 'test')
  config = config_flags.load(str(own_images.configs(tmp_path, root)[which]))
  configuration.set_fields(config, ['total_steps=2', 'data.batch_size=8', 'model.num_blocks=1'])
  results = train.train(config, str(tmp_path / 'run'))
  assert results['test/examples'] == 16
  assert predict.main([f'--weights={tmp_path / "run"}', str(root / 'test/cat')]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert sum('cat' in line and '%' in line for line in lines) >= 8


def test_the_config_has_ten_lines_and_the_page_goes_through_them():
  body = own_images.CONFIGS[0].partition(':\n')[2].strip().split('\n')
  assert len(body) == 10
  explained = re.findall(r'^\d\. `(\w+)`:', own_images.PAGE, re.MULTILINE)
  assert explained == ['ConfigDict', *re.findall(r'config\.(\w+) =', own_images.CONFIGS[0])]


def test_what_the_table_sets_exists(tmp_path):
  root = own_images.photos(tmp_path / 'root', '.')
  table = re.search(r'## What the config chose\n(.*?)\n## ', own_images.PAGE, re.DOTALL)[1]
  named = re.findall(r'image_folder\.py:/path/to/photos([\w,]*)', table)
  assert len(named) > 3
  for options in named:
    config = image_folder.get_config(f'{root}{options}')
    configuration.set_fields(config, [text.replace("'", '') for text in re.findall(r'--config\.(\S+?)[\s`]', table)])
    config_fields.check(config)
  assert (config.data.split, config.evals.dev.split) == ('train[:90%]', 'train[90%:]')


@pytest.mark.slow
def test_the_commands_of_the_page_train_score_and_classify(tmp_path):
  root, workdir = own_images.photos(tmp_path / 'root', 'train'), tmp_path / 'run'
  own_images.photos(root, 'val', count=4)
  flags = ['--config.total_epochs=20', '--config.model.num_blocks=1', '--config.data.batch_size=8']

  def run(*command):
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

  for command in (('train.py', f'--config=configs/image_folder.py:{root}', f'--workdir={workdir}', *flags),
                  ('-m', 'tools.evaluate', f'--weights={workdir}')):
    assert re.search('^val: top-1 100.00%, loss .* on 8 images$', run(*command), re.MULTILINE)
  first = run('-m', 'tools.predict', f'--weights={workdir}', root / 'val/dog').splitlines()[1::2]  # below the header
  assert len(first) == 4 and all('dog ' in line for line in first)
