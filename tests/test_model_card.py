"""What a finished run leaves for people: the card's commands are parsed and run."""

import json
import re
import shlex
import shutil
import subprocess
import sys

from absl import flags
import jax
import numpy as np
import PIL.Image
import pytest

from conftest import ROOT
from mixer import configuration
from mixer import models
from mixer.run import config_flags
from mixer.run import goodput
from mixer.run import model_card
from mixer.run import plots
from mixer.run import records
from mixer.run import run_history
from tools import export
from tools import predict
import train

SMALL = {'total_steps': 4, 'log_every_steps': 2, 'eval_every_steps': 4, 'checkpoint.every_steps': 4,
         'optimizer.schedule.warmup_steps': 1, 'data.batch_size': 32, 'evals.test.batch_size': 120,
         'model.num_blocks': 1, 'model.hidden_dim': 16, 'model.tokens_mlp_dim': 8, 'model.channels_mlp_dim': 32}


def parsed(arguments, extra=()):
  """The flags of a command line: --config of absl and ml_collections, and others by their names, which are texts."""
  values, line = flags.FlagValues(), ['train.py', *arguments]
  for name in extra:
    flags.DEFINE_string(name, None, '', flag_values=values)
  config_flags.define(values)
  assert config_flags.parse(line, values) == ['train.py']
  return values


def config_of(values):
  config = config_flags.load(values['config'].value)
  configuration.set_fields(config, values['config_field'].value)
  configuration.check(config)
  return config


@pytest.fixture(scope='module')
def finished(data_dir, tmp_path_factory):
  """The work directory of a small run, and its config."""
  workdir = tmp_path_factory.mktemp('runs') / 'a run'
  arguments = ['--config=configs/mixer_digits.py', *(f'--config.{field}={value}' for field, value in SMALL.items()),
           f'--config.data.data_dir={data_dir}', f'--config.evals.test.data_dir={data_dir}']
  train.train(config_of(parsed(arguments)), str(workdir))
  return workdir, config_of(parsed(arguments))


def commands_of(text):
  """{what it does: words} of a card's commands."""
  block = re.search(r'```sh\n(.*?)\n```', text, re.S)[1]
  return {what.removeprefix('# ').split()[0].rstrip(','): shlex.split(line)
          for what, line in zip(*[iter(block.split('\n'))] * 2)}


def test_a_card_says_what_was_reached_on_what_and_by_what(finished):
  workdir, _ = finished
  text = (workdir / 'card.md').read_text()
  last = list(records.read(workdir / 'records.jsonl'))[-1]
  assert f'| test | top1 | {last["test/top1"]:.2%} | 360 |' in text
  assert f'| test | loss | {last["test/loss"]:.4f} | 360 |' in text
  assert '10 classes, 8 x 8 pixels; trained from scratch for 4 steps of 32 images, 0.1 epochs.' in text
  assert '| training | digits | train | 1,437 |\n| test | digits | test | 360 |' in text
  assert 'Training images: digits/1.0.0, 1437 examples. Classes: [classes.txt](classes.txt).' in text
  assert '![Learning curves](learning_curves.png)' in text and (workdir / 'learning_curves.png').exists()
  start, end = run_history.read(workdir)
  assert f'| commit | {start["commit"]} |' in text and f'jax {jax.__version__}' in text
  assert f'| device-hours | {8 * end["seconds"] / 3600:.3g} |' in text
  assert f'| wall time | {end["seconds"]:,.0f} s in the training loop; 1 start |' in text
  account = goodput.account(goodput.read(workdir))
  assert f'| time | [{account}](goodput.png) |' in text and (workdir / 'goodput.png').exists()
  assert sum(account.seconds.values()) == pytest.approx(account.total, rel=1e-3) and min(account.seconds.values()) >= 0
  shown = json.loads(re.search(r'```json\n(.*?)\n```', text, re.S)[1])
  run = json.loads((workdir / 'config.json').read_text())
  assert {**shown, 'contents': 'digits/1.0.0, 1437 examples', **{
      name: run[name] for name in ('contents_sample', 'contents_features')}} == run


