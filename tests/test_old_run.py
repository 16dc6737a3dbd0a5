"""A run that commit 8244917 began resumes: its config, checkpoints and records are still read.

old_run.tar.xz is the work directory of test_train.config, six steps of which that commit took four and was interrupted.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from mixer.data import sources
import test_train
import train

# What that commit itself wrote when it went on.
REST = {'train/loss': 2.3049988746643066, 'train/grad_norm': 0.39315176010131836, 'test/loss': 2.2965032789442272,
        'test/top1': 0.06944444444444445}


@pytest.fixture
def workdir(tmp_path):
  with tarfile.open(pathlib.Path(__file__).parent / 'old_run.tar.xz') as tar:
    tar.extractall(tmp_path, filter='data')
  return tmp_path / 'run'


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on(workdir, data_dir):
  before = json.loads((workdir / 'config.json').read_text())
  # Of the copy of the digits that this process prepares, whose records may be written in another order than then.
  data = sources.open_split('digits', 'train', data_dir)
  before['contents_sample'] = sources.identity(data)['contents_sample']
  (workdir / 'config.json').write_text(json.dumps(before))
  results = train.train(test_train.config(data_dir), str(workdir))
  records = [json.loads(line) for line in (workdir / 'records.jsonl').read_text().splitlines()]
  assert [record['step'] for record in records] == [2, 3, 4, 6]
  assert {name: records[-1][name] for name in REST} == pytest.approx(REST, rel=1e-4)  # processors round in other ways
  assert results['test/top1'] == records[-1]['test/top1']
  assert [json.loads(line)['event'] for line in (workdir / 'history.jsonl').read_text().splitlines()] == [
      'start', 'end', 'start', 'end']
  after = json.loads((workdir / 'config.json').read_text())
  assert after == before | {'contents_features': after['contents_features'], 'data': after['data'], 'evals': after['evals']}

  fresh = train.train(test_train.config(data_dir), str(workdir.parent / 'fresh'))
  state, expected = test_train.last_state(workdir), test_train.last_state(workdir.parent / 'fresh')
  assert state.keys() == expected.keys() and fresh.keys() == results.keys()
  for name, array in expected.items():
    np.testing.assert_allclose(state[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
