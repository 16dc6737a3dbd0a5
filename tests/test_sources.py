import itertools
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
import input_pipeline
from mixer.data.builders import digits
from mixer.data import fake_source
from mixer.data import process_shard
from mixer.data import source_protocol
from mixer.data import sources
from mixer.data import subset
from mixer.data import tfds_builders


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
  expected = sorted((label, *np.round(image * 255 / 16).astype(int).ravel())
                  for image, label in zip(sklearn.datasets.load_digits().images, sklearn.datasets.load_digits().target))
  got = sorted((label, *tf.io.decode_png(image).numpy().astype(int).ravel())
               for source in (train, test) for image, label in encoded(source))
  assert got == expected


def test_a_folder_of_datasets_may_have_any_name(tmp_path, caplog):
  for _ in range(2):
    assert sources.open_split('digits', 'test', str(tmp_path / 'ev[1]*')).num_examples == 360
    assert tfds_builders.is_prepared(tfds_builders.builder('digits', str(tmp_path / 'ev[1]*')))
  assert not caplog.text  # TFDS warns of a copy that does not exist yet


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


@pytest.mark.slow
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
    ('no_such_dataset', 'train', r"'no_such_dataset' is neither an existing directory nor a dataset that TFDS .* has"),
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


@pytest.mark.slow
def test_the_command_that_rewrites_a_copy_for_reading_by_index(tmp_path):
  digits.Digits(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
  directory, new = tmp_path / 'digits/1.0.0', tmp_path / 'new'
  assert not sources.open_split(str(directory), 'test').random_access
  subprocess.run([sys.executable, '-m', 'tools.prepare', str(directory), f'--out={new}'], cwd=ROOT, check=True)
  rewritten = sources.open_split(str(new), 'test')
  original = tfds.builder_from_directory(directory).as_dataset('test', decoders={'image': tfds.decode.SkipDecoding()})
  assert encoded(rewritten) == [(example['image'], example['label']) for example in original.as_numpy_iterator()]


def test_other_digits_are_the_other_half_of_the_classes(data_dir):
  whole, few, other = (encoded(sources.open_split(name, 'test', data_dir))
                       for name in ('digits', 'few_digits', 'other_digits'))
  assert sorted(few) == sorted((image, label) for image, label in whole if label < 5)
  assert sorted(other) == sorted((image, label - 5) for image, label in whole if label >= 5)
  assert sources.open_split('other_digits', 'test', data_dir).class_names == list('56789')


# What counts in an image folder


def put(root, *names, seed=0):
  """Writes a small image, each another one, under each name."""
  rng = np.random.default_rng([seed, len(names)])
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(path, 'png')
  return root


def test_classes_are_those_of_the_training_split_whatever_else_lies_in_the_root(tmp_path, caplog):
  put(tmp_path, 'train/blue/0.png', 'train/red/0.png', 'test/red/0.png', 'masks/x/0.png', 'val/other/0.png',
      'run/checkpoints/0.png', 'train/@eaDir/0.png', 'train/__MACOSX/0.png', 'train/.ipynb_checkpoints/0.png',
      'train/lost+found/0.png', 'train/run/picture.png')
  (tmp_path / 'train/empty').mkdir()
  (tmp_path / 'train/run/checkpoints').mkdir()
  (tmp_path / 'train/run/config.json').write_text('{}')
  train, test = (sources.open_split(str(tmp_path), split) for split in ('train', 'test'))
  assert train.class_names == test.class_names == ['blue', 'red']
  assert [path.split('/')[-2] for path in train.paths] == ['blue', 'red'] and list(test.classes) == [1]
  assert f"{tmp_path}/train: folders that hold no images are no classes: 'empty'" in caplog.text
  assert f"{tmp_path}, split test: no images of 1 of the 2 classes: 'blue'" in caplog.text


def test_classes_that_training_lacks_are_named_with_those_that_look_alike(tmp_path):
  put(tmp_path, 'train/blue/0.png', 'train/red/0.png', 'test/blue/0.png', 'test/Red/0.png')
  with pytest.raises(ValueError, match=r"split train are 'blue', 'red', and those of .*, split test are 'Red', 'blue': 'red' "
                                       r"only among the former; 'Red' only among the latter. They differ in case, spaces or "
                                       r"accents alone: 'red' and 'Red'. Rename"):
    sources.open_split(str(tmp_path), 'test')
  assert sources.open_split(str(tmp_path), 'test', training=True).class_names == ['Red', 'blue']


def test_a_split_is_numbered_by_the_names_of_a_model_that_has_them_all(tmp_path):
  put(tmp_path, 'test/blue/0.png', 'test/red/0.png')
  source = sources.open_split(str(tmp_path), 'test', class_names=['red', 'green', 'blue'])
  assert source.class_names == ['red', 'green', 'blue'] and list(source.classes) == [2, 0]
  assert sources.open_split(str(tmp_path), 'test', class_names=['red', 'green']).class_names == ['blue', 'red']


def test_a_class_name_of_two_lines_is_refused(tmp_path):
  with pytest.raises(ValueError, match='the name of a class folder in .* has a line break; rename it'):
    sources.open_split(str(put(tmp_path, 'train/a\nb/0.png')), 'train')


def test_files_that_are_not_read_are_counted_once_by_suffix_and_depth(tmp_path, caplog):
  put(tmp_path, 'train/red/0.png', 'train/red/1.jfif', 'train/red/a.tif', 'train/red/b.TIF', 'train/red/c.avif', 'train/red/d',
      'train/red/sub/0.png', 'train/red/sub/sub/1.png', 'train/red/@eaDir/0.png', 'train/0.png')
  assert [sources.open_split(str(tmp_path), 'train').num_examples for _ in range(2)] == [2, 2]
  assert caplog.text.count('files not read') == 1
  assert (f'{tmp_path}/train: 7 files not read: 2 .tif, 2 nested deeper than root/split/class, 1 .avif, 1 beside the class '
          'folders, 1 without a suffix') in caplog.text


def test_images_that_all_lie_deeper_are_counted(tmp_path, caplog):
  with pytest.raises(ValueError, match='train holds no images'):
    sources.open_split(str(put(tmp_path, 'train/red/sub/0.png')), 'train')
  assert '1 files not read: 1 nested deeper than root/split/class' in caplog.text


# Parts of an image folder's splits


@pytest.fixture(scope='module')
def unparted(tmp_path_factory):
  """A root without a test split: three classes of 60, 30 and 2 images."""
  root = tmp_path_factory.mktemp('unparted')
  return put(root, *(f'train/{name}/{k:02}.png' for name, count in (('a', 60), ('b', 30), ('c', 2)) for k in range(count)))


def paths(root, split):
  return {path.removeprefix(f'{root}/') for path in sources.open_split(str(root), split).paths}


def test_parts_of_a_folder_are_disjoint_and_whole_and_hold_every_class(unparted, caplog):
  first, last, whole = (paths(unparted, split) for split in ('train[:90%]', 'train[90%:]', 'train'))
  assert not first & last and first | last == whole and len(last) == 9
  for part in first, last:
    assert {path.split('/')[1] for path in part} == {'a', 'b', 'c'}
  assert 'no images of' not in caplog.text
  assert paths(unparted, 'train[10%:20%]+train[90%:]') == paths(unparted, 'train[10%:20%]') | last
  assert paths(unparted, 'train[:40]') < first and len(paths(unparted, 'train[:40]')) == 40
  names = [sources.open_split(str(unparted), split).class_names for split in ('train[:90%]', 'train[:1]')]
  assert names == [['a', 'b', 'c']] * 2


def test_splits_of_a_folder_are_added(tmp_path):
  put(tmp_path, 'train/a/0.png', 'train/b/0.png', 'val/b/1.png')
  both = sources.open_split(str(tmp_path), 'train+val')
  assert [path.removeprefix(str(tmp_path)) for path in both.paths] == ['/train/a/0.png', '/train/b/0.png', '/val/b/1.png']
  assert list(both.classes) == [0, 1, 1] and both.name == f'{tmp_path}, split train+val'


def test_parts_depend_on_the_contents_alone_and_few_images_move(unparted, tmp_path):
  copy = shutil.copytree(unparted, tmp_path / 'copy')
  (copy / 'content_hashes-train.npz').unlink(missing_ok=True)
  for path in sorted((copy / 'train').glob('*/*.png')):
    path.rename(path.with_stem(f'x{99 - int(path.stem)}'))
  contents = lambda root, split: {(root / path).read_bytes() for path in paths(root, split)}
  before = contents(unparted, 'train[90%:]')
  assert contents(copy, 'train[90%:]') == before
  put(copy, 'train/a/new.png', seed=1)
  assert len(contents(copy, 'train[90%:]') - before) <= 2
  assert contents(copy, 'train[90%:]') | contents(copy, 'train[:90%]') == contents(copy, 'train')


def test_equal_images_lie_on_one_side_of_every_cut(tmp_path):
  put(tmp_path, *(f'train/{"ab"[k % 2]}/{k:02}.png' for k in range(16)))
  for k, copies in enumerate((1, 2, 5)):  # of one class, and of both
    for n in range(copies):
      shutil.copy(tmp_path / f'train/{"ab"[k % 2]}/{k:02}.png', tmp_path / f'train/{"ab"[n % 2]}/copy_{k}_{n}.png')
  whole = paths(tmp_path, 'train')
  contents = lambda part: {(tmp_path / path).read_bytes() for path in part}
  single = set()
  for cut in range(1, 24):
    first, last = paths_or_none(tmp_path, f'train[:{cut}]'), paths_or_none(tmp_path, f'train[{cut}:]')
    assert not first & last and first | last == whole
    assert not contents(first) & contents(last) and abs(len(first) - cut) <= 5
    one = paths_or_none(tmp_path, f'train[{cut - 1}:{cut}]')
    assert not single & one
    single |= one
  assert single | paths_or_none(tmp_path, 'train[23:]') == whole


def paths_or_none(root, split):
  """The paths of a part; none where all images of its places have the contents of one before it."""
  try:
    return paths(root, split)
  except ValueError as error:
    assert 'is empty; give it a larger part' in str(error)
    return set()


@pytest.mark.parametrize('split', ['train[:90%', 'train[:200%]', 'nope[:9%]', 'train+nope', ''])
def test_a_part_that_is_none_is_refused(unparted, split):
  with pytest.raises(ValueError, match=r'split .* is not in the image folder .*; it has the folders train, and parts'):
    sources.open_split(str(unparted), split)


def test_an_empty_part_is_refused(unparted):
  with pytest.raises(ValueError, match=r"split 'train\[:0%\]' of .* is empty; give it a larger part"):
    sources.open_split(str(unparted), 'train[:0%]')


# By what a copy is known again


def test_a_copy_elsewhere_has_the_same_sample_and_other_images_have_not(unparted, data_dir, tmp_path):
  sample_of = lambda source: sources.identity(source)['contents_sample']
  sample = lambda root: sample_of(sources.open_split(str(root), 'train'))
  assert sample(shutil.copytree(unparted, tmp_path / 'copy')) == sample(unparted)
  other = put(tmp_path / 'other', *sorted(paths(unparted, 'train')), seed=5)
  open_both = [sources.open_split(str(root), 'train') for root in (unparted, other)]
  assert open_both[0].contents == open_both[1].contents and sample(other) != sample(unparted)
  assert sample_of(sources.open_split('digits', 'train', data_dir)) == sample(f'{data_dir}/digits/1.0.0')
  assert sample_of(fake_source.FakeSource()) is None


# What every kind of source offers, and how another kind is added


def test_every_kind_of_source_keeps_to_the_protocol(unparted, data_dir, tmp_path):
  digits.Digits(data_dir=tmp_path / 'stream', file_format='tfrecord').download_and_prepare()
  folder = sources.open_split(str(unparted), 'train')
  kinds = [folder, subset.Subset.of(folder, 0.5), sources.open_split('digits', 'test', data_dir),
           sources.open_split('digits', 'test', str(tmp_path / 'stream')), sources.open_split('fake', 'train')]
  assert [type(kind).__name__ for kind in kinds] == ['FolderSource', 'Subset', 'TfdsByIndex', 'TfdsStream', 'FakeSource']
  for kind in kinds:
    assert isinstance(kind, source_protocol.Source), kind.name


class Grey:
  """Six grey images of 8 x 8 pixels, as a kind of source of its own."""
  name, num_examples, contents, order, class_names, fix = 'grey', 6, 'six', 'in any', ['even', 'odd'], 'Draw it anew'
  labels = {'label': ((), 'int32')}

  def parse(self, record, index):
    level = tf.strings.to_number(record, tf.int32)
    return tf.io.encode_png(tf.fill([8, 8, 3], tf.cast(level, tf.uint8))), {'label': level % 2}

  def locate(self, index):
    return f'image {index}'


class GreyByIndex(Grey, source_protocol.RandomAccessSource):
  def read(self, indices):
    return tf.strings.as_string(indices)


class GreyStream(Grey, source_protocol.StreamSource):
  layout = ()

  def records(self):
    return tf.data.Dataset.range(6).map(tf.strings.as_string)

  def stream(self, seed, start):
    return self.records().repeat().skip(start % 6)


@pytest.mark.parametrize('kind', [GreyByIndex, GreyStream])
def test_a_new_kind_of_source_is_a_class_and_its_opener(monkeypatch, kind):
  opener = lambda spec: kind() if spec.dataset == 'grey' else None
  monkeypatch.setattr(sources, 'OPENERS', (opener, *sources.OPENERS))
  fields = dict(dataset='grey', split='train', resolution=8, resize=8)
  for index in range(2):  # of two processes
    shard = process_shard.ProcessShard(index, 2, 1)
    scored = list(input_pipeline.eval_batches(**fields, batch_size=4, shard=shard))
    assert [batch['image'][0, :, 0, 0, 0].tolist() for batch in scored][0] == [2 * index, 2 * index + 1]
    assert [batch['mask'].tolist() for batch in scored] == [[[1, 1]], [[1 - index, 1 - index]]]
  trained = input_pipeline.train_batches(**fields, batch_size=6, seed=0, shard=process_shard.ProcessShard(0, 1, 1))
  for batch in itertools.islice(trained.start(5), 2):
    assert sorted(batch['image'][0, :, 0, 0, 0]) == list(range(6))
    assert (batch['label'] == batch['image'][..., 0, 0, 0] % 2).all()
