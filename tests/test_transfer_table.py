"""Fine-tuning against training from scratch: what is trained, on what, and the table, with runs that take no time."""

import json
import pathlib

import pytest

from configs import mixer_cifar10_transfer
from mixer import configuration
from tools.experiments import transfer_table
from tools import sweep


@pytest.fixture
def trained(monkeypatch):
  """The fields of each run that a train.py was started for, which writes records; the best rates are 0.1 and 0.3."""
  runs = []

  def fake(arguments):
    fields = dict(argument.removeprefix('--').partition('=')[::2] for argument in arguments[2:])
    workdir, way = pathlib.Path(fields['workdir']), fields['config'].partition('.py:')[2]
    runs.append(fields)
    rate = float(fields.get('config.optimizer.learning_rate', 0))
    score = 0.5 + 0.01 * int(fields['config.seed']) if way.startswith('weights') else 0.4
    score -= abs(rate - (0.1 if way.startswith('weights') else 0.3))
    (workdir / 'config.json').write_text('{"total_steps": 9}')
    split = 'dev' if way.endswith(',dev') else 'test'
    (workdir / 'records.jsonl').write_text(json.dumps({'step': 9, f'{split}/top1': score}))
    return 0

  monkeypatch.setattr(sweep, 'exit_code', fake)
  return runs


@pytest.fixture
def command(trained, tmp_path):
  (tmp_path / 'images').mkdir()

  def run(*arguments):
    trained.clear()
    transfer_table.main([f'--dataset={tmp_path / "images"}', f'--workdir={tmp_path / "out"}', *arguments])
    return [dict(run) for run in trained]

  return run


def test_each_way_has_its_own_learning_rate_from_dev_and_each_seed_its_own_pretraining(command, tmp_path):
  runs = command('--seeds=3')
  where = [(run['config'].partition('.py:')[2], run['config.seed']) for run in runs]
  assert {way: [seed for name, seed in where if name == way] for way, _ in where} == {
      'pretrain': ['0', '1', '2'], 'weights,dev': ['0'] * 4, 'nothing,dev': ['0'] * 4, 'weights': ['0', '1', '2'],
      'nothing': ['0', '1', '2']}
  for run in runs:
    way = run['config'].partition('.py:')[2]
    assert run['config.data.dataset'] == str(tmp_path / 'images')
    assert run.get('config.start_from.weights') == (
        str(tmp_path / f'out/pretrain,seed{run["config.seed"]}') if way.startswith('weights') else None)
    if way in ('weights', 'nothing'):
      assert run['config.optimizer.learning_rate'] == {'weights': '0.1', 'nothing': '0.3'}[way]


def test_the_gain_is_the_difference_of_the_means_with_its_standard_error(command, tmp_path, capsys):
  command('--seeds=3')
  results = json.loads((tmp_path / 'out/results.json').read_text())
  assert results['ways']['weights']['scores'] == pytest.approx([0.5, 0.51, 0.52])
  error = (0.01**2 / 3)**0.5
  assert results['gain'] == pytest.approx({'mean': 0.11, 'standard_error': error, 'standard_errors': 0.11 / error})
  printed = capsys.readouterr().out
  assert (tmp_path / 'out/table.md').read_text() in printed
  assert '| fine-tuned | 0.1 | 50.0, 51.0, 52.0 | 51.0 | 1.0 |' in printed.splitlines()
  assert 'gain: 11.0 points, standard error 0.6: 19.1 standard errors' in printed


def test_it_goes_on_where_it_stopped_and_adds_seeds(command):
  command('--seeds=1')
  assert not command('--seeds=1')
  assert [run['config'].partition('.py:')[2] for run in command('--seeds=2')] == ['pretrain', 'weights', 'nothing']


def test_of_one_seed_no_standard_error_is_known(command, tmp_path):
  command('--seeds=1')
  assert (tmp_path / 'out/table.md').read_text().endswith('\ngain: 10.0 points\n')


@pytest.mark.parametrize('flag, text', [
    ('--dataset=cifar', '--dataset is cifar; it must be cifar10, or a folder with its images'),
    ('--seeds=0', '--seeds is 0; it must be at least 1')])
def test_flags_that_make_no_sense(flag, text, capsys):
  with pytest.raises(SystemExit):
    transfer_table.main([flag])
  assert text in capsys.readouterr().err


@pytest.mark.parametrize('way', mixer_cifar10_transfer.WAYS)
def test_the_dev_configs_score_what_they_do_not_train_on_and_the_test_images_are_read_by_no_other(way):
  config, dev = (mixer_cifar10_transfer.get_config(f'{way}{options}') for options in ('', ',dev'))
  assert (config.data.split, config.evals.test.split) == ('train', 'test') and list(config.evals) == ['test']
  assert (dev.data.split, dev.evals.dev.split) == ('train[:90%]', 'train[90%:]') and list(dev.evals) == ['dev']
  if way != 'pretrain':  # of as many images
    assert dev.data.fraction * 0.9 == pytest.approx(config.data.fraction)


def test_the_two_ways_differ_by_their_start_alone_and_no_class_is_seen_twice():
  before, tuned, scratch = map(mixer_cifar10_transfer.get_config, mixer_cifar10_transfer.WAYS)
  flat = configuration.flat(tuned)
  assert {key: value for key, value in flat.items() if not key.startswith('start_from.')} == configuration.flat(scratch)
  assert not set(before.data.classes) & set(tuned.data.classes) and len({*before.data.classes, *tuned.data.classes}) == 10
  assert tuned.data.resolution == 2 * before.data.resolution and tuned.model.tiles == 2


def test_the_evaluations_images_are_those_of_the_data_section():
  config = mixer_cifar10_transfer.get_config('weights')
  configuration.set_fields(config, ['data.dataset=/images', "data.classes=('cat', 'dog')"])
  assert (config.evals.test.dataset, config.evals.test.classes) == ('/images', ('cat', 'dog'))
