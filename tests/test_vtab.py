"""VTAB-1k: its table against TFDS's builders, its derived labels, and splits made of parts."""

import collections
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from configs import vtab
import input_pipeline
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer.data import sources
from mixer.data import vtab_labels

ROWS = [pytest.param(row, id=name) for name, row in vtab.TASKS.items()]

# The examples of each split (github.com/google-research/task_adaptation, its tests; TFDS), and the part of 'train'
# that VTAB trains on without a split to validate on.
SIZES = {
    'caltech101': dict(train=3060, test=6084), 'cifar100': dict(train=50_000, test=10_000),
    'dtd': dict(train=1880, validation=1880, test=1880),
    'oxford_flowers102': dict(train=1020, validation=1020, test=6149), 'oxford_iiit_pet': dict(train=3680, test=3669),
    'sun397/tfds': dict(train=76_128, validation=10_875, test=21_750), 'svhn_cropped': dict(train=73_257, test=26_032),
    'patch_camelyon': dict(train=262_144, validation=32_768, test=32_768), 'eurosat/rgb': dict(train=27_000),
    'resisc45': dict(train=31_500),
    'diabetic_retinopathy_detection/btgraham-300': dict(train=35_126, validation=10_906, test=42_670),
    'clevr': dict(train=70_000, validation=15_000, test=15_000),
    'dmlab': dict(train=65_550, validation=22_628, test=22_735), 'kitti': dict(train=6347, validation=423, test=711),
    'dsprites': dict(train=737_280), 'smallnorb': dict(train=24_300, test=24_300)}
PERCENT = {'caltech101': 90, 'cifar100': 90, 'oxford_iiit_pet': 80, 'svhn_cropped': 90, 'eurosat/rgb': 60,
           'resisc45': 60, 'clevr': 90, 'dsprites': 80}
# Of VTAB's paper, Table 2: the examples that are scored.
SCORED = dict(caltech101=6084, cifar100=10_000, dtd=1880, flowers102=6149, pets=3669, sun397=21_750, svhn=26_032,
              camelyon=32_768, eurosat=5400, resisc45=6300, retinopathy=42_670, clevr_count=15_000,
              clevr_distance=15_000, dmlab=22_735, kitti_distance=711, dsprites_location=73_728,
              dsprites_orientation=73_728, smallnorb_azimuth=12_150, smallnorb_elevation=12_150)


@pytest.fixture(scope='module')
def features(tmp_path_factory):
  """The features of TFDS's builder of a name; nothing is downloaded."""
  empty = tmp_path_factory.mktemp('empty')
  return lambda name: tfds.builder(name, data_dir=empty, try_gcs=False).info.features


def examples(dataset, split):
  """{(split's name, number)}: the examples that a split is made of."""
  sizes = {name: tfds.core.SplitInfo(name=name, shard_lengths=[number], num_bytes=0)
           for name, number in SIZES[dataset].items()}
  parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
  listed = [(part.splitname, k) for part in parts
            for k in range(part.from_ or 0, part.to or SIZES[dataset][part.splitname])]
  assert len(listed) == len(set(listed))
  return set(listed)


# The table


def test_there_are_19_tasks_in_three_groups():
  assert collections.Counter(row['group'] for row in vtab.TASKS.values()) == dict(
      natural=7, specialized=4, structured=8)
  assert len({(row['dataset'], row['label']) for row in vtab.TASKS.values()}) == 19


@pytest.mark.parametrize('row', ROWS)
def test_a_task_is_as_the_builder_of_tfds_says(row, features):
  has = features(row['dataset'])
  if row['label'] in has:
    assert has[row['label']].num_classes == row['num_classes']
  else:
    assert row['label'] in vtab_labels.possible(has)
    assert len(vtab_labels.LABELS[row['label']].class_names) == row['num_classes']
  height, width, _ = has['image'].shape
  # Where the builder leaves the size open, the images are photographs or renderings of several hundred pixels.
  assert row['size'] == ('small' if height and height * width < 96 * 96 else 'large')


@pytest.mark.parametrize('name', vtab.TASKS)
def test_1000_examples_train_and_no_other_split_has_any_of_those_scored(name):
  row = vtab.TASKS[name]
  train, dev_train, dev, test = (examples(row['dataset'], row[key]) for key in ('train', 'dev_train', 'dev', 'test'))
  assert (len(train), len(dev_train), len(dev)) == (1000, 800, 200)
  assert dev_train | dev == train and not train & test
  assert len(test) == SCORED[name]


