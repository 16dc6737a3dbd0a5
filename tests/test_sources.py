import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from conftest import ROOT
from mixer.datasets import digits
from mixer.datasets import sources


@pytest.fixture
def folder(tmp_path):
  """Two classes in two splits, of which the test split holds one; names and formats of all kinds."""
  rng = np.random.default_rng(0)
  for name in ('train/cat/b.PNG', 'train/cat/a.jpg', 'train/dog/c.Jpeg', 'train/dog/d é.webp', 'test/dog/e.png'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)).save(path)
  (tmp_path / 'train/cat/notes.txt').write_text('no image')
  (tmp_path / 'train/cat/.hidden.png').write_text('no image')
  return tmp_path


def encoded(source):
  indices = tf.range(source.num_examples, dtype=tf.int64)
  parsed = [source.parse(record, index) for record, index in zip(source.read(indices), indices)]
  return [(image.numpy(), labels['label'].numpy()) for image, labels in parsed]


def test_digits_prepare_themselves_and_hold_every_digit_once(data_dir):
  train, test = (sources.open_split('digits', split, data_dir) for split in ('train', 'test'))
  assert (train.num_examples, test.num_examples) == (1437, 360)
  assert train.class_names == [str(k) for k in range(10)]
  wanted = sorted((label, *np.round(image * 255 / 16).astype(int).ravel())
                  for image, label in zip(sklearn.datasets.load_digits().images, sklearn.datasets.load_digits().target))
  got = sorted((label, *tf.io.decode_png(image).numpy().astype(int).ravel())
               for source in (train, test) for image, label in encoded(source))
  assert got == wanted


def test_a_folder_of_datasets_may_have_any_name(tmp_path, caplog):
  for _ in range(2):
    assert sources.open_split('digits', 'test', str(tmp_path / 'ev[1]*')).num_examples == 360
    assert sources.is_prepared(sources.builder('digits', str(tmp_path / 'ev[1]*')))
  assert not caplog.text  # TFDS warns of a copy that is not there yet


