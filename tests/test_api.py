"""`import mixer` as people use it, against the model applied by hand to images cropped by the input pipeline."""

import pathlib
import pickle
import re
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from conftest import ROOT
import example_images
import mixer
from mixer.data import image_files
from mixer import models
from mixer import trees
from mixer import weights as weights_lib
from mixer.weights import inference
from mixer.weights import npz
from mixer.weights import published
from test_export import tiny
from test_predict import expected_of

SIZES = {  # of models whose pixels count
    'vit': dict(patch_size=8, num_blocks=1, hidden_dim=12, mlp_dim=16, num_heads=3),
    'resmlp': dict(patch_size=8, num_blocks=1, hidden_dim=12),
    'bit_resnet': dict(units=(1, 1), width_factor=0.5, root='small'),
    'halonet': dict(units=(1, 1), block_size=4, halo_size=1, base_width=8, heads=(1, 1), stem='small')}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with tiny.npz and three photos of several sizes as JPEG and PNG, the last of which EXIF data turn."""
  root = tmp_path_factory.mktemp('api')
  weights_lib.save(tiny(), root / 'tiny.npz')
  rng = np.random.default_rng(0)
  for k, size in enumerate(((20, 30), (31, 17), (24, 24))):
    image = PIL.Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(size)
    exif = PIL.Image.Exif()
    exif[0x112] = 6 if k == 2 else 1
    for suffix in 'jpg', 'png':
      image.save(root / f'{k}.{suffix}', exif=exif)
  return root


@pytest.fixture(scope='module')
def loaded(folder):
  return mixer.load(folder / 'tiny.npz')


def pixels(number, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), np.uint8)


def test_files_are_predicted_as_the_input_pipeline_sees_them(folder, loaded):
  paths = sorted(folder.glob('*.jpg'))
  got = loaded.predict(paths, top=10)
  for path, predictions in zip(paths[:2], got):  # expected_of does not turn the third
    expected = expected_of(path)
    # Of some values of a crop, float32's last bit decides on a level: tests/test_crops.py.
    np.testing.assert_allclose([each.probability for each in predictions], np.sort(expected)[::-1], rtol=1e-2)
    assert [each.index for each in predictions] == np.argsort(-expected).tolist()
    assert all(each.id == each.name == str(each.index) for each in predictions)


def test_paths_images_of_pillow_and_arrays_are_one(folder, loaded):
  paths = sorted(folder.glob('*.png'))
  by_path = loaded.predict(paths, top=3)
  assert loaded.predict([str(path) for path in paths], top=3) == by_path
  upright = [PIL.ImageOps.exif_transpose(PIL.Image.open(path)) for path in paths]
  for images in paths, map(PIL.Image.open, paths), map(np.asarray, upright):
    for image, expected in zip(images, by_path, strict=True):
      got, = loaded.predict(image, top=3)
      assert [each.index for each in got] == [each.index for each in expected]
      np.testing.assert_allclose([each.probability for each in got], [each.probability for each in expected], rtol=1e-5)


def test_logits_are_those_of_the_module(loaded):
  model, params = loaded.build()
  images = pixels(5)
  expected = model.apply({'params': params}, images.astype('float32') / 127.5 - 1)
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(loaded.logits(images), expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(loaded.logits(images.astype('float64') / 127.5 - 1), expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(loaded.logits(jax.numpy.asarray(images)), expected, rtol=1e-5, atol=1e-5)


def test_many_images_are_computed_in_batches_of_one_size(loaded, monkeypatch):
  images = pixels(7)
  expected = loaded.logits(images)
  monkeypatch.setattr(inference, 'BATCH_SIZE', 3)
  np.testing.assert_allclose(loaded.logits(images), expected, rtol=1e-5, atol=1e-5)
  assert loaded.logits(images).shape == (7, 10)


def of_family(name):
  """Weights of a tiny model of a family, of 16 x 16 pixels."""
  section = dict(name=name, num_classes=10, **SIZES[name])
  _, params = mixer.create(resolution=16, **section)
  return weights_lib.Weights(params=jax.device_get(params), model=section, resolution=16, loss='softmax_xent',
                             class_names=None, source='drawn', crop='antialiased')


@pytest.mark.parametrize('name', models.LOADABLE)
def test_features_are_what_the_head_is_applied_to_and_tokens_what_they_are_pooled_from(loaded, name):
  weights = loaded if name == 'mlp_mixer' else of_family(name)
  features = weights.features(pixels(2))
  head = weights.params['head']
  np.testing.assert_allclose(features @ head['kernel'] + head['bias'], weights.logits(pixels(2)), rtol=1e-4, atol=1e-5)
  if not models.LOADABLE[name].tokens:
    with pytest.raises(ValueError, match='(BiT|HaloNet) has no tokens; leave out tokens=True for its features'):
      weights.features(pixels(2), tokens=True)
    return
  tokens = weights.features(pixels(2), tokens=True)
  assert tokens.shape == (2, {'mlp_mixer': 16, 'vit': 5, 'resmlp': 4}[name], features.shape[1])
  pooled = tokens[:, 0] if name == 'vit' else tokens.mean(1)
  np.testing.assert_allclose(pooled, features, rtol=1e-4, atol=1e-5)


def test_probabilities_are_each_their_own_after_sigmoid_cross_entropy(loaded):
  weights = tiny(loss='sigmoid_xent', class_names=[f'n0144076{k}' for k in range(10)])
  best, = weights.predict(pixels(1), top=10)
  logits, = weights.logits(pixels(1))
  np.testing.assert_allclose([each.probability for each in best], np.sort(1 / (1 + np.exp(-logits)))[::-1], rtol=1e-5)
  assert best[0].id == f'n0144076{best[0].index}'
  assert {each.id: each.name for each in best}['n01440764'] == 'tench'


@pytest.mark.parametrize('images, message', [
    (pixels(1)[:, :8], r'images is \[1, 8, 16, 3\] of uint8; expected \[B, 16, 16, 3\]. predict\(\) resizes uint8'),
    (pixels(1)[0], r'images is \[16, 16, 3\] of uint8; expected \[B, 16, 16, 3\]'),
    (pixels(0), r'images is \[0, 16, 16, 3\] of uint8; expected'),
    (pixels(1).astype('int32'), r'images is \[1, 16, 16, 3\] of int32; expected uint8 in \[0, 255\], or floats in \[-1, 1\]'),
    (pixels(1).astype('float32'), r'floats from .* to 255; expected floats in \[-1, 1\], which are 2 \* x - 1'),
    (pixels(1) / 255, r'floats from .* to 1; expected floats in \[-1, 1\]'),
    (pixels(1) / 260 - 0.02, r'floats from .* expected floats in \[-1, 1\]'),  # in [0, 1], and resized by a bicubic filter
    (np.full((1, 16, 16, 3), np.nan), 'floats from nan to nan; expected floats')])
def test_arrays_that_the_model_does_not_take_are_refused(loaded, images, message):
  for function in (loaded.logits, loaded.features):
    with pytest.raises(ValueError, match=message):
      function(images)


@pytest.mark.parametrize('images, error, message', [
    ('missing.jpg', FileNotFoundError, r"No such file or directory: '.*missing\.jpg'"),
    ('bad.jpg', ValueError, r'bad\.jpg cannot be used: it is not one of JPEG'),
    ([pixels(1)[0], pixels(1)[0].astype('float32')], ValueError,
     r'images\[1\] cannot be used: it is \[16, 16, 3\] of float32; expected a path, an image of Pillow, or an array'),
    ([pixels(1)[0, :, :, :1]], ValueError, r'images\[0\] cannot be used: it is \[16, 16, 1\] of uint8; expected'),
    ([np.zeros((2, 200, 3), np.uint8)], ValueError, r'images\[0\] cannot be used: 200 x 2 pixels; the limit'),
    ([PIL.Image.fromarray(np.zeros((9, 9), np.float32))], ValueError,
     r"images\[0\] cannot be used: it has Pillow's mode 'F', whose numbers have no fixed range; convert it to L or RGB"),
    ('https://a.b/c.jpg', ValueError, 'https://a.b/c.jpg is a URL, which is not fetched; download it first'),
    ([], ValueError, 'images is empty; pass at least one')])
def test_what_cannot_be_predicted_is_named(folder, loaded, images, error, message):
  (folder / 'bad.jpg').write_bytes(b'no image')
  with pytest.raises(error, match=message):
    loaded.predict(folder / images if isinstance(images, str) and '://' not in images else images)


@pytest.mark.parametrize('name', ['https://a.b/c.npz', 's3://b/c.npz'])
def test_weights_are_not_fetched_from_addresses(name):
  with pytest.raises(ValueError, match=f'{name} is a URL, which is not fetched; download it first'):
    mixer.load(name)


def test_at_least_one_class_is_asked_for(loaded):
  with pytest.raises(ValueError, match='top is 0; it must be at least 1'):
    loaded.predict(pixels(1), top=0)


def test_weights_are_shown_in_a_line_and_survive_a_pickle_after_use(loaded):
  loaded.logits(pixels(1))
  assert len(repr(loaded)) < 400 and loaded.describe() in repr(loaded)
  again = pickle.loads(pickle.dumps(loaded))
  np.testing.assert_array_equal(again.logits(pixels(1)), loaded.logits(pixels(1)))


def test_features_of_files_are_those_of_the_images_as_prepared(folder, loaded):
  paths = sorted(folder.glob('*.png'))
  prepared = loaded.prepare(paths)
  assert prepared.shape == (3, 16, 16, 3) and prepared.dtype == np.uint8
  for images in paths, map(PIL.Image.open, paths):
    np.testing.assert_array_equal(loaded.features(list(images)), loaded.features(prepared))
  np.testing.assert_allclose(loaded.logits(paths[0]), loaded.logits(prepared[:1]), rtol=1e-5, atol=1e-5)


def test_few_programs_are_compiled_for_all_numbers_of_images():
  weights = tiny()
  for number in range(1, 9):
    weights.logits(pixels(number))
  compiled, = weights.inference._compiled.values()
  assert compiled._cache_size() == 4  # of 1, 2, 4 and 8


def test_damaged_jpegs_that_tensorflow_takes_give_its_pixels():
  whole, rng, both = example_images.zoo()['jpeg'][0], np.random.default_rng(0), 0
  for _ in range(60):
    damaged = bytearray(whole)
    damaged[int(rng.integers(len(whole) // 2, len(whole) - 2))] = int(rng.integers(256))
    try:
      expected = tf.io.decode_jpeg(bytes(damaged), channels=3).numpy()
    except tf.errors.OpError:
      continue
    np.testing.assert_array_equal(image_files.decode(bytes(damaged)), expected)
    both += 1
  assert both > 20
  with pytest.raises(image_files.Unreadable, match='Premature end of JPEG file'):
    image_files.decode(whole[:-20])


def test_weights_without_a_head_have_features_alone(loaded):
  params = {name: layer for name, layer in loaded.params.items() if name != 'head'}
  weights = weights_lib.Weights(params, {**loaded.model, 'num_classes': None}, 16, 'softmax_xent', None, 'headless')
  np.testing.assert_array_equal(weights.features(pixels(1)), loaded.features(pixels(1)))
  for function in (weights.logits, weights.predict):
    with pytest.raises(ValueError, match='headless has no head, and so no classes; pass weights with a head'):
      function(pixels(1))


def test_weights_of_permuted_pixels_predict_no_ordinary_images(loaded):
  for method in ('predict', 'logits', 'features', 'prepare'):
    with pytest.raises(ValueError, match='was trained on permuted pixels'):
      getattr(tiny(permutation='patches'), method)(pixels(1))


def test_create_makes_a_module_and_the_parameters_of_its_seed():
  model, params = mixer.create('mlp_mixer', variant='S/32', num_classes=10, seed=1)
  assert model.apply({'params': params}, np.zeros((1, 224, 224, 3))).shape == (1, 10)
  same, other = (mixer.create('mlp_mixer', variant='S/32', num_classes=10, seed=seed)[1] for seed in (1, 2))
  equal = lambda tree: jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), params, tree))
  assert equal(same) and not equal(other)
  with pytest.raises(ValueError, match="model.name is 'mixer'"):
    mixer.create('mixer')


def test_pictures_of_all_kinds_are_predicted(loaded, tmp_path):
  for k, (kind, (data, *_)) in enumerate(example_images.zoo().items()):
    (tmp_path / f'{k}').write_bytes(data)
    assert len(loaded.predict(tmp_path / f'{k}')[0]) == 5, kind


def test_import_mixer_takes_neither_jax_nor_tensorflow_and_names_what_it_offers(folder):
  program = '''
import sys, mixer
assert 'jax' not in sys.modules
assert {'load', 'create', 'Weights', 'Prediction'} <= {*dir(mixer)}
mixer.load(sys.argv[1]).predict(sys.argv[2])
assert 'tensorflow' not in sys.modules and 'matplotlib' not in sys.modules, 'slow to import'
try:
  mixer.nosuch
except AttributeError as error:
  print(error)
'''
  done = subprocess.run([sys.executable, '-c', program, folder / 'tiny.npz', folder / '0.jpg'], cwd=ROOT, text=True,
                        capture_output=True)
  assert done.stdout == "module 'mixer' has no attribute 'nosuch'\n", done.stderr


def test_the_types_are_those_of_the_names():
  stub = (pathlib.Path(mixer.__file__).parent / '__init__.pyi').read_text()
  assert {line.split()[-1] for line in stub.splitlines()} == {*mixer.__all__}


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_give_the_shapes_that_it_says(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for name in 'photo.jpg', 'other.png':
    PIL.Image.fromarray(pixels(1)[0]).resize((640, 480)).save(name)
  shapes = trees.shapes(mixer.create('mlp_mixer', variant='B/16', num_classes=1000)[1])
  rng = np.random.default_rng(0)
  npz.write(trees.nested({name: rng.normal(0, 0.02, shape).astype('float32') for name, shape in shapes.items()}),
            tmp_path / 'drawn.npz')
  monkeypatch.setattr(published, 'fetch', lambda name: tmp_path / 'drawn.npz')
  names = {}
  checked = 0
  for block in re.findall(r'^```python\n(.*?)^```', (ROOT / 'docs/python.md').read_text(), re.MULTILINE | re.DOTALL):
    exec(block, names)
    for expression, shape in re.findall(r'^(.+\.shape)\s+# (\(.*\))$', block, re.MULTILINE):
      assert str(eval(expression, names)) == shape, expression
      checked += 1
  assert checked == 6
  assert len(re.findall(r'^\d+\.\d% \w+', capsys.readouterr().out, re.MULTILINE)) == 3
