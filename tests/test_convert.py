"""Files of weights: what is written is what is read, names are those of others, and damage is reported."""

import functools
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import example_weights
from mixer import models
from mixer import trees
from mixer.weights import npz
from mixer.weights import timm


@pytest.fixture(scope='module')
def params():
  return example_weights.params()


def older(params):
  """{name: array} of the generation before the published one, with its leading axes of 1 and its counted parts."""
  result = {}
  for name, array in trees.flat(params).items():
    if name.startswith('stem/'):
      name = name.replace('stem', 'embedding')
    elif name.startswith('pre_head_layer_norm/'):
      name = name.replace('pre_head_layer_norm', 'Mixer/encoder_norm')
    elif block := re.match(r'MixerBlock_(\d+)/LayerNorm_(\d)/(\w+)', name):
      name = f'Mixer/encoderblock_{block[1]}/LayerNorm_{2 * int(block[2])}/{block[3]}'
    elif block := re.match(r'MixerBlock_(\d+)/(\w+)/Dense_(\d)/(\w+)', name):
      name = f'Mixer/encoderblock_{block[1]}/{block[2]}_phase_0/{block[4]}{int(block[3]) + 1}'
      array = array[None]
    result[name] = array
  return result


@pytest.mark.parametrize('module, suffix', [(npz, 'npz'), (timm, 'safetensors')])
def test_what_is_written_is_read_bit_for_bit(params, tmp_path, module, suffix):
  module.write(params, tmp_path / f'w.{suffix}')
  assert example_weights.equal(module.read(tmp_path / f'w.{suffix}'), params)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_published_npz_files_are_read_stored_or_compressed(params, tmp_path, save):
  save(tmp_path / 'w.npz', **trees.flat(params))
  assert example_weights.equal(npz.read(str(tmp_path / 'w.npz')), params)


def test_an_npz_holds_the_published_names_in_float32(params, tmp_path):
  npz.write(params, tmp_path / 'w.npz')
  with np.load(tmp_path / 'w.npz') as file:
    assert {name: file[name].shape for name in file} == trees.shapes(params)
    assert file['MixerBlock_1/token_mixing/Dense_0/kernel'].shape == (4, 6)
    assert {file[name].dtype for name in file} == {np.dtype('float32')}


def test_the_older_names_become_ours(params, tmp_path):
  result = older(params)
  assert result['Mixer/encoderblock_1/token_mixing_phase_0/kernel1'].shape == (1, 4, 6)
  assert 'Mixer/encoderblock_0/LayerNorm_2/scale' in result and result.keys().isdisjoint(trees.flat(params).keys() -
                                                                                      {'head/bias', 'head/kernel'})
  np.savez(tmp_path / 'w.npz', **result)
  assert example_weights.equal(npz.read(tmp_path / 'w.npz'), params)


def test_safetensors_hold_timms_names_and_axes(params, tmp_path):
  timm.write(params, tmp_path / 'w.safetensors')
  saved = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  np.testing.assert_array_equal(saved['stem.proj.weight'][7, 1, 2, 3], params['stem']['kernel'][2, 3, 1, 7])
  block = params['MixerBlock_1']
  np.testing.assert_array_equal(saved['blocks.1.mlp_tokens.fc2.weight'], block['token_mixing']['Dense_1']['kernel'].T)
  np.testing.assert_array_equal(saved['blocks.1.norm2.weight'], block['LayerNorm_1']['scale'])
  assert len(saved) == len(trees.flat(params))


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_other_floating_points_become_float32_of_the_same_values(params, tmp_path, dtype, suffix):
  array = params['head']['kernel'].astype(dtype)
  if suffix == 'npz':
    np.savez(tmp_path / 'w.npz', **{'head/kernel': array})
    got = npz.read(tmp_path / 'w.npz')['head']['kernel']
  else:
    safetensors.numpy.save_file({'head.weight': np.ascontiguousarray(array.T)}, tmp_path / 'w.safetensors')
    got = timm.read(tmp_path / 'w.safetensors')['head']['kernel']
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, array.astype(np.float32))


@pytest.mark.parametrize('wrong, message', [
    (np.nan, r"array 'MixerBlock_0/LayerNorm_0/bias' has 1 values of 12 that are NaN or infinite"),
    (np.inf, r"array 'MixerBlock_0/LayerNorm_0/bias' has 1 values of 12 that are NaN or infinite"),
    ('int', r"array 'MixerBlock_0/LayerNorm_0/bias' is of type int32; parameters are floating-point numbers"),
    ('object', r"array 'MixerBlock_0/LayerNorm_0/bias' holds Python objects, which are not read"),
])
def test_an_npz_of_other_things_than_finite_numbers_is_refused(params, tmp_path, wrong, message):
  result = {name: array.copy() for name, array in trees.flat(params).items()}
  name = 'MixerBlock_0/LayerNorm_0/bias'
  if isinstance(wrong, str):
    result[name] = result[name].astype(dict(int=np.int32, object=object)[wrong])
  else:
    result[name][3] = wrong
  np.savez(tmp_path / 'w.npz', **result)
  with pytest.raises(ValueError, match=rf'{tmp_path}/w\.npz: {message}'):
    npz.read(tmp_path / 'w.npz')


