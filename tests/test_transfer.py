"""From pre-training to predictions, on real digits: every hand-over of a fine-tuning, shortened."""

import json
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest

from configs import mixer_digits_pretrain
from configs import mixer_digits_transfer
from configs import mixer_finetune
from conftest import ROOT
import example_weights
import input_pipeline
from mixer.data import process_shard
from mixer import weights
from tools import export
from tools import predict
import train

SMALL = dict(num_blocks=1, hidden_dim=32, tokens_mlp_dim=8, channels_mlp_dim=64)


def pretraining(data_dir):
  config = mixer_digits_pretrain.get_config()
  for field in ('total', 'log_every', 'eval_every'):
    del config[f'{field}_epochs']
  config.update(total_steps=200, log_every_steps=200, eval_every_steps=200)
  config.model.update(SMALL)
  config.data.data_dir = config.evals.test.data_dir = data_dir
  config.optimizer.schedule = dict(name='cosine', warmup_steps=10)
  config.checkpoint = dict(every_steps=200)
  return config


def transfer(data_dir, way, **start_from):
  config = mixer_digits_transfer.get_config(way)
  config.update(total_steps=40, log_every_steps=40, eval_every_steps=40)
  config.model.update(SMALL)
  config.data.update(data_dir=data_dir, fraction=0.2, batch_size=64)
  config.evals.test.data_dir = data_dir
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule.warmup_steps = 5
  config.checkpoint = dict(every_steps=40)
  config.probes = dict(digits=dict(train=dict(config.evals.test, split='train', batch_size=480), test=config.evals.test,
                                   shots=(1, 5), seeds=2, l2=1.))
  if 'start_from' in config:
    config.start_from.update(start_from)
  return config


@pytest.fixture(scope='module')
def runs(data_dir, tmp_path_factory):
  """(work directory of the fine-tuning, its results, those of the same training from nothing)."""
  root = tmp_path_factory.mktemp('transfer')
  train.train(pretraining(data_dir), str(root / 'pretrain'))
  tuned = train.train(transfer(data_dir, 'weights', weights=str(root / 'pretrain')), str(root / 'tuned'))
  return root, tuned, train.train(transfer(data_dir, 'nothing'), str(root / 'nothing'))


@pytest.fixture(scope='module')
def pngs(tmp_path_factory, data_dir):
  """(paths, classes) of the 360 test digits as files."""
  folder = tmp_path_factory.mktemp('pngs')
  batches = input_pipeline.eval_batches(dataset='digits', split='test', data_dir=data_dir, batch_size=360,
                                        resolution=8, resize=8, shard=process_shard.ProcessShard(0, 1, 1))
  batch = next(iter(batches))
  for k, image in enumerate(batch['image'][0]):
    PIL.Image.fromarray(image).save(folder / f'{k:03}.png')
  return folder, batch['label'][0]


@pytest.mark.slow
def test_it_starts_from_the_pretrained_weights_and_learns_faster_than_from_nothing(runs):
  root, tuned, nothing = runs
  assert tuned['test/examples'] == nothing['test/examples'] == 360
  assert tuned['test/top1'] > nothing['test/top1'] + 0.05
  before, after = (weights.load(root / name) for name in ('pretrain', 'tuned'))
  assert (before.model['num_classes'], before.resolution, after.model['num_classes'], after.resolution) == (5, 8, 10, 16)
  assert after.model['tokens_mlp_dim'] == 4 * before.model['tokens_mlp_dim']
  assert after.class_names == [str(k) for k in range(10)]


@pytest.mark.slow
def test_the_probe_is_told_with_the_evaluations(runs):
  _, tuned, nothing = runs
  for results in (tuned, nothing):
    assert results['digits/examples'] == 360 and results['digits/train_examples'] == 1437
    assert 0.1 < results['digits/1shot'] < results['digits/5shot'] < 1
  assert tuned['digits/5shot'] > nothing['digits/5shot']


