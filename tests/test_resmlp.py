"""ResMLP by its formula's parts and beside timm's: sizes, names, logits, resolution, noise; and in every tool."""

import functools
import json

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from configs import resmlp as config_resmlp
from mixer import models
from mixer.models import resmlp
from mixer.models import token_mixing_resize
from mixer.run import accelerators
from mixer import trees
from mixer import weights
from mixer.weights import start_from
import timm_models
from tools import convert
from tools.planning import arithmetic
from tools import show_weights

SMALL = dict(name='resmlp', num_classes=5, patch_size=4, num_blocks=3, hidden_dim=8, platform='any')
SIDE = 12
COUNTS = {'S12': 15_350_872, 'S24': 30_020_680, 'S36': 44_690_488, 'B24': 129_138_280}  # timm 1.0.31, 1,000 classes
TIMM = {'S12': 'resmlp_12_224', 'S24': 'resmlp_24_224', 'S36': 'resmlp_36_224', 'B24': 'resmlp_big_24_224'}


@pytest.fixture(scope='module')
def timm():
  """timm.models.mlp_mixer, where its ResMLP is."""
  with timm_models.module('mlp_mixer') as module:
    yield module


def param_shapes(model, side=SIDE):
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), 'float32'))['params']


def filled(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)


def small(side=SIDE, **fields):
  """(a model, its parameters)."""
  model = models.build(**{**SMALL, **fields})
  return model, filled(param_shapes(model, side))


def images(number, side, seed=1):
  return np.random.default_rng(seed).uniform(-1, 1, (number, side, side, 3)).astype(np.float32)


def logits(section, params, x, **arguments):
  return np.asarray(models.build(**{'platform': 'any', **section}).apply({'params': params}, x, **arguments))


def timms_model(timm, num_blocks=3, dim=8, side=SIDE):
  """timm's ResMLP of the small sizes, all of whose parameters are moved from where they start; always the same."""
  import torch
  torch.manual_seed(0)
  model = timm.MlpMixer(img_size=side, patch_size=4, num_blocks=num_blocks, embed_dim=dim, mlp_ratio=4, num_classes=5,
                        block_layer=timm.ResBlock, norm_layer=timm.Affine).eval()
  return moved(model)


def moved(model, size=0.2):
  import torch
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += size * torch.randn(parameter.shape)
  return model


def arrays_of(model):
  return {name: np.ascontiguousarray(array.numpy()) for name, array in model.state_dict().items()}


def timms_logits(model, x):
  import torch
  with torch.no_grad():
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.parametrize('variant', COUNTS)
def test_a_variants_parameters_are_as_many_as_timms(variant):
  params = param_shapes(models.build(name='resmlp', variant=variant, num_classes=1000), 224)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[variant]
  section = models.config_from_params(params)
  sizes = {field: value for field, value in resmlp.VARIANTS[variant].items() if field != 'layer_scale_init'}
  assert section == dict(name='resmlp', num_classes=1000, **sizes)
  assert models.describe(section) == f'ResMLP-{variant}' and resmlp.resolution_of(params) == 224


def test_timms_weights_give_timms_logits(timm, tmp_path):
  model, x = timms_model(timm), images(3, SIDE)
  safetensors.numpy.save_file(arrays_of(model), tmp_path / 'w.safetensors')
  loaded = weights.load(tmp_path / 'w.safetensors')
  assert loaded.model == {field: value for field, value in SMALL.items() if field != 'platform'}
  assert loaded.resolution == SIDE
  np.testing.assert_allclose(logits(loaded.model, loaded.params, x), timms_logits(model, x), rtol=1e-4, atol=1e-5)


def test_our_weights_give_our_logits_in_timm(timm, tmp_path):
  import torch
  _, params = small()
  section = {field: value for field, value in SMALL.items() if field != 'platform'}
  weights.save(weights.Weights(params, section, SIDE, 'softmax_xent', None, ''), tmp_path / 'w.safetensors')
  model = timms_model(timm)
  arrays = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
  x = images(3, SIDE)
  np.testing.assert_allclose(timms_logits(model, x), logits(SMALL, params, x), rtol=1e-4, atol=1e-5)


