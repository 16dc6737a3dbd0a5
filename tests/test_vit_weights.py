"""ViTs as weights: files, other resolutions, runs, tools; their configs and plans."""

import json

import flax.linen as nn
import jax
import numpy as np
import PIL.Image
import pytest
import safetensors
import safetensors.numpy
import scipy.ndimage

from configs import vit as configs
from configs import vit_finetune
import example_weights
import golden
from mixer import configuration
from mixer import models
from mixer.run import accelerators
from mixer.run import checkpoint
from mixer.training import optim
from mixer.training import train_step
from mixer import trees
from mixer import weights
from mixer.models import position_embeddings
from mixer.weights import start_from
import test_vit
from tools import export
from tools.planning import arithmetic
from tools import predict

# No two sizes are alike, so that a transposed array shows. Of 8 x 8 pixels: 4 patches.
FIELDS = dict(num_classes=5, patch_size=4, num_blocks=2, hidden_dim=12, mlp_dim=20, num_heads=3, pool='token',
              representation_size=None)


def vit(side=8, seed=0, **fields):
  """(section, parameters) for images of side x side pixels."""
  section = dict(name='vit', **{**FIELDS, **fields})
  return section, test_vit.filled(test_vit.param_shapes(models.build(**section), (side, side, 3)), seed)


def as_weights(section, params, resolution=8):
  return weights.Weights(params, section, resolution, 'softmax_xent', None, '')


def logits(loaded, x):
  return np.asarray(jax.jit(models.build(**loaded.model).apply)({'params': loaded.params}, x))


def images(number, side):
  return np.random.default_rng(1).uniform(-1, 1, (number, side, side, 3)).astype(np.float32)


# Files


@pytest.mark.parametrize('fields, name', [
    ({}, 'pool token'), (dict(pool='mean'), 'pool mean'), (dict(num_classes=None), 'pool token'),
    (dict(representation_size=7), 'pool token, representation_size 7')])
@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_a_saved_file_loads_as_it_was(tmp_path, suffix, fields, name):
  section, params = vit(**fields)
  path = tmp_path / f'w.{suffix}'
  if 'representation_size' in fields and suffix == 'safetensors':
    with pytest.raises(ValueError, match="timm's model does not have pre_logits/bias, pre_logits/kernel; write an"):
      weights.save(as_weights(section, params), path)
    assert not list(tmp_path.iterdir())
    return
  weights.save(as_weights(section, params), path)
  loaded = weights.load(path)
  assert example_weights.equal(loaded.params, params)
  assert (loaded.model, loaded.resolution) == (section, 8)
  classes = 'no head' if section['num_classes'] is None else '5 classes'
  assert loaded.describe() == (f'ViT of patch_size 4, num_blocks 2, hidden_dim 12, mlp_dim 20, num_heads 3, {name}, '
                             f'{classes}, 8 x 8 pixels, paper_resize from 9: {path}')


def test_an_npz_holds_the_names_and_shapes_of_the_model(tmp_path):
  section, params = vit()
  weights.save(as_weights(section, params), tmp_path / 'w.npz')
  with np.load(tmp_path / 'w.npz') as file:
    assert {name: file[name].shape for name in file} == trees.shapes(params)


def test_what_is_written_for_timm_has_timms_names_and_axes(tmp_path):
  section, params = vit()
  weights.save(as_weights(section, params), tmp_path / 'w.safetensors')
  saved = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  block = params['Transformer']['encoderblock_1']
  attention = block['MultiHeadDotProductAttention_1']
  np.testing.assert_array_equal(saved['patch_embed.proj.weight'][7, 1, 2, 3], params['embedding']['kernel'][2, 3, 1, 7])
  # Row 12 + 4 + 2: K's, head 1, its channel 2.
  np.testing.assert_array_equal(saved['blocks.1.attn.qkv.weight'][12 + 4 + 2], attention['key']['kernel'][:, 1, 2])
  np.testing.assert_array_equal(saved['blocks.1.attn.qkv.bias'][24:28], attention['value']['bias'][0])
  np.testing.assert_array_equal(saved['blocks.1.attn.proj.weight'][:, 4 + 2], attention['out']['kernel'][1, 2])
  np.testing.assert_array_equal(saved['blocks.1.norm2.weight'], block['LayerNorm_2']['scale'])
  with safetensors.safe_open(tmp_path / 'w.safetensors', framework='np') as file:
    assert {'format': 'pt', 'num_heads': '3'}.items() <= file.metadata().items()


