import importlib
import inspect
import pathlib
import subprocess
import sys

import jax
import pytest

from configs import bit_finetune
from configs import bit_vtab
from configs import finetuning
from configs import mixer_cifar10_transfer
from configs import mixer_digits_transfer
from configs import mixer_finetune
from configs import mixer_vtab
from configs import vit_finetune
from configs import vit_vtab
from configs import vtab
from conftest import ROOT
import golden
import input_pipeline
from mixer import configuration
from mixer.evaluators import classification
from mixer.evaluators import fewshot
from mixer import models
from mixer.models import mlp_mixer
from mixer.run import checkpoint
from mixer.training import optim
from mixer.training import train_step
from mixer import weights
from mixer.weights import published

NAMES = [pathlib.Path(path).stem for path, _ in configuration.describe_all(ROOT / 'configs')]
FOR_TRAINING = [name for name in NAMES if not name.startswith('evaluate_')]
PAPER = ['b16_i1k', 'l16_i1k', 'b16_i21k', 'l16_i21k', 's32_jft', 's16_jft', 'b32_jft', 'b16_jft', 'l32_jft', 'l16_jft',
         'h14_jft']


def load(name):
  return importlib.import_module(f'configs.{name}').get_config()


def test_every_config_of_the_paper_is_there():
  assert {f'mixer_{name}' for name in PAPER} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_resolved_config_is_the_golden(name):
  golden.check(f'config_{name}', '\n'.join(f'{path} = {value!r}'
                                           for path, value in sorted(configuration.flat(load(name)).items())))


@pytest.mark.parametrize('name', FOR_TRAINING)
def test_every_field_is_read_and_the_model_and_optimizer_can_be_built(name):
  config = load(name)
  configuration.check(config)
  config = configuration.epochs_to_steps(configuration.with_classes(config, ['some', 'classes']),
                                         steps_per_epoch=3_467.)
  model = models.build(**config.model)
  optimizer, learning_rate = optim.build(**config.optimizer, total_steps=config.total_steps)
  side = config.data.resolution
  state = jax.eval_shape(lambda: train_step.init(model, optimizer, (side, side, 3), config.seed))
  assert state.params['head']['bias'].shape == (config.model.num_classes,)
  # Without the data: the signatures have the fields that are read.
  reads(input_pipeline.train_batches, 'data', config.data, seed=0, shard=None)
  for evaluation, fields in config.evals.items():
    reads(input_pipeline.eval_batches, f'evals.{evaluation}', fields, shard=None)
  for name, probe in config.probes.items() if 'probes' in config else ():
    fields = dict(probe.items())
    for part in ('train', 'test'):
      reads(input_pipeline.eval_batches, f'probes.{name}.{part}', fields.pop(part), shard=None)
    reads(fewshot.Probe, f'probes.{name}', fields, model=model, num_classes=10)
  if 'start_from' in config:
    reads(weights.start, 'start_from', config.start_from, fresh_params={})
  reads(train_step.make_train_step, 'step', config.step, model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0)
  reads(checkpoint.Checkpoints, 'checkpoint', config.checkpoint, workdir='', run={}, metrics=(), class_names=None)
  classification.Scorer(model, config.step.loss)


@pytest.mark.parametrize('name', sorted(set(NAMES) - set(FOR_TRAINING)))
def test_every_field_of_an_evaluation_is_read(name):
  config = load(name)
  assert list(config) == ['evals']
  for evaluation, fields in config.evals.items():
    reads(input_pipeline.eval_batches, f'evals.{evaluation}', fields, shard=None)


@pytest.mark.slow
@pytest.mark.parametrize('model', mixer_finetune.MODELS)
def test_every_published_model_can_be_fine_tuned_at_both_resolutions(model):
  name = mixer_finetune.MODELS[model][1]
  for options, resolution, factor in (('', 224, 1), (',448', 448, 4)):
    config = mixer_finetune.get_config(f'{model},cifar10{options}')
    assert config.data.resolution == config.evals.test.resolution == resolution
    built = models.build(**{**config.model, 'num_classes': 1000})
    image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), 'float32')
    params = jax.eval_shape(built.init, jax.random.key(0), image)['params']
    size = mlp_mixer.SIZES[name.split('-')[1][0]]['tokens_mlp_dim']
    assert params['MixerBlock_0']['token_mixing']['Dense_0']['bias'].shape == (size * factor,)
    assert str(built.patch_size) == name.split('_')[-1] and name in published.TABLE


