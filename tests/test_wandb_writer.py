"""--wandb: metrics for Weights & Biases, offline; and what is refused before a run begins."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT

PROGRAM = '''
import pathlib, sys
from mixer.run import metric_logger
workdir, first = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with metric_logger.MetricLogger(workdir, first, 4, batch_size=8, wandb='a project') as logger:
  for step in range(first + 1, 5):
    logger.log_step(step, {'loss': 1.5, 'grad_norm': 1., 'learning_rate': 0.1})
    logger.log_progress()
    logger.write()
'''
installed = pytest.mark.skipif(importlib.util.find_spec('wandb') is None, reason='the extra wandb is not installed')


def log(workdir, first=0, **environment):
  return subprocess.run([sys.executable, '-c', PROGRAM, str(workdir), str(first)], cwd=ROOT, capture_output=True, text=True,
                        env={**os.environ, 'WANDB_SILENT': 'true', **environment})


@pytest.mark.slow
@installed
def test_metrics_are_kept_offline_and_a_later_start_resumes_the_same_run(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 7}')
  for first in (0, 2):
    done = log(tmp_path, first, WANDB_MODE='offline')
    assert done.returncode == 0, done.stderr
  name = json.loads((tmp_path / 'wandb.json').read_text())['id']
  folders = list((tmp_path / 'wandb').glob(f'offline-run-*-{name}'))
  contents = b''.join(path.read_bytes() for folder in folders for path in folder.glob('*.wandb'))
  assert folders and len(list((tmp_path / 'wandb').glob('offline-run-*'))) == len(folders)
  for text in (b'train/loss_mean', b'images_per_s_per_core', b'a project', b'seed', tmp_path.name.encode()):
    assert text in contents


@pytest.mark.slow
@installed
def test_without_a_login_it_is_said_what_to_do(tmp_path):
  done = log(tmp_path, WANDB_MODE='online', WANDB_API_KEY='', HOME=str(tmp_path), NETRC=str(tmp_path / 'none'))
  assert done.returncode and 'ValueError: --wandb=a project: ' in done.stderr
  assert 'Log in with `wandb login`, or keep the metrics for `wandb sync` with WANDB_MODE=offline' in done.stderr


@pytest.mark.parametrize('flag, message', [
    ('--wandb=x', "flag --wandb=x: needs the extra wandb, which is not installed here: pip install -e '.[wandb]' -c "
     'requirements.lock'),
    ('--profile_steps=7', 'flag --profile_steps=7: it must be FIRST:END, such as 100:105')])
def test_flags_that_cannot_be_followed_are_refused_at_the_start(flag, message):
  program = f"import sys; sys.modules['wandb'] = None; sys.argv = ['train.py', '--config=configs/mixer_digits.py', {flag!r}]\n" \
            'import train; train.config_flags.run(train.main)'
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1 and message in done.stdout + done.stderr and 'Traceback' not in done.stderr
