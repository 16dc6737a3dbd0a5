"""The program as a whole, on the embedded digits."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

from configs import mixer_digits
from conftest import ROOT
import input_pipeline
from mixer.data.batches import EvalBatches
from mixer.data import process_shard
from mixer.evaluators import classification
from mixer import models
from mixer.run import checkpoint
from mixer.run import metric_logger
from mixer.run import preemption
from mixer.run import records
from tools.experiments import digits_manifest
from tools import prepare
import train


def config(data_dir, **fields):
  """The demo, small and short, with all kinds of noise on; `fields` by their path: {'data.batch_size': 32}."""
  config = mixer_digits.get_config()
  fields = {'total_steps': 6, 'log_every_steps': 2, 'eval_every_steps': 3, 'optimizer.schedule.warmup_steps': 2,
            'checkpoint.every_steps': 2, 'data.data_dir': data_dir, 'evals.test.data_dir': data_dir,
            'data.batch_size': 32, 'evals.test.batch_size': 120, 'data.flip': True, 'step.accumulate': 2,
            'model.dropout_rate': 0.1, 'model.stochastic_depth': 0.2, 'model.num_blocks': 1, 'model.hidden_dim': 16,
            'model.tokens_mlp_dim': 8, 'model.channels_mlp_dim': 32, **fields}
  for path, value in fields.items():
    *sections, name = path.split('.')
    section = config
    for part in sections:
      section = section[part]
    epochs = name.removesuffix('steps') + 'epochs'
    if name.endswith('steps') and epochs in section:
      del section[epochs]
    section[name] = value
  return config


def last_state(workdir):
  """All arrays of the latest checkpoint, by their path."""
  with ocp.CheckpointManager(workdir / 'checkpoints', item_handlers=ocp.StandardCheckpointHandler()) as manager:
    tree = manager.restore(manager.latest_step())
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def stop_after(monkeypatch, step, config, workdir):
  """Starts a run, and ends it by an exception when the metrics of `step` are written."""
  class Stop(Exception):
    pass
  def write(self, original=metric_logger.MetricLogger.write):
    original(self)
    if self._step == step:
      raise Stop
  with monkeypatch.context() as patched:
    patched.setattr(metric_logger.MetricLogger, 'write', write)
    with pytest.raises(Stop):
      train.train(config, str(workdir))


def same(one, other):
  """Whether two of `last_state` are the same, bit for bit."""
  return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def records_of(workdir):
  """The records, without what depends on the machine's speed."""
  return [{name: x for name, x in record.items() if name != 'images_per_s_per_core'}
          for record in records.read(workdir / 'records.jsonl')]


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory):
  """The work directory and the result of a run that nothing stopped."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(config(data_dir), str(workdir))


def test_a_run_leaves_all_that_it_promises(whole):
  workdir, results = whole
  assert results['test/examples'] == 360
  lines = records_of(workdir)
  assert [line['step'] for line in lines] == [2, 3, 4, 6]
  assert {name: lines[-1][name] for name in results} == results
  assert {'train/loss', 'train/grad_norm', 'train/learning_rate'} <= lines[0].keys()
  assert json.loads((workdir / 'config.json').read_text())['total_steps'] == 6
  assert sorted(path.name for path in (workdir / 'checkpoints').iterdir() if path.name.isdecimal()) == ['4', '6']
  for name in ('learning_curves.png', 'predictions_test.png'):
    assert (workdir / name).read_bytes()[:4] == b'\x89PNG'
  events = event_accumulator.EventAccumulator(str(workdir / 'tensorboard'))
  events.Reload()
  tags = events.Tags()
  assert {'train/loss', 'test/top1'} <= set(tags['scalars'] + tags['tensors'])


@pytest.mark.parametrize('stop', [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_and_ends_bit_for_bit_as_one_that_never_stopped(whole, data_dir, tmp_path, monkeypatch,
                                                                            stop):
  stop_after(monkeypatch, stop, config(data_dir), tmp_path)
  results = train.train(config(data_dir), str(tmp_path))
  assert results == whole[1]
  assert records_of(tmp_path) == records_of(whole[0])
  assert same(last_state(tmp_path), last_state(whole[0]))


@pytest.mark.parametrize('where, step', [
    ('step', 3), ('evaluation', 6),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (('step', 1), ('step', 6), ('evaluation', 3)))])
def test_a_run_that_is_asked_to_stop_saves_and_ends_bit_for_bit_as_one_that_was_not(whole, data_dir, tmp_path, monkeypatch,
                                                                                where, step):
  sent = []
  def send(self):
    if not sent and self._step == step:
      os.kill(os.getpid(), signal.SIGTERM)
      sent.append(step)
  def log_step(self, *arguments, original=metric_logger.MetricLogger.log_step):
    original(self, *arguments)
    log_step.logger = self
    if where == 'step':
      send(self)
  def iterate(self, original=EvalBatches.__iter__):
    for number, batch in enumerate(original(self)):
      if number == 2 and where == 'evaluation':
        send(log_step.logger)
      yield batch
  def check(self, original=preemption.PreemptionHandler.check):
    if sent:
      assert self._signalled.wait(10)
    original(self)
  with monkeypatch.context() as patched:
    patched.setattr(metric_logger.MetricLogger, 'log_step', log_step)
    patched.setattr(EvalBatches, '__iter__', iterate)
    patched.setattr(preemption.PreemptionHandler, 'check', check)
    with pytest.raises(preemption.Preempted):
      train.train(config(data_dir), str(tmp_path))
  assert [path.name for path in (tmp_path / 'interrupted').iterdir()] == [str(step)]
  assert [line['step'] for line in records_of(tmp_path) if 'test/top1' in line] == [s for s in (3, 6) if s < step]
  assert train.train(config(data_dir), str(tmp_path)) == whole[1]
  assert not list((tmp_path / 'interrupted').iterdir())
  assert records_of(tmp_path) == records_of(whole[0])
  assert same(last_state(tmp_path), last_state(whole[0]))
  kept = lambda workdir: sorted(path.name for path in (workdir / 'checkpoints').iterdir())
  assert kept(tmp_path) == kept(whole[0])


@pytest.mark.slow
def test_the_last_checkpoint_is_completed_while_signals_are_handled(data_dir, tmp_path, monkeypatch):
  before, sent = signal.getsignal(signal.SIGTERM), []

  def leave(self, *error, original=checkpoint.Checkpoints.__exit__):
    if signal.getsignal(signal.SIGTERM) != before:  # else it would end all tests
      os.kill(os.getpid(), signal.SIGTERM)
      sent.append(signal.SIGTERM)
    original(self, *error)
  monkeypatch.setattr(checkpoint.Checkpoints, '__exit__', leave)
  results = train.train(config(data_dir, total_steps=2, **{'optimizer.schedule.warmup_steps': 1}), str(tmp_path))
  assert sent and results['test/examples'] == 360
  assert last_state(tmp_path)["['step']"] == 2
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_finished_run_only_scores_again(whole, data_dir):
  before = (whole[0] / 'records.jsonl').read_text()
  assert train.train(config(data_dir), str(whole[0])) == whole[1]
  assert (whole[0] / 'records.jsonl').read_text() == before


@pytest.mark.slow
def test_a_finished_run_records_the_scores_of_a_new_evaluation(data_dir, tmp_path):
  train.train(config(data_dir, total_steps=2, **{'optimizer.schedule.warmup_steps': 1}), str(tmp_path))
  before = records_of(tmp_path)
  more = config(data_dir, total_steps=2, **{'optimizer.schedule.warmup_steps': 1})
  more.evals.again = more.evals.test.copy_and_resolve_references()
  results = train.train(more, str(tmp_path))
  assert results['again/top1'] == results['test/top1']
  assert records_of(tmp_path) == [*before[:-1], {**before[-1], **results}]


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images(tmp_path):
  rng = np.random.default_rng(0)
  for name in range(40):
    path = tmp_path / f'data/{"test" if name % 5 == 0 else "train"}/{"ab"[name % 2]}/{name}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
  own = config(None, total_steps=2, **{'data.dataset': str(tmp_path / 'data'), 'evals.test.batch_size': 8,
                                       'evals.test.dataset': str(tmp_path / 'data'), 'model.num_classes': 2,
                                       'optimizer.schedule.warmup_steps': 1})
  train.train(own, str(tmp_path / 'run'))
  (tmp_path / 'data/train/a/2.png').write_bytes((tmp_path / 'data/train/a/4.png').read_bytes())
  train.train(own, str(tmp_path / 'run'))  # an image was replaced under its name
  (tmp_path / 'data').rename(tmp_path / 'moved')
  own.data.dataset = own.evals.test.dataset = f'{tmp_path}/moved/'
  train.train(own, str(tmp_path / 'run'))
  (tmp_path / 'moved/train/a/2.png').unlink()
  with pytest.raises(ValueError, match='(?s)holds the run of another config:\n  contents: .32 files.* before, .31 files'):
    train.train(own, str(tmp_path / 'run'))


@pytest.mark.slow
def test_another_seed_is_another_run(whole, data_dir, tmp_path):
  train.train(config(data_dir, seed=1, eval_every_steps=6), str(tmp_path))
  assert records_of(tmp_path)[-1]['train/loss'] != records_of(whole[0])[-1]['train/loss']
  with pytest.raises(ValueError, match='holds the run of another config:\n  seed: 1 before, 2 now'):
    train.train(config(data_dir, seed=2), str(tmp_path))


@pytest.mark.parametrize('path, value, text', [
    ('data.reslution', 8, r'unknown field config.data.reslution. Did you mean config.data.resolution\?'),
    ('model.depth', 8, 'unknown field config.model.depth. Valid fields: '),
    ('optimizer.schedule.warm', 8, 'unknown field config.optimizer.schedule.warm'),
    ('optimizer.momentum', 0.9, 'unknown field config.optimizer.momentum'),
    ('step.loss', 'mse', "config.step.loss is 'mse'; it must be one of 'softmax_xent', 'sigmoid_xent'"),
    ('checkpoint.best_of', 8, 'unknown field config.checkpoint.best_of'),
    ('batch_size', 8, 'unknown field config.batch_size'),
    ('model.dropout_rate', 'much', "config.model.dropout_rate is 'much', of type str; it must be float"),
    ('data.batch_size', 36, r'config.data.batch_size is 36; it must be a multiple of the 8 devices \(32 or 40\)'),
    ('step.accumulate', 3, r'config.step.accumulate is 3; it must divide the 4 images a device'),
    ('model.num_classes', 11, r'config.model.num_classes\) is 11, and that of digits/1.0.0 .* is 10: '),
    ('model.patch_size', 3, 'patch_size is 3; patches of 3 x 3 pixels must tile the images'),
    ('evals.test.split', 'val', "split 'val' is not in digits/1.0.0"),
    ('evals.test.batch_size', 20, 'config.evals.test.batch_size is 20; it must be a multiple of the 8 devices'),
    ('log_every_steps', 0, 'config.log_every_steps is 0; it must be at least 1'),
    ('eval_every_steps', 2.5, 'config.eval_every_steps is 2.5, of type float; it must be int'),
    ('model.dtype', 'bf16', "config.model.dtype is 'bf16'; it must be one of 'float32', 'bfloat16'"),
    ('evals.train', dict(dataset='digits'), "config.evals.train: 'train' is the name of the steps' own metrics"),
    ('checkpoint.best', 'val/top1', "config.checkpoint.best is 'val/top1'; it must be one of"),
])
def test_a_config_that_does_not_fit_is_refused_before_anything_is_written(data_dir, tmp_path, path, value, text):
  with pytest.raises(ValueError, match=text):
    train.train(config(data_dir, **{path: value}), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(data_dir, tmp_path):
  # Each step multiplies the weights; after a few, float32 overflows.
  broken = config(data_dir, total_steps=60, log_every_steps=7, eval_every_steps=60,
                  **{'optimizer.learning_rate': 1e8, 'optimizer.clip_norm': None})
  with pytest.raises(FloatingPointError, match=r'step \d+: the loss is .*Lower the learning rate') as stopped:
    train.train(broken, str(tmp_path))
  step = int(re.search(r'step (\d+):', str(stopped.value))[1])
  state = last_state(tmp_path)
  assert state["['step']"] < step
  assert all(np.isfinite(x).all() for name, x in state.items() if 'params' in name)


@pytest.mark.slow
def test_a_manifest_of_several_labels_trains_through_the_path_of_jft(tmp_path):
  digits_manifest.write(tmp_path / 'manifest', embed=False)
  prepare.prepare('multilabel', str(tmp_path / 'data'), str(tmp_path / 'manifest'))
  several = config(str(tmp_path / 'data'), total_steps=80, eval_every_steps=80, log_every_steps=5, **{
      'data.dataset': 'multilabel', 'data.batch_size': 64, 'step.loss': 'sigmoid_xent', 'model.num_classes': 15,
      'model.head_bias_init': -1., 'model.hidden_dim': 64, 'optimizer.learning_rate': 1e-2, 'step.mixup': 0.,
      'step.accumulate': 1, 'model.dropout_rate': 0., 'model.stochastic_depth': 0., 'data.flip': False,
      'checkpoint.best': 'val/precision_at_1', 'checkpoint.every_steps': 80})
  several.evals = dict(val={**several.evals.test, 'dataset': 'multilabel', 'split': 'validation'})
  results = train.train(several, str(tmp_path / 'run'))
  assert results.keys() == {f'val/{x}' for x in ('precision_at_1', 'recall_at_5', 'loss', 'examples', 'classified')}
  assert results['val/examples'] == results['val/classified'] == 360
  losses = [line['train/loss'] for line in records_of(tmp_path / 'run')]
  assert losses[-1] < 0.8 * losses[0]
  assert results['val/precision_at_1'] > 0.7  # 'odd' for all: a half
  assert (tmp_path / 'run/predictions_val.png').exists()


def split(data_dir, batch_size, devices):
  return input_pipeline.eval_batches(dataset='digits', split='test', batch_size=batch_size, resolution=8,
                                     resize=8, data_dir=data_dir, shard=process_shard.ProcessShard(0, 1, devices))


@pytest.fixture(scope='module')
def scorer_and_params():
  model = models.build(name='mlp_mixer', num_classes=10, patch_size=2, num_blocks=1, hidden_dim=16, tokens_mlp_dim=8,
                       channels_mlp_dim=32)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), 'float32'))['params']
  params['head']['kernel'] = jax.random.normal(jax.random.key(1), (16, 10))
  return classification.Scorer(model, 'softmax_xent'), jax.device_get(params)


@pytest.mark.parametrize('devices, batch_size', [(1, 7), (2, 360), (4, 100), (8, 512)])
def test_evaluations_agree_to_the_example(data_dir, scorer_and_params, devices, batch_size):
  scorer, params = scorer_and_params
  def score(devices, batch_size):
    batches = split(data_dir, batch_size, devices)
    return scorer(params, batches, batches.source.num_examples)
  reference, got = score(1, 360), score(devices, batch_size)
  for name in ('top1', 'top5', 'examples'):
    assert got[name] == reference[name], name
  assert 0 < got['top1'] < got['top5'] < 1
  assert got['loss'] == pytest.approx(reference['loss'], rel=1e-5)


def test_an_evaluation_that_misses_examples_is_an_error(data_dir, scorer_and_params):
  scorer, params = scorer_and_params
  batches = split(data_dir, batch_size=120, devices=1)
  with pytest.raises(RuntimeError, match='the evaluation scored 240 examples, and the split has 360'):
    scorer(params, list(batches)[:2], 360)


def command(data_dir, workdir, devices, *flags):
  """The command line of the demo, shortened, on some simulated devices."""
  environment = dict(os.environ, XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}')
  return [sys.executable, 'train.py', '--config=configs/mixer_digits.py', f'--workdir={workdir}',
          f'--config.data.data_dir={data_dir}', f'--config.evals.test.data_dir={data_dir}', '--config.total_epochs=3',
          '--config.optimizer.schedule.warmup_epochs=1', '--config.log_every_epochs=0.2',
          '--config.checkpoint.every_epochs=0.2', *flags], environment


@pytest.mark.slow
def test_the_demo_killed_in_the_middle_goes_on_also_on_other_devices(data_dir, tmp_path):
  """The shortened demo, killed after its first checkpoint, then gone on with on two devices."""
  arguments, environment = command(data_dir, tmp_path / 'run', 1)
  running = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
  while not any(path.name.isdecimal() for path in tmp_path.glob('run/checkpoints/*')):
    assert running.poll() is None, running.stderr.read()
    time.sleep(0.05)
  running.send_signal(signal.SIGKILL)
  running.wait()
  arguments, environment = command(data_dir, tmp_path / 'run', 2)
  done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert re.search(r'steps +34, 3.0 epochs; \d+ are done', done.stderr)
  assert re.search(r'^test: top-1 \d+.\d+%, top-5 .* on 360 images$', done.stdout, re.MULTILINE)
  steps = [line['step'] for line in records_of(tmp_path / 'run')]
  assert steps == sorted(set(steps)) and steps[-1] == 34
  again = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert again.stdout == f'all 34 steps are done\n{done.stdout}' and not again.stderr
  arguments, environment = command(data_dir, tmp_path / 'whole', 1)
  subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True)
  one, other = last_state(tmp_path / 'run'), last_state(tmp_path / 'whole')
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=0.05, atol=5e-3, err_msg=name)


@pytest.mark.parametrize('arguments, text', [
    ([], '--config is missing: --config=configs/mixer_digits.py; python train.py --list names them all'),
    (['--config=configs/mixer_digits.py', 'total_epochs=3'], 'unexpected argument total_epochs=3; a field of the config is set'),
])
def test_usage_errors(arguments, text):
  done = subprocess.run([sys.executable, 'train.py', *arguments], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert text in done.stdout + done.stderr