def test_the_options_of_a_fine_tuning_may_stand_in_any_order():
  assert mixer_finetune.get_config('b16_i21k,cifar10,dev,448') == mixer_finetune.get_config('b16_i21k,cifar10,448,dev')
  with pytest.raises(ValueError, match='dev,dev is not MODEL,TASK'):
    mixer_finetune.get_config('b16_i21k,cifar10,dev,dev')


@pytest.mark.parametrize('task', finetuning.TASKS)
def test_the_learning_rate_is_chosen_without_the_test_split(task):
  config = mixer_finetune.get_config(f'b16_i21k,{task},dev')
  assert config.data.split != config.evals.dev.split != finetuning.TASKS[task]['test']
  assert 'test' not in config.evals


def test_one_override_changes_the_images_of_training_and_evaluation():
  config = mixer_finetune.get_config('b16_i21k,/mine')
  config.data.dataset = '/others'
  assert configuration.with_classes(config, ['a']).evals.test.dataset == '/others'


@pytest.mark.parametrize('folders, split, scored, dev_split, dev', [
    ((), 'train', ('test', 'test'), 'train', 'val'),  # a folder that is not on this machine
    (('train', 'val', 'test'), 'train', ('test', 'test'), 'train', 'val'),
    (('train', 'test'), 'train', ('test', 'test'), 'train[:90%]', 'train[90%:]'),
    (('train', 'val'), 'train', ('val', 'val'), 'train', 'val'),
    (('train', 'validation'), 'train', ('validation', 'validation'), 'train', 'validation'),
    (('cat', 'dog'), 'train[:90%]', ('dev', 'train[90%:]'), 'train[:90%]', 'train[90%:]')])
def test_fine_tuning_scores_what_an_image_folder_has(tmp_path, folders, split, scored, dev_split, dev):
  for name in folders:
    (tmp_path / 'photos' / name).mkdir(parents=True)
  splits = lambda config: (config.data.split, *((name, fields.split) for name, fields in config.evals.items()))
  assert splits(mixer_finetune.get_config(f'b16_i21k,{tmp_path}/photos')) == (split, scored)
  assert splits(mixer_finetune.get_config(f'b16_i21k,{tmp_path}/photos,dev')) == (dev_split, ('dev', dev))


@pytest.mark.parametrize('load, model', [(mixer_vtab.get_config, 'l16_i21k'), (vit_vtab.get_config, 'l16'),
                                         (vit_vtab.get_config, 'h14'), (bit_vtab.get_config, 'r152x4'),
                                         (bit_vtab.get_config, 'r50x1')])
def test_every_task_of_vtab_has_a_config_of_every_model(load, model):
  sides = {'l16_i21k': vtab.RESOLUTIONS, 'l16': dict(small=384, large=384), 'h14': dict(small=378, large=378),
           'r152x4': dict(small=128, large=480), 'r50x1': dict(small=128, large=384)}[model]
  for task, row in vtab.TASKS.items():
    config = load(f'{model},{task}')
    assert (config.data.label, config.evals.test.label) == (row['label'],) * 2
    assert (config.data.split, config.evals.test.split) == (row['train'], row['test'])
    assert config.data.resolution == config.evals.test.resolution == sides[row['size']]
    assert (config.data.resize == config.data.resolution) == (not row['crop'])
    assert config.evals.test.crop == 'paper_resize'
    assert config.data.flip == row['flip'] and config.model.num_classes == row['num_classes']
    assert config.total_steps == (2_500 if load is vit_vtab.get_config else 500)
    assert load(f'{model},{task},dev').evals.dev.split == row['dev']


@pytest.mark.parametrize('task, side, resize, steps, mixup, falls', [
    ('imagenet2012', 384, 448, 20_000, 0.1, (500, 6_000, 12_000, 18_000)),
    ('cifar10', 128, 160, 10_000, 0.1, (500, 3_000, 6_000, 9_000)),
    ('oxford_iiit_pet', 384, 448, 500, None, (100, 200, 300, 400))])
