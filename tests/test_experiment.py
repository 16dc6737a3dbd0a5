"""The experiments on small images: what is trained, what counts, and the tables, with runs that take no time."""

import json
import pathlib

import PIL.Image
import pytest

from configs import data_scale
from configs import recipes
import example_runs
from mixer import configuration
from mixer import models
from mixer.run import preemption
from tools.experiments import experiment
from tools import sweep


@pytest.fixture
def command(tmp_path, monkeypatch):
  """Runs an experiment with a train.py that writes records; returns the names of the runs that were trained."""
  trained = []

  def fake(arguments):
    fields = dict(argument.removeprefix('--').partition('=')[::2] for argument in arguments[2:])
    workdir = pathlib.Path(fields['workdir'])
    trained.append(workdir.name)
    seed = int(fields['config.seed'])
    (workdir / 'config.json').write_text(json.dumps({'total_steps': 20}))
    (workdir / 'history.jsonl').write_text(''.join(json.dumps(event) + '\n' for event in example_runs.started_and_ended(
        seconds=10. + seed, devices=1)))
    # Upstream is best in the middle, where the probe is 0.1 better than at the end.
    score = 0.6 + 0.01 * seed
    rows = [{'step': 5, 'train/loss': 1.},
            {'step': 10, 'val/top1': 0.9, 'other/5shot': score + 0.1, 'val/examples': 7, 'other/examples': 9,
             'test/top1': score + 0.1},
            {'step': 20, 'val/top1': 0.8, 'other/5shot': score, 'val/examples': 7, 'other/examples': 9, 'test/top1': score}]
    if workdir.name.startswith('ema,'):
      rows[-1]['test_ema/top1'] = score + 0.2
    ends = workdir.name == fake.ends  # before its last step
    (workdir / 'records.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows[:2 if ends else 3]))
    return fake.code if ends else 0

  monkeypatch.setattr(sweep, 'exit_code', fake)

  draw = experiment.draw

  def run(*arguments, ends=None, code=3, drawn=False):
    monkeypatch.setattr(experiment, 'draw', draw if drawn else lambda *_: b'')
    trained.clear()
    fake.ends, fake.code = ends, code
    experiment.main([*arguments, f'--workdir={tmp_path}'])
    return list(trained)

  return run


def rows_of(tmp_path):
  return json.loads((tmp_path / 'results.json').read_text())


@pytest.mark.parametrize('name, dataset, arms', [('permutations', 'mnist5k', 9), ('permutations', 'cifar10', 9),
                                                 ('data_scale', 'mnist5k', 20), ('data_scale', 'cifar10', 20),
                                                 ('appendix_a', 'digits', 5)])
def test_every_arm_has_its_seeds_and_a_config_of_equal_steps(name, dataset, arms, tmp_path):
  runs = experiment.plan(name, dataset, 3, tmp_path)
  assert len(runs) == 3 * arms == len({run.workdir for run in runs})
  assert {run.seed for run in runs[:arms]} == {0}  # the first third has all arms
  module = __import__(f'configs.{name}', fromlist=['get_config'])
  resolved = [module.get_config(run.config.partition('.py:')[2]) for run in runs[:arms]]
  assert len({config.total_steps for config in resolved}) == 1
  assert len({str(configuration.flat(config)) for config in resolved}) == arms
  for config in resolved:
    if dataset == 'cifar10':
      assert (config.data.split, config.evals.val.split, config.evals.test.split) == ('train[:90%]', 'train[90%:]', 'test')
      config.data.dataset = '/a/folder'
      assert {config.evals.val.dataset, config.evals.test.dataset} == {'/a/folder'}
    else:
      assert {config.data.dataset, config.evals.val.dataset} == {f'few_{dataset}'}
      assert config.probes.other.train.dataset == config.probes.other.test.dataset == f'other_{dataset}'


def test_the_last_step_counts_and_means_and_ranges_are_over_the_seeds(command, tmp_path, capsys):
  assert len(command('appendix_a', '--seeds=3')) == 15
  results = rows_of(tmp_path)
  assert (results['experiment'], results['dataset'], results['scored']) == ('appendix_a', 'digits', 'after the last step')
  assert [row['model'] for row in results['results']] == ['plain', 'untied', 'grouped', 'views', 'pyramid']
  row = results['results'][0]
  assert (row['seeds'], row['steps'], row['seconds']) == ([0, 1, 2], [20] * 3, 10.)
  assert row['examples'] == {'val/examples': 7, 'other/examples': 9}
  scores = row['other/5shot'].pop('scores')
  assert scores == pytest.approx([0.6, 0.61, 0.62])
  assert row['other/5shot'] == pytest.approx(dict(mean=0.61, min=0.6, max=0.62, std=0.01))
  printed = capsys.readouterr().out
  assert '| views | 61.0 % (60.0 to 62.0; 3) |' in printed.splitlines()
  assert printed.startswith((tmp_path / 'table.md').read_text())


def test_of_the_data_scale_the_best_upstream_validation_counts(command, tmp_path):
  command('data_scale', '--dataset=mnist5k', '--seeds=1')
  results = rows_of(tmp_path)
  row = results['results'][0]
  assert (row['model'], row['arm'], row['steps'], row['other/5shot']['mean']) == ('mixer_s', '0.03', [10], 0.7)
  assert row['other/5shot']['std'] is None
  assert '| model | 0.03 | 0.1 | 0.3 | 1 |' in (tmp_path / 'table.md').read_text().splitlines()
  command('data_scale', '--seeds=1')
  row = rows_of(tmp_path)['results'][0]
  assert (row['arm'], row['steps'], row['test/top1']['mean']) == ('0.03', [10], 0.7)


def test_a_baseline_is_compared_with_the_other_arms_in_standard_errors(command, tmp_path, capsys):
  command('permutations', '--seeds=3')
  # Scores of 0.60, 0.61 and 0.62 in every arm: the standard deviation is 0.01.
  assert '- vit, pixels: +0.0 points, 0% of the score, 0.0 standard errors' in capsys.readouterr().out.splitlines()
  command('permutations', '--dataset=mnist5k', '--seeds=1')
  assert '- bit, patches: +0.0 points, 0% of the score' in capsys.readouterr().out.splitlines()


def test_the_standard_error_of_a_difference_is_of_both_means():
  first, second = experiment.spread([0.5, 0.7]), experiment.spread([0.2, 0.3, 0.4])
  change = experiment.difference(first, second)
  # Variances 0.02 of two and 0.01 of three.
  assert change['mean'] == pytest.approx(0.3)
  assert change['standard_error'] == pytest.approx((0.02 / 2 + 0.01 / 3)**0.5)
  assert change['standard_errors'] == pytest.approx(0.3 / change['standard_error'])
  assert experiment.difference(first, experiment.spread([0.2]))['standard_error'] is None


def test_recipes_are_scored_on_the_test_split_and_an_average_by_itself(command, tmp_path, capsys, monkeypatch):
  images = tmp_path / 'images'
  images.mkdir()
  assert command('recipes', f'--dataset={images}', '--seeds=2')[0] == 'plain,cifar10,seed0'
  monkeypatch.chdir(tmp_path)
  assert command('recipes', '--dataset=images/', '--seeds=2') == []  # the same folder
  assert [row['model'] for row in rows_of(tmp_path)['results']] == list(recipes.RECIPES)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == '# Recipes beyond the paper, on images'
  assert '| plain | 60.5 % (60.0 to 61.0; 2) |' in lines and '| ema | 80.5 % (80.0 to 81.0; 2) |' in lines


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_each_recipe_is_a_config_that_differs_from_the_plain_one_by_it_alone(recipe):
  config, plain = (configuration.flat(recipes.get_config(f'{which},cifar10')) for which in (recipe, 'plain'))
  unlike = {name.split('.')[-1] for name in config.keys() | plain.keys() if config.get(name) != plain.get(name)}
  sam = {'rho_max', 'rho_min', 'images_per_perturbation'}
  assert unlike == {'plain': set(), 'mixup': {'mixup'}, 'cutmix': {'cutmix', 'cutmix_probability'},
                    'label_smoothing': {'label_smoothing'}, 'ema': {'ema'}, 'sam': sam, 'gsam': sam | {'alpha'},
                    'lion': {'name', 'learning_rate', 'weight_decay'}, 'sam_half': sam | {'total_epochs'},
                    'gsam_half': sam | {'alpha', 'total_epochs'}}[recipe]
  models.build(**recipes.get_config(f'{recipe},cifar10').model)


@pytest.mark.parametrize('name, dataset, text', [
    ('recipes', 'digits', '--dataset is digits; of recipes it must be cifar10, or a folder with the images of CIFAR-10'),
    ('permutations', 'digits', '--dataset is digits; of permutations it must be cifar10 or mnist5k, or a folder with '),
    ('appendix_a', '.', '--dataset is .; of appendix_a it must be digits (')])
def test_a_dataset_that_an_experiment_does_not_have_is_refused(name, dataset, text, capsys):
  with pytest.raises(SystemExit):
    experiment.main([name, f'--dataset={dataset}'])
  assert text in capsys.readouterr().err


@pytest.mark.parametrize('name', experiment.EXPERIMENTS)
def test_each_has_a_picture(command, tmp_path, name):
  command(name, '--seeds=2')
  command(name, '--seeds=2', drawn=True)
  with PIL.Image.open(tmp_path / 'picture.png') as picture:
    assert picture.width > 1000


def test_it_goes_on_where_it_was_stopped_with_the_tables_of_what_there_is(command, tmp_path):
  stopped = 'vit,cifar10,patches,seed0'
  with pytest.raises(SystemExit) as ended:
    command('permutations', ends=stopped, code=preemption.EXIT_PREEMPTED)
  assert ended.value.code == preemption.EXIT_PREEMPTED
  assert [(row['model'], row['arm']) for row in rows_of(tmp_path)['results']] == [
      ('mixer', 'original'), ('mixer', 'patches'), ('mixer', 'pixels'), ('vit', 'original')]
  # The run in hand has evaluations, and is not finished.
  assert sum(bool(run.evaluations(experiment.TOP1)) for run in experiment.plan('permutations', 'cifar10', 1, tmp_path)) == 4
  rest = command('permutations')
  assert rest[0] == stopped and len(rest) == 27 - 4
  assert command('permutations') == []
  assert len(command('permutations', '--seeds=4')) == 9
  assert '(60.0 to 63.0; 4)' in (tmp_path / 'table.md').read_text()


def test_a_run_that_fails_ends_it_by_name(command, tmp_path):
  with pytest.raises(SystemExit, match=r"^error: .*appendix_a.py:untied,digits.* non-zero exit status 3"):
    command('appendix_a', ends='untied,digits,seed0')
  assert [row['model'] for row in rows_of(tmp_path)['results']] == ['plain']


def test_a_dry_run_prints_commands_that_are_those_of_the_runs(command, tmp_path, capsys):
  assert command('data_scale', '--dataset=mnist5k', '--seeds=1', '--dry_run') == []
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 20
  assert lines[0] == (f'python train.py --config=configs/data_scale.py:mixer_s,mnist5k,0.03 '
                      f'--workdir={tmp_path}/mixer_s,mnist5k,0.03,seed0 --config.seed=0')


def test_seeds_that_are_none(capsys):
  with pytest.raises(SystemExit):
    experiment.main(['appendix_a', '--seeds=0'])
  assert '--seeds is 0; it must be at least 1' in capsys.readouterr().err


@pytest.mark.parametrize('model', data_scale.JFT)
def test_every_model_of_the_paper_has_configs_of_equal_steps_and_early_stopping(model):
  for fraction in data_scale.FRACTIONS:
    config = data_scale.get_config(f'{model},jft,{fraction}')
    assert config.checkpoint.best == 'val/precision_at_1' and config.data.fraction == float(fraction)
    assert config.total_epochs * float(fraction) == pytest.approx(7, rel=0.015)
  models.build(**config.model)


@pytest.mark.parametrize('name, which, message', [
    ('permutations', 'mixer,digits', 'permutations.py:mixer,digits is not one of mixer, vit, bit, a comma and one of '),
    ('data_scale', 'mixer,jft,0.1', 'data_scale.py:mixer,jft,0.1 is not one of mixer_b32, '),
    ('data_scale', 'mixer,mnist5k,0.2', 'a comma and one of 0.03, 0.1, 0.3, 1$'),
    ('recipes', 'dropout,cifar10', 'recipes.py:dropout,cifar10 is not one of plain, mixup, '),
    ('recipes', 'plain', 'recipes.py:plain is not one of plain, mixup, '),
    ('appendix_a', 'tied,digits', 'appendix_a.py:tied,digits is not one of plain, untied, grouped, views, '),
])
def test_what_no_config_is_called_lists_the_names(name, which, message):
  with pytest.raises(ValueError, match=message):
    __import__(f'configs.{name}', fromlist=['get_config']).get_config(which)
