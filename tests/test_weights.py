"""Weights of any origin: what is known of them, and errors that name the file and both sides."""

import dataclasses
import functools
import json
import re
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
import safetensors.numpy

import example_weights
from mixer import models
from mixer.models import mlp_mixer
from mixer.run import checkpoint
from mixer.training import optim
from mixer.training import train_step
from mixer import trees
from mixer import weights
from mixer.weights import npz
from mixer.weights import timm
from tools import convert
from tools import export
from tools import predict

MODEL = dict(name='mlp_mixer', **example_weights.FIELDS)
RUN = {'model': {**MODEL, 'stochastic_depth': 0.1, 'head_bias_init': -6.9, 'dtype': 'bfloat16'},
       'data': {'resolution': 8}, 'step': {'loss': 'sigmoid_xent'},
       'evals': {'large': {'resolution': 16, 'resize': 20}, 'val': {'resolution': 8, 'crop': 'paper_crop', 'resize': 9}}}


@functools.cache
def state(**fields):
  model = models.build(**{**RUN['model'], **fields})
  optimizer, _ = optim.build(name='adamw', learning_rate=0.1, schedule=dict(name='linear'), total_steps=10,
                             weight_decay=0.1, clip_norm=1.)
  return jax.device_get(jax.jit(functools.partial(train_step.init, model, optimizer, (8, 8, 3), seed=0))())


def make_run(workdir, steps=(1, 2), config=RUN, class_names=None, **fields):
  """A run whose parameters are moved by the step."""
  with checkpoint.Checkpoints(workdir=workdir, run=config, class_names=class_names, metrics=[], every_steps=1,
                              keep_latest=9) as checkpoints:
    for step in steps:
      moved = jax.tree.map(lambda x: x + step, state(**fields))
      checkpoints.save(step, moved)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  make_run(workdir)
  return workdir


# Reading a model off its arrays


@pytest.mark.parametrize('variant, num_classes', [('S/8', 1000), ('B/16', None), ('H/14', 3)])
def test_fields_variant_and_resolution_are_read_off_the_shapes(variant, num_classes):
  model = models.build(name='mlp_mixer', variant=variant, num_classes=num_classes)
  tree = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))['params']
  fields = mlp_mixer.fields_from_params(tree)
  assert fields == dict(mlp_mixer.variant_fields(variant), num_classes=num_classes)
  assert mlp_mixer.variant_of(fields) == variant and mlp_mixer.resolution_of(tree) == 224


def test_a_widened_model_is_named_and_built_as_it_is():
  model = models.build(name='mlp_mixer', variant='B/32', tiles=2, num_classes=3)
  tree = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 448, 448, 3), np.float32))['params']
  fields = mlp_mixer.fields_from_params(tree)
  assert mlp_mixer.variant_of(fields) == 'B/32, token MLPs x4' and mlp_mixer.resolution_of(tree) == 448
  again = models.build(name='mlp_mixer', **fields)
  assert trees.shapes(jax.eval_shape(again.init, jax.random.key(0), np.zeros((1, 448, 448, 3), np.float32))['params']
                      ) == trees.shapes(tree)


def test_sizes_of_no_variant_have_no_name():
  assert mlp_mixer.variant_of(example_weights.FIELDS) is None
  b16 = mlp_mixer.variant_fields('B/16')
  assert mlp_mixer.variant_of(dict(b16, tokens_mlp_dim=385)) is None
  assert mlp_mixer.variant_of(dict(b16, num_blocks=11)) is None