@pytest.mark.parametrize('metadata, message', [
    (None, r'the number of heads is unknown: the width 12 is none of 192, .*1664\. Put it into .*num_heads'),
    ({'num_heads': '5'}, 'metadata say num_heads 5; it must be a number that divides the width 12'),
    ({'num_heads': 'x'}, 'metadata say num_heads x; it must be a number that divides the width 12'),
    ({'num_heads': '0'}, 'metadata say num_heads 0; it must be a number that divides the width 12'),
])
def test_a_file_of_timms_that_does_not_tell_its_heads_is_refused(tmp_path, metadata, message):
  section, params = vit()
  weights.save(as_weights(section, params), tmp_path / 'w.safetensors')
  arrays = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  safetensors.numpy.save_file(arrays, tmp_path / 'w.safetensors', metadata=metadata)
  with pytest.raises(ValueError, match=rf'w\.safetensors: .*{message}'):
    weights.load(tmp_path / 'w.safetensors')


@pytest.mark.parametrize('name, shape', [('blocks.0.attn.qkv.weight', ()), ('blocks.0.attn.qkv.weight', (35, 12)),
                                         ('blocks.1.attn.proj.weight', (5, 12)), ('blocks.1.attn.q_norm.weight', (4,)),
                                         ('blocks.0.attn.qkv.bias', (9, 1, 1)), ('fc_norm.weight', (12,))])
def test_an_attention_of_other_shapes_is_shown_beside_a_vits(tmp_path, name, shape):
  section, params = vit()
  weights.save(as_weights(section, params), tmp_path / 'w.safetensors')
  arrays = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  arrays[name] = np.ones(shape, np.float32)
  safetensors.numpy.save_file(arrays, tmp_path / 'w.safetensors', metadata={'num_heads': '3'})
  with pytest.raises(ValueError, match=r'w\.safetensors: the arrays are not those of a ViT:\n  array +loaded'):
    weights.load(tmp_path / 'w.safetensors')


