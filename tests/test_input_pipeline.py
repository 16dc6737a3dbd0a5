import itertools

import jax
import ml_collections
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow as tf

import example_images
import input_pipeline
from mixer import configuration
from mixer.data import autoaugment
from mixer.data.batches import TrainBatches
from mixer.data.builders import digits
from mixer.data import fake_source
from mixer.data import image_paths
from mixer.data import prefetch
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer.data import randaugment
from mixer.data import tf_reading
from mixer.data import tfds_source
from tools import export


def train(data_dir, shard=ProcessShard(0, 1, 1), **fields):
  return input_pipeline.train_batches(**{
      'dataset': 'digits', 'split': 'train', 'batch_size': 100, 'resolution': 8, 'seed': 0, 'data_dir': data_dir,
      'min_area': 0.5, 'shard': shard, **fields})


def evaluation(data_dir, shard=ProcessShard(0, 1, 1), **fields):
  return input_pipeline.eval_batches(**{'dataset': 'digits', 'split': 'test', 'batch_size': 100, 'resolution': 8, 'resize': 8, 'data_dir': data_dir,
      'shard': shard, **fields})


def take(batches, number, start=0):
  return list(itertools.islice(batches.start(start), number))


def equal(one, other):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), one, other))


def test_each_epoch_is_a_permutation_and_no_two_are_alike(data_dir):
  batches = train(data_dir)
  number = batches.source.num_examples
  epochs = [batches.index(np.arange(number * k, number * (k + 1))).numpy() for k in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(number))
  agree = [np.mean(epochs[i] == epochs[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
  assert max(agree) < 0.01
  assert not np.array_equal(epochs[0], train(data_dir, seed=1).index(np.arange(number)).numpy())


def test_neighbours_in_the_order_lie_at_all_distances(data_dir):
  """Four rounds of the cipher, TensorFlow's default, give a chi2 of thousands here."""
  number = 1_281_167
  source = fake_source.FakeSource()
  order = TrainBatches(source, 1, 8, 0, ProcessShard(0, 1, 1), None, 1).index(np.arange(65_536)).numpy()
  counts = np.bincount(np.diff(order) % number * 256 // number, minlength=256)
  expected = counts.sum() / 256
  assert ((counts - expected)**2 / expected).sum() < 400  # 255 degrees of freedom: 346 at p = 0.0001


def test_labels_of_an_epoch_are_the_dataset(data_dir):
  batches = train(data_dir, batch_size=479)  # three batches are an epoch of 1,437
  labels = np.concatenate([batch['label'].ravel() for batch in take(batches, 3)])
  expected = sklearn.datasets.load_digits().target[digits.split_indices()[0]]
  assert np.array_equal(np.bincount(labels), np.bincount(expected))


def test_starting_at_a_step_gives_what_reading_up_to_it_gives(data_dir):
  batches = train(data_dir)
  assert equal(take(batches, 2, start=20), take(batches, 22)[20:])


def test_a_start_far_away_replays_nothing(data_dir):
  batch, = take(train(data_dir), 1, start=10_000_000)
  assert batch['image'].shape == (1, 100, 8, 8, 3)


def test_batches_are_the_same_for_any_number_of_threads(data_dir):
  assert equal(take(train(data_dir, threads=1), 3), take(train(data_dir, threads=7), 3))


def test_processes_and_devices_share_out_the_batches_of_one(data_dir):
  whole = take(train(data_dir), 3)
  parts = [take(train(data_dir, ProcessShard(index, 2, 5)), 3) for index in range(2)]
  for k in range(3):
    joined = {name: np.concatenate([part[k][name].reshape(-1, *part[k][name].shape[2:]) for part in parts])
              for name in ('image', 'label')}
    assert parts[0][k]['image'].shape == (5, 10, 8, 8, 3)
    assert equal(joined, {name: x[0] for name, x in whole[k].items()})


def test_a_process_reads_only_its_part(data_dir, monkeypatch):
  read = []
  original = tfds_source.TfdsByIndex.read
  def spy(self, indices):
    tf.py_function(lambda i: read.extend(i.numpy().tolist()), [indices], [])
    return original(self, indices)
  monkeypatch.setattr(tfds_source.TfdsByIndex, 'read', spy)
  monkeypatch.setattr(tf_reading, 'READ_AT_ONCE', 32)
  next(train(data_dir, ProcessShard(1, 2, 1), batch_size=128, threads=1).start(0))
  part = lambda index: {int(i) for k in range(11) for i in train(data_dir, batch_size=128).index(
      ProcessShard(index, 2, 1).positions(128, k)).numpy()}  # 11 batches are not yet an epoch
  assert len(read) >= 32 and set(read) <= part(1) and not set(read) & part(0)


def test_augmentation_differs_between_epochs_and_seeds(data_dir):
  def epoch(seed, number):
    """The augmented images of an epoch, in the order of the dataset."""
    batches = train(data_dir, seed=seed, batch_size=1437)
    batch, = take(batches, 1, start=number)
    return batch['image'][0][np.argsort(batches.index(np.arange(1437) + 1437 * number).numpy())]
  alike = lambda one, other: np.mean((one == other).all(axis=(1, 2, 3)))
  first = epoch(0, 0)
  assert alike(first, epoch(0, 0)) == 1
  # On 8 x 8 pixels few crops differ, so some agree by chance.
  assert alike(first, epoch(0, 1)) < 0.1 and alike(first, epoch(1, 0)) < 0.1


@pytest.mark.parametrize('batch_size, processes', [(100, 1), (360, 1), (7, 1), (512, 1), (40, 2)])
def test_evaluation_sees_each_example_once(data_dir, batch_size, processes):
  seen = []
  for index in range(processes):
    batches = evaluation(data_dir, ProcessShard(index, processes, 1), batch_size=batch_size)
    got = list(batches)
    assert len(got) == len(batches) == -(-360 // batch_size)
    for batch in got:
      seen += [(label, image.tobytes()) for image, label, mask in zip(*(
          batch[name].reshape(-1, *batch[name].shape[2:]) for name in ('image', 'label', 'mask'))) if mask]
  reference, = list(evaluation(data_dir, batch_size=360))
  assert sorted(seen) == sorted((label, image.tobytes()) for image, label in zip(reference['image'][0],
                                                                                reference['label'][0]))


def test_evaluation_pixels_are_those_of_the_files(data_dir):
  batch, = list(evaluation(data_dir, batch_size=360))
  values = {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in sklearn.datasets.load_digits().images}
  assert all(image[:, :, 0].tobytes() in values for image in batch['image'][0])


def test_a_batch_that_the_devices_do_not_divide_is_refused(data_dir):
  with pytest.raises(ValueError, match=r'^batch_size is 100; it must be a multiple of the 8 devices '
                                       r'\(96 or 104\)'):
    train(data_dir, ProcessShard(0, 1, 8))
  with pytest.raises(ValueError, match=r'^batch_size is 5; .* the 8 devices \(8\)'):
    evaluation(data_dir, ProcessShard(0, 2, 4), batch_size=5)


@pytest.mark.parametrize('field, values, allowed', [
    ('threads', (-5, 0, 1025), 'at least 1 and at most 1024'), ('resolution', (-8, 0, 10**6), 'at least 1 and at most 8192'),
    ('resize', (-1, 0, 10**6), 'at least 1 and at most 8192'), ('permutation_patch', (-2, 0), 'at least 1 and at most 8192'),
    ('permutation_seed', (-1, 2**64), r'at least 0 and at most 2\*\*63 - 1'),
    ('max_labels', (-1, 0), 'at least 1 and at most 100000'), ('pad', (-1, 10**6), 'at least 0 and at most 8192'),
    ('randaugment_magnitude', (-0.5, np.nan, np.inf), '.*at least 0 and at most 100'),
    ('randaugment_layers', (-1, 101), 'at least 0 and at most 100'),
    ('randaugment_translate', (-1., 8193., np.nan), '.*at least 0 and at most 8192'),
    ('randaugment_cutout', (-1., 8193.), 'at least 0 and at most 8192'), ('cutout', (0, -1, 8193), 'at least 1 and at most 8192'),
    ('random_erasing', (-0.1, 1.1, np.nan), '.*at least 0 and at most 1'),
    ('min_area', (-0.1, 0., 1.1, np.nan), '.*above 0 and at most 1'),
    ('fraction', (-0.1, 0., 1.1, np.nan, 1e-9), 'above 0, at most 1'),
    ('batch_size', (-8, 0), r'a multiple of the 1 devices \(1\)'),
])
def test_a_number_out_of_its_limits_is_named_with_what_is_allowed(data_dir, field, values, allowed):
  for value in values:
    with pytest.raises(ValueError, match=rf'^(config\.data\.)?{field} is {value}; it must be {allowed}'):
      train(data_dir, **{'min_area': None, field: value})
    if field in ('threads', 'resolution', 'resize', 'permutation_patch', 'permutation_seed', 'max_labels', 'batch_size'):
      with pytest.raises(ValueError, match=rf'^(config\.evals\.test\.)?{field} is {value}; it must be {allowed}'):
        evaluation(data_dir, **{field: value})


def test_the_config_says_of_which_section_such_a_number_is(data_dir):
  section = dict(dataset='digits', split='test', data_dir=data_dir, batch_size=8, resolution=8, threads=-5)
  with pytest.raises(ValueError, match='^config.evals.test.threads is -5; it must be at least 1 and at most 1024'):
    configuration.instantiate(input_pipeline.eval_batches, 'evals.test', section, shard=ProcessShard(0, 1, 1))


def test_a_seed_that_has_more_than_64_bits_is_named(data_dir):
  with pytest.raises(ValueError, match=r'^config.seed is 18446744073709551616; it must be at least -2\*\*63 and at most'):
    train(data_dir, seed=2**64)


def test_a_class_count_that_does_not_fit_is_refused(data_dir):
  with pytest.raises(ValueError, match=r"num_classes\) is 7, and that of digits.* is 10: '0', '1', .* Set --config.model.num_classes=10"):
    train(data_dir, num_classes=7)


def test_a_crop_larger_than_the_resized_image_is_refused(data_dir):
  with pytest.raises(ValueError, match='resize is 6, smaller than the crop: resolution is 8'):
    evaluation(data_dir, resize=6)
  with pytest.raises(ValueError, match="crop is 'middle'; it must be one of 'paper_resize', 'paper_crop'"):
    evaluation(data_dir, crop='middle')


@pytest.mark.parametrize('content', [b'', b'no image at all', 'truncated'])
def test_a_broken_file_is_named(tmp_path, content):
  for k in range(6):
    path = tmp_path / f'train/class/{k}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((9, 9, 3), k, np.uint8)).save(path)
  broken = tmp_path / 'train/class/3.png'
  broken.write_bytes(broken.read_bytes()[:40] if content == 'truncated' else content)
  fields = dict(dataset=str(tmp_path), split='train', batch_size=2, resolution=8, shard=ProcessShard(0, 1, 1))
  with pytest.raises(ValueError, match=r'cannot decode .*/train/class/3.png: .* Repair the file or put a good image under'):
    list(itertools.islice(input_pipeline.train_batches(**fields, seed=0).start(0), 4))
  with pytest.raises(ValueError, match=r'cannot decode .*/train/class/3.png'):
    list(input_pipeline.eval_batches(**fields))


@pytest.mark.slow
@pytest.mark.parametrize('kind', example_images.KINDS)
def test_an_image_that_claims_too_many_pixels_is_named(tmp_path, kind):
  for k in range(4):
    path = tmp_path / f'train/class/{k}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example_images.claiming(kind, 16_000, 16_000) if k == 3 else example_images.file(kind))
  fields = dict(dataset=str(tmp_path), split='train', batch_size=2, resolution=8, shard=ProcessShard(0, 1, 1))
  message = r'cannot decode .*/train/class/3.png: its header claims 256000000 pixels; the limit is 80,000,000. Re'
  for training in ({}, dict(pad=1), dict(resize=9), dict(resize=9, pad=1)):
    with pytest.raises(ValueError, match=message):
      take(input_pipeline.train_batches(**fields, **training, seed=0), 2)
  with pytest.raises(ValueError, match=message):
    list(input_pipeline.eval_batches(**fields))


def test_a_strip_is_named_by_an_evaluation_that_keeps_its_shape(tmp_path):
  path = tmp_path / 'test/class/strip.png'
  path.parent.mkdir(parents=True)
  path.write_bytes(example_images.file('png', np.zeros((1, 51, 3), np.uint8)))
  fields = dict(dataset=str(tmp_path), split='test', batch_size=2, resolution=8,
                shard=ProcessShard(0, 1, 1))
  assert len(list(input_pipeline.eval_batches(**fields))) == 1
  with pytest.raises(ValueError, match=r'cannot decode .*/strip.png: 51 x 1 pixels; the limit of a crop that keeps the shape is sides of 50 to 1'):
    list(input_pipeline.eval_batches(**fields, crop='paper_crop'))


def test_fake_images_need_no_files():
  shard = ProcessShard(0, 1, 2)
  batches = input_pipeline.train_batches(dataset='fake', split='train', batch_size=8, resolution=16, seed=0,
                                         shard=shard)
  batch = next(batches.start(3))
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
      name: (x.shape, x.dtype) for name, x in batches.shapes.items()}
  scored = input_pipeline.eval_batches(dataset='fake', split='test', batch_size=1_000_000, resolution=1,
                                       shard=shard)
  assert sum(batch['mask'].sum() for batch in scored) == 1_281_167


def test_shapes_are_those_of_the_batches(data_dir):
  batches = train(data_dir, ProcessShard(0, 1, 4))
  batch, = take(batches, 1)
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
      name: (x.shape, x.dtype) for name, x in batches.shapes.items()}


def test_prefetch_keeps_the_order_and_lays_out_over_the_devices(data_dir):
  batches = train(data_dir, ProcessShard.current(), batch_size=80)
  host = take(batches, 3)
  device = list(prefetch.prefetch_to_device(itertools.islice(batches.start(0), 3)))
  assert equal(host, [jax.device_get(batch) for batch in device])
  assert len(device[0]['image'].sharding.device_set) == 8


def test_randaugment_is_applied_and_depends_on_the_seed_and_the_position_alone(data_dir):
  plain, augmented = train(data_dir), train(data_dir, randaugment_magnitude=10., threads=1)
  one, = take(augmented, 1, start=5)
  assert np.mean(one['image'] == take(plain, 1, start=5)[0]['image']) < 0.9
  assert equal([one], take(train(data_dir, randaugment_magnitude=10., threads=5), 6)[5:])
  parts = [take(train(data_dir, ProcessShard(k, 2, 1), randaugment_magnitude=10.), 1, start=5)[0]['image'][0] for k in range(2)]
  assert np.array_equal(np.concatenate(parts), one['image'][0])
  assert not equal([one], take(train(data_dir, randaugment_magnitude=20.), 1, start=5))
  assert not equal([one], take(train(data_dir, randaugment_magnitude=10., randaugment_layers=1), 1, start=5))


def test_the_sizes_of_randaugment_reach_it(data_dir):
  fields = dict(randaugment_magnitude=10., randaugment_layers=4)
  one, = take(train(data_dir, **fields), 1)
  assert equal([one], take(train(data_dir, **fields, randaugment_translate=100., randaugment_cutout=40.), 1))
  for sizes in (dict(translate=1.), dict(cutout=1.)):
    expected = [randaugment.apply(image, np.array([0, k]), 4, 10., **sizes)
                for k, image in enumerate(take(train(data_dir), 1)[0]['image'][0])]
    got, = take(train(data_dir, **fields, **{f'randaugment_{name}': size for name, size in sizes.items()}), 1)
    assert np.array_equal(got['image'][0], expected) and not equal([one], [got])


def test_cutout_comes_last_and_draws_by_itself(data_dir):
  for fields in ({}, dict(autoaugment='cifar10')):
    (plain,), (cut,) = (take(train(data_dir, **fields, **more), 1) for more in ({}, dict(cutout=4)))
    changed = (cut['image'] != plain['image']).any(-1)[0]
    assert (cut['image'][0][changed] == 128).all() and changed.sum() > 500
    assert len({mask.tobytes() for mask in changed}) > 30
  assert equal([cut], take(train(data_dir, autoaugment='cifar10', cutout=4, threads=1), 1))


def test_autoaugment_comes_after_crop_and_flip_and_depends_on_the_seed_and_the_position_alone(data_dir):
  one, = take(train(data_dir, autoaugment='cifar10', threads=1), 1, start=5)
  assert equal([one], take(train(data_dir, autoaugment='cifar10', threads=5), 6)[5:])
  plain, = take(train(data_dir), 1, start=5)
  expected = [autoaugment.apply(image, np.array([0, position]), autoaugment.CIFAR10)
              for position, image in enumerate(plain['image'][0], 500)]
  assert np.array_equal(one['image'][0], expected) and np.mean(one['image'] == plain['image']) < 0.9


def test_augmentations_that_exclude_each_other_or_do_not_exist_are_refused(data_dir):
  with pytest.raises(ValueError, match="^autoaugment is 'cifar10', and randaugment_magnitude is 9.0; set one of them to None"):
    train(data_dir, autoaugment='cifar10', randaugment_magnitude=9.)
  with pytest.raises(ValueError, match="^autoaugment is 'svhn'; it must be one of 'cifar10'"):
    train(data_dir, autoaugment='svhn')


def test_random_erasing_comes_last_but_for_a_permutation_and_disturbs_no_other_draw(data_dir):
  fields = dict(randaugment_magnitude=10., flip=True)
  plain, = take(train(data_dir, **fields), 1, start=5)
  assert equal([plain], take(train(data_dir, **fields, random_erasing=0.), 1, start=5))
  fields['random_erasing'] = 0.6
  one, = take(train(data_dir, **fields, threads=1), 1, start=5)
  erased = (one['image'] != plain['image']).any(-1)[0]
  assert 0 < erased.any((1, 2)).mean() < 1
  for mask in erased:
    box = np.outer(mask.any(1), mask.any(0))
    assert (mask == box).all() and box.mean() < 0.5
  assert equal([one], take(train(data_dir, **fields, threads=5), 6)[5:])
  parts = [take(train(data_dir, ProcessShard(k, 2, 1), **fields), 1, start=5)[0]['image'][0] for k in range(2)]
  assert np.array_equal(np.concatenate(parts), one['image'][0])
  permuted = train(data_dir, **fields, permutation='pixels')
  pixels = lambda batch: batch['image'].reshape(-1, 64, 3)
  assert np.array_equal(pixels(take(permuted, 1, start=5)[0]), pixels(one)[:, permuted.permutation])


def test_each_transform_of_an_image_has_a_seed_of_its_own(monkeypatch):
  seeds = []
  record = lambda image, *side, seed=None, **_: seeds.append(tuple(np.asarray(side[-1] if side else seed))) or image
  for name in ('flip', 'cutout'):
    monkeypatch.setattr(input_pipeline.preprocess, name, record)
  augmentation = input_pipeline.Augmentation(record, 8, True, record, 4, record)
  augmentation(np.zeros((8, 8, 3), np.uint8), np.array([3, 14]))
  assert len(set(seeds)) == len(seeds) == 5 and seeds[2] == (3, 14)


def test_all_datasets_that_are_missing_are_named_at_once(data_dir):
  section = lambda **fields: dict(dataset='digits', split='train', batch_size=8, resolution=8, data_dir=data_dir, **fields)
  config = ml_collections.ConfigDict(dict(seed=0, model=dict(num_classes=10), data=section(), evals=dict(a=section(), b=section())))
  config.data.dataset, config.evals.b.split = 'no_such_dataset', 'validation'
  with pytest.raises(ValueError, match=r"(?s)'no_such_dataset' is neither .*\nsplit 'validation' is not in digits"):
    input_pipeline.build_datasets(config, ProcessShard(0, 1, 1))
  config.data.dataset, config.evals.b.split = 'digits', 'test'
  data, evals, _ = input_pipeline.build_datasets(config, ProcessShard(0, 1, 1))
  assert data.source.num_examples == 1437 and {k: len(x) for k, x in evals.items()} == {'a': 180, 'b': 45}
  config.evals.b.resolution = 16
  with pytest.raises(ValueError, match='config.evals.b.resolution is 16, and config.data.resolution is 8: the token-mixing'):
    input_pipeline.build_datasets(config, ProcessShard(0, 1, 1))
  config.evals.b.resolution = 8
  config.model.num_classes = 7
  with pytest.raises(ValueError, match=r'config.model.num_classes\) is 7, and that of digits/1.0.0'):
    input_pipeline.build_datasets(config, ProcessShard(0, 1, 1))


def growth(batches):
  """By how many MiB the process grows over 1,000 batches, after 100 others."""
  resident = lambda: int(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1]) / 1024
  for _ in itertools.islice(batches, 100):
    pass
  before = resident()
  for _ in itertools.islice(batches, 1000):
    pass
  return resident() - before


@pytest.mark.slow
def test_memory_does_not_grow_over_a_thousand_batches(data_dir):
  batches = train(data_dir, batch_size=32, resolution=64, randaugment_magnitude=10.).start(0)
  assert growth(batches) < 100  # the 1,000 batches hold 375


def test_random_crops_of_resized_images_take_no_fields_of_inceptions(data_dir):
  fields = dict(min_area=None, flip=False, resize=10, resolution=8)
  one, = take(train(data_dir, **fields), 1)
  assert not equal([one], take(train(data_dir, **{**fields, 'resize': 8}), 1))
  assert equal([one], take(train(data_dir, **fields, threads=3), 1))
  assert equal([one], take(train(data_dir, **fields, pad=0), 1)) and not equal([one], take(train(data_dir, **fields, pad=1), 1))
  with pytest.raises(ValueError, match='^resize is 10, and min_area is 0.5, which Inception crops alone have; set one of them to None'):
    train(data_dir, **{**fields, 'min_area': 0.5})
  with pytest.raises(ValueError, match='resize is 6, smaller than the crop: resolution is 8'):
    train(data_dir, **{**fields, 'resize': 6})
  train(data_dir, **fields, pad=7)
  with pytest.raises(ValueError, match='^pad is 8, and crops of 8 pixels, the resolution, could lie in the padding alone; pad fewer'):
    train(data_dir, **fields, pad=8)


@pytest.fixture(scope='module')
def zoo(tmp_path_factory):
  """A folder with a file of each kind, numbered in their order, and the kinds."""
  root = tmp_path_factory.mktemp('zoo')
  (root / 'train/class').mkdir(parents=True)
  for k, (data, *_) in enumerate(example_images.zoo().values()):
    (root / f'train/class/{k:02}.{"jpg" if k % 2 else "png"}').write_bytes(data)  # contents count, not suffixes
  return root, list(example_images.zoo())


def test_folders_and_paths_show_what_people_see(zoo):
  """Training, evaluation, and what tools.predict reads: the same pixels, and those of the exported script."""
  root, kinds = zoo
  fields = dict(dataset=str(root), split='train', resolution=16, resize=16, shard=ProcessShard(0, 1, 1))
  paths = sorted(map(str, (root / 'train/class').iterdir()))
  evaluated = next(iter(input_pipeline.eval_batches(**fields, batch_size=len(kinds))))['image'][0]
  failed = []
  read, = image_paths.path_batches(paths, batch_size=len(kinds), resolution=16, resize=16, crop='paper_resize',
                                      failed=lambda index, why: failed.append((kinds[index], why)))
  assert not failed
  trained = input_pipeline.train_batches(**fields, seed=0, flip=False, batch_size=len(kinds))
  order = trained.index(np.arange(len(kinds))).numpy()
  trained = next(trained.start(0))['image'][0][np.argsort(order)]
  script = {}
  exec(export.script(root, None).split('\nwith open')[0], script)
  for k, kind in enumerate(kinds):
    _, seen, tolerance = example_images.zoo()[kind]
    assert np.abs(evaluated[k] - seen.astype(float)).max() <= tolerance, kind
    np.testing.assert_array_equal(read['image'][k], evaluated[k], kind)
    np.testing.assert_array_equal(trained[k], evaluated[k], kind)
    image = PIL.Image.open(paths[k])
    image.load()
    by_script = script['rgb'](image, script['orientation'](image.info.get('exif', b'')))
    # Of upright JPEGs TensorFlow computes the cosine transform less exactly than Pillow.
    assert np.abs(np.asarray(by_script).astype(int) - evaluated[k]).max() <= (6 if 'jpeg' in kind else 0), kind


@pytest.mark.slow
def test_antialias_reaches_both_training_crops_and_is_off_by_default(zoo):
  fields = dict(dataset=str(zoo[0]), split='train', resolution=6, batch_size=8, seed=0, shard=ProcessShard(0, 1, 1))
  for crop in ({'resize': 6}, {'min_area': 0.9}):
    first = lambda **more: next(input_pipeline.train_batches(**fields, **crop, **more).start(0))['image'].astype(int)
    assert np.array_equal(first(), first(antialias=False))
    assert np.abs(first() - first(antialias=True)).max() > 2


def test_pixels_of_a_tfds_copy_stay_as_they_are_stored():
  """Their published numbers were computed so."""
  data, seen, _ = example_images.zoo()['jpeg, orientation 6']
  assert np.abs(preprocess.decode(data).numpy() - np.rot90(seen).astype(int)).max() <= 6


def colours(root, split, *names):
  for name in names:
    path = root / split / name / '0.png'
    path.parent.mkdir(parents=True)
    PIL.Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
  return str(root)


def own_images(root, evaluated=None, num_classes=2, **fields):
  section = lambda root, split: dict(dataset=str(root), split=split, batch_size=2, resolution=8)
  return ml_collections.ConfigDict(dict(seed=0, model=dict(num_classes=num_classes), data=section(root, 'train'),
                                        evals=dict(test=section(evaluated or root, 'test')), **fields))


def test_evaluations_have_the_classes_of_the_training_images(tmp_path):
  colours(tmp_path, 'train', 'blue', 'red')
  other = colours(tmp_path / 'other', 'test', 'red', 'zebra')
  with pytest.raises(ValueError, match=r"the classes of .*, split train are 'blue', 'red', and those of .*/other, split test "
                                       r"are 'red', 'zebra': .* Give config.evals.test and config.data the same classes"):
    input_pipeline.build_datasets(own_images(tmp_path, other), ProcessShard(0, 1, 1))
  fewer = colours(tmp_path / 'fewer', 'test', 'red')
  _, evals, _ = input_pipeline.build_datasets(own_images(tmp_path, fewer), ProcessShard(0, 1, 1))
  assert [batch['label'].ravel().tolist() for batch in evals['test']] == [[1, 1]] and evals['test'].num_classes == 2


def test_where_the_number_of_classes_is_left_to_the_data_labels_are_checked_by_it(tmp_path):
  colours(tmp_path, 'train', 'blue', 'red')
  colours(tmp_path, 'test', 'blue')
  data, evals, _ = input_pipeline.build_datasets(own_images(tmp_path, num_classes=None), ProcessShard(0, 1, 1))
  assert data.num_classes == evals['test'].num_classes == 2


def test_a_probe_is_of_the_classes_of_its_own_training_images(tmp_path):
  colours(tmp_path, 'train', 'blue', 'red')
  colours(tmp_path, 'test', 'red')
  colours(tmp_path / 'probe', 'train', 'a', 'b', 'c')
  colours(tmp_path / 'probe', 'test', 'b')
  part = lambda split: dict(dataset=str(tmp_path / 'probe'), split=split, batch_size=2, resolution=8)
  probes = dict(other=dict(train=part('train'), test=part('test')))
  _, _, opened = input_pipeline.build_datasets(own_images(tmp_path, probes=probes), ProcessShard(0, 1, 1))
  assert opened['other'][1].source.class_names == ['a', 'b', 'c'] and opened['other'][1].num_classes == 3
  (tmp_path / 'probe/test/b').rename(tmp_path / 'probe/test/d')
  with pytest.raises(ValueError, match="'d' only among the latter. Give config.probes.other.test and config.probes.other.train"):
    input_pipeline.build_datasets(own_images(tmp_path, probes=probes), ProcessShard(0, 1, 1))


def test_classes_that_the_model_lacks_are_shown(tmp_path):
  colours(tmp_path, 'train', 'blue', 'red', 'red_old')
  with pytest.raises(ValueError, match=r"is 3: 'blue', 'red', 'red_old'. Set --config.model.num_classes=3, or see"):
    input_pipeline.build_datasets(own_images(tmp_path), ProcessShard(0, 1, 1))
