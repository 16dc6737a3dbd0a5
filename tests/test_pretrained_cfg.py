"""How timm's weights take images: read beside the file, folded into the first layer, and said."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

import example_weights
from mixer import configuration
from mixer.data import normalize
from mixer import models
from mixer.models import family
from mixer import trees
from mixer import weights
from mixer.weights import pretrained_cfg
from mixer.weights import timm
import test_convert
import test_parity
from test_parity import timm as timms  # a fixture  # noqa: F401
from tools import convert

IMAGENET = family.IMAGENET_PIXELS
CFG = {**IMAGENET, 'mean': list(IMAGENET['mean']), 'std': list(IMAGENET['std']), 'tag': 'own', 'interpolation': 'bicubic',
       'crop_mode': 'center', 'num_classes': 5}


def folder(path, cfg=CFG, name='model.safetensors', architecture='mixer_b16_224', params=None, **config):
  """A folder as Hugging Face has them."""
  path.mkdir(exist_ok=True)
  timm.write(params or example_weights.params(), path / name)
  (path / 'config.json').write_text(json.dumps(
      {'architecture': architecture, 'num_classes': 5, 'pretrained_cfg': cfg, **config}))
  return path


def images():
  return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def logits(section, params, x):
  return np.asarray(models.build(**section, platform='any').apply({'params': params}, x.astype(np.float32)))


@pytest.mark.parametrize('kind', ['mixer', 'vit'])
@pytest.mark.parametrize('mean, std', [(IMAGENET['mean'], IMAGENET['std']), ((0.,) * 3, (1.,) * 3)])
def test_another_normalization_is_folded_into_the_first_layer(kind, mean, std):
  params = {'mixer': example_weights.params, 'vit': test_convert.vit}[kind]()
  section = models.config_from_params(params)
  folded = pretrained_cfg.fold(params, section['name'], pretrained_cfg.Pixels(mean, std), 'w')
  expected = logits(section, params, (images() / 255 - mean) / std)
  np.testing.assert_allclose(logits(section, folded, normalize.normalize_images(images())), expected, atol=2e-6 * np.abs(expected).max())
  without = logits(section, params, normalize.normalize_images(images()))
  assert np.abs(without - expected).max() > 1e-2 * np.abs(expected).max()
  changed = {name for name, array in trees.flat(folded).items() if not np.array_equal(
      array, trees.flat(params)[name])}
  assert changed == {f'{models.LOADABLE[section["name"]].stem}/{part}' for part in ('kernel', 'bias')}


def test_a_model_that_pads_its_images_is_refused():
  with pytest.raises(ValueError, match=r'w takes pixels of mean 0, std 1 \(as set\), and only those in \[-1, 1\], mean 0\.5 '
                                       r'and std 0\.5, are supported for bit_resnet: its first layer pads images with zer'):
    pretrained_cfg.fold({}, 'bit_resnet', pretrained_cfg.Pixels((0., ) * 3, (1.,) * 3, 'as set'), 'w')
  assert pretrained_cfg.fold({}, 'bit_resnet', pretrained_cfg.Pixels(), 'w') == {}


@pytest.mark.slow
def test_timms_weights_with_their_config_give_timms_logits(timms, tmp_path):  # noqa: F811
  model = test_parity.theirs(timms, test_parity.SIZES, 8, 'tanh')
  test_parity.saved(model, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'mixer', 'num_classes': 5, 'pretrained_cfg': CFG}))
  loaded = weights.load(tmp_path)
  x = (images() / 255 - CFG['mean']) / CFG['std']
  expected = test_parity.logits(model, x.astype(np.float32))
  np.testing.assert_allclose(test_parity.ours(loaded, normalize.normalize_images(images())), expected, atol=1e-4)


def test_a_folder_of_hugging_face_loads(tmp_path):
  loaded = weights.load(folder(tmp_path / 'hub'))
  assert example_weights.equal(loaded.params, pretrained_cfg.fold(
      example_weights.params(), 'mlp_mixer', pretrained_cfg.Pixels(CFG['mean'], CFG['std']), ''))
  assert loaded.describe().endswith(
      'hub/model.safetensors; pixels of mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225 (config.json)')
  assert (loaded.crop, loaded.resize, loaded.class_names) == ('timm', 8, None)  # floor(8 / 0.9)
  assert example_weights.equal(weights.load(tmp_path / 'hub/model.safetensors').params, loaded.params)


def test_a_folder_with_pixels_in_minus_1_to_1_loads_bit_for_bit(tmp_path):
  cfg = dict(mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.5)
  loaded = weights.load(folder(tmp_path / 'hub', cfg, label_names=list('abcde')))
  assert example_weights.equal(loaded.params, example_weights.params())
  assert loaded.source.endswith('; pixels of mean 0.5, std 0.5 (config.json)')
  assert (loaded.crop, loaded.resize, loaded.class_names) == ('timm', 16, list('abcde'))


def test_the_fields_of_a_config_from_before_timm_0_8_stand_in_itself(tmp_path):
  path = folder(tmp_path / 'hub')
  (path / 'config.json').write_text(json.dumps({'architecture': 'mixer_b16_224', **CFG}))
  assert '(config.json)' in weights.load(path).source and 'mean 0.485' in weights.load(path).source


@pytest.mark.parametrize('num_classes, tag, first', [
    (1000, 'goog_in21k_ft_in1k', 'n01440764'), (21843, 'goog_in21k', 'n00004475'), (1000, 'own', None), (5, 'x_in1k', None)])
def test_timms_tag_says_that_the_classes_are_imagenets(tmp_path, num_classes, tag, first):
  params = example_weights.params(dict(example_weights.FIELDS, num_classes=num_classes))
  path = folder(tmp_path / 'hub', {**CFG, 'tag': tag}, params=params, num_classes=num_classes)
  names = weights.load(path).class_names
  assert names is None if first is None else (names[0], len(names)) == (first, num_classes)
  timm.write(params, tmp_path / f'mixer_b16_224.{tag}.safetensors')
  assert weights.load(tmp_path / f'mixer_b16_224.{tag}.safetensors').class_names == names


@pytest.mark.parametrize('name, said, crop', [
    ('mixer_b16_224.miil_in21k_ft_in1k', 'mean 0, std 1 (by its name)', ('antialiased', 9)),
    ('mixer_b16_224_miil-9229a591', 'mean 0, std 1 (by its name)', ('antialiased', 9)),
    ('deit_tiny_patch16_224.fb_in1k', 'mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225 (by its name)', ('timm', 8)),
    ('mixer_b16_224.goog_in21k', 'mean 0.5, std 0.5 (assumed: no config.json)', ('antialiased', None))])
def test_a_file_on_its_own_goes_by_timms_name_and_says_what_is_assumed(tmp_path, name, said, crop):
  timm.write(example_weights.params(), tmp_path / f'{name}.safetensors')
  loaded = weights.load(tmp_path / f'{name}.safetensors')
  assert loaded.source == f'{tmp_path}/{name}.safetensors; pixels of {said}'
  assert example_weights.equal(loaded.params, example_weights.params()) == ('assumed' in said)
  assert (loaded.crop, loaded.resize) == crop


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_mean_and_std_can_be_set(tmp_path, suffix):
  path = tmp_path / f'w.{suffix}'
  {'npz': weights.npz, 'safetensors': timm}[suffix].write(example_weights.params(), path)
  loaded = weights.load(path, mean=CFG['mean'], std=[0.25])
  assert example_weights.equal(loaded.params, pretrained_cfg.fold(
      example_weights.params(), 'mlp_mixer', pretrained_cfg.Pixels(CFG['mean'], (0.25,) * 3), ''))
  assert loaded.source.endswith('; pixels of mean 0.485, 0.456, 0.406, std 0.25 (as set)')


@pytest.mark.slow
def test_a_run_that_starts_from_them_has_the_folded_first_layer(tmp_path, capsys):
  expected = weights.load(folder(tmp_path / 'hub')).params
  timm.write(example_weights.params(), tmp_path / 'w.safetensors')
  fresh = example_weights.params(seed=1)
  for fields in dict(weights=str(tmp_path / 'hub')), dict(weights=str(tmp_path / 'w.safetensors'), mean=CFG['mean'], std=CFG['std']):
    started = configuration.instantiate(weights.start, 'start_from', {**fields, 'head': 'fresh'}, fresh_params=fresh)
    assert example_weights.equal(started, {**expected, 'head': fresh['head']})
    assert 'pixels of mean 0.485, 0.456, 0.406' in capsys.readouterr().out


@pytest.mark.parametrize('mean, std', [(0.25, 1), ((0.25,), (1.,)), ((0.25,) * 3, 1.)])
def test_a_config_takes_one_number_or_three(tmp_path, mean, std):
  timm.write(example_weights.params(), tmp_path / 'w.safetensors')
  fields = dict(weights=str(tmp_path / 'w.safetensors'), mean=mean, std=std, head='given')
  started = configuration.instantiate(weights.start, 'start_from', fields, fresh_params=example_weights.params(seed=1))
  assert example_weights.equal(started, pretrained_cfg.fold(
      example_weights.params(), 'mlp_mixer', pretrained_cfg.Pixels((0.25,) * 3, (1.,) * 3), ''))
  with pytest.raises(ValueError, match=r"config\.start_from\.mean is 'x', of type str; it must be a sequence or float or None"):
    configuration.instantiate(weights.start, 'start_from', {**fields, 'mean': 'x'}, fresh_params={})


@pytest.mark.parametrize('numbers, message', [
    (dict(mean=0.5), r'mean is 0\.5, and std is None; set both or neither'),
    (dict(mean=[123.7, 116.3, 103.5], std=1), r'mean is \[123\.7, .*\]; it must be three numbers, .*of pixels in \[0, 1\]'),
    (dict(mean=0, std=0), r'std is 0; it must be .*between 0\.001 and 1'),
    (dict(mean=[0, 0], std=1), r'mean is \[0, 0\]; it must be three numbers'),
    (dict(mean='0.5', std=1), r"mean is '0\.5'; it must be three numbers"),
    (dict(mean=[float('nan')], std=1), r'mean is \[nan\]; it must be three numbers'),
])
def test_a_mean_of_anything_is_refused(tmp_path, numbers, message):
  timm.write(example_weights.params(), tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=message):
    weights.load(tmp_path / 'w.safetensors', **numbers)


def test_converted_weights_carry_the_fold_and_timms_config(tmp_path):
  loaded = weights.load(folder(tmp_path / 'hub'))
  weights.save(loaded, tmp_path / 'w.safetensors')
  again = weights.load(tmp_path / 'w.safetensors')
  assert example_weights.equal(again.params, loaded.params) and (again.crop, again.resize) == ('timm', 8)
  assert again.source.endswith('(config.json)') and 'converted from' in again.source
  cfg = json.loads(timm.metadata(tmp_path / 'w.safetensors')['pretrained_cfg'])
  assert (cfg['mean'], cfg['std'], cfg['interpolation'], cfg['crop_mode']) == ([0.5] * 3, [0.5] * 3, 'bicubic', 'center')


@pytest.mark.parametrize('resolution', [8, 31, 32, 224, 384])
def test_the_crop_pct_that_is_written_gives_the_same_side(resolution):
  for resize in range(resolution, 2 * resolution):
    saved = weights.Weights({}, dict(name='mlp_mixer', **example_weights.FIELDS), resolution, '', None, '', 'timm', resize)
    cfg = pretrained_cfg.of_weights(saved)['pretrained_cfg']
    assert int(resolution / cfg['crop_pct']) == resize


@pytest.mark.parametrize('change, message', [
    (dict(mean=[1, 2]), r'config\.json: mean is \[1, 2\]; it must be three numbers'),
    (dict(std=[0, 0, 0]), r'config\.json: std is \[0, 0, 0\]; it must be'),
    (dict(mean='x'), r"config\.json: mean is 'x'; it must be"),
    (dict(mean=[10**400] * 3), r'config\.json: mean is .*; it must be'),
    (dict(crop_pct=1.5), r'config\.json: crop_pct is 1\.5; it must be a number above 0, and 1 at most'),
    (dict(crop_pct='x'), r"config\.json: crop_pct is 'x'"),
])
def test_a_config_of_anything_is_named(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    weights.load(folder(tmp_path / 'hub', {**CFG, **change}))


@pytest.mark.parametrize('config, message', [
    (dict(pretrained_cfg=7), r'config\.json: pretrained_cfg is 7; it must be an object'),
    (dict(num_classes=1000), r'config\.json is of a model of 1000 classes, and model\.safetensors next to it has 5'),
    (dict(label_names=['a']), r"config\.json: label_names is \['a'\]; it must be 5 strings"),
])
def test_a_config_that_does_not_fit_is_named(tmp_path, config, message):
  with pytest.raises(ValueError, match=message):
    weights.load(folder(tmp_path / 'hub', **config))


def test_a_crop_that_is_not_supported_is_said(tmp_path):
  loaded = weights.load(folder(tmp_path / 'hub', {**CFG, 'crop_mode': 'squash', 'interpolation': 'random'}))
  assert ("interpolation 'random' is replaced by 'bicubic'; crop_mode 'squash' is replaced by 'center'" in loaded.source)


def test_folders_of_other_things_are_refused_in_plain_words(tmp_path):
  (tmp_path / 'config.json').write_text('{"architectures": ["ViTForImageClassification"]}')
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(ValueError, match=r"holds pytorch_model\.bin, has no model\.safetensors. PyTorch's own files are pickles"):
    weights.load(tmp_path)
  safetensors.numpy.save_file({'vit.layernorm.bias': np.ones(3, np.float32)}, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=r"config\.json is of the transformers library \(\['ViTForImageClassification'\]\)"):
    weights.load(tmp_path)


def test_a_config_of_a_run_beside_a_file_is_no_config_of_timm(tmp_path):
  timm.write(example_weights.params(), tmp_path / 'w.safetensors')
  (tmp_path / 'config.json').write_text('{"model": {}, "data": {}}')
  assert 'assumed' in weights.load(tmp_path / 'w.safetensors').source


@pytest.mark.slow
def test_timm_loads_a_folder_that_was_written_for_it(timms, tmp_path):  # noqa: F811
  fields = dict(num_classes=3, patch_size=32, num_blocks=8, hidden_dim=512, tokens_mlp_dim=256, channels_mlp_dim=2048)
  params = example_weights.params(fields, shape=(64, 64))
  saved = weights.Weights(params, dict(name='mlp_mixer', **fields), 64, 'softmax_xent', ['a', 'b', 'c'], '', 'timm', 73)
  weights.save(saved, tmp_path / 'w.npz')
  folder = tmp_path / 'folder'
  convert.main([str(tmp_path / 'w.npz'), str(folder), '--to=hf'])
  assert sorted(path.name for path in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
  in_jax, in_timm = re.findall('```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
  x = test_parity.images(1, 64)
  exec(in_jax.replace('hf-hub:OWNER/NAME', str(folder)), card := {'images': np.zeros((1, 64, 64, 3), np.uint8)})
  np.testing.assert_allclose(card['weights'].logits(x), logits(saved.model, params, x), atol=1e-4)
  exec(in_timm.replace('hf-hub:OWNER/NAME', f'local-dir:{folder}'), card)
  model = card['model']
  cfg = model.pretrained_cfg
  assert (tuple(cfg['mean']), tuple(cfg['std']), cfg['interpolation']) == ((0.5,) * 3, (0.5,) * 3, 'bicubic')
  assert int(64 / cfg['crop_pct']) == 73
  expected = logits(saved.model, params, x)
  np.testing.assert_allclose(test_parity.logits(model.eval(), x), expected, atol=1e-4 * np.abs(expected).max())
  assert weights.load(folder).class_names == ['a', 'b', 'c']


@pytest.mark.slow
@pytest.mark.parametrize('kind, variant, architecture', [
    ('mlp_mixer', 'B/16', 'mixer_b16_224'), ('mlp_mixer', 'L/32', 'mixer_l32_224'), ('mlp_mixer', 'H/14', None),
    ('mlp_mixer', 'S/8', None), ('vit', 'B/16', 'vit_base_patch16_224'), ('vit', 'H/14', 'vit_huge_patch14_224'),
    ('vit', 'L/8', None)])
def test_models_have_timms_names(timms, kind, variant, architecture):  # noqa: F811
  module = {'mlp_mixer': models.mlp_mixer, 'vit': models.vit}[kind]
  section = dict(name=kind, num_classes=3, **module.variant_fields(variant))
  if kind == 'vit':
    section |= dict(pool='token', representation_size=None)
  saved = weights.Weights({}, section, 224, '', None, '')
  config = pretrained_cfg.of_weights(saved.with_crop())
  assert config['architecture'] == architecture
  result = timms if kind == 'mlp_mixer' else __import__('timm.models.vision_transformer', fromlist=['x'])
  assert architecture is None or hasattr(result, architecture)