@pytest.mark.parametrize('change, message', [
    (lambda t: t['MixerBlock_1'].pop('LayerNorm_1'), r'MixerBlock_1/LayerNorm_1/scale +- +\(12,\)\Z'),
    (lambda t: t.update(cls=np.ones(3)), r'cls +\(3,\) +-\Z'),
    (lambda t: t['head'].pop('kernel'), r'head/kernel +- +\(12, 5\)\Z'),
    (lambda t: t.update(MixerBlock_7=t.pop('MixerBlock_1')), r'MixerBlock_1/\S+ +- +\(12,\)(.|\n)*MixerBlock_7'),
    (lambda t: t['MixerBlock_1']['token_mixing'].update(t['MixerBlock_1']['channel_mixing']),
     r'MixerBlock_1/token_mixing/Dense_0/kernel +\(12, 20\) +\(4, 6\)'),
    (lambda t: t.pop('stem'), r'stem/kernel +- +\(16, 16, 3, 768\)'),
    (lambda t: t.clear(), r'MixerBlock_0/LayerNorm_0/bias +- +\(768,\)(.|\n)*and 128 more'),
])
def test_arrays_that_are_no_mixers_are_shown_beside_a_mixers(change, message):
  tree = example_weights.params()
  change(tree)
  with pytest.raises(ValueError, match=rf'not those of a Mixer:\n  array +loaded +a Mixer\n(.|\n)*{message}'):
    mlp_mixer.fields_from_params(tree)


def test_only_square_images_are_supported(tmp_path):
  tree = example_weights.params(shape=(8, 12))
  assert mlp_mixer.fields_from_params(tree) == example_weights.FIELDS
  npz.write(tree, tmp_path / 'w.npz')
  with pytest.raises(ValueError, match=r'w\.npz: the token-mixing MLPs take 6 tokens, which is not a square number'):
    weights.load(tmp_path / 'w.npz')


# Files


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_a_saved_file_loads_as_it_was(tmp_path, suffix):
  saved = weights.Weights(example_weights.params(), MODEL, 8, 'softmax_xent', None, '')
  weights.save(saved, tmp_path / f'w.{suffix}')
  loaded = weights.load(str(tmp_path / f'w.{suffix}'))
  assert example_weights.equal(loaded.params, saved.params)
  assert (loaded.model, loaded.resolution, loaded.loss, loaded.class_names) == (MODEL, 8, 'softmax_xent', None)
  assert loaded.describe() == (
      'Mixer of patch_size 4, num_blocks 2, hidden_dim 12, tokens_mlp_dim 6, channels_mlp_dim 20, 5 classes, 8 x 8 '
      f'pixels, paper_resize from 9: {tmp_path}/w.{suffix}')
  assert {path.name for path in tmp_path.iterdir()} == {f'w.{suffix}'} | ({'w.npz.json'} if suffix == 'npz' else set())


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_all_that_is_known_of_weights_is_in_their_file(tmp_path, suffix):
  saved = weights.Weights(params=example_weights.params(), model={**MODEL, 'dtype': 'bfloat16'}, resolution=8,
                          loss='sigmoid_xent', class_names=['red', 'é', '', 'a b', 'n01440764'], source='a run',
                          crop='paper_crop', resize=11, permutation='patches')
  assert all(getattr(saved, field.name) != field.default for field in dataclasses.fields(saved))
  weights.save(saved, tmp_path / f'w.{suffix}')
  loaded = weights.load(tmp_path / f'w.{suffix}')
  assert example_weights.equal(loaded.params, saved.params)
  assert vars(loaded) == vars(saved) | {'params': loaded.params, 'source': f'{tmp_path}/w.{suffix}, converted from a run'}
  with pytest.raises(ValueError, match=r"w\.\w+.* says that w\.\w+ takes pixels in \[-1, 1\]; leave out mean and std"):
    weights.load(tmp_path / f'w.{suffix}', mean=0, std=1)


OF_ANOTHER = r'w\.npz\.json belongs to another w\.npz; delete it, or convert the weights again'


def test_the_record_of_another_file_is_refused(tmp_path):
  saved = weights.Weights(example_weights.params(), MODEL, 8, 'sigmoid_xent', list('abcde'), '')
  weights.save(saved, tmp_path / 'w.npz')
  npz.write(example_weights.params(seed=1), tmp_path / 'w.npz')  # of the same sizes
  with pytest.raises(ValueError, match=OF_ANOTHER):
    weights.load(tmp_path / 'w.npz')
  (tmp_path / 'w.npz.json').unlink()
  assert weights.load(tmp_path / 'w.npz').class_names is None


