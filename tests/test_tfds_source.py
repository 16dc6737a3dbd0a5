"""Prepared copies: lists of classes and their weights, and tfrecord copies as streams."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import example_images
import input_pipeline
from mixer.data.builders import digits
from mixer.data import classes
from mixer.data.process_shard import ProcessShard
from mixer.data import read_errors
from mixer.data import sources
from mixer.data import tfds_builders
from mixer.data import tfds_source
import test_input_pipeline


class Lists(tfds.core.GeneratorBasedBuilder):
  """1,000 images whose pixels and labels tell their number, with 0 to 3 classes each, in several files."""
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, metadata=tfds.core.MetadataDict(max_labels=3, class_names=[f'class {k}' for k in range(10)]),
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'),
            'number': tfds.features.Scalar(np.int64),
            'label': tfds.features.Sequence(tfds.features.ClassLabel(num_classes=10)),
            'weight': tfds.features.Sequence(np.float32)}))

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for k in range(1000):
      classes = [k % 10, k // 10 % 10, k // 100][:k % 4]
      yield k, {'image': np.full((8, 8, 3), k % 251, np.uint8), 'number': k, 'label': classes,
                'weight': [0.5] * len(classes)}


def in_both_forms(kind, tmp_path_factory, num_shards: int) -> dict:
  """{'array_record', 'tfrecord'}: the directories of two copies of a kind of builder, each split in so many files."""
  directories = {}
  for file_format in ('array_record', 'tfrecord'):
    builder = kind(data_dir=tmp_path_factory.mktemp(file_format), file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    directories[file_format] = builder.data_path
  return directories


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
  """{'array_record', 'tfrecord'}: the directories of two copies in 7 files."""
  return {form: str(path) for form, path in in_both_forms(Lists, tmp_path_factory, 7).items()}


IMAGE = '"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"'


@pytest.mark.parametrize('root', ['data', 'ev[1]', 'a*?'])
@pytest.mark.parametrize('old, new', [
    (IMAGE, '"pythonClassName": "any_code.Image"'), (IMAGE, '"python_class_name": "any_code.Image"'),
    (None, '{"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence", "jsonFeature": {"json": '
           '"{\\"feature\\": {\\"type\\": \\"any_code.X\\", \\"content\\": {}}, \\"length\\": 1}"}}'),
    ('{', '{"type": "any_code.Image", "content": {}, '),
], ids=['named', 'named otherwise', 'in a string', 'as it once was'])
def test_a_copy_does_not_say_what_is_imported(copies, tmp_path, monkeypatch, old, new, root):
  (tmp_path / 'any_code.py').write_text('raise SystemExit')
  monkeypatch.syspath_prepend(tmp_path)
  copy = shutil.copytree(copies['array_record'], tmp_path / root / 'lists/1.0.0')
  features = (copy / 'features.json').read_text()
  assert old is None or old in features
  (copy / 'features.json').write_text(features.replace(old, new, 1) if old else new)
  for opened in (str(copy),), ('lists', str(tmp_path / root)):
    with pytest.raises(ValueError, match="/features.json names the class 'any_code.*others may run any code. Prepare"):
      sources.open_split(opened[0], 'train', *opened[1:])


@pytest.fixture
def evil(copies, tmp_path, monkeypatch):
  """A data_dir with copies whose features are of a module that leaves a mark when it is imported."""
  (tmp_path / 'any_code.py').write_text(f'open({str(tmp_path / "ran")!r}, "w").close()\nclass Image: pass')
  monkeypatch.syspath_prepend(tmp_path)
  for place in ('foods/1.0.0', 'foods/cfg/1.0.0', 'digits/1.0.0', 'away/deep/1.0.0'):
    copy = shutil.copytree(copies['array_record'], tmp_path / 'data' / place)
    features = (copy / 'features.json').read_text().replace(IMAGE, '"pythonClassName": "any_code.Image"')
    (copy / 'features.json').write_text(features)
  (tmp_path / 'data/good').mkdir()
  yield tmp_path / 'data'
  assert not sys.modules.pop('any_code', None) and not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('name', ['foods', 'foods:1.0.0', 'foods:1.*.*', 'foods:*.*.*', 'foods/cfg', 'foods/cfg:1.0.0',
                                  'Foods', 'Foods:1.0.0', 'FOODS/cfg:1.0.0', 'digits', 'digits:1.0.0', 'Digits:1.0.0'])
def test_no_form_of_a_name_passes_the_check(evil, name):
  with pytest.raises(ValueError, match='/features.json names the class .any_code.Image., and only those of tensorflow'):
    sources.open_split(name, 'train', str(evil))


@pytest.mark.parametrize('name', [
    'good/../foods:1.0.0', 'good/..:1.0.0', 'good/.:1.0.0', 'foods/cfg/1.0.0', 'away/deep/1.0.0', '/foods:1.0.0',
    '../data/foods', 'huggingface:foods', 'ns:foods/cfg', 'foods:1', 'foods:1.0.0 ', 'foods:1.0.0\n', 'foods[1]',
    'foods:1.0.0/file_format=array_record', 'good/config=..', 'good/version=1.0.0', 'good/data_dir=evil', 'a b', '1foods'])
def test_what_is_no_name_is_refused_in_a_line(evil, name):
  with pytest.raises(ValueError, match='is neither an existing directory nor a ') as refused:
    tfds_builders.builder(name, str(evil))
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('default', ['../away/deep', '../foods', '..', 'a/b', '/etc', 1, ''])
def test_a_default_config_leads_nowhere_else(evil, default):
  (evil / 'good/.config').mkdir()
  (evil / 'good/.config/metadata.json').write_text(json.dumps({'default_config_name': default}))
  with pytest.raises(ValueError, match='metadata.json: default_config_name is .*; it must be the name of a folder in'):
    sources.open_split('good', 'train', str(evil))


@pytest.mark.parametrize('name', ['own_lists', 'own_lists:1.0.0', 'own_lists:1.*.*', 'OwnLists:1.0.0'])
def test_forms_of_a_name_that_are_read(copies, tmp_path, name):
  shutil.copytree(copies['array_record'], tmp_path / 'own_lists/1.0.0')
  assert sources.open_split(name, 'train', str(tmp_path), label='number').num_examples == 1000


def test_a_copy_without_features_that_were_checked_is_refused(copies, tmp_path):
  copy = shutil.copytree(copies['array_record'], tmp_path / 'ev[1]/lists/1.0.0')
  assert sources.open_split(str(copy), 'train', label='number').num_examples == 1000
  assert len(list(evaluation(str(copy), label='number'))) == 16
  (copy / 'features.json').unlink()
  with pytest.raises(ValueError, match=r'ev\[1\]/lists/1.0.0/features.json is missing, which says how'):
    sources.open_split(str(copy), 'train')


@pytest.mark.parametrize('template', ['../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}', '/etc/{SPLIT}'])
def test_the_files_of_a_copy_lie_in_it(copies, tmp_path, template):
  copy = shutil.copytree(copies['array_record'], tmp_path / 'lists/1.0.0')
  info = json.loads((copy / 'dataset_info.json').read_text())
  info['splits'][0]['filepathTemplate'] = template
  (copy / 'dataset_info.json').write_text(json.dumps(info))
  for file in copy.glob('*.array_record*'):
    shutil.copy(file, copy.parent)
  with pytest.raises(ValueError, match=f'does not lie below {copy}'):
    sources.open_split(str(copy), 'train')


def test_a_copy_may_lie_in_a_relative_folder(copies, tmp_path, monkeypatch):
  shutil.copytree(copies['array_record'], tmp_path / 'lists/1.0.0')
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  assert sources.open_split('lists', 'train', '..', 'number').num_examples == 1000
  monkeypatch.chdir(tmp_path)
  assert sources.open_split('./lists/1.0.0', 'train', label='number').num_examples == 1000


def train(directory, shard=ProcessShard(0, 1, 1), **fields):
  return input_pipeline.train_batches(**{
      'dataset': directory, 'split': 'train', 'batch_size': 100, 'resolution': 8, 'seed': 0, 'min_area': 0.5,
      'flip': False, 'label': 'number', 'shard': shard, **fields})


def evaluation(directory, shard=ProcessShard(0, 1, 1), **fields):
  return input_pipeline.eval_batches(**{'dataset': directory, 'split': 'train', 'batch_size': 64,
                                        'resolution': 8, 'resize': 8, 'shard': shard, **fields})


def numbers(batches, start, count):
  return np.concatenate([batch['label'].ravel() for batch in itertools.islice(batches.start(start), count)])


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_lists_of_classes_are_padded_and_carry_their_weights(copies, file_format):
  batches = evaluation(copies[file_format])
  assert batches.source.class_names[3] == 'class 3'
  assert batches.source.labels == {'label': ((3,), 'int32'), 'weight': ((3,), 'float32')}
  got = [(batch, mask) for batch in batches for mask in [batch['mask'].ravel() > 0]]
  assert all(batch['label'].shape == (1, 64, 3) for batch, _ in got)
  labels, weights = (np.concatenate([batch[key][0][mask] for batch, mask in got]) for key in ('label', 'weight'))
  assert ((labels >= 0) * 0.5 == weights).all()
  expected = [([k % 10, k // 10 % 10, k // 100][:k % 4] + [-1] * 3)[:3] for k in range(1000)]
  assert sorted(map(tuple, labels)) == sorted(map(tuple, expected))


def test_training_batches_have_the_shapes_that_they_announce(copies):
  batches = train(copies['array_record'], label='label')
  batch = next(batches.start(0))
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
      name: (x.shape, x.dtype) for name, x in batches.shapes.items()}
  assert set(batch) == {'image', 'label', 'weight'}


def test_more_classes_than_said_is_an_error(copies):
  with pytest.raises(Exception, match='has more classes than max_labels, 2'):
    list(evaluation(copies['array_record'], max_labels=2))


def test_a_list_of_unknown_length_wants_max_labels(tmp_path):
  class Unsaid(Lists):
    def _info(self):
      info = super()._info()
      return tfds.core.DatasetInfo(builder=self, features=info.features)
  builder = Unsaid(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  with pytest.raises(ValueError, match="feature 'label' of unsaid/1.0.0 .* is a list of classes; set max_labels"):
    sources.open_split(str(builder.data_path), 'train')
  assert sources.open_split(str(builder.data_path), 'train', max_labels=4).labels['label'] == ((4,), 'int32')


# Streams


def test_each_epoch_of_a_stream_holds_each_example_once_in_an_order_of_its_own(copies):
  batches = train(copies['tfrecord'])
  assert isinstance(batches.source, tfds_source.TfdsStream) and batches.source.order.startswith('a stream: tfrecord')
  epochs = numbers(batches, 0, 30).reshape(3, 1000)
  for epoch in epochs:
    assert sorted(epoch) == list(range(1000))
  assert max(np.mean(epochs[i] == epochs[j]) for i, j in ((0, 1), (0, 2), (1, 2))) < 0.02
  assert np.mean(numbers(train(copies['tfrecord'], seed=1), 0, 10) == epochs[0]) < 0.02


def test_files_of_a_stream_come_in_another_order_each_epoch(copies, monkeypatch):
  monkeypatch.setattr(tfds_source, 'SHUFFLE_BUFFER', 1)
  monkeypatch.setattr(tfds_source, 'FILES_AT_ONCE', 2)
  first, second = numbers(train(copies['tfrecord']), 0, 20).reshape(2, 1000)
  assert sorted(first) == sorted(second) == list(range(1000)) and list(first) != list(second)


@pytest.mark.parametrize('step', [3, 17])
def test_a_stream_goes_on_at_the_exact_example_and_with_the_same_augmentation(copies, step):
  batches = train(copies['tfrecord'])
  whole, later = (list(itertools.islice(batches.start(start), number)) for start, number in ((0, step + 2), (step, 2)))
  for one, other in zip(whole[step:], later, strict=True):
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_parts_of_two_processes_make_up_the_stream(copies):
  whole = numbers(train(copies['tfrecord']), 7, 5).reshape(5, 100)
  parts = [numbers(train(copies['tfrecord'], ProcessShard(k, 2, 1)), 7, 5).reshape(5, 50) for k in range(2)]
  assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_a_part_of_a_split_as_a_stream(copies):
  by_index, stream = (sources.open_split(copies[kind], 'train[20%:50%]', label='number')
                      for kind in ('array_record', 'tfrecord'))
  assert by_index.num_examples == stream.num_examples == 300
  of_stream = [int(stream.parse(record, -1)[1]['label']) for record in stream.records()]
  of_index = [int(by_index.parse(record, -1)[1]['label']) for record in by_index.read(np.arange(300))]
  assert of_stream == of_index


@pytest.mark.parametrize('count', [1, 2])
def test_evaluating_a_stream_scores_each_example_once(copies, count):
  seen = []
  for k in range(count):
    batches = evaluation(copies['tfrecord'], ProcessShard(k, count, 1), label='number')
    assert len(list(batches)) == len(batches) == 16
    seen += [int(x) for batch in batches for x in batch['label'][batch['mask'] > 0]]
  assert sorted(seen) == list(range(1000))


def test_a_part_by_content_of_a_stream_is_refused(copies):
  with pytest.raises(ValueError, match='^fraction is 0.1, and lists.* cannot be read by index. Rewrite it'):
    train(copies['tfrecord'], fraction=0.1)


def test_a_tfrecord_copy_is_found_by_its_name_too(tmp_path):
  digits.Digits(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
  assert isinstance(sources.open_split('digits', 'test', str(tmp_path)), tfds_source.TfdsStream)


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_a_copy_that_lacks_a_file_is_refused(copies, tmp_path, file_format):
  copy = shutil.copytree(copies[file_format], tmp_path / 'copy')
  gone = sorted(copy.glob('*record-*'))[3]
  gone.unlink()
  with pytest.raises(ValueError, match=f'lists/1.0.0 at .* is not whole: its file .*{gone.name} is missing'):
    sources.open_split(str(copy), 'train')


@pytest.mark.slow
def test_memory_of_a_stream_does_not_grow_over_a_thousand_batches(copies):
  batches = train(copies['tfrecord'], batch_size=16, resolution=64).start(0)
  assert test_input_pipeline.growth(batches) < 60  # the 1,000 batches hold 187


# Labels that are none of the model's classes


class FromOne(tfds.core.GeneratorBasedBuilder):
  """40 images whose labels are 1 to 4, under several names and types."""
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'), 'label': tfds.features.Scalar(np.int64),
        'negative': tfds.features.Scalar(np.int64), 'large': tfds.features.Scalar(np.int64),
        'several': tfds.features.Sequence(np.int64), 'one_hot': tfds.features.Tensor(shape=(4,), dtype=np.float32),
        'text': tfds.features.Text()}))

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for k in range(40):
      label = k % 4 + 1
      yield k, {'image': np.full((8, 8, 3), k, np.uint8), 'label': label, 'negative': label - 2, 'several': [0, -1, label],
                'large': 2**32, 'one_hot': np.eye(4, dtype=np.float32)[k % 4], 'text': 'blue'}


@pytest.fixture(scope='module')
def from_one(tmp_path_factory):
  """{'array_record', 'tfrecord'}: the directories of two copies."""
  directories = {}
  for file_format in ('array_record', 'tfrecord'):
    builder = FromOne(data_dir=tmp_path_factory.mktemp(file_format), file_format=file_format)
    builder.download_and_prepare()
    directories[file_format] = str(builder.data_path)
  return directories


@pytest.mark.slow
@pytest.mark.parametrize('label, said', [('label', 4), ('negative', -1), ('several', 4), ('large', 2**31 - 1)])
@pytest.mark.parametrize('file_format, where', [('array_record', r'example \d+'), ('tfrecord', r'an example')])
def test_a_label_that_is_none_of_the_classes_is_an_error(from_one, file_format, where, label, said):
  fields = dict(label=label, max_labels=3, batch_size=4)
  message = rf'cannot use {where}.* of from_?one/1.0.0 at .*, split train(, \d+ batches after the start)?: its label is ' \
            rf'{said} and the 4 classes are numbered 0 to 3. Number the labels from 0, or raise --config.model.num_classes'
  with pytest.raises(ValueError, match=message):
    list(itertools.islice(train(from_one[file_format], num_classes=4, **fields).start(0), 10))
  with pytest.raises(ValueError, match=message):
    list(evaluation(from_one[file_format], model_classes=classes.ModelClasses(4), **fields))


def test_labels_of_all_classes_and_of_five_are_taken(from_one):
  batches = evaluation(from_one['array_record'], model_classes=classes.ModelClasses(5), batch_size=40)
  assert sorted(np.concatenate([batch['label'].ravel() for batch in batches])) == sorted(10 * [1, 2, 3, 4])


@pytest.mark.parametrize('label', ['one_hot', 'text'])
def test_a_label_that_is_no_integer_is_refused(from_one, label):
  with pytest.raises(ValueError, match=f"feature '{label}' of from_?one/1.0.0 at .*; a label is an integer, or a list of integers"):
    sources.open_split(from_one['array_record'], 'train', label=label)


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_all_bad_examples_are_named_with_the_fix(from_one, file_format):
  batches = train(from_one[file_format], num_classes=4, label='label')
  tried = list(read_errors.bad_examples(batches.source, batches.decoded, 2))
  bad = [each for each in tried if each]
  assert len(tried) == 40 and len(bad) == 10
  assert 'its label is 4 and the 4 classes' in bad[0][0] and bad[0][1].startswith('Number the labels from 0')


def test_a_damaged_file_of_records_does_not_hide_the_other_examples(from_one, tmp_path):
  copy = shutil.copytree(from_one['tfrecord'], tmp_path / 'copy')
  file, = copy.glob('*tfrecord-*')
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 255
  file.write_bytes(data)
  batches = train(str(copy), num_classes=5, label='label')
  tried = list(read_errors.bad_examples(batches.source, batches.decoded, 2))
  assert len(tried) == 40 and tried[0] is None and 'corrupted record' in tried[-1][0]


def test_what_is_decoded_to_find_bad_files_is_decoded_whole(tmp_path):
  """A PNG whose header is whole, and pixels are not: TensorFlow leaves out what nothing uses."""
  path = tmp_path / 'train/a/0.png'
  path.parent.mkdir(parents=True)
  path.write_bytes(example_images.file('png')[:40])
  batches = input_pipeline.train_batches(dataset=str(tmp_path), split='train', batch_size=1, resolution=8, seed=0,
                                         shard=ProcessShard(0, 1, 1))
  (bad, fix), = read_errors.bad_examples(batches.source, batches.decoded, 2)
  assert bad.startswith(f'cannot decode {path}: ') and fix.startswith('Repair the file or put a good image under its name')


def test_the_order_of_features_in_a_record_does_not_matter():
  feature = lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
  parts = [tf.train.Features(feature={name: feature(value)}).SerializeToString() for name, value in (('a', 1), ('b', 2))]
  raw = [b'\n' + bytes([len(b''.join(parts))]) + b''.join(order) for order in (parts, parts[::-1])]
  assert raw[0] != raw[1]
  assert len({tfds_source.TfdsByIndex.canonical(record) for record in raw}) == 1
  assert tfds_source.TfdsByIndex.canonical(b'no example') == b'no example'