def test_bit_is_fine_tuned_by_its_hyperrule(task, side, resize, steps, mixup, falls):
  """Section 3.3 of BiT, and get_schedule, get_mixup and get_resolution of its released code."""
  config = bit_finetune.get_config(f'r50x1,{task}')
  assert (config.data.resolution, config.data.resize, config.evals.test.resize) == (side, resize, side)
  assert (config.total_steps, config.step.get('mixup')) == (steps, mixup)
  _, rate = optim.build(**config.optimizer, total_steps=steps)
  places = [0, falls[0] // 2, *(place + part for place in falls for part in (-1, 1)), steps - 1]
  expected = [0, 0.0015, 0.003 * (falls[0] - 1) / falls[0], 0.003, 3e-3, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6]
  assert [float(rate(place)) for place in places] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('load, which, side, resize, crop', [
    (mixer_finetune.get_config, 'b16_i21k,cifar10', 224, None, 'paper_crop'),
    (mixer_finetune.get_config, 'b16_i21k,oxford_iiit_pet', 224, None, 'paper_crop'),
    (mixer_finetune.get_config, 'b16_i21k,cifar10,448', 448, None, 'paper_resize'),
    (vit_finetune.get_config, 'b16,cifar100', 224, None, 'paper_crop'),
    (vit_finetune.get_config, 'l16,imagenet2012,512', 512, None, 'paper_resize'),
    (bit_finetune.get_config, 'r50x1,imagenet2012,224', 224, 256, 'paper_resize'),
    (bit_finetune.get_config, 'r50x1,cifar10,224', 224, 256, 'paper_crop'),
    (bit_finetune.get_config, 'r152x4,imagenet2012', 480, 480, 'paper_resize')])
def test_fine_tuned_models_are_scored_as_tables_2_and_3_do(load, which, side, resize, crop):
  evaluation = load(which).evals.test
  assert (evaluation.resolution, evaluation.get('resize'), evaluation.crop) == (side, resize, crop)


@pytest.mark.parametrize('load, which, message', [
    (mixer_finetune.get_config, 'h14_jft,cifar10', 'MODEL is one of b16_i21k, .*TASK one of imagenet2012, '),
    (mixer_finetune.get_config, 'b16_i21k', 'is not MODEL,TASK'),
    (mixer_finetune.get_config, 'b16_i21k,cifar10,384', r'is not MODEL,TASK\[,448\]'),
    (mixer_finetune.get_config, 'b16_i21k,cifar10,448,448', r'is not MODEL,TASK\[,448\]'),
    (mixer_vtab.get_config, 'b16_i21k,cifar10', 'TASK one of caltech101, '),
    (vit_vtab.get_config, 'b16_i21k,dtd', 'vit_vtab.py:b16_i21k,dtd is not .*MODEL is one of b32, b16'),
    (bit_vtab.get_config, 'r50x1,dtd,224', r'bit_vtab.py:r50x1,dtd,224 is not MODEL,TASK\[,dev\]'),
    (bit_finetune.get_config, 'r101x1,cifar10', r'bit_finetune.py:r101x1,cifar10 is not .*MODEL is one of r50x1'),
    (bit_finetune.get_config, 'r50x1,cifar10,224,160', r'is not MODEL,TASK\[,SIDE\]\[,dev\].*SIDE a number of pixels'),
    (mixer_digits_transfer.get_config, 'dev', 'is none of weights; nothing'),
    (mixer_cifar10_transfer.get_config, 'weights,test', r'is not WAY\[,dev\]: WAY is pretrain, weights, nothing'),
])
def test_what_no_config_is_called_lists_the_names(load, which, message):
  with pytest.raises(ValueError, match=message):
    load(which)


def reads(function, section, fields, **keywords):
  """Raises unless `function` takes the fields of a section; it is not called."""
  stand_in = lambda **_: None
  stand_in.__signature__ = inspect.signature(function)
  configuration.instantiate(stand_in, section, fields, **keywords)


@pytest.mark.parametrize('name', NAMES)
def test_docstring_names_the_command(name):
  assert f'--config=configs/{name}.py' in (ROOT / 'configs' / f'{name}.py').read_text()


def test_configs_load_without_jax_and_tensorflow():
  program = ('import importlib, sys\n'
             'for name in ("jax", "tensorflow", "flax"): sys.modules[name] = None\n'
             f'for name in {NAMES}: importlib.import_module("configs." + name).get_config()\n')
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_list_names_every_config_with_a_line():
  printed = subprocess.run([sys.executable, 'train.py', '--list'], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.splitlines()
  assert [line.split()[0] for line in printed] == [f'configs/{name}.py' for name in NAMES]
  assert all(len(line.split(maxsplit=1)[1]) > 20 for line in printed)