@pytest.mark.parametrize('killed', ['storage.write', 'os.replace'])
@pytest.mark.parametrize('before', [True, False])
def test_a_kill_while_a_file_is_saved_leaves_none_that_is_read_otherwise(tmp_path, monkeypatch, killed, before):
  saved = weights.Weights(example_weights.params(), MODEL, 8, 'sigmoid_xent', list('abcde'), '')
  if before:
    weights.save(saved, tmp_path / 'w.npz')
  of, name = killed.split('.')
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(weights.saving, of, mock.Mock(wraps=getattr(weights.saving, of), **{f'{name}.side_effect': KeyboardInterrupt}))
    weights.save(dataclasses.replace(saved, params=example_weights.params(seed=1), class_names=None), tmp_path / 'w.npz')
  if not before:
    assert not (tmp_path / 'w.npz').exists()
  elif killed == 'storage.write':
    assert weights.load(tmp_path / 'w.npz').class_names == list('abcde')
  else:
    with pytest.raises(ValueError, match=OF_ANOTHER):
      weights.load(tmp_path / 'w.npz')


def test_a_record_from_before_it_had_a_hash_is_read(tmp_path):
  saved = weights.Weights(example_weights.params(), MODEL, 8, 'sigmoid_xent', list('abcde'), '')
  weights.save(saved, tmp_path / 'w.npz')
  path = tmp_path / 'w.npz.json'
  path.write_text(json.dumps({field: x for field, x in json.loads(path.read_text()).items() if field != 'blake2b'}))
  assert weights.load(tmp_path / 'w.npz').class_names == list('abcde')


@pytest.mark.parametrize('change, message', [
    (dict(format=2), r'format is 2, and this version reads 1; convert the weights again with this version'),
    (dict(loss=None), r"is not the record of weights of this version: .*config\.step\.loss is None"),
    (dict(crop='x'), r"config\.evals\.crop is 'x'; it must be one of"),
    (dict(resolution=12), r'w\.npz does not fit .*w\.npz\.json:\n  resolution: 8 in the arrays, 12 as stated'),
    (dict(resolution='8'), r"resolution is '8'; it must be a number of pixels"),
    (dict(resize=7), r'--resize is 7, smaller than the crop'),
    (dict(resize=9.5), r'resize is 9\.5; it must be a number of pixels'),
    (dict(permutation='x'), r"permutation is 'x'; it must be one of \('patches', 'pixels'\), or null"),
    (dict(class_names=['a']), r'w\.npz\.json: class_names has 1 lines, and the model 5 classes'),
    (dict(class_names=[1, 2, 3, 4, 5]), r'class_names is \[1, 2, 3, 4, 5\]; it must be a list of strings, or null'),
    (dict(class_names='abcde'), r"class_names is 'abcde'; it must be a list of strings, or null"),
    (dict(source=7), r'source is 7; it must be a string'),
    (dict(model={**MODEL, 'num_classes': 6}), r'does not fit .*:\n  num_classes: 5 in the arrays, 6 as stated'),
    (dict(model={**MODEL, 'wings': 2}), r'unknown field config\.model\.wings'),
    (dict(model=7), r'is not the record of weights of this version'),
])
def test_a_record_of_anything_is_told(tmp_path, change, message):
  weights.save(weights.Weights(example_weights.params(), MODEL, 8, 'softmax_xent', None, ''), tmp_path / 'w.npz')
  path = tmp_path / 'w.npz.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(ValueError, match=message) as error:
    weights.load(tmp_path / 'w.npz')
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize('content', ['', '[]', '{"format": 1}', '{' * 100_000])
def test_a_record_of_no_json_is_named(tmp_path, content):
  weights.save(weights.Weights(example_weights.params(), MODEL, 8, 'softmax_xent', None, ''), tmp_path / 'w.npz')
  (tmp_path / 'w.npz.json').write_text(content)
  with pytest.raises(ValueError, match=r'w\.npz\.json: '):
    weights.load(tmp_path / 'w.npz')