def test_s12_of_timm_is_the_papers(timm, tmp_path):
  """At its real size, by timm's own name; its pixels are ImageNet's, as the file's name says."""
  import torch
  torch.manual_seed(0)
  model = moved(timm.resmlp_12_224().eval(), 0.02)
  safetensors.numpy.save_file(arrays_of(model), tmp_path / 'resmlp_12_224.safetensors')
  loaded, x = weights.load(tmp_path / 'resmlp_12_224.safetensors'), images(1, 224)
  assert loaded.describe().startswith('ResMLP-S12, 1,000 classes, 224 x 224 pixels, timm from 248')
  expected = timms_logits(model, ((x + 1) / 2 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225]))
  np.testing.assert_allclose(logits(loaded.model, loaded.params, x), expected, atol=2e-5 * np.abs(expected).max())


def test_the_authors_names_are_read_as_timms(timm, tmp_path):
  arrays = arrays_of(timms_model(timm))
  safetensors.numpy.save_file(arrays, tmp_path / 'timm.safetensors')
  back = {'stem.': 'patch_embed.', '.linear_tokens.': '.attn.', '.mlp_channels.': '.mlp.', '.ls': '.gamma_'}
  rename = lambda name: functools.reduce(lambda name, ours: name.replace(ours, back[ours]), back, name)
  authors = {rename(name): np.ravel(array) if name.endswith(('alpha', 'beta')) else array for name, array in arrays.items()}
  safetensors.numpy.save_file(authors, tmp_path / 'authors.safetensors')
  one, other = (weights.load(tmp_path / f'{name}.safetensors').params for name in ('timm', 'authors'))
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_files_there_and_back(tmp_path, suffix):
  model, params = small(layer_scale_init=1e-5, stochastic_depth=0.1)
  section = {field: value for field, value in SMALL.items() if field != 'platform'}
  weights.save(weights.Weights(params, section, SIDE, 'softmax_xent', list('abcde'), 'here'), tmp_path / f'w.{suffix}')
  loaded = weights.load(tmp_path / f'w.{suffix}')
  assert loaded.model == section and loaded.class_names == list('abcde')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  assert jax.tree.structure(loaded.params) == jax.tree.structure(params)


@pytest.mark.parametrize('variant', TIMM)
def test_huggingfaces_folder_has_timms_name_of_the_model(tmp_path, variant):
  section = dict(name='resmlp', num_classes=5, **resmlp.variant_fields(variant))
  config = weights.pretrained_cfg.of_weights(weights.Weights({}, section, 224, 'softmax_xent', None, '').with_crop())
  assert (config['architecture'], config['pretrained_cfg']['first_conv']) == (TIMM[variant], 'stem.proj')


