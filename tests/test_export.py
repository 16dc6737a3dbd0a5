"""Exported models, against the weights they were made from."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from mixer.data import crop_sizes
from mixer.data import normalize
from mixer.data import preprocess
from mixer import models
from mixer.training import losses
from mixer import trees
from mixer import weights as weights_lib
from tools import export

SIZES = dict(patch_size=4, num_blocks=1, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32)


def tiny(loss='softmax_xent', **fields):
  """Weights of a tiny model whose outputs differ from image to image."""
  section = dict(name='mlp_mixer', num_classes=10, **SIZES)
  model = models.build(**section)
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), 'float32'))['params'])
  params['head']['kernel'] = np.random.default_rng(1).normal(size=(16, 10)).astype('float32')
  return weights_lib.Weights(**{**dict(params=params, model=section, resolution=16, loss=loss, class_names=None,
                                       source='drawn', crop='antialiased'), **fields})


def pixels(*shape):
  return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def expected_of(weights, name, image):
  """Probabilities by the input pipeline's preprocessing and the model itself. [H, W, 3] -> [K]."""
  resize = crop_sizes.resize_for(weights.resolution, None, name)
  crop = preprocess.EVALUATION_CROPS[name](tf.constant(image), resize, weights.resolution)
  logits = models.build(**weights.model).apply({'params': weights.params}, normalize.normalize_images(crop.numpy()[None]))
  return np.asarray(losses.PROBABILITIES[weights.loss](logits))[0]


@pytest.mark.parametrize('name, loss', [('paper_resize', 'softmax_xent'), ('timm', 'sigmoid_xent')])
def test_the_file_gives_the_probabilities_of_the_weights(name, loss):
  weights = tiny(loss)
  program = jax.export.deserialize(export.program(weights, name, 18).serialize())
  assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}
  for shape in ((3, 40, 30), (1, 12, 50)):
    images = pixels(*shape)
    got = np.asarray(program.call(images))
    # One level of one pixel moves a probability by a few thousandths of 1 % here.
    np.testing.assert_allclose(got, [expected_of(weights, name, image) for image in images], atol=1e-3)
    assert np.ptp(got, axis=1).min() > 0.05