def test_a_file_is_read_as_the_kind_that_most_of_its_names_are_of(tmp_path):
  for kind, title in (('stem/kernel', 'a Mixer'), ('cls', 'a ViT'), ('root_block/kernel', 'a BiT-ResNet'),
                      ('conv1', 'a Mixer')):
    np.savez(tmp_path / 'w.npz', **{kind: np.ones(3, np.float32), 'head/bias': np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=f'w.npz: the arrays are not those of {title}:\n'):
      weights.load(tmp_path / 'w.npz')


def test_a_vit_of_images_that_are_not_square_is_refused(tmp_path):
  shapes = test_vit.param_shapes(models.build(name='vit', **FIELDS), (8, 12, 3))
  weights.npz.write(test_vit.filled(shapes), tmp_path / 'w.npz')
  with pytest.raises(ValueError, match=r'w\.npz: the position embeddings are of 6 patches, which is no'):
    weights.load(tmp_path / 'w.npz')


# Other resolutions


@pytest.mark.parametrize('side, new', [(2, 2), (2, 3), (3, 2), (4, 7), (7, 4), (14, 24), (5, 1), (1, 3)])
def test_position_embeddings_are_resized_as_by_the_authors_code(side, new):
  embeddings = np.random.default_rng(0).normal(size=(side**2, 3))
  expected = scipy.ndimage.zoom(embeddings.reshape(side, side, 3), (new / side, new / side, 1), order=1)
  np.testing.assert_allclose(position_embeddings.resized(embeddings, new), expected.reshape(new**2, 3), atol=1e-12)


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_a_vit_of_another_resolution_takes_resized_embeddings_and_all_else_as_it_is(pool):
  _, original = vit(8, pool=pool)
  _, expected = vit(20, pool=pool, seed=1)
  params = start_from.fit(original, expected, head='given')
  changed = {name for name, array in trees.flat(params).items() if not np.array_equal(array, trees.flat(original)[name])}
  assert changed == {'Transformer/posembed_input/pos_embedding'}
  first = int(pool == 'token')
  of = lambda tree: tree['Transformer']['posembed_input']['pos_embedding'][0]
  assert of(params).shape == (25 + first, 12) and of(params).dtype == np.float32
  np.testing.assert_array_equal(of(params)[:first], of(original)[:first])
  np.testing.assert_array_equal(of(params)[[first, first + 4, -5, -1]], of(original)[first:])  # the corners


def test_embeddings_of_images_that_are_not_square_are_not_resized():
  shapes = test_vit.param_shapes(models.build(name='vit', **FIELDS), (8, 12, 3))
  original, (_, expected) = test_vit.filled(shapes), vit(16)
  message = (r'the weights have position embeddings of 6 patches, and this model takes images of 16; only those of '
             r'square images can be resized\. Choose weights and a config\.data\.resolution of square images')
  with pytest.raises(ValueError, match=message):
    start_from.fit(original, expected, head='given')
  jax.tree.map(np.testing.assert_array_equal, start_from.fit(original, original, head='given'), original)


def test_a_fresh_head_has_a_hidden_layer_where_the_model_has_one():
  """ViT replaces the whole head by one linear layer (section 3.2)."""
  _, pretrained = vit(representation_size=7, num_classes=9)
  _, plain = vit(seed=1)
  _, hidden = vit(representation_size=6, seed=1)
  body = {name: pretrained[name] for name in ('cls', 'embedding', 'Transformer')}
  tuned = start_from.fit(pretrained, plain, head='fresh')
  assert example_weights.equal(tuned, {**body, 'head': plain['head']})
  tuned = start_from.fit(pretrained, hidden, head='fresh')
  assert example_weights.equal(tuned, {**body, 'head': hidden['head'], 'pre_logits': hidden['pre_logits']})
  with pytest.raises(ValueError, match=r'do not fit the model of this config:\n(?s:.*)\n  pre_logits/bias +\(7,\) +-'):
    start_from.fit(vit(representation_size=7)[1], plain, head='given')


@pytest.mark.parametrize('change, token_mixing, message', [
    (lambda t: t['Transformer'].update(posembed_input={'pos_embedding': np.ones((1, 5, 15))}), None,
     r'\n  Transformer/posembed_input/pos_embedding +\(1, any, 15\) +\(1, any, 12\)\nSet'),
    (lambda t: t.pop('cls'), None, r'\n  cls +- +\(1, 1, 12\)\nSet'),
    (lambda t: None, 'block_diagonal', r"config\.start_from\.token_mixing is 'block_diagonal'; for ViT it must be None"),
])
def test_what_does_not_fit_is_told(change, token_mixing, message):
  original, expected = vit()[1], vit(16)[1]
  change(original)
  with pytest.raises(ValueError, match=message):
    start_from.fit(original, expected, head='given', token_mixing=token_mixing)


# Runs and tools


def make_run(workdir, **model):
  section = {'name': 'vit', **FIELDS, **model}
  config = {'model': {**section, 'dropout_rate': 0.1, 'scan': True}, 'data': {'resolution': 8},
            'step': {'loss': 'softmax_xent'}, 'evals': {'val': {'resolution': 8, 'resize': 9}}}
  optimizer, _ = optim.build(name='adamw', learning_rate=0.1, schedule=dict(name='linear'), total_steps=10)
  state = train_step.init(models.build(**section), optimizer, (8, 8, 3), seed=0)
  state = state.replace(params=test_vit.filled(state.params))
  with checkpoint.Checkpoints(workdir=workdir, run=config, class_names=list('abcde'), metrics=[],
                              every_steps=1) as checkpoints:
    checkpoints.save(3, state)
  return state.params


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  return workdir, make_run(workdir)


def test_a_run_gives_its_parameters_and_what_its_config_says(run):
  workdir, params = run
  loaded = weights.load(workdir)
  assert example_weights.equal(loaded.params, jax.tree.map(np.asarray, params))
  assert loaded.model == dict(name='vit', **FIELDS)
  assert (loaded.resolution, loaded.class_names, loaded.resize) == (8, list('abcde'), 9)
  assert loaded.describe().startswith('ViT of patch_size 4, ') and 'step 3 of the run' in loaded.source


@pytest.mark.parametrize('change, message', [
    (dict(num_heads=4), r'checkpoints/3 does not fit its config\.json:\n  num_heads: 3 in the arrays, 4 as stated'),
    (dict(pool='mean'), r"checkpoints/3 does not fit its config\.json:\n  pool: 'token' in the arrays, 'mean' as stated"),
    (dict(name='untied_mixer', tokens_mlp_dim=3, channels_mlp_dim=4),
     r"model\.name is 'untied_mixer', and only weights of mlp_mixer, vit, bit_resnet, halonet, resmlp can be loaded"),
    (dict(name='mlp_mixer', tokens_mlp_dim=3, channels_mlp_dim=4),
     r"does not fit its config\.json:\n(.|\n)*  name: 'vit' in the arrays, 'mlp_mixer' as stated"),
])
def test_a_config_that_does_not_fit_its_checkpoint_is_told(tmp_path, change, message):
  make_run(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  config['model'] |= change
  of_vit = ('mlp_dim', 'num_heads', 'pool', 'representation_size', 'dropout_rate', 'scan')
  for field in of_vit if 'name' in change else ():
    del config['model'][field]
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message):
    weights.load(tmp_path)


def test_predictions_and_an_exported_file_give_the_probabilities_of_the_run(run, tmp_path, capsys):
  workdir, _ = run
  image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / 'image.png')
  assert predict.main([f'--weights={workdir}', '--format=jsonl', str(tmp_path / 'image.png')]) == 0
  printed = json.loads(capsys.readouterr().out)['predictions']
  loaded = weights.load(workdir)
  program = jax.export.deserialize(export.program(loaded, loaded.crop, loaded.resize).serialize())
  got = np.asarray(program.call(image[None]))[0]
  assert [each['name'] for each in printed] == [loaded.class_names[k] for k in np.argsort(-got)]
  np.testing.assert_allclose([each['probability'] for each in printed], np.sort(got)[::-1], atol=1e-3)
  assert np.ptp(got) > 0.05