def test_what_is_loaded_builds_the_model_that_takes_it(tmp_path):
  npz.write(example_weights.params(), tmp_path / 'w.npz')
  loaded = weights.load(tmp_path / 'w.npz')
  images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  logits = jax.jit(models.build(**loaded.model, platform='any').apply)({'params': loaded.params}, images)
  expected = jax.jit(mlp_mixer.MlpMixer(**example_weights.FIELDS).apply)({'params': example_weights.params()}, images)
  np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize('folder, num_classes, loss, first', [
    ('imagenet1k', 1000, 'softmax_xent', 'n01440764'), ('own', 1000, 'softmax_xent', None),
    ('imagenet21k', 21843, 'sigmoid_xent', 'n00004475'), ('own', 21843, 'sigmoid_xent', None)])
def test_the_number_of_classes_and_the_published_name_say_what_logits_mean(tmp_path, folder, num_classes, loss, first):
  path = tmp_path / folder / 'Mixer-B_16.npz'
  path.parent.mkdir()
  npz.write(example_weights.params(dict(example_weights.FIELDS, num_classes=num_classes)), path)
  loaded = weights.load(path)
  assert loaded.loss == loss
  assert loaded.class_names is None if first is None else (
      loaded.class_names[0] == first and len(set(loaded.class_names)) == num_classes
      and loaded.class_names == sorted(loaded.class_names))
  assert ('trained' in loaded.source) == (folder != 'own')
  assert loaded.crop == ('antialiased' if folder == 'own' else 'paper_resize')  # of images of 8 x 8 pixels


def test_another_file_under_a_published_name_is_refused(tmp_path):
  path = tmp_path / 'sam' / 'Mixer-B_16.npz'
  path.parent.mkdir()
  npz.write(example_weights.params(), path)
  with pytest.raises(ValueError, match=r'sam/Mixer-B_16\.npz has 5 classes, and 1,000 were published under that name'):
    weights.load(path)


def test_a_file_of_another_model_is_shown_beside_a_mixer(tmp_path):
  other = {'conv/kernel': np.ones((16, 16, 3, 8)), 'scale': np.ones((1, 1, 8)), 'head/bias': np.ones(10)}
  np.savez(tmp_path / 'other.npz', **other)
  with pytest.raises(ValueError, match=r'other\.npz: the arrays are not those of a Mixer:(.|\n)*scale +\(1, 1, 8\) +-'):
    weights.load(tmp_path / 'other.npz')
  theirs = {name.replace('/', '.'): array for name, array in other.items()}
  safetensors.numpy.save_file(theirs, tmp_path / 'other.safetensors')
  with pytest.raises(ValueError, match=r'other\.safetensors: the arrays are not those of a Mixer:(.|\n)*  conv\.'):
    weights.load(tmp_path / 'other.safetensors')


def test_names_that_stand_for_nothing(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"imagenet21k/Mixer-B16 does not exist, .*Did you mean 'imagenet21k/Mixer-"
                                              r"B_16'\? Published are imagenet1k/Mixer-B_16, .*gsam/Mixer-S_8"):
    weights.load('imagenet21k/Mixer-B16')
  for name, message in (('none.npz', 'none.npz does not exist'), ('w.txt', r'w\.txt is neither \.npz nor \.safetensors'),
                        ('w.pth', r"w\.pth is neither .* PyTorch's own files are pickles"),
                        ('', 'is not a run.s work directory: .*config.json does not exist')):
    if name.startswith('w'):
      (tmp_path / name).write_text('')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
      weights.load(tmp_path / name)