@pytest.mark.parametrize('row', ROWS)
def test_the_200_follow_the_part_that_vtab_trains_on(row):
  first = min(examples(row['dataset'], row['dev']))
  percent = PERCENT.get(row['dataset'])
  assert first == (('train', SIZES[row['dataset']]['train'] * percent // 100) if percent else (first[0], 0))
  assert percent or first[0] != 'train'


# Derived labels


def scenes(number, seed=0):
  """Lists of 3 to 10 objects, some of them exactly at an edge, as CLEVR's and KITTI's features have them."""
  rng = np.random.default_rng(seed)
  edges = [8., 8.5, 9., 9.5, 10., 20.]
  distance = lambda: rng.choice([rng.choice(edges), rng.uniform(7, 12), rng.uniform(7, 30)], p=[.2, .4, .4])
  return [[dict(size=int(rng.integers(2)), type=int(rng.integers(8)), pixel_coords=[300., 200., distance()],
                location=[-20., 1., distance()]) for _ in range(rng.integers(3, 11))] for _ in range(number)]


def of_objects(objects):
  return {'objects': {key: tf.constant([thing[key] for thing in objects]) for key in objects[0]}}


def first_at_least(value, edges):
  for k, edge in enumerate(edges):
    if value <= edge:
      return k
  return len(edges)


def clevr_distance(objects):
  return first_at_least(min(thing['pixel_coords'][2] for thing in objects), [8, 8.5, 9, 9.5, 10])


def kitti_distance(objects):
  vehicles = [thing['location'][2] for thing in objects if thing['type'] in (0, 1, 2)]
  return first_at_least(min(vehicles), [8, 20]) if vehicles else 3


@pytest.mark.parametrize('label, expected', [
    ('clevr_count', lambda objects: len(objects) - 3), ('clevr_distance', clevr_distance),
    ('kitti_distance', kitti_distance)])
def test_labels_of_scenes_are_those_of_a_plain_loop(label, expected):
  made = [(int(vtab_labels.LABELS[label].make(of_objects(objects))), expected(objects)) for objects in scenes(150)]
  assert all(one == other for one, other in made)
  assert {one for one, _ in made} == set(range(len(vtab_labels.LABELS[label].class_names)))


def test_vehicles_are_cars_vans_and_trucks(features):
  assert features('kitti')['objects'].feature['type'].names[:3] == ['Car', 'Van', 'Truck']


@pytest.mark.parametrize('label, feature', [
    ('dsprites_location', 'label_x_position'), ('dsprites_orientation', 'label_orientation')])
def test_neighbouring_places_and_directions_share_one_of_16_classes(label, feature, features):
  number = features('dsprites')[feature].num_classes
  made = [int(vtab_labels.LABELS[label].make({feature: tf.constant(k, tf.int64)})) for k in range(number)]
  assert made == [math.floor(k / (number / 16)) for k in range(number)]
  assert sorted(set(made)) == list(range(16))


# Read from files


def scene(k, objects):
  """An example of CLEVR whose pixels tell its number."""
  keep = lambda thing: dict(
      size=thing['size'], pixel_coords=thing['pixel_coords'], color=0, material=0, shape=0, rotation=0.,
      **{'3d_coords': [0., 0., 0.]})
  return {'image': np.full((16, 16, 3), k, np.uint8), 'file_name': f'{k}.png', 'question_answer': [],
          'objects': [keep(thing) for thing in objects]}


@pytest.fixture(scope='module')
def clevr(features, tmp_path_factory):
  """{'array_record', 'tfrecord'}: copies of 100 scenes to train and 20 to validate, 3 bare, in 3 files each."""
  made = scenes(120)
  splits = {'train': [(k, scene(k, made[k])) for k in range(100)],
            'validation': [(k, scene(k, made[k])) for k in range(100, 120)],
            'test': [(k, scene(k, [])) for k in range(3)]}
  store = lambda file_format: tfds.dataset_builders.store_as_tfds_dataset(
      'clevr', '3.1.0', features('clevr'), splits, data_dir=tmp_path_factory.mktemp(file_format),
      file_format=file_format, download_config=tfds.download.DownloadConfig(num_shards=3))
  return {file_format: str(store(file_format).data_path) for file_format in ('array_record', 'tfrecord')}


def pixels_and_labels(source):
  """[(its number, its label)] of a source's examples, in order."""
  parsed = [source.parse(record, index) for index, record in source.in_order()]
  return [(int(preprocess.decode(image)[0, 0, 0]), int(labels['label'])) for image, labels in parsed]


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_a_split_made_of_parts_is_its_parts_one_after_the_other(clevr, file_format):
  read = lambda split: pixels_and_labels(sources.open_split(clevr[file_format], split, label='clevr_count'))
  train, validation = read('train'), read('validation')
  assert sorted(k for k, _ in train) == list(range(100))
  assert read('train[90:95]') == train[90:95]
  # Of one file twice, of several files, and of two splits.
  for first, second in ((slice(0, 5), slice(10, 15)), (slice(0, 50), slice(60, 99))):
    parts = f'train[:{first.stop}]+train[{second.start}:{second.stop}]'
    assert read(parts) == train[first] + train[second]
    assert read(f'{parts}+validation[:7]') == train[first] + train[second] + validation[:7]


def test_an_epoch_of_a_stream_of_parts_holds_each_example_once(clevr):
  parts = 'train[:50]+train[60:80]+validation[:7]'
  by_index, stream = (sources.open_split(clevr[kind], parts, label='clevr_count')
                      for kind in ('array_record', 'tfrecord'))
  assert stream.num_examples == 77
  seen = [stream.parse(record, -1)[0].numpy() for record in stream.stream(0, 0).take(77)]
  assert sorted(seen) == sorted(by_index.parse(record, -1)[0].numpy() for record in by_index.read(np.arange(77)))


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
@pytest.mark.parametrize('label, expected', [
    ('clevr_count', lambda objects: len(objects) - 3), ('clevr_distance', clevr_distance)])
def test_batches_have_the_derived_label_of_their_images(clevr, file_format, label, expected):
  fields = dict(dataset=clevr[file_format], label=label, resolution=16, shard=ProcessShard(0, 1, 1))
  train = input_pipeline.train_batches(split='train[:50]+train[60:80]', batch_size=70, seed=0, **fields)
  score = input_pipeline.eval_batches(split='validation', batch_size=20, **fields)
  made = scenes(120)
  for batch in (next(train.start(0)), next(iter(score))):
    assert [expected(made[k]) for k in batch['image'][0, :, 0, 0, 0]] == batch['label'][0].tolist()
  assert train.source.class_names == vtab_labels.LABELS[label].class_names


def test_only_what_a_label_is_made_of_is_parsed(clevr):
  read = sources.open_split(clevr['array_record'], 'train', label='clevr_count').features
  assert set(read) == {'image', 'objects'} and set(read['objects'].feature) == {'size'}


@pytest.mark.parametrize('label', ['clevr_count', 'clevr_distance'])
def test_a_scene_without_annotations_is_an_error(clevr, label):
  batches = input_pipeline.eval_batches(dataset=clevr['array_record'], split='test', label=label,
                                        batch_size=3, resolution=16, shard=ProcessShard(0, 1, 1))
  with pytest.raises(ValueError, match=f'none of the [68] classes of {label}; the split may lack annotations'):
    list(batches)


def test_an_unknown_label_is_shown_the_features_and_the_labels_made_of_them(clevr):
  with pytest.raises(ValueError, match="clevr/3.1.0 at .* has no feature 'count'; it has .*objects.*, of which these "
                                       'labels are made: clevr_count, clevr_distance$'):
    sources.open_split(clevr['array_record'], 'train', label='count')


def test_a_label_of_another_dataset_is_refused(clevr):
  with pytest.raises(ValueError, match="clevr/3.1.0 at .* has no feature 'kitti_distance'"):
    sources.open_split(clevr['array_record'], 'train', label='kitti_distance')


# Images of one channel


def stored_grey(name, features, pixels, tmp_path):
  """A copy of one example of dSprites or SmallNORB, all of whose labels are 0."""
  has = features(name)
  example = {key: pixels if key.startswith('image') else 0 for key in has}
  builder = tfds.dataset_builders.store_as_tfds_dataset(name, '2.0.0', has, {'train': [(0, example)]},
                                                        data_dir=tmp_path, file_format='array_record')
  return str(builder.data_path)


def decoded(directory, label):
  source = sources.open_split(directory, 'train', label=label)
  image, _ = source.parse(source.read([0])[0], 0)
  return preprocess.decode(image).numpy()


def test_grey_images_decode_to_three_equal_channels(features, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 1), np.uint8)
  directory = stored_grey('smallnorb', features, pixels, tmp_path)
  assert np.array_equal(decoded(directory, 'label_azimuth'), np.repeat(pixels, 3, axis=2))


@pytest.mark.parametrize('label', ['dsprites_location', 'label_shape'])
def test_dsprites_which_are_stored_as_0_and_1_are_black_and_white(label, features, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 2, (64, 64, 1), np.uint8)
  directory = stored_grey('dsprites', features, pixels, tmp_path)
  assert np.array_equal(decoded(directory, label), 255 * np.repeat(pixels, 3, axis=2))
