"""configs/image_folder.py: what it reads from a folder, and what it refuses."""

import jax
import pytest

from configs import image_folder
import example_images
from mixer.data import folder_source
from mixer.data import sources
from mixer import models
from mixer import trees


def folder(root, *classes, count=4, split='train', size=(80, 70)):
  header = example_images.claiming('png', *size)
  for name in classes:
    (root / split / name).mkdir(parents=True)
    for k in range(count):
      (root / split / name / f'{k}.png').write_bytes(header + f'{name}{k}'.encode())
  return root


def test_size_batch_and_splits_come_from_the_folder(tmp_path):
  root = folder(tmp_path / 'my photos', 'cat', 'dog')
  config = image_folder.get_config(str(root))
  assert (config.data.resolution, config.data.batch_size, config.model.num_classes) == (64, 4, None)
  assert config.data.split == 'train[:90%]'
  assert {name: fields.split for name, fields in config.evals.items()} == {'dev': 'train[90%:]'}
  (root / 'test').mkdir()  # of images without classes, as competitions have it
  (root / 'test/0.png').write_bytes(b'')
  assert set(image_folder.get_config(str(root)).evals) == {'dev'}
  folder(root, 'cat', split='validation')
  config = image_folder.get_config(f'{root},S,224')
  assert (config.data.split, config.evals.validation.split, config.model.patch_size) == ('train', 'validation', 16)
  folder(root, 'cat', split='test')
  assert set(image_folder.get_config(str(root)).evals) == {'validation', 'test'}
  for options in ('dev', 'S,dev', 'S,64,dev'):  # as tools.sweep asks
    config = image_folder.get_config(f'{root},{options}')
    assert config.data.split == 'train[:90%]' and config.evals.dev.split == 'train[90%:]' and set(config.evals) == {'dev'}


def test_folders_of_classes_alone_are_the_split_train(tmp_path):
  root = folder(tmp_path, 'cat', 'dog', split='.', count=20)
  (root / 'run/checkpoints').mkdir(parents=True)
  for name in ('learning_curves', 'predictions_dev'):
    (root / f'run/{name}.png').write_bytes(b'')
  (root / 'run/config.json').write_text('{}')
  config = image_folder.get_config(str(root))
  assert config.data.batch_size == 20 and set(config.evals) == {'dev'}
  parts = [sources.open_split(str(root), split) for split in (config.data.split, config.evals.dev.split, 'train')]
  assert [part.num_examples for part in parts] == [36, 4, 40]
  assert all(part.class_names == ['cat', 'dog'] for part in parts)
  with pytest.raises(ValueError, match="split 'test' is not in the image folder .* it has the folders cat, dog, .* or root/class/"):
    sources.open_split(str(root), 'test')


@pytest.mark.parametrize('side, resolution', [(31, 32), (32, 32), (63, 32), (64, 64), (223, 64), (500, 224)])
def test_the_resolution_is_the_largest_that_the_images_reach(tmp_path, side, resolution):
  assert image_folder.get_config(str(folder(tmp_path, 'a', 'b', size=(600, side)))).data.resolution == resolution


def test_the_recipe_depends_on_the_number_of_images(tmp_path):
  fields = lambda config: (config.total_epochs, config.step.mixup, config.optimizer.weight_decay, config.data.batch_size)
  root = folder(tmp_path, 'cat', 'dog', count=999)
  assert fields(image_folder.get_config(str(root))) == (200, 0.5, 0.3, 64)
  folder(root, 'eel', count=2)
  assert fields(image_folder.get_config(str(root))) == (100, 0.3, 0.1, 256)


@pytest.mark.parametrize('classes, options, message', [
    (None, '', 'is no folder on this machine; lay the images out as .*/train/CLASS/.*, or as .*/CLASS/'),
    ((), '', r'/train has 0 folders of images \(no .* ends in .jpg.*\), and training takes at least 2, one a class; lay the images'),
    (('cat',), '', r'/train has 1 folders of images \(cat\), and'),
    (('cat', 'dog'), ',huge', 'VARIANT is one of nano, S, B'),
    (('cat', 'dog'), ',S,64,3', r'is not PATH\[,VARIANT\[,RESOLUTION\]\]\[,dev\]: PATH has no comma'),
    (('cat', 'dog'), ',nano,30', 'RESOLUTION is a multiple of 8'),
    (('cat', 'dog'), ',nano,x', 'RESOLUTION is a multiple of 8')])
def test_what_is_no_image_folder_is_refused_in_a_line(tmp_path, classes, options, message):
  root = tmp_path / 'photos'
  if classes is not None:
    folder(root, *classes)
    (root / 'train').mkdir(parents=True, exist_ok=True)
  with pytest.raises(ValueError, match=message) as error:
    image_folder.get_config(f'{root}{options}')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('options', ['', ',S', ',S,64'])
def test_a_comma_in_the_path_is_named(tmp_path, options):
  root = folder(tmp_path / 'photos,2024', 'cat', 'dog')
  with pytest.raises(ValueError, match="the folder .*photos,2024 has a comma in its name.* ln -s '.*photos,2024' photos"):
    image_folder.get_config(f'{root}{options}')


def test_without_a_path_the_message_shows_where_it_goes():
  config = image_folder.get_config()
  with pytest.raises(ValueError, match='image_folder.py:PATH'):
    sources.open_split(config.data.dataset, config.data.split)


def test_the_suffixes_are_those_that_are_read():
  assert image_folder.SUFFIXES == folder_source.IMAGE_SUFFIXES


@pytest.mark.parametrize('variant, millions', [('nano', (1.1, 1.2, 1.4)), ('S', (17.1, 17.2, 18.0)), ('B', (57.3, 57.5, 59.1))])
def test_the_docstring_has_the_parameters(tmp_path, variant, millions):
  assert '   '.join(f'{number:.1f}' for number in millions) in image_folder.__doc__.replace('    ', '   ')
  root = folder(tmp_path, 'a', 'b')
  for side, number in zip((32, 64, 224), millions):
    model = models.build(**{**image_folder.get_config(f'{root},{variant},{side}').model, 'num_classes': 10})
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), 'float32'))
    assert round(trees.count(params) / 1e6, 1) == number
    if (variant, side) == ('nano', 32):
      assert trees.count(params) == 1_132_170