def test_another_suffix_is_not_written(tmp_path):
  saved = weights.Weights(example_weights.params(), MODEL, 8, 'softmax_xent', None, '')
  with pytest.raises(ValueError, match=r"w\.pth has the suffix '\.pth'; weights are written as \.npz or \.safetensors"):
    weights.save(saved, tmp_path / 'w.pth')
  with pytest.raises(FileNotFoundError, match=r'w\.npz cannot be written: the folder .*/none does not exist'):
    weights.save(saved, tmp_path / 'none' / 'w.npz')
  assert not list(tmp_path.iterdir())


BIT = dict(name='bit_resnet', num_classes=5, units=(1, 2), width_factor=0.5, root='small')


def bit():
  model = models.build(**BIT)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_a_model_of_images_of_any_size_is_taken_for_those_of_its_root(tmp_path):
  weights.save(weights.Weights(bit(), BIT, 8, 'softmax_xent', None, ''), tmp_path / 'w.npz')
  assert weights.load(tmp_path / 'w.npz').resolution == 8
  (tmp_path / 'w.npz.json').unlink()
  loaded = weights.load(tmp_path / 'w.npz')
  assert example_weights.equal(loaded.params, bit())
  assert (loaded.model, loaded.resolution) == (BIT, 32)
  assert loaded.describe().startswith('BiT of units (1, 2), width_factor 0.5, root small, 5 classes, 32 x 32 pixels, '
                                      'antialiased from 32: ')
  with pytest.raises(ValueError, match=r"timm's model does not have .* and others; write an \.npz file"):
    weights.save(loaded, tmp_path / 'w.safetensors')


def test_a_run_of_a_model_of_images_of_any_size_has_those_of_its_config(tmp_path):
  config = {**RUN, 'model': BIT}
  with checkpoint.Checkpoints(workdir=tmp_path, run=config, class_names=None, metrics=[], every_steps=1) as checkpoints:
    checkpoints.save(1, state().replace(params=bit()))
  loaded = weights.load(tmp_path)
  assert (loaded.model, loaded.resolution) == (BIT, 8) and example_weights.equal(loaded.params, bit())


# Runs


def test_a_run_gives_its_latest_parameters_and_what_its_config_says(run):
  before = sorted(path for path in run.rglob('*'))
  loaded = weights.load(run)
  assert example_weights.equal(loaded.params, jax.tree.map(lambda x: np.asarray(x + 2), state().params))
  assert loaded.model == {**MODEL, 'dtype': 'bfloat16'}
  assert (loaded.resolution, loaded.loss, loaded.class_names) == (8, 'sigmoid_xent', None)
  assert (loaded.crop, loaded.resize) == ('paper_crop', 9)
  assert loaded.source == f'step 2 of the run in {run}'
  assert sorted(path for path in run.rglob('*')) == before


def test_a_checkpoint_of_a_run_gives_that_step(run):
  loaded = weights.load(run / 'checkpoints' / '1')
  assert example_weights.equal(loaded.params, jax.tree.map(lambda x: np.asarray(x + 1), state().params))
  assert 'step 1' in loaded.source
  with pytest.raises(ValueError, match=r'no checkpoint of step 7; the steps in .*: 2, 1'):
    weights.load(run / 'checkpoints' / '7')


