"""A command that trains and computes nothing waits for no library that it does not need."""

import subprocess
import sys

import pytest

SLOW = ('tensorflow', 'tensorflow_datasets', 'clu')


@pytest.mark.parametrize('command', [
    ('train.py', '--help'),
    ('train.py', '--list'),
    ('train.py', '--config=configs/mixer_digits.py', '--nosuch=1'),
    ('train.py', '--config=configs/mixer_digits.py', '--workdir=no_such/folder', '--config.model.depth=8'),
    ('-m', 'tools.predict', '--help'),
    ('-m', 'tools.evaluate', '--help'),
    ('-m', 'tools.convert', '--help'),
], ids=' '.join)
def test_imports_no_slow_library(command):
  result = subprocess.run([sys.executable, '-X', 'importtime', *command], capture_output=True, text=True)
  imported = {line.split('|')[-1].strip() for line in result.stderr.splitlines() if line.startswith('import time:')}
  assert 'absl.flags' in imported, result.stderr
  assert not imported.intersection(SLOW)
