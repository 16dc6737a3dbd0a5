import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import input_pipeline
from mixer import arguments
from mixer.data.builders import digits
from mixer.data.process_shard import ProcessShard
from mixer.data import sources
from mixer.data import subset


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """200 images in two classes; the names say nothing of the contents."""
  root = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for k in range(200):
    path = root / f'train/{"ab"[k % 2]}/{k:03}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
  return root


def images(source):
  """The encoded images of a source, with their labels."""
  indices = tf.range(source.num_examples, dtype=tf.int64)
  parsed = [source.parse(record, index) for record, index in zip(source.read(indices), indices)]
  return {(image.numpy(), int(labels['label'])) for image, labels in parsed}


def part(root, fraction):
  return subset.Subset.of(sources.open_split(str(root), 'train'), fraction)


def test_parts_have_their_size_and_lie_in_one_another(folder):
  parts = [images(part(folder, fraction)) for fraction in (0.03, 0.1, 0.3, 1)]
  assert [len(x) for x in parts] == [6, 20, 60, 200]
  assert parts[0] < parts[1] < parts[2] < parts[3]
  assert parts[3] == images(sources.open_split(str(folder), 'train'))


def test_the_choice_depends_on_contents_and_not_on_names_or_their_order(folder, tmp_path):
  renamed = shutil.copytree(folder, tmp_path / 'renamed')
  for path in sorted((renamed / 'train').glob('*/*.png')):
    path.rename(path.with_stem(f'x{199 - int(path.stem):03}'))
  assert images(part(renamed, 0.3)) == images(part(folder, 0.3))


def test_hashes_are_kept_beside_the_data_and_computed_anew_when_it_changes(folder, tmp_path, monkeypatch):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  before = images(part(copy, 0.3))
  computed = []
  monkeypatch.setattr(subset, '_hash', lambda source, original=subset._hash: computed.append(1) or original(source))
  assert images(part(copy, 0.3)) == before and not computed
  gone = next(iter((copy / 'train/a').iterdir()))
  gone.unlink()
  assert part(copy, 0.3).num_examples == 60 and computed
  assert sorted(path.name for path in copy.iterdir()) == ['content_hashes-train.npz', 'train']