def test_a_safetensors_file_with_nan_is_refused(tmp_path):
  safetensors.numpy.save_file({'head.bias': np.full(3, np.nan, np.float32)}, tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=r"w\.safetensors: array 'head\.bias' has 3 values of 3 that are NaN"):
    timm.read(tmp_path / 'w.safetensors')


def test_a_safetensors_file_of_a_shape_that_numpy_does_not_have_is_refused(tmp_path):
  header = json.dumps({'a': {'dtype': 'F32', 'shape': [1] * 65, 'data_offsets': [0, 4]}}).encode()
  (tmp_path / 'w.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
  with pytest.raises(ValueError, match=r'w\.safetensors holds arrays of an unsupported type or shape: .* 65'):
    timm.read(tmp_path / 'w.safetensors')


@pytest.mark.parametrize('suffix, message', [
    ('npz', r'w\.npz is not an \.npz file, or truncated; download it again'),
    ('safetensors', r'w\.safetensors is no \.safetensors file, or it is truncated \('),
])
@pytest.mark.parametrize('how', ['cut off', 'another file', 'empty'])
def test_what_is_no_whole_file_is_refused(params, tmp_path, suffix, message, how):
  path, module = tmp_path / f'w.{suffix}', dict(npz=npz, safetensors=timm)[suffix]
  module.write(params, path)
  path.write_bytes({'cut off': path.read_bytes()[:-9], 'another file': b'P6 not weights' * 20, 'empty': b''}[how])
  with pytest.raises(ValueError, match=message):
    module.read(path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_changed_byte_in_an_npz_is_told_with_the_array(params, tmp_path, save):
  path = tmp_path / 'w.npz'
  save(path, a=np.ones(3), b=np.random.default_rng(0).normal(size=5000).astype(np.float32))
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"w\.npz: array 'b' is damaged \(.*\); download the file again"):
    npz.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
  for module in (npz, timm):
    with pytest.raises(FileNotFoundError, match='none'):
      module.read(tmp_path / 'none')


# Names with a prefix


@pytest.mark.parametrize('suffix, prefix', [
    ('npz', 'params/'), ('npz', 'opt/target/'), ('npz', 'module/params/'), ('safetensors', 'module.'),
    ('safetensors', 'model.'), ('safetensors', '_orig_mod.'), ('safetensors', 'module._orig_mod.'),
    ('safetensors', 'ema_backbone.')])
@pytest.mark.parametrize('kind', ['mixer', 'vit', 'bit'])
def test_a_prefix_of_all_names_is_dropped_and_said(tmp_path, caplog, suffix, prefix, kind):
  if kind == 'bit' and suffix == 'safetensors':
    return  # timm's BiT is not read
  params = {'mixer': example_weights.params, 'vit': vit, 'bit': bit}[kind]()
  path, module = tmp_path / f'w.{suffix}', dict(npz=npz, safetensors=timm)[suffix]
  module.write(params, path)
  result = {prefix + name: array for name, array in load_arrays(path).items()}
  np.savez(path, **result) if suffix == 'npz' else safetensors.numpy.save_file(result, path, {'num_heads': '2'})
  assert example_weights.equal(module.read(path), params)
  assert f'w.{suffix}: dropped the prefix {prefix!r} of array names' in caplog.text
  assert 'left out' not in caplog.text


def load_arrays(path):
  if path.suffix == '.safetensors':
    return safetensors.numpy.load_file(path)
  with np.load(path) as file:
    return dict(file)


@functools.cache
def vit():
  return filled(models.build(name='vit', num_classes=5, patch_size=4, hidden_dim=8, num_blocks=1, num_heads=2, mlp_dim=16))


@functools.cache
def bit():
  return filled(models.build(name='bit_resnet', num_classes=5, units=(1,), width_factor=0.5, root='small'))


def filled(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize('target', ['params/', 'opt/target/'])
def test_a_checkpoint_of_big_vision_is_read_without_its_optimizer(params, tmp_path, caplog, target):
  np.savez(tmp_path / 'w.npz', **{target + name: array for name, array in trees.flat(params).items()},
           **{f'opt/0/mu/{name}': array for name, array in trees.flat(params).items()}, **{'opt/0/count': np.int32(7)})
  assert example_weights.equal(npz.read(tmp_path / 'w.npz'), params)
  assert f'dropped the prefix {target!r} of array names; {len(trees.flat(params)) + 1} other arrays are ignored' in caplog.text


def test_a_file_of_several_models_is_refused(params, tmp_path):
  timm.write(params, tmp_path / 'w.safetensors')
  saved = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  both = {f'{who}.{name}': array for name, array in saved.items() for who in ('teacher', 'student')}
  safetensors.numpy.save_file(both, tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=r"w\.safetensors holds several models, whose names begin with 'student\.' and "
                                       r"'teacher\.'; save the arrays of one model to a separate file"):
    timm.read(tmp_path / 'w.safetensors')


def test_an_array_without_the_prefix_stays_and_is_shown(params, tmp_path):
  result = {f'module/{name}': array for name, array in trees.flat(params).items()}
  np.savez(tmp_path / 'w.npz', **result, other=np.ones(3))
  assert npz.read(tmp_path / 'w.npz').keys() == {*params, 'other'}