def test_the_printed_script_runs_without_this_repository(tmp_path, capsys):
  weights = tiny()
  weights_lib.save(weights, tmp_path / 'tiny.npz')
  export.main([f'--weights={tmp_path / "tiny.npz"}', f'--out={tmp_path / "model.stablehlo"}'])
  printed = capsys.readouterr().out
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere/run.py').write_text(printed)
  image = pixels(20, 31)
  exif = PIL.Image.Exif()
  exif[0x112] = 6  # it is stored on its side, and the script turns it
  PIL.Image.fromarray(np.rot90(image)).save(tmp_path / 'image.png', exif=exif)
  done = subprocess.run([sys.executable, 'run.py', tmp_path / 'image.png'], cwd=tmp_path / 'elsewhere',
                        env={'PATH': '', 'PYTHONPATH': '', 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  best = [line.split() for line in done.stdout.splitlines()]
  of_weights = expected_of(weights, 'antialiased', image)
  assert [int(name) for _, name in best] == np.argsort(-of_weights)[:5].tolist()
  np.testing.assert_allclose([float(p) for p, _ in best], np.sort(of_weights)[::-1][:5], atol=1e-3)


def test_class_names_come_beside_it_and_into_the_script(tmp_path, capsys, monkeypatch):
  names = ['n01440764', *(f'class {k}' for k in range(1, 10))]
  monkeypatch.setattr(weights_lib, 'load', lambda name, **pixels: tiny(class_names=names))
  export.main(['--weights=any', f'--out={tmp_path / "model.stablehlo"}', '--preprocessing=timm'])
  assert json.loads((tmp_path / 'model.classes.json').read_text()) == ['tench (n01440764)', *names[1:]]
  printed = capsys.readouterr().out
  assert f'json.load(open({str(tmp_path / "model.classes.json")!r}))' in printed
  assert 'drawn' in printed and 'then timm from 18' in printed


@pytest.mark.parametrize('arguments, message', [
    (['--out=model.pb'], r'--out is model.pb; it must end in .stablehlo or .onnx'),
    (['--out=nowhere/model.stablehlo'], r'the directory nowhere does not exist: make it first'),
    (['--out=tests.stablehlo', '--outt=x'], r'unknown flag --outt; did you mean --out?'),
    (['--out=model.onnx', '--preprocessing=timm'], r'model.onnx holds no preprocessing; remove --preprocessing and'),
])
def test_flags_that_make_no_sense_are_refused(arguments, message, capsys):
  with pytest.raises(SystemExit):
    export.main(['--weights=any', *arguments])
  assert message in capsys.readouterr().err


def test_weights_without_a_head_are_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(weights_lib, 'load', lambda name, **pixels: tiny(model=dict(name='mlp_mixer', num_classes=None, **SIZES)))
  with pytest.raises(SystemExit, match='any has no head, and so no classes; pass weights with a head'):
    export.main(['--weights=any', f'--out={tmp_path / "model.stablehlo"}'])


@pytest.mark.slow
def test_onnx_gives_the_probabilities_of_the_weights():
  pytest.importorskip('jax2onnx', reason='jax2onnx is not installed: the extra onnx')
  onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed: the extra onnx')
  weights = tiny()
  session = onnxruntime.InferenceSession(export.onnx_program(weights))
  for number in (1, 3):
    images = pixels(number, 16, 16)
    got, = session.run(None, {session.get_inputs()[0].name: images})
    logits = models.build(**weights.model).apply({'params': weights.params}, normalize.normalize_images(images))
    np.testing.assert_allclose(got, jax.nn.softmax(logits), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('section', [
    dict(name='bit_resnet', units=(1,), width_factor=0.5),
    dict(name='halonet', units=(1, 1), block_size=4, halo_size=1, base_width=8, heads=(2, 2))], ids=lambda section: section['name'])
def test_max_pools_and_attention_are_converted_to_onnx(section):
  """What is converted wrongly is an error of onnx_program."""
  pytest.importorskip('jax2onnx', reason='jax2onnx is not installed: the extra onnx')
  model = models.build(num_classes=10, **section)
  arrays = jax.device_get(trees.weights(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), 'float32'))))
  arrays['head']['kernel'] = np.random.default_rng(1).normal(size=arrays['head']['kernel'].shape).astype('float32')
  weights = tiny(model=dict(num_classes=10, **section), params=arrays, resolution=32)
  assert len(export.onnx_program(weights)) > 1000


def raises(convert, program, shapes):
  raise NotImplementedError('no plugin for roll\nsee the list')


@pytest.mark.slow
@pytest.mark.parametrize('broken, message', [
    (lambda convert, program, shapes: convert(lambda images: program(images[:, ::-1]), shapes), 'it gives other probabilities'),
    (raises, 'no plugin for roll')])
def test_an_onnx_file_that_gives_no_probabilities_of_the_model_is_refused(monkeypatch, tmp_path, broken, message):
  jax2onnx = pytest.importorskip('jax2onnx', reason='jax2onnx is not installed: the extra onnx')
  monkeypatch.setattr(jax2onnx, 'to_onnx', functools.partial(broken, jax2onnx.to_onnx))
  weights = tiny(model=dict(name='mlp_mixer', num_classes=20_000, **SIZES))  # each has a small probability
  weights.params['head'] = {'kernel': 0.1 * np.random.default_rng(1).normal(size=(16, 20_000)).astype('float32'),
                            'bias': np.zeros(20_000, 'float32')}
  monkeypatch.setattr(weights_lib, 'load', lambda name, **pixels: weights)
  with pytest.raises(SystemExit, match='^error: jax2onnx makes no correct file of Mixer of .*; export .stablehlo instead: '
                                       f'{message}$'):
    export.main(['--weights=any', f'--out={tmp_path}/model.onnx'])
  assert not (tmp_path / 'model.onnx').exists()


def test_files_that_cannot_be_read_or_written_end_in_one_line(monkeypatch, tmp_path):
  with pytest.raises(SystemExit, match='^error: none.npz does not exist, and is no published name'):
    export.main(['--weights=none.npz', f'--out={tmp_path}/model.stablehlo'])
  monkeypatch.setattr(weights_lib, 'load', lambda name, **pixels: tiny())
  (tmp_path / 'model.stablehlo.partial').mkdir()
  with pytest.raises(SystemExit, match=r'^error: .*model\.stablehlo'):
    export.main(['--weights=any', f'--out={tmp_path}/model.stablehlo'])