def test_a_run_that_had_ended_writes_the_same_card(finished):
  workdir, config = finished
  before = (workdir / 'card.md').read_bytes()
  (workdir / 'card.md').unlink()
  train.train(config, str(workdir))
  assert (workdir / 'card.md').read_bytes() == before


def test_the_last_lines_say_what_the_time_went_to(finished, tmp_path, capsys, monkeypatch):
  workdir, config = finished
  copy = shutil.copytree(workdir, tmp_path / 'run')
  monkeypatch.setattr(model_card.records, 'read', lambda path: [{'step': step, 'train/loss': 1., 'mfu': mfu} for step, mfu in ((1, 0.1), (2, 0.25), (3, 0.3))])
  train.train(config, str(copy))
  lines = capsys.readouterr().err.splitlines()
  assert f'{goodput.account(goodput.read(workdir))}; MFU 25.0%' in lines


def test_the_commands_take_a_line_each_and_are_short(finished):
  workdir, _ = finished
  run, text = shlex.quote(str(workdir)), (workdir / 'card.md').read_text()
  own = shlex.quote(f'--config={workdir}/config.json')
  assert f'\npython train.py {own} ' in text
  assert '\npython -m tools.evaluate ' + shlex.quote(f'--weights={workdir}') + '\n' in text
  assert shlex.quote(f'--config.start_from.weights={workdir}') + ' --config.start_from.head=fresh\n' in text
  assert len(max(re.search(r'```sh\n(.*?)\n```', text, re.S)[1].split('\n'), key=len)) < 100 + 4 * len(run)


def test_the_commands_to_train_are_of_configs_that_train(finished):
  workdir, _ = finished
  commands = commands_of((workdir / 'card.md').read_text())
  assert list(commands) == ['train', 'evaluate', 'predict', 'fine-tune', 'export']
  own = json.loads((workdir / 'config.json').read_text())
  for what, ending in (('fine-tune', '_tuned'), ('train', '_again')):
    python, script, *arguments = commands[what]
    assert (python, script) == ('python', 'train.py')
    values = parsed(arguments, extra=['workdir'])
    assert values.workdir == f'{workdir}{ending}'
    config = config_of(values)
    if what == 'fine-tune':
      tuned = train.train(config, values.workdir)
      assert tuned['test/examples'] == 360
      assert json.loads((workdir.parent / 'a run_tuned/config.json').read_text())['start_from'] == {
          'weights': str(workdir), 'head': 'fresh'}
      assert f'; fine-tuned from {workdir} for ' in (workdir.parent / 'a run_tuned/card.md').read_text()
    else:
      assert {**config.to_dict(), **{name: own[name] for name in configuration.NOT_FIELDS}} == own


@pytest.mark.slow
def test_the_command_to_evaluate_finds_what_the_card_says(finished):
  workdir, _ = finished
  python, *words = commands_of((workdir / 'card.md').read_text())['evaluate']
  done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  last = list(records.read(workdir / 'records.jsonl'))[-1]
  assert f'test: top-1 {last["test/top1"]:.2%}' in done.stdout and 'on 360 images' in done.stdout


@pytest.mark.slow
def test_the_commands_to_predict_and_export_do_so(finished, tmp_path, monkeypatch, capsys):
  commands = commands_of((finished[0] / 'card.md').read_text())
  monkeypatch.chdir(tmp_path)
  PIL.Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save('photo.jpg')
  assert commands['predict'][:3] == ['python', '-m', 'tools.predict']
  assert not predict.main(commands['predict'][3:])
  assert 'photo.jpg' in capsys.readouterr().out
  assert commands['export'][:3] == ['python', '-m', 'tools.export']
  export.main(commands['export'][3:])
  assert (tmp_path / 'a run.stablehlo').stat().st_size > 1000