@pytest.mark.slow
def test_evaluation_export_and_prediction_agree_with_the_run(runs, pngs, tmp_path, data_dir, capsys):
  root, tuned, _ = runs
  folder, labels = pngs
  printed = subprocess.run(
      [sys.executable, '-m', 'tools.evaluate', f'--weights={root / "tuned"}', '--bench',  # by its own config
       f'--out={tmp_path / "results.json"}'], cwd=ROOT, check=True, capture_output=True, text=True).stdout
  assert '10 classes, 16 x 16 pixels, antialiased from 16: step 40 of the run' in printed
  assert 'of the forward pass alone' in printed
  scored = json.loads((tmp_path / 'results.json').read_text())
  assert (scored['test/top1'], scored['test/examples']) == (tuned['test/top1'], 360)
  assert scored['test/loss'] == pytest.approx(tuned['test/loss'], rel=1e-5)

  assert predict.main([f'--weights={root / "tuned"}', '--top=1', '--format=jsonl', str(folder)]) == 0
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  predicted = [line['predictions'][0]['class'] for line in lines]
  assert np.mean(predicted == labels) == pytest.approx(tuned['test/top1'])

  export.main([f'--weights={root / "tuned"}', f'--out={tmp_path / "model.stablehlo"}'])
  program = jax.export.deserialize(bytearray((tmp_path / 'model.stablehlo').read_bytes()))
  images = np.stack([np.asarray(PIL.Image.open(path)) for path in sorted(folder.iterdir())])
  probabilities = np.asarray(program.call(images))
  assert probabilities.argmax(axis=1).tolist() == predicted
  got = [line['predictions'][0]['probability'] for line in lines]
  np.testing.assert_allclose(probabilities.max(axis=1), got, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_goes_on_does_not_start_from_the_weights_again(runs, data_dir, tmp_path):
  root, tuned, _ = runs
  config = transfer(data_dir, 'weights', weights=str(root / 'pretrain'))
  config.checkpoint = dict(every_steps=20)
  train.train(config, str(tmp_path))
  (root / 'pretrain').rename(root / 'moved')
  try:
    for path in (tmp_path / 'checkpoints' / '40').rglob('*'):
      if path.is_file():
        path.unlink()
    (tmp_path / 'checkpoints' / '40').rename(tmp_path / 'elsewhere')
    again = train.train(config, str(tmp_path))
  finally:
    (root / 'moved').rename(root / 'pretrain')
  assert again == tuned


@pytest.mark.slow
def test_weights_of_another_resolution_name_the_two_ways(runs, data_dir, tmp_path):
  root, _, _ = runs
  config = transfer(data_dir, 'weights', weights=str(root / 'pretrain'), token_mixing=None)
  with pytest.raises(ValueError, match=r"(?s)2 x 2 tokens.*4 x 4.*'block_diagonal'.*'interpolated'"):
    train.train(config, str(tmp_path / 'a'))


@pytest.mark.slow
def test_a_config_of_fine_tuning_runs_on_an_image_folder(tmp_path, pngs):
  folder, labels = pngs
  for split, places in (('train', range(0, 80)), ('test', range(80, 120))):
    for k in places:
      path = tmp_path / 'root' / split / ('odd' if labels[k] % 2 else 'even') / f'{k}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      PIL.Image.open(folder / f'{k:03}.png').save(path)
  fields = dict(num_classes=7, patch_size=16, num_blocks=1, hidden_dim=8, tokens_mlp_dim=4, channels_mlp_dim=8)
  start = weights.Weights(params=example_weights.params(fields, shape=(224, 224)),
                          model=dict(name='mlp_mixer', **fields), resolution=224,
                          loss='softmax_xent', class_names=None, source='')
  weights.save(start, tmp_path / 'small.npz')
  config = mixer_finetune.get_config(f'b16_i21k,{tmp_path / "root"},448')
  assert config.evals.test.dataset == config.data.dataset
  config.start_from.weights = str(tmp_path / 'small.npz')
  del config.model.variant
  config.model.update({field: value for field, value in fields.items() if field != 'num_classes'})
  config.update(total_steps=2, eval_every_steps=2)
  config.data.batch_size = config.evals.test.batch_size = 16
  config.optimizer.schedule.warmup_steps = 1
  results = train.train(config, str(tmp_path / 'run'))
  assert results['test/examples'] == 40
  assert (tmp_path / 'run/classes.txt').read_text() == 'even\nodd\n'
  assert weights.load(tmp_path / 'run').model['num_classes'] == 2


def test_a_probe_of_other_classes_than_it_learns_is_refused(data_dir, tmp_path):
  config = transfer(data_dir, 'nothing')
  config.probes.digits.train.dataset = 'few_digits'
  with pytest.raises(ValueError, match='the classes of few_digits.* are .*, and those of digits.*config.probes.digits.train the same'):
    train.train(config, str(tmp_path))