def test_a_checkpoint_of_a_run_that_was_interrupted_is_that_one_alone(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  shutil.copytree(workdir / 'checkpoints/1', workdir / 'interrupted/2')  # as if it were another state of step 2
  for name, value in (('checkpoints/2', 2), ('interrupted/2', 1)):
    loaded = weights.load(workdir / name)
    assert example_weights.equal(loaded.params, jax.tree.map(lambda x: np.asarray(x + value), state().params))
    assert 'step 2' in loaded.source
  with pytest.raises(ValueError, match=r'no checkpoint of step 1; the steps in .*/interrupted: 2$'):
    weights.load(workdir / 'interrupted/1')
  (workdir / 'interrupted/2/default/manifest.ocdbt').write_bytes(b'')
  with pytest.raises(ValueError, match=r'no checkpoint can be read \(step 2: .*\); the steps in .*/interrupted: 2$'):
    weights.load(workdir / 'interrupted/2')


def test_a_checkpoint_that_cannot_be_read_gives_the_one_before_and_says_so(tmp_path, caplog):
  make_run(tmp_path)
  for path in (tmp_path / 'checkpoints' / '2').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  assert 'step 1' in weights.load(tmp_path).source
  assert re.search(r'the checkpoint of step 2 cannot be read \(.*\); using step 1', caplog.text)
  with pytest.raises(ValueError, match=r'no checkpoint can be read \(step 2: .*\); the steps in .*: 2, 1'):
    weights.load(tmp_path / 'checkpoints' / '2')


def test_a_run_of_a_widened_variant_builds_the_same_arrays(tmp_path):
  config = {**RUN, 'model': {**RUN['model'], 'tiles': 2}, 'data': {'resolution': 8}}
  make_run(tmp_path, [1], config, tiles=2)
  loaded = weights.load(tmp_path)
  assert loaded.model == {**MODEL, 'tokens_mlp_dim': 24, 'dtype': 'bfloat16'}


def test_a_run_on_permuted_pixels_takes_no_photographs(tmp_path):
  config = {**RUN, 'data': {'resolution': 8, 'permutation': 'patches'}}
  make_run(tmp_path, [1], config)
  (tmp_path / 'photo.jpg').touch()
  with pytest.raises(ValueError, match=r"w was trained on permuted pixels \(config\.data\.permutation is 'patches'\), and "
                                       r'takes no ordinary images; tools\.evaluate scores it'):
    weights.load(tmp_path).check_images('w')
  for main, argument in (predict.main, f'{tmp_path}/photo.jpg'), (export.main, f'--out={tmp_path}/m.stablehlo'):
    with pytest.raises(SystemExit, match='was trained on permuted pixels'):
      main([f'--weights={tmp_path}', argument])


def test_class_names_lie_beside_the_config(tmp_path):
  make_run(tmp_path, [1], class_names=['a', 'b b', 'c', 'd', ''])
  assert weights.load(tmp_path).class_names == ['a', 'b b', 'c', 'd', '']
  (tmp_path / 'classes.txt').write_text('a\nb\n')
  with pytest.raises(ValueError, match=r'classes\.txt has 2 lines, and the model 5 classes'):
    weights.load(tmp_path)


@pytest.mark.parametrize('change, message', [
    (dict(num_classes=9), r'checkpoints/1 does not fit its config\.json:\n  num_classes: 5 in the arrays, 9 as stated'),
    (dict(wings=2), r'config\.json is not the config of a run of this version: .*unknown field config\.model\.wings'),
])
def test_a_config_that_does_not_fit_its_checkpoint_is_told(tmp_path, change, message):
  make_run(tmp_path, [1])
  config = {**RUN, 'model': {**RUN['model'], **change}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message):
    weights.load(tmp_path)


@pytest.mark.parametrize('change, message', [
    (dict(model={**RUN['model'], 'num_blocks': 10**9}), r'checkpoints/1 does .*:\n  num_blocks: 2 in the arrays, 1000000000'),
    (dict(model={**RUN['model'], 'tiles': 10**9}), r'tokens_mlp_dim: 6 in the arrays, 6000000000000000000 as stated'),
    (dict(data={'resolution': 12}), r'checkpoints/1 does not fit its .*:\n  resolution: 8 in the arrays, 12 as stated'),
    (dict(data={'resolution': [8]}, evals={}), r'config\.json is not the config of a run of this version'),
    (dict(data=7), r'config\.json is not the config of a run of this version'),
    (dict(evals=[7]), r'config\.json is not the config of a run of this version'),
    (dict(evals={'val': {'resolution': 8, 'crop': '../x'}}), r"config\.evals\.crop is '\.\./x'; it must be one of"),
    (dict(evals={'val': {'resolution': 8, 'resize': 7}}), r'resize is 7, smaller than the crop'),
])
def test_a_config_of_anything_is_told(run, tmp_path, change, message):
  workdir = shutil.copytree(run, tmp_path / 'run')
  (workdir / 'checkpoints/2').rename(workdir / 'checkpoints/two')
  (workdir / 'config.json').write_text(json.dumps({**RUN, **change}))
  with pytest.raises(ValueError, match=message):
    weights.load(workdir)


def test_a_config_of_no_json_is_named(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  for content in (b'\xff', b'{"model": ', b'{"model": ' * 10_000, b'[]'):
    (workdir / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match=f'{workdir}/config.json'):
      weights.load(workdir)
    with pytest.raises(ValueError, match=f'{workdir}/config.json'):
      checkpoint.initialize_workdir(workdir, RUN)


def test_parameters_of_a_run_that_are_not_finite_are_refused(tmp_path):
  with checkpoint.Checkpoints(workdir=tmp_path, run=RUN, class_names=None, metrics=[], every_steps=1) as checkpoints:
    checkpoints.save(1, jax.tree.map(lambda x: x * np.nan, state()))
  with pytest.raises(ValueError, match=r"checkpoints/1: array 'MixerBlock_0/LayerNorm_0/bias' has 12 values of 12"):
    weights.load(tmp_path)


# The command


def test_convert_writes_a_run_as_a_file_and_overwrites_none(run, tmp_path, capsys):
  out = tmp_path / 'w.safetensors'
  convert.main([str(run), str(out)])
  assert f': step 2 of the run in {run}\nwritten: {out}\n' in capsys.readouterr().out
  loaded = weights.load(out)
  assert example_weights.equal(loaded.params, weights.load(run).params)
  assert (loaded.loss, loaded.crop, loaded.resize) == ('sigmoid_xent', 'paper_crop', 9)
  out.write_text('kept')
  with pytest.raises(SystemExit, match=f'error: {out} exists already; pass --overwrite, or another name'):
    convert.main([str(run), str(out)])
  assert out.read_text() == 'kept'
  convert.main([str(run), str(out), '--overwrite'])
  assert example_weights.equal(weights.load(out).params, loaded.params)


def test_convert_does_not_overwrite_what_lies_beside_a_file(run, tmp_path):
  (tmp_path / 'w.npz.json').write_text('kept')
  with pytest.raises(SystemExit, match=r'w\.npz\.json exists already; pass --overwrite'):
    convert.main([str(run), str(tmp_path / 'w.npz')])
  (tmp_path / 'config.json').write_text('{"model": 1}')
  with pytest.raises(SystemExit, match=r'config\.json is not of timm, and model\.safetensors gets its own config.json'):
    convert.main([str(run), str(tmp_path / 'model.safetensors'), '--overwrite'])
  assert (tmp_path / 'config.json').read_text() == '{"model": 1}'


def test_timms_config_beside_a_file_is_kept_or_replaced_with_it(run, tmp_path, monkeypatch):
  out, config = tmp_path / 'model.safetensors', tmp_path / 'config.json'
  config.write_text('{"pretrained_cfg": {}}')
  with pytest.raises(SystemExit, match=f'error: {config} exists already; pass --overwrite, or another name'):
    convert.main([str(run), str(out)])
  with pytest.raises(SystemExit, match=f'{config} is of another model, and timm has no name for this one; choose another '):
    convert.main([str(run), str(out), '--overwrite'])
  monkeypatch.setattr(weights.pretrained_cfg, '_architecture', lambda model: 'mixer_b16_224')
  with monkeypatch.context() as patch, pytest.raises(SystemExit, match='error: full'):
    patch.setattr(weights.saving, 'os', mock.Mock(wraps=weights.saving.os, **{'replace.side_effect': OSError('full')}))
    convert.main([str(run), str(out), '--overwrite'])
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']
  assert config.read_text() == '{"pretrained_cfg": {}}'
  convert.main([str(run), str(out), '--overwrite'])
  assert json.loads(config.read_text())['architecture'] == 'mixer_b16_224'
  assert [path.name for path in weights.files_of(out)] == ['model.safetensors', 'config.json']


def test_a_run_becomes_a_folder_for_the_hub_with_its_results_in_the_card(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  (tmp_path / 'run/finished.json').write_text('{"results": {"test/top1": 0.98, "test/loss": 0.12, "test/examples": 360}}')
  convert.main([str(tmp_path / 'run'), str(tmp_path / 'out'), '--to=hf'])
  card = (tmp_path / 'out/README.md').read_text()
  for line in ('| test/top1 | 98.00% |', '| test/loss | 0.1200 |', '| test/examples | 360 |', 'pipeline_tag: image-classification'):
    assert line in card
  assert 'timm' not in card  # which has no name for a model of these sizes
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['README.md', 'model.safetensors']
  assert example_weights.equal(weights.load(tmp_path / 'out').params, weights.load(run).params)
  with pytest.raises(SystemExit, match=r'model\.safetensors exists already; pass --overwrite'):
    convert.main([str(run), str(tmp_path / 'out'), '--to=hf'])
  convert.main([str(run), str(tmp_path / 'out'), '--to=hf', '--overwrite'])
  assert 'test/top1' not in (tmp_path / 'out/README.md').read_text()  # that run is not complete


@pytest.mark.parametrize('out', ['none/out', 'out.npz'])
def test_a_folder_for_the_hub_is_no_file_and_in_a_folder_that_exists(run, tmp_path, out):
  with pytest.raises(SystemExit, match='--to=hf writes a folder, whose parent must exist; pass NAME, without .npz or'):
    convert.main([str(run), str(tmp_path / out), '--to=hf'])
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('arguments, code, message', [
    (['IN'], 2, 'the following arguments are required: out'),
    (['IN', 'w.npz', '--overwritee'], 2, 'unknown flag --overwritee; did you mean --overwrite? (--help lists the flags)'),
    (['IN', 'w.npz', '--mean=a'], 2, "--mean: 'a' must be one number, or three with commas between them"),
    (['IN', 'w.npz', '--mean=0.5'], 1, 'error: mean is [0.5], and std is None; set both or neither'),
    (['IN', 'w.npz', '--mean=0', '--std=1'], 1, 'is a run, whose model takes pixels in [-1, 1]; leave out mean and std'),
    (['IN', 'w.pth'], 1, "w.pth has the suffix '.pth'; weights are written as .npz or .safetensors"),
    (['IN', 'none/w.npz'], 1, 'error: w.npz cannot be written: the folder none does not exist'),
    (['IN', '/dev/null/w.npz'], 1, 'the folder /dev/null does not exist'),
    (['none.npz', 'w.npz'], 1, 'error: none.npz does not exist, and is no published name'),
])
def test_errors_of_convert_are_one_line(run, tmp_path, monkeypatch, capsys, arguments, code, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as error:
    convert.main([str(run) if argument == 'IN' else argument for argument in arguments])
  printed = capsys.readouterr().err if code == 2 else f'{error.value.code}\n'
  assert error.value.code == 2 if code == 2 else isinstance(error.value.code, str)
  assert message in printed and printed.count('\n') == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(run, tmp_path, monkeypatch, suffix):
  (tmp_path / f'w.{suffix}').mkdir()  # a folder of that name
  with pytest.raises(SystemExit, match=rf'error: .*w\.{suffix}'):
    convert.main([str(run), str(tmp_path / f'w.{suffix}'), '--overwrite'])
  assert [path.name for path in tmp_path.iterdir()] == [f'w.{suffix}']
  with pytest.raises(IsADirectoryError):
    convert.main([str(run), str(tmp_path / f'w.{suffix}'), '--overwrite', '--debug'])


def test_an_unwritable_safetensors_file_is_an_os_error(tmp_path):
  with pytest.raises(OSError, match=r'none/w\.safetensors cannot be written: '):
    timm.write(example_weights.params(), tmp_path / 'none/w.safetensors')