@pytest.fixture
def arguments():
  """Of `card.text`, for a Mixer-B/16."""
  source = type('Source', (), dict(num_examples=1000, class_names=None))()
  section = dict(dataset='imagenet2012', split='train[:99%]', fraction=0.1, resolution=224)
  run = dict(model=dict(name='mlp_mixer', variant='B/16', num_classes=1000), data=dict(section, batch_size=100),
             step={}, total_steps=50, evals=dict(real=dict(section, fraction=None)), contents='1000 examples',
             probes=dict(pets=dict(train=section, test=dict(section, split='test'), shots=(5,))))
  results = {'real/top1': 0.5, 'real/loss': 2., 'real/examples': 1000, 'real/classified': 900, 'pets/5shot': 0.25,
             'pets/examples': 37, 'pets/train_examples': 74}
  return dict(workdir='runs/b16', run=run, source=source, parameters=12, results=results, events=[])


def test_an_average_is_named_where_it_is_scored_and_where_a_run_starts_from_it(arguments):
  run = {**arguments['run'], 'step': {'ema': 0.999}, 'start_from': {'weights': 'runs/a', 'average': True}}
  text = model_card.text(**{**arguments, 'run': run})
  assert '; fine-tuned from the average of runs/a for ' in text
  assert 'NAME_ema is of the average of the weights (decay 0.999), which --average loads.' in text
  assert 'average' not in model_card.text(**arguments)


def test_a_card_marks_images_of_resized_copies(arguments):
  said = ', resized: shorter side at most 384, JPEG quality 95'
  run = {**arguments['run'], 'contents': f'imagenet2012/5.1.0, 1000 examples{said}'}
  eval_source = type('Source', (), dict(contents=f'imagenet2012_real/5.1.0, 50 examples{said}'))()
  text = model_card.text(**{**arguments, 'run': run}, evals={'real': eval_source})
  assert f'| training | imagenet2012{said} | ' in text and f'| real | imagenet2012{said} | ' in text
  assert f'Training images: imagenet2012/5.1.0, 1000 examples{said}.' in text
  assert said not in model_card.text(**arguments)


def test_each_metric_has_the_number_of_examples_that_it_rests_on(arguments):
  text = model_card.text(**arguments)
  assert 'train_examples' not in text
  assert '| real | top1 | 50.00% | 900 |\n| real | loss | 2.0000 | 1,000 |\n| pets | 5shot | 25.00% | 37 |' in text
  assert ('| training | imagenet2012 | train[:99%], 0.1 of it | 1,000 |\n'
          '| real | imagenet2012 | train[:99%] | 1,000 |\n'
          '| pets (training) | imagenet2012 | train[:99%], 0.1 of it | 74 |\n'
          '| pets | imagenet2012 | test, 0.1 of it | 37 |') in text


def test_a_card_says_how_many_of_the_classes_were_used(arguments):
  run = {**arguments['run'], 'data': {**arguments['run']['data'], 'classes': ['a', 'b']}}
  assert '| training | imagenet2012 | train[:99%], 2 of its classes, 0.1 of it | ' in model_card.text(**{**arguments, 'run': run})


def test_a_mixer_of_table_1_is_fine_tuned_by_the_papers_recipe(arguments):
  words = commands_of(model_card.text(**arguments))['fine-tune']
  config = config_of(parsed(words[2:], extra=['workdir']))
  assert config.start_from.weights == 'runs/b16' and config.model.variant == 'B/16'
  assert config.optimizer.name == 'sgd' and config.data.dataset == 'cifar10'


def test_a_run_that_starts_from_weights_is_fine_tuned_from_its_own(arguments):
  arguments['run']['data']['resolution'] = 448
  text = model_card.text(**arguments)
  assert ('python train.py --config=runs/b16/config.json --workdir=runs/b16_tuned --config.start_from.weights=runs/b16 '
          '--config.start_from.head=fresh\n') in text


@pytest.mark.parametrize('name', sorted(models.FAMILIES.keys() - models.LOADABLE.keys()))
def test_a_model_whose_weights_no_tool_reads_has_no_commands_that_need_them(arguments, name):
  arguments['run']['model'] = dict(arguments['run']['model'], name=name, variant='S/32')
  text = model_card.text(**arguments)
  assert f'{name} S/32, 12 parameters' in text and list(commands_of(text)) == ['train']


