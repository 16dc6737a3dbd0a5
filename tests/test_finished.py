"""A complete run is detected from its files, and only a complete one."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from configs import mixer_digits
from conftest import ROOT
from mixer.run import finished
from mixer.run import sanity

DESCRIBED = 'test: top-1 98.61% on 360 images'
CONFIG = ROOT / 'configs/mixer_digits.py'


@pytest.fixture
def workdir(tmp_path):
  """The files of a complete run of the demo that are checked."""
  folder = tmp_path / 'lr[0.1]'
  (folder / 'checkpoints/562/default').mkdir(parents=True)
  for name in ('card.md', 'learning_curves.png', 'predictions_test.png', 'checkpoints/562/default/manifest.ocdbt'):
    (folder / name).touch()
  (folder / 'config.json').write_text('{"total_steps": 562}')
  (folder / 'records.jsonl').write_text('{"step": 561}\n{"step": 562, "train/loss": 1.0, "test/top1": 0.98}\n')
  finished.save(folder, mixer_digits.get_config(), {'test/top1': 0.98}, DESCRIBED)
  return folder


def asked(workdir, *more):
  return finished.load_for_command_line(['train.py', f'--config={CONFIG}', f'--workdir={workdir}', *more])


def test_a_complete_run_is_printed_with_its_results_and_its_folder(workdir):
  text = f'all 562 steps are done\n{DESCRIBED}\nrecords, checkpoints and plots: {workdir}'
  assert asked(workdir) == text
  done = subprocess.run([sys.executable, '-X', 'importtime', 'train.py', f'--config={CONFIG}', f'--workdir={workdir}'],
                        cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout == text + '\n'
  for slow in ('jax._src.core', 'flax', 'tensorflow', 'orbax.checkpoint', 'matplotlib'):
    assert not re.search(rf'\| +{slow}$', done.stderr, re.M) and re.search(r'\| +mixer\.run\.sanity$', done.stderr, re.M)


@pytest.mark.parametrize('name', ['card.md', 'learning_curves.png', 'predictions_test.png', 'config.json', 'records.jsonl',
                                  'finished.json', 'checkpoints/562/default/manifest.ocdbt', 'checkpoints'])
def test_an_incomplete_run_is_resumed(workdir, name):
  path = workdir / name
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert asked(workdir) is None


@pytest.mark.parametrize('flag', ['--config.seed=1', '--config.evals.test.batch_size=120', '--config.data.threads=1',
                                  '--config.total_steps=600', '--config.eval_every_steps=10', '--config.no_field=1',
                                  '--config.data.batch_size=x', '--list', '--num_processes=2', '--nonsense', 'word'])
def test_another_config_or_another_flag_is_another_matter(workdir, flag):
  assert asked(workdir, flag) is None


@pytest.mark.parametrize('name, content', [
    ('finished.json', '{"format": 1, "con'), ('finished.json', '{"format": 2}'), ('finished.json', '[]'),
    ('config.json', '{}'), ('records.jsonl', ''), ('records.jsonl', '{"step": 561, "test/top1": 0.98}'),
    ('records.jsonl', '{"step": 562, "test/top1": 0.97}')])
def test_files_that_are_damaged_or_do_not_agree_are_not_believed(workdir, name, content):
  (workdir / name).write_text(content)
  assert asked(workdir) is None


def test_the_config_as_it_was_requested_is_compared_whatever_its_values(workdir):
  config = mixer_digits.get_config()
  config.evals.test.crop, config.probes = None, {'pets': {'shots': (1, 5)}}
  finished.save(workdir, config, {'test/top1': 0.98}, DESCRIBED)
  assert finished.load(workdir, config).endswith(DESCRIBED)
  assert json.loads((workdir / 'finished.json').read_text())['config']['probes'] == {'pets': {'shots': [1, 5]}}


def test_that_a_complete_run_has_not_learned_is_said_again(workdir):
  (workdir / 'card.md').write_text(f'# run\n\n{sanity.CARD_PREFIX}The training loss is 9.\n\n## Results\n')
  assert asked(workdir).split('\n')[:3] == ['all 562 steps are done', 'WARNING: The training loss is 9.', DESCRIBED]
