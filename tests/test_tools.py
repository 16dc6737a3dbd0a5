"""The commands for people, as people run them."""

import importlib.util
import os
import re
import subprocess
import sys
import types

from absl import flags
import jax
import numpy as np
import PIL.Image
import pytest

from conftest import ROOT
import example_runs
import input_pipeline
import mixer
from mixer.data import crop_sizes
from mixer.data import crops
from mixer.data import process_shard
from mixer import user_errors
from mixer import weights
from mixer.weights import published
from tools import evaluate
from tools import export
from tools import predict
from tools import weights_flags


def run(tool, *arguments, code=0):
  """What a command prints, after it has ended with the expected exit code."""
  done = subprocess.run([sys.executable, '-m', f'tools.{tool}', *arguments], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.fixture(scope='module')
def demo(data_dir):
  return ['--config=configs/mixer_digits.py', f'--config.data.data_dir={data_dir}',
          f'--config.evals.test.data_dir={data_dir}']


def test_check_data_lists_what_is_present(demo):
  output = run('check_data', *demo)
  assert re.search(r'^present  data: digits/1.0.0 at .*, split train: 1,437 examples, 10 classes; read by index, since it is',
                   output, re.M)
  assert re.search(r'^present  evals.test: digits/1.0.0 at .*, split test: 360 examples, 10 classes$', output, re.M)


def test_check_data_lists_what_is_missing_and_how_to_get_it(data_dir):
  output = run('check_data', '--config=configs/mixer_b16_i1k.py', f'--config.data.data_dir={data_dir}', code=1)
  assert len(re.findall("^MISSING ", output, re.M)) == 3
  assert 'MISSING  data: dataset \'imagenet2012\' is not prepared' in output
  assert f'  python -m tools.prepare imagenet2012 --data_dir={data_dir}' in output


@pytest.mark.slow
def test_show_batch_draws_the_images_as_the_model_sees_them(demo, tmp_path):
  output = run('show_batch', *demo, '--step=7', '--images=9', f'--out={tmp_path / "batch.png"}')
  assert f'9 of the 128 images of step 7: {tmp_path / "batch.png"}' in output
  picture = np.asarray(PIL.Image.open(tmp_path / 'batch.png').convert('L'))
  assert picture.shape[0] > 300 and len(np.unique(picture)) > 50
  others = [('--config.step.mixup=0.', 'plain.png'), ('--config.step.cutmix=1.', 'cutmix.png')]
  for field, name in others:
    assert name in run('show_batch', *demo, field, '--step=7', '--images=9', f'--out={tmp_path / name}')
  assert len({path.read_bytes() for path in tmp_path.glob('*.png')}) == 3


@pytest.mark.slow
@pytest.mark.parametrize('fields', [['--config.model.num_classes=7'],
                                    ['--config.data.dataset=fake', '--config.model.num_classes=None']])
def test_a_batch_is_drawn_whether_or_not_the_model_fits_it(demo, tmp_path, fields):
  assert '9 of the 128 images of step 1: ' in run('show_batch', *demo, *fields, '--images=9', f'--out={tmp_path / "b.png"}')


@pytest.mark.slow
def test_bench_input_reports_each_stage_the_limit_and_the_bottleneck(demo):
  output = run('bench_input', *demo, '--seconds=0.5', '--config.model.num_classes=7', '--config.data.cutout=2')
  rows = dict(re.findall(r'^(read|and decode, crop, flip|and augment|limit: decode) +([\d,]+) ', output, re.M))
  speeds = [float(x.replace(',', '')) for x in rows.values()]
  assert len(rows) == 4 and min(speeds) > 0
  assert re.search(r'^bottleneck: (read|decode, crop, flip|augment), \d+% of the time$', output, re.M)


def test_a_tool_without_a_config_says_how(capsys):
  assert '--config is missing: --config=configs/mixer_digits.py' in run('check_data', code=1)


@pytest.mark.slow
@pytest.mark.parametrize('arguments, first', [
    (['-c', 'from mixer.data.builders import digits\nimport tensorflow as tf\nprint(tf.constant(1).dtype)'], "<dtype: 'int32'>"),
    (['-c', 'import jax\nimport input_pipeline\nimport os\nprint(os.environ["TF_CPP_MIN_LOG_LEVEL"])'], '2'),
    (['-m', 'tools.check_data', '--config=configs/mixer_digits.py'], 'present  data: digits/1.0.0'),
    (['train.py', '--config=configs/mixer_digits.py', '--config.data.batch_size=-1'], 'error: config.data.batch_size is -1'),
], ids=['datasets', 'jax first', 'check_data', 'train'])
def test_nothing_is_printed_before_the_first_line_of_our_own(data_dir, arguments, first):
  environment = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
  done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                        env={**environment, 'TFDS_DATA_DIR': data_dir})
  for line in done.stderr.splitlines():
    assert not re.search(r'InitializeLog|^[IWE]\d{4} |port\.cc|oneDNN|cpu_feature_guard', line), done.stderr
  assert first in done.stdout + done.stderr