def test_layer_scale_starts_where_the_paper_has_it_and_affine_as_the_identity():
  assert {name: fields['layer_scale_init'] for name, fields in resmlp.VARIANTS.items()} == {
      'S12': 0.1, 'S24': 1e-5, 'S36': 1e-6, 'B24': 1e-6}
  for rate in (0.1, 1e-5):
    params = trees.flat(jax.jit(models.build(**SMALL, layer_scale_init=rate).init)(jax.random.key(0), images(1, SIDE))['params'])
    for name, leaf in params.items():
      if 'affine' in name or 'layer_scale' in name:
        expected = rate if 'layer_scale' in name else float(name.endswith('scale'))
        np.testing.assert_array_equal(leaf, np.full(8, expected, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize('fields', [dict(scan=True), dict(remat='block'), dict(scan=True, remat='block'), dict(platform='gpu')])
def test_forms_are_the_same_with_noise(fields):
  model, params = small(stochastic_depth=0.3, dropout_rate=0.2)
  keys, x = jax.random.split(jax.random.key(3), 4), images(4, SIDE)
  noisy = dict(SMALL, stochastic_depth=0.3, dropout_rate=0.2)
  expected = logits(noisy, params, x, keys=keys)
  np.testing.assert_allclose(logits({**noisy, **fields}, params, x, keys=keys), expected, rtol=1e-4, atol=1e-5)
  assert np.abs(logits(SMALL, params, x) - expected).max() > 0.01


def test_stochastic_depth_is_alike_at_all_depths_and_rescaled(monkeypatch):
  (_, params), rates = small(), []
  monkeypatch.setattr(resmlp.stochastic, 'drop_path',
                      lambda y, rate, keys, rescale: rates.append((rate, rescale)) or y)
  logits(dict(SMALL, stochastic_depth=0.3), params, images(1, SIDE))
  assert rates == [(0.3, True)] * 6


def test_the_parameters_of_another_resolution_mix_what_is_constant_alike():
  model, params = small(hidden_dim=2)
  other = resmlp.resize(params, param_shapes(model, 24), 'interpolated')
  assert resmlp.resize(params, params, None) is params
  x = np.broadcast_to(np.float32([0.3, -0.2, 0.7]), (1, 24, 24, 3))
  apply = lambda params, x: np.asarray(model.apply({'params': params}, x))
  constant = jax.tree.map(np.copy, params)
  for i in range(3):  # as for images that are constant throughout: rows that give each token the same
    layer = constant[f'ResBlock_{i}']['token_mixing']
    layer['kernel'][:], layer['bias'][:] = layer['kernel'][:, :1], 0.1
  np.testing.assert_allclose(apply(resmlp.resize(constant, param_shapes(model, 24), 'interpolated'), x),
                             apply(constant, x[:, :12, :12]), rtol=1e-4)
  a, _ = token_mixing_resize.resizing_matrices(9, 36)
  np.testing.assert_allclose(other['ResBlock_1']['token_mixing']['bias'], a @ params['ResBlock_1']['token_mixing']['bias'],
                             rtol=1e-5)


def test_a_run_starts_from_weights_of_another_resolution():
  model, params = small()
  fresh = filled(param_shapes(model, 24), seed=5)
  started = start_from.fit(params, fresh, head='fresh', token_mixing='interpolated')
  np.testing.assert_array_equal(started['head']['kernel'], fresh['head']['kernel'])
  np.testing.assert_array_equal(started['stem']['kernel'], params['stem']['kernel'])
  with pytest.raises(ValueError, match="takes 9 tokens, and this model's 36"):
    start_from.fit(params, fresh, head='fresh', token_mixing=None)
  with pytest.raises(ValueError, match="token_mixing is 'block_diagonal'"):
    start_from.fit(params, fresh, head='fresh', token_mixing='block_diagonal')


@pytest.mark.parametrize('change, message', [
    (lambda p: p['ResBlock_1'].pop('affine_0'), r'ResBlock_1/affine_0/bias +- +\(8,\)'),
    (lambda p: p['ResBlock_0']['layer_scale_0'].update(scale=np.zeros(3)), r'layer_scale_0/scale +\(3,\) +\(8,\)'),
    (lambda p: p.pop('stem'), r'stem/kernel +- '),
])
def test_other_arrays_are_shown_beside_the_nearest(change, message):
  _, params = small()
  change(params)
  with pytest.raises(ValueError, match=f'the arrays are not those of a ResMLP:(.|\n)*{message}'):
    models.config_from_params(params)


def test_wrong_fields_are_named():
  with pytest.raises(ValueError, match="variant is 'S13'; of a ResMLP it must be one of S12, S24, S36, B24"):
    models.build(name='resmlp', variant='S13', num_classes=2)
  with pytest.raises(ValueError, match='num_blocks is 0; it must be at least 1'):
    param_shapes(models.build(**{**SMALL, 'num_blocks': 0}))


def test_its_weights_are_drawn_and_converted(tmp_path, capsys):
  _, params = small()
  section = {field: value for field, value in SMALL.items() if field != 'platform'}
  weights.save(weights.Weights(params, section, SIDE, 'softmax_xent', None, ''), tmp_path / 'w.npz')
  show_weights.main([f'--weights={tmp_path / "w.npz"}', f'--out={tmp_path / "drawn"}', '--blocks=0,2'])
  assert {path.name for path in (tmp_path / 'drawn').iterdir()} == {'stem.png', 'token_mixing_0.png', 'token_mixing_2.png'}
  assert PIL.Image.open(tmp_path / 'drawn/token_mixing_0.png').size[0] > 1000
  assert 'token_mixing_0.png: 9 units of 3 x 3 patches' in capsys.readouterr().out
  convert.main([str(tmp_path / 'w.npz'), str(tmp_path / 'w.safetensors')])
  assert json.loads(weights.timm.metadata(tmp_path / 'w.safetensors')['mixer'])['model'] == section


@pytest.mark.parametrize('name', config_resmlp.PLANNED)
def test_the_runs_of_the_paper_are_planned(name):
  plan = arithmetic.Plan.of(name, config_resmlp.get_config(name), accelerators.slice_of('v3:8x8'))
  assert plan.params == COUNTS[name[:3].upper()] and plan.fits and round(plan.epochs) == 400