def test_a_file_that_was_replaced_under_its_name_has_a_hash_of_its_own(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  before = subset.content_hashes(sources.open_split(str(copy), 'train'))
  path = copy / 'train/a/000.png'
  path.write_bytes(path.read_bytes() + b' ')
  after = subset.content_hashes(sources.open_split(str(copy), 'train'))
  assert (before != after).tolist() == [True] + [False] * 199


def test_two_halves_of_a_split_have_hashes_of_their_own(data_dir):
  first, second = (subset.content_hashes(sources.open_split('digits', split, data_dir))
                   for split in ('test[:50%]', 'test[50%:]'))
  whole = subset.content_hashes(sources.open_split('digits', 'test', data_dir))
  assert np.array_equal(np.concatenate([first, second]), whole) and not np.array_equal(first, second)


def test_hashes_that_cannot_be_read_are_made_anew(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  before = images(part(copy, 0.3))
  kept = copy / 'content_hashes-train.npz'
  fingerprint = sources.open_split(str(copy), 'train').fingerprint
  kept.write_bytes(b'half a fi')
  assert images(part(copy, 0.3)) == before
  for others in (dict(hashes=np.zeros(199, np.uint64)), dict(hashes=np.zeros(200)), dict(hashes=np.array([None] * 200)),
                 dict(others=np.zeros(200, np.uint64))):
    np.savez(kept, **others, fingerprint=fingerprint)
    assert images(part(copy, 0.3)) == before


def test_it_tells_of_itself_and_of_the_files_it_stands_for(folder):
  few = part(folder, 0.03)
  assert few.name.startswith('0.03 of ') and few.contents.startswith('0.03 by content of 200 files')
  assert few.contents != part(folder, 0.1).contents
  image, _ = few.parse(few.read(tf.constant([4], tf.int64))[0], tf.constant(4, tf.int64))
  assert open(few.locate(4), 'rb').read() == image.numpy()


@pytest.mark.parametrize('fraction', [0, -1, 1.5, 0.001])
def test_a_fraction_that_is_none(folder, fraction):
  with pytest.raises(ValueError, match=f'^fraction is {fraction}; it must be above 0, at most 1, and leave'):
    part(folder, fraction)


def test_hashes_of_a_dataset_that_is_read_only_are_kept_in_the_cache(folder, tmp_path, monkeypatch):
  copy, computed = shutil.copytree(folder, tmp_path / 'copy'), []
  (copy / 'content_hashes-train.npz').unlink(missing_ok=True)
  monkeypatch.setattr(subset, 'CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(subset, '_hash', lambda source, original=subset._hash: computed.append(1) or original(source))
  (copy / 'content_hashes-train.npz').mkdir()  # in the way, as a folder that cannot be written is; root writes into any
  before = images(part(copy, 0.3))
  assert images(part(copy, 0.3)) == before and len(computed) == 1
  assert len(list((tmp_path / 'cache').iterdir())) == 1


def test_every_beginning_and_end_has_its_share_of_each_class():
  rng = np.random.default_rng(0)
  classes = np.repeat([0, 1, 2], [100, 50, 4])
  order = subset.spread(rng.integers(0, 2**63, 154).astype(np.uint64), classes)
  assert sorted(order) == list(range(154))
  for cut in (15, 77, 139):
    for share, side in ((cut / 154, order[:cut]), (1 - cut / 154, order[cut:])):
      counts = np.bincount(classes[side], minlength=3)
      assert (np.abs(counts - share * np.array([100, 50, 4])) <= 2).all() and counts.min() >= 1


# Some of the classes


@pytest.fixture(scope='module')
def animals(tmp_path_factory):
  """A folder of 40 images a class, of four classes, in train, and 10 of two of them in test."""
  root = tmp_path_factory.mktemp('animals')
  rng = np.random.default_rng(1)
  for split, names, number in (('train', ('bird', 'cat', 'deer', 'dog'), 40), ('test', ('cat', 'dog'), 10)):
    for name in names:
      for k in range(number):
        path = root / f'{split}/{name}/{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
  return root


def of_classes(root, *names, split='train', **fields):
  return sources.open_split(str(root), split, classes=names, **fields)


def test_classes_of_a_folder_are_numbered_as_they_are_listed(animals):
  chosen = of_classes(animals, 'dog', 'bird')
  whole = images(sources.open_split(str(animals), 'train'))
  assert images(chosen) == {(image, {3: 0, 0: 1}[label]) for image, label in whole if label in (0, 3)}
  assert (chosen.class_names, chosen.num_examples) == (['dog', 'bird'], 80)
  assert chosen.name == f'2 classes of {animals}, split train'
  assert chosen.locate(0).endswith('train/bird/0.png') and chosen.locate(40).endswith('train/dog/0.png')


def test_classes_of_a_prepared_dataset_are_those_of_the_builder_of_the_same_ones(data_dir):
  few = sources.open_split('digits', 'test', data_dir, classes=list('01234'))
  assert images(few) == images(sources.open_split('few_digits', 'test', data_dir))
  assert images(sources.open_split('digits', 'test', data_dir, classes=list('43210'))) == {
      (image, 4 - label) for image, label in images(few)}


def test_a_fraction_is_of_the_chosen_classes_and_lies_in_larger_ones(animals):
  chosen = of_classes(animals, 'dog', 'bird')
  parts = [subset.Subset.of(chosen, fraction) for fraction in (0.1, 0.5)]
  assert [part.num_examples for part in parts] == [8, 40]
  assert images(parts[0]) < images(parts[1]) < images(chosen)
  assert parts[0].class_names == ['dog', 'bird']
  hashes = subset.content_hashes(chosen.whole)
  assert max(hashes[chosen.indices][parts[0].indices]) == sorted(hashes[chosen.indices])[7]


def test_other_classes_or_another_order_are_another_run(animals):
  fields = dict(dataset=str(animals), split='train', batch_size=4, resolution=4, seed=0, shard=ProcessShard(0, 1, 1))
  identities = [input_pipeline.train_batches(**fields, classes=names).identity
                for names in (None, ('dog', 'bird'), ('bird', 'dog'), ('bird', 'cat'))]
  contents = [identity['contents'] for identity in identities]
  assert len(set(contents)) == 4 and contents[1].startswith("80 examples, of the classes 'dog', 'bird' (sha256 of ")


def test_long_lists_of_classes_that_differ_at_their_end_are_other_runs(data_dir):
  nine, others = (sources.open_split('digits', 'test', data_dir, classes=list(names))
                  for names in ('012345678', '012345679'))
  assert nine.contents.partition(' of the ')[2] != others.contents.partition(' of the ')[2]


def test_an_evaluation_has_the_classes_in_the_order_of_training_even_where_it_lacks_one(animals):
  fields = dict(batch_size=4, resolution=4, shard=ProcessShard(0, 1, 1))
  data = input_pipeline.train_batches(dataset=str(animals), split='train', seed=0, classes=('dog', 'bird'), **fields)
  model_classes = input_pipeline.ModelClasses.of(data, 'evals.test', 'data')
  evaluation = lambda split, **more: input_pipeline.eval_batches(
      dataset=str(animals), split=split, model_classes=model_classes, **fields, **more)
  batches = evaluation('test', classes=('dog', 'bird'))
  assert batches.source.num_examples == 10 and {int(x) for batch in batches for x in batch['label'].flat} == {0}
  with pytest.raises(ValueError, match="^the classes of 2 .* are 'dog', 'bird', and those of .*evals.test and config.data"):
    evaluation('train')


@pytest.mark.parametrize('names, text', [
    (('dog', 'brid', 'fish'), r"classes has 'brid', 'fish', not among those of .*, split train\. Did you mean 'bird'\? "
     r"It has 'bird', 'cat', 'deer', 'dog'$"),
    (('dog', 'dog'), r"classes is \('dog', 'dog'\); it must be two or more names, each once, or None"),
    (('dog',), 'it must be two or more names'), ('dog', "classes is 'dog'; it must be two or more names")])
def test_classes_that_are_none_of_the_data(animals, names, text):
  with pytest.raises(arguments.ArgumentError, match=f'^{text}' if text.startswith('classes') else text):
    sources.open_split(str(animals), 'train', classes=names)


def test_a_split_without_any_of_the_classes_is_refused(animals):
  with pytest.raises(ValueError, match=r"classes is \('bird', 'deer'\), of which .*, split test has no example"):
    of_classes(animals, 'bird', 'deer', split='test')


def test_sources_of_which_no_classes_can_be_chosen(tmp_path):
  with pytest.raises(ValueError, match=r"classes is \('a', 'b'\), and fake has no names of classes\. Leave it None"):
    sources.open_split('fake', 'train', classes=('a', 'b'))
  digits.Digits(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
  with pytest.raises(ValueError, match=r'^classes is .*digits.* cannot be read by index. Rewrite it with\n  python -m tools'):
    sources.open_split('digits', 'test', str(tmp_path), classes=('1', '2'))


def test_examples_with_several_labels_have_no_class_to_choose_by():
  listed = type('Source', (), dict(name='many', class_names=['a', 'b'], labels={'label': ((8,), 'int32')}))()
  with pytest.raises(ValueError, match=r"classes is \('a', 'b'\), and many has several labels an example\. Leave it None"):
    subset.Subset.of_classes(listed, ('a', 'b'))