@pytest.mark.parametrize('path', [ROOT / 'input_pipeline.py', ROOT / 'tools/prepare.py'], ids=lambda path: path.name)
def test_programs_import_tensorflow_after_mixer_and_at_its_first_use(path):
  text = path.read_text()
  assert 0 < text.index('\nimport mixer ') < text.index('\nfrom mixer.data.lazy import tf\n')
  assert '\nimport tensorflow' not in text


def test_the_tools_are_listed_with_a_line_each(capsys):
  listed = importlib.import_module('tools.__main__')
  assert listed.main([]) == 0
  page = capsys.readouterr().out
  assert re.search(r'^  predict +Classifies images', page, re.M)
  names = re.findall(r'^  (\w+) +\S', page, re.M)
  commands = {path.stem for folder in ('tools', 'tools/experiments') for path in (ROOT / folder).glob('*.py')
              if path.stem[0] != '_' and path.stem != 'weights_flags'}
  assert set(names) == commands and names == sorted(names)
  assert all(importlib.util.find_spec(f'tools.{name}') for name in names)  # those of tools/experiments, too


@pytest.mark.parametrize('name, message', [
    ('predct', "'predct' is not a tool; python -m tools.predict --help"),
    ('predict', "'predict' is started as python -m tools.predict --help"),
    ('tools.zzz', "'zzz' is not a tool; python -m tools.NAME --help")])
def test_a_name_of_no_tool_is_answered_with_the_list(capsys, name, message):
  assert importlib.import_module('tools.__main__').main([name]) == 2
  shown = capsys.readouterr().err
  assert shown.startswith(message + '\n') and '\n  predict ' in shown


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


def test_evaluate_says_what_is_published_of_the_same_weights(demo, tmp_path):
  (tmp_path / 'x').mkdir()
  _, params = mixer.create('mlp_mixer', num_classes=10, resolution=8, patch_size=4, num_blocks=1, hidden_dim=8,
                           tokens_mlp_dim=4, channels_mlp_dim=8)
  weights.npz.write(jax.device_get(params), tmp_path / 'x/y.npz')
  program = ("import runpy, sys; from mixer.weights import published; published.SCORED_ON = ('digits',); "
             "published.TABLE['x/y'] = published.Published(1., 10, 'for a test', (98.76,)); "
             "import mixer.data.class_names as names; names.wordnet_ids = lambda number: [*map(str, range(number))]; "
             "runpy.run_module('tools.evaluate', run_name='__main__', alter_sys=True)")
  done = subprocess.run([sys.executable, '-c', program, f'--weights={tmp_path}/x/y.npz', *demo], cwd=ROOT,
                        capture_output=True, text=True)
  assert 'test: 98.76% is published of these weights\n' in done.stdout, done.stderr
  assert re.search(r'^test: top-1 \d', done.stdout, re.M)


@pytest.mark.parametrize('name, expected', [
    ('sam/Mixer-B_16', [77.4, 83.5, 63.9, None]), ('gsam/Mixer-S_8', [76.8, 83.4, 64., None]),
    ('imagenet1k/Mixer-B_16', [76.44, 82.36, None, None]), ('imagenet21k/Mixer-B_16', [None] * 4)])
def test_published_accuracies_are_found_by_the_dataset(name, expected):
  sets = ('imagenet2012', 'imagenet2012_real', 'imagenet_v2/matched-frequency:3.0.0', 'imagenet_v2/topimages')
  assert [published.TABLE[name].published_top1(dataset) for dataset in sets] == expected