def test_a_home_folder_that_cannot_be_written_is_told_with_the_fields_to_set(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  fix = ('Set --config.data.data_dir, and --config.evals.NAME.data_dir of each evaluation, or the environment variable '
         'TFDS_DATA_DIR, to a folder that can be written to')
  for folder, message in (('/proc/home/data', f"dataset 'digits' cannot be prepared in /proc/home/data: .*No such file.*{fix}"),
                          ('~nobody_of_that_name/data', f'and this user has no home folder: HOME is not set. {fix}')):
    monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', folder)
    with pytest.raises(ValueError, match=message):
      sources.open_split('digits', 'train', None if folder[0] == '~' else folder)
  assert not list(tmp_path.iterdir())


def test_digits_are_split_alike_in_every_class():
  labels = sklearn.datasets.load_digits().target
  train, test = digits.split_indices()
  assert not set(train) & set(test)
  share = np.bincount(labels[test]) / np.bincount(labels)
  assert np.abs(share - 360 / 1797).max() < 0.005


def test_a_directory_names_the_same_dataset_as_its_name(data_dir):
  by_name = sources.open_split('digits', 'test', data_dir)
  by_directory = sources.open_split(f'{data_dir}/digits/1.0.0', 'test')
  assert encoded(by_name) == encoded(by_directory)


def test_parts_of_splits_are_disjoint_and_complete(data_dir):
  parts = [encoded(sources.open_split('digits', split, data_dir)) for split in ('train[:90%]', 'train[90%:]', 'train')]
  assert len(parts[0]) == 1293
  assert parts[0] + parts[1] == parts[2]


def test_folder_takes_any_case_and_numbers_classes_over_all_splits(folder):
  train, test = sources.open_split(str(folder), 'train'), sources.open_split(str(folder), 'test')
  assert train.class_names == test.class_names == ['cat', 'dog']
  assert [path.split('/')[-1] for path in train.paths] == ['a.jpg', 'b.PNG', 'c.Jpeg', 'd é.webp']
  assert [label for _, label in encoded(train)] == [0, 0, 1, 1]
  assert [label for _, label in encoded(test)] == [1]
  assert encoded(test)[0][0] == (folder / 'test/dog/e.png').read_bytes()


def test_contents_tell_of_files_and_classes_but_not_of_where_they_lie(folder, data_dir, tmp_path_factory):
  contents = lambda root: sources.open_split(str(root), 'train').contents
  before = contents(folder)
  moved = shutil.copytree(folder, tmp_path_factory.mktemp('moved') / 'copy')
  assert contents(moved) == before
  (moved / 'train/dog/d é.webp').rename(moved / 'train/cat/d é.webp')
  assert contents(moved) != before
  assert sources.open_split('digits', 'train[:90%]', data_dir).contents == 'digits/1.0.0, 1293 examples'


@pytest.mark.parametrize('dataset, split, text', [
    ('digits', 'validation', r"split 'validation' is not in digits/1.0.0 at .*; it has test, train"),
    ('no_such_dataset', 'train', r"'no_such_dataset' is neither a directory here nor a dataset that TFDS .* has"),
    ('./nowhere', 'train', r"dataset './nowhere' is not a directory that can be read here"),
    ('cifar10', 'train', r"'cifar10' is not prepared: .*\n  python -m tools.prepare cifar10 --data_dir="),
])
def test_what_is_not_there_is_named_with_the_way_out(data_dir, dataset, split, text):
  with pytest.raises(ValueError, match=text):
    sources.open_split(dataset, split, data_dir)


def test_folder_errors_name_what_is_there(folder):
  with pytest.raises(ValueError, match=r"split 'val' is not in the image folder .*; it has the folders test, train"):
    sources.open_split(str(folder), 'val')
  for path in (folder / 'test/dog').iterdir():
    path.unlink()
  with pytest.raises(ValueError, match=r'test holds no images: .* ends in .jpg, .jpeg, .png, .webp'):
    sources.open_split(str(folder), 'test')


class Oddities(tfds.core.GeneratorBasedBuilder):
  """A dataset without labels."""
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'image': tfds.features.Image()}))

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    yield 0, {'image': np.zeros((4, 4, 3), np.uint8)}


@pytest.mark.parametrize('file_format, text', [
    ('array_record', r"oddities/1.0.0 at .* has no feature 'label'; it has image"),
    ('riegeli', r'oddities/1.0.0 at .* is stored as riegeli, and only array_record and tfrecord can be read'),
])
def test_copies_that_do_not_fit_are_refused(tmp_path, file_format, text):
  builder = Oddities(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  info = builder.data_path / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', file_format))
  with pytest.raises(ValueError, match=text):
    sources.open_split(str(builder.data_path), 'train', label='label' if file_format == 'array_record' else 'image')


def test_the_command_that_rewrites_a_copy_for_reading_by_index(tmp_path):
  digits.Digits(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
  directory, new = tmp_path / 'digits/1.0.0', tmp_path / 'new'
  assert not hasattr(sources.open_split(str(directory), 'test'), 'read')
  subprocess.run([sys.executable, '-m', 'tools.prepare', str(directory), f'--out={new}'], cwd=ROOT, check=True)
  rewritten = sources.open_split(str(new), 'test')
  there = tfds.builder_from_directory(directory).as_dataset('test', decoders={'image': tfds.decode.SkipDecoding()})
  assert encoded(rewritten) == [(example['image'], example['label']) for example in there.as_numpy_iterator()]


def test_other_digits_are_the_other_half_of_the_classes(data_dir):
  whole, few, other = (encoded(sources.open_split(name, 'test', data_dir))
                       for name in ('digits', 'few_digits', 'other_digits'))
  assert sorted(few) == sorted((image, label) for image, label in whole if label < 5)
  assert sorted(other) == sorted((image, label - 5) for image, label in whole if label >= 5)
  assert sources.open_split('other_digits', 'test', data_dir).class_names == list('56789')