@pytest.mark.slow
def test_a_run_that_has_not_learned_says_so_on_its_card_and_in_its_last_lines(data_dir, tmp_path, capsys):
  fields = {**SMALL, 'log_every_steps': 1, 'optimizer.learning_rate': 30., 'step.mixup': 0.}
  arguments = ['--config=configs/mixer_digits.py', *(f'--config.{field}={value}' for field, value in fields.items()),
           f'--config.data.data_dir={data_dir}', f'--config.evals.test.data_dir={data_dir}']
  train.train(config_of(parsed(arguments)), str(tmp_path / 'run'))
  line = re.search(r'^WARNING: (The training loss is .* at the end, above the .* of the beginning. Lower the learning rate .*)$',
                   capsys.readouterr().err, re.M)
  assert f'**Warning:** {line[1]}\n' in (tmp_path / 'run/card.md').read_text()


@pytest.mark.slow
def test_a_run_is_complete_whatever_goes_wrong_when_its_learning_is_judged(data_dir, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(model_card.sanity, 'warnings', lambda *arguments, **fields: 1 / 0)
  arguments = ['--config=configs/mixer_digits.py', *(f'--config.{field}={value}' for field, value in SMALL.items()),
           f'--config.data.data_dir={data_dir}', f'--config.evals.test.data_dir={data_dir}']
  train.train(config_of(parsed(arguments)), str(tmp_path / 'run'))
  assert 'could not be written: ZeroDivisionError' in capsys.readouterr().err and (tmp_path / 'run/card.md').exists()


def test_work_that_is_not_known_is_not_claimed(arguments):
  assert '| compute | not recorded |' in model_card.text(**arguments)
  event = {'format': 1, 'event': 'start', 'step': 30, 'devices': 64, 'device': 'TPU v3', 'hosts': 8, 'machine': 'a | b',
           'commit': 'abc+', 'versions': {'jax': '1'}}
  arguments['events'] = [event, event, {**event, 'event': 'end', 'step': 50, 'seconds': 9000.}]
  text = model_card.text(**arguments)
  assert ('| wall time | at least 2.5 h in the training loop; 2 starts; 1 of them without a recorded end (killed, for '
          'example), whose time is unknown; the first 30 steps were taken before the history began |') in text
  assert '| core-hours | at least 160 |' in text
  arguments['events'] = [event, {**event, 'event': 'end', 'step': 50, 'seconds': 9.}]
  assert '| wall time | at least 9 s in the training loop; 1 start; the first 30 steps were' in model_card.text(**arguments)
  event = {**event, 'step': 0}
  arguments['events'] = [event, event, {**event, 'event': 'end', 'step': 50, 'seconds': 9.}]
  assert '| wall time | at least 9 s in the training loop; 2 starts; 1 of them without' in model_card.text(**arguments)
  assert '| hardware | 64 x TPU v3 on 8 hosts (a \\| b) |' in text and 'MFU' not in text
  assert '| MFU | 45.0% of the peak in bfloat16, the median of what was logged |' in model_card.text(
      **arguments, mfu=0.45)


def test_what_cannot_be_made_is_told_and_is_no_error(arguments, tmp_path, monkeypatch, capsys):
  def fail(*arguments):
    raise RuntimeError('no fonts')
  monkeypatch.setattr(plots, 'learning_curves', fail)
  arguments.pop('parameters'), arguments.pop('events')
  arguments['workdir'] = tmp_path
  arguments['run']['step'] = {'loss': 'softmax_xent'}
  model_card.write_artifacts(**arguments, evals={}, params={'w': np.zeros((3, 4))}, samples={})
  assert (f'{tmp_path}/learning_curves.png could not be written: RuntimeError: no fonts. The run is complete without it; '
          'the same command tries again') in capsys.readouterr().err
  assert 'Mixer-B/16, 12 parameters' in (tmp_path / 'card.md').read_text()
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  (tmp_path / 'other').mkdir()
  model_card.write_artifacts(**{**arguments, 'workdir': tmp_path / 'other'}, evals={}, params={}, samples={})
  assert not list((tmp_path / 'other').iterdir())