@pytest.mark.parametrize('text', ['abc', '', '0.5,', '0.5 0.5 0.5'])
@pytest.mark.parametrize('name', ['mean', 'std'])
def test_evaluate_takes_the_numbers_of_pixels_that_the_other_tools_take(name, text, capsys):
  flag = flags.FLAGS[name]
  assert (flag.parser.parse('0.5'), flag.parser.parse('0,0.5,1e-1')) == ([0.5], [0, 0.5, 0.1])
  message = f'{text!r} must be one number, or three with commas between them'
  with pytest.raises(flags.Error, match=f'^flag --{name}={text}: {message}$'):
    flag.parse(text)
  parser = user_errors.ArgumentParser('')
  weights_flags.add(parser)
  with pytest.raises(SystemExit):
    parser.parse_args(['--weights=w', f'--{name}={text}'])
  assert f'argument --{name}: {message}' in capsys.readouterr().err


@pytest.mark.parametrize('tool', [export, predict, evaluate], ids=lambda tool: tool.__name__)
def test_help_says_which_crops_there_are_and_from_which_side(tool, capsys):
  if tool is evaluate:
    text = flags.FLAGS.module_help('tools.evaluate')
  else:
    with pytest.raises(SystemExit):
      tool.main(['--help'])
    text = capsys.readouterr().out
  text = ' '.join(text.split())
  for crop in crops.CROPS:
    assert re.search(rf'--preprocessing.* {crop} .*--resize', text)
  assert '8/7 of what the model takes, as in 256 for 224, and of antialiased what it takes' in text
  assert [crop_sizes.resize_for(224, None, crop) for crop in ('paper_resize', 'antialiased')] == [256, 224]


@pytest.mark.slow
def test_check_data_decodes_everything_and_names_all_bad_files(tmp_path):
  for k in range(12):
    path = tmp_path / f'{"test" if k > 7 else "train"}/{"ab"[k % 2]}/{k}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((9, 9, 3), k, np.uint8)).save(path)
  for name, data in ('train/a/2.png', b''), ('train/b/5.png', (tmp_path / 'train/b/5.png').read_bytes()[:40]), (
      'test/b/9.png', b'none'):
    (tmp_path / name).write_bytes(data)
  flags = ['--config=configs/mixer_digits.py', f'--config.data.dataset={tmp_path}', f'--config.evals.test.dataset={tmp_path}',
           '--config.model.num_classes=2']
  printed = run('check_data', *flags, '--decode', code=1)
  assert re.findall(r'^BAD      (\S+): cannot decode \S+/(t\S+): ', printed, re.M) == [
      ('data', 'train/a/2.png'), ('data', 'train/b/5.png'), ('evals.test', 'test/b/9.png')]
  assert re.search(r'^         2 of 8 examples are bad. Repair the file or put a good image under its name', printed, re.M)
  assert 'evals.test: 100%' in printed
  assert 'BAD' not in run('check_data', *flags)


def test_evaluate_compares_the_classes_of_the_weights_and_of_the_images(tmp_path):
  for name in ('test/red', 'test/zebra'):
    (tmp_path / name).mkdir(parents=True)
    PIL.Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / name / '0.png')
  score = lambda names: input_pipeline.eval_batches(
      dataset=str(tmp_path), split='test', batch_size=2, resolution=8, shard=process_shard.ProcessShard(0, 1, 1),
      model_classes=evaluate.classes_of(types.SimpleNamespace(model={'num_classes': 2}, class_names=names)))
  with pytest.raises(ValueError, match=r"the classes of the weights are 'blue', 'red', and those of .* are 'red', 'zebra': .*"
                                       r"Evaluate on images of the same classes under the same names"):
    score(['blue', 'red'])
  assert score(None).num_classes == 2
  assert next(iter(score(['zebra', 'red'])))['label'].tolist() == [[1, 0]]


def test_help_names_the_command_as_it_is_typed(monkeypatch):
  main = types.ModuleType('__main__')
  main.__spec__ = types.SimpleNamespace(name='tools.predict')
  monkeypatch.setitem(sys.modules, '__main__', main)
  assert user_errors.ArgumentParser('').format_usage().startswith('usage: python -m tools.predict ')


@pytest.mark.slow
def test_evaluate_helps_without_weights_and_asks_for_them_otherwise():
  assert '--weights' in run('evaluate', '--help')
  assert 'error: --weights is missing: a published name, a file' in run('evaluate', code=1)