# Configs and plans


@pytest.mark.parametrize('name', configs.NAMES)
def test_every_config_is_the_golden_and_its_model_is_that_of_its_name(name):
  config = configs.get_config(name)
  configuration.check(config)
  golden.check('config_vit' if name == 'b16_i1k' else f'config_vit_{name}', '\n'.join(f'{path} = {value!r}'
                                               for path, value in sorted(configuration.flat(config).items())))
  model = models.build(**config.model)
  section = models.expected_config(dict(config.model.items()))
  if name != 'digits':
    assert models.describe(section) == f'ViT-{name[0].upper()}/{name[1:3]}'
    assert model.representation_size == (model.hidden_dim if name.endswith(('_jft', '_90')) else None)
  optim.build(**configuration.epochs_to_steps(config, 3_000.).optimizer, total_steps=100_000)


def test_what_no_config_is_called_lists_the_names():
  with pytest.raises(ValueError, match=r'vit\.py:b16 is none of digits, b16_i1k, .*h14_jft'):
    configs.get_config('b16')


@pytest.mark.parametrize('which, variant, side, evaluation', [
    ('b16,cifar10', 'B/16', 224, 'test'), ('l16,/own/images,512,dev', 'L/16', 512, 'dev'),
    ('h14,cifar100,dev', 'H/14', 224, 'dev'), ('b16,cifar10,dev,384', 'B/16', 384, 'dev')])
def test_fine_tuning_takes_the_images_of_its_resolution(which, variant, side, evaluation):
  config = vit_finetune.get_config(which)
  assert config.model.variant == variant and list(config.evals) == [evaluation]
  assert config.data.resolution == config.evals[evaluation].resolution == side
  assert config.data.resize == side * 8 // 7
  models.build(**{**config.model, 'num_classes': 10})


@pytest.mark.parametrize('which', ['b16', 's16,cifar10', 'b16,mnist', 'b16,cifar10,384,224', 'b16,cifar10,0', ''])
def test_what_no_fine_tuning_is_called_lists_the_names(which):
  with pytest.raises(ValueError, match=r'is not MODEL,TASK\[,SIDE\]\[,dev\]: MODEL is one of b32, b16, .*SIDE'):
    vit_finetune.get_config(which)


@pytest.mark.slow
def test_the_plan_of_a_config_with_an_argument(data_dir):
  slice_ = accelerators.slice_of(configs.SLICE)
  assert slice_.name == 'v3-128'
  for name in ('b16_i1k', 'l16_i21k_90', 'h14_jft'):
    config = configs.get_config(name)
    config.data.data_dir = data_dir
    plan = arithmetic.Plan.of(name, config, slice_)
    assert plan.images_per_device == 32 and plan.fits
    assert 1 / 2 < plan.device_days(0.4) / plan.paper_core_days < 2
    assert plan.activation_bytes > plan.images_per_device * 2 * plan.model.num_blocks * 197 * plan.model.hidden_dim


def test_the_activations_are_the_results_of_the_products_in_the_blocks():
  for fields in ({}, dict(pool='mean')):
    section, params = vit(**fields)
    model = models.build(**section, platform='any')  # which has modules for all products
    with_products = []

    def intercept(call, arguments, keywords, context):
      result = call(*arguments, **keywords)
      if isinstance(context.module, (nn.Dense, nn.DenseGeneral)) and 'encoderblock' in '/'.join(context.module.path):
        with_products.append(result.size)
      return result

    with nn.intercept_methods(intercept):
      jax.eval_shape(lambda: model.apply({'params': params}, images(1, 8)))
    tokens = 4 + (model.pool == 'token')
    of_attention = model.num_blocks * (tokens * 12 + 3 * tokens**2)  # the means of V, and the products of Q and K
    inputs, insides = zip(*model.activations(8))
    assert sum(insides) == sum(with_products) + of_attention and set(inputs) == {tokens * 12}
