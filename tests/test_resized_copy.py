"""Resized copies of prepared datasets: which pixels and records they have, and that none is taken for its original."""

import io
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import example_images
from mixer.data import image_headers
from mixer.data import preprocess
from mixer.data import resized_copy
from mixer.data import sources
from mixer.run import checkpoint
from mixer.wording import resized
import test_tfds_source
from tools import prepare

SIDE = 40  # of the copies
PIXELS = np.stack([*np.mgrid[20:164:2, 230:34:-2], np.full((72, 98), 90)], -1).astype(np.uint8)  # smooth, [72, 98, 3]
SAID = ', resized: shorter side at most 40, JPEG quality 95'


def saved(image, form='JPEG', **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def files():
  """{what it is: an image file}. All but the last four have more than SIDE pixels on the shorter side."""
  rgb, exif, alpha = PIL.Image.fromarray(PIXELS), PIL.Image.Exif(), PIL.Image.new('L', (98, 72), 255)
  exif[resized_copy.ORIENTATION] = 6
  alpha.paste(0, (0, 0, 49, 72))
  hole = rgb.copy()
  hole.putalpha(alpha)  # below it colours remain, which TFDS datasets are read with
  jpeg = saved(rgb, quality=95)
  return {'wide': jpeg, 'high': saved(rgb.rotate(90, expand=True)), 'turned': saved(rgb, exif=exif), 'grey': saved(rgb.convert('L')),
          'cmyk': saved(rgb.convert('CMYK'), quality=95), 'png': saved(rgb, 'PNG'), 'png with a hole': saved(hole, 'PNG'),
          'webp': saved(rgb, 'WEBP', quality=95),
          'small': saved(rgb.resize((90, SIDE))), 'no image': b'no image', 'cut off': jpeg[:len(jpeg) // 2],
          'too large': example_images.claiming('jpeg', 60_000, 60_000)}


FILES = files()
UNCHANGED = ('small', 'no image', 'cut off', 'too large')


class Photographs(tfds.core.GeneratorBasedBuilder):
  """The files, and the first two alone to test on."""
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, metadata=tfds.core.MetadataDict(class_names=list(FILES)), description='Photographs.',
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'), 'kind': tfds.features.Text(),
            'label': tfds.features.ClassLabel(num_classes=len(FILES))}))

  def _split_generators(self, _):
    return {'train': self._generate_examples(len(FILES)), 'test': self._generate_examples(2)}

  def _generate_examples(self, number):
    for label, (name, data) in list(enumerate(FILES.items()))[:number]:
      yield label, {'image': io.BytesIO(data), 'kind': name, 'label': label}


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
  """{form: directory}, of two shards each."""
  return test_tfds_source.in_both_forms(Photographs, tmp_path_factory, 2)


def resize(original, out, *more):
  prepare.main([str(original), f'--out={out}', f'--shorter_side={SIDE}', *more])
  return out


@pytest.fixture(scope='module')
def copy(originals, tmp_path_factory):
  return resize(originals['array_record'], tmp_path_factory.mktemp('copy') / 'photographs/1.0.0')


def bytes_of(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_kind(folder):
  """{kind: image file}, in the order of the records."""
  source = sources.open_split(str(folder), 'train')
  parsed = (source.parse(record, 0) for record in source.read(tf.range(source.num_examples, dtype=tf.int64)))
  return {list(FILES)[labels['label']]: image.numpy() for image, labels in parsed}


def test_larger_images_become_what_training_sees_of_them_but_smaller(copy, originals):
  before, after = by_kind(originals['array_record']), by_kind(copy)
  assert list(before) == list(after) and before == FILES  # in the same places
  for kind, data in after.items():
    if kind in UNCHANGED:
      assert data == FILES[kind], kind
      continue
    width, height = (40, 54) if kind == 'high' else (54, 40)
    seen = PIL.Image.fromarray(preprocess.decode(FILES[kind]).numpy())
    expected = np.asarray(seen.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
    pixels = preprocess.decode(data).numpy()
    assert pixels.shape == (height, width, 3)
    assert np.abs(pixels - expected).max() <= (0 if 'png' in kind else 12), kind
  form = lambda kind: PIL.Image.open(io.BytesIO(after[kind]))
  assert (form('wide').format, form('webp').format, form('png').format) == ('JPEG', 'JPEG', 'PNG')
  assert form('grey').mode == 'L' and form('wide').mode == 'RGB'


def test_orientation_stays_for_readers_that_heed_it(copy):
  orientation = lambda kind: image_headers.orientation(PIL.Image.open(io.BytesIO(by_kind(copy)[kind])).info.get('exif', b''))
  assert (orientation('turned'), orientation('wide')) == (6, 1)


def test_fine_stripes_become_their_mean():
  stripes = np.zeros((200, 200, 3), np.uint8)
  stripes[:, ::2] = 200
  pixels = preprocess.decode(resized_copy.Resize(SIDE).image(saved(PIL.Image.fromarray(stripes), 'PNG'))).numpy()
  assert np.abs(pixels[:, 2:-2].astype(int) - 100).max() <= 8


def test_the_same_copy_has_the_same_bytes_however_the_original_is_stored(copy, originals, tmp_path):
  again, of_stream = (resize(originals[form], tmp_path / form) for form in originals)
  assert bytes_of(again) == bytes_of(copy)
  assert by_kind(of_stream) == by_kind(copy)
  other = resize(originals['array_record'], tmp_path / 'other', '--quality=30')
  assert len(by_kind(other)['wide']) < len(by_kind(copy)['wide'])


def test_a_copy_says_what_became_of_the_images(copy, originals, tmp_path, capsys):
  resize(originals['tfrecord'], tmp_path / 'copy')
  said = capsys.readouterr().out
  assert 'train: 8 images resized, 1 small enough, 3 cannot be decoded and stay as they are (python -m tools.check_data' in said
  assert 'test: 2 images resized, 0 small enough; 0.' in said
  info = json.loads((copy / 'dataset_info.json').read_text())
  assert info['description'] == 'A resized copy: shorter side at most 40, JPEG quality 95.\n\nPhotographs.'
  assert json.loads((copy / 'metadata.json').read_text())['class_names'] == list(FILES)
  sizes = {split: sum(map(len, sources.open_split(str(copy), split).read(tf.range(number, dtype=tf.int64)).numpy()))
           for split, number in (('train', len(FILES)), ('test', 2))}
  assert {split['name']: int(split['numBytes']) for split in info['splits']} == sizes


def test_an_interrupted_copy_leaves_nothing_that_is_taken_for_whole(copy, originals, tmp_path, monkeypatch):
  record, seen = resized_copy.Resize.record, []

  def interrupted(self, data):
    seen.append(data)
    if len(seen) == 9:
      raise KeyboardInterrupt
    return record(self, data)

  monkeypatch.setattr(resized_copy.Resize, 'record', interrupted)
  with pytest.raises(SystemExit):
    resize(originals['array_record'], tmp_path / 'copy')
  assert len(seen) >= 9 and not (tmp_path / 'copy').exists()
  monkeypatch.undo()
  assert bytes_of(resize(originals['array_record'], tmp_path / 'copy')) == bytes_of(copy)


def test_a_run_says_that_its_images_are_a_copy_and_resumes_on_the_same_alone(copy, originals, tmp_path):
  original, smaller = (sources.open_split(str(folder), 'train') for folder in (originals['array_record'], copy))
  assert original.contents == 'photographs/1.0.0, 12 examples' and smaller.contents == original.contents + SAID
  assert smaller.name == f'photographs/1.0.0{SAID}, at {copy}, split train' and resized(smaller.contents) == SAID
  runs = [{'data': {'dataset': str(folder)}, **sources.identity(source)}
          for folder, source in ((originals['array_record'], original), (copy, smaller))]
  assert all(runs[0][name] != runs[1][name] for name in ('contents', 'contents_sample', 'contents_features'))
  for k, (began, resumed) in enumerate((runs, runs[::-1])):
    workdir = tmp_path / str(k)
    checkpoint.initialize_workdir(workdir, began)
    (workdir / 'checkpoints/1').mkdir(parents=True)
    checkpoint.initialize_workdir(workdir, began)
    with pytest.raises(ValueError, match='(?s)holds the run of another config:\n  contents: .*; pass the copy that the run began on'):
      checkpoint.initialize_workdir(workdir, resumed)


def test_a_name_does_not_stand_for_a_resized_copy(copy):
  sources.open_split(str(copy), 'train')
  with pytest.raises(ValueError, match=rf"dataset 'photographs' names the original, and {copy} is a copy{SAID}. To use it, give"):
    sources.open_split('photographs', 'train', str(copy.parent.parent))


class Squares(tfds.core.GeneratorBasedBuilder):
  """A dataset whose images have one size."""
  VERSION = tfds.core.Version('1.0.0')
  FEATURE = tfds.features.Image(shape=(64, 48, 3))

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'image': self.FEATURE}))

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    yield 0, {'image': np.zeros((64, 48, 3), self.FEATURE.np_dtype)}


class In16Bits(Squares):
  """A dataset whose images have 16 bits."""
  FEATURE = tfds.features.Image(shape=(None, None, 3), dtype=np.uint16)


@pytest.mark.parametrize('builder, message', [
    (Squares, 'all images of .* are 48 x 64 pixels, as its features.json says; only images of many sizes are resized'),
    (In16Bits, "feature 'image' of .* is Image.*; only images in 8 bits are resized")])
def test_datasets_whose_features_would_no_longer_be_true_are_refused(builder, message, tmp_path, capsys):
  made = builder(data_dir=tmp_path, file_format='array_record')
  made.download_and_prepare()
  with pytest.raises(SystemExit, match=message):
    resize(made.data_path, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments, message', [
    (('{original}', '--shorter_side=384'), 'is a prepared copy: pass --out, where to rewrite it'),
    (('cifar10', '--shorter_side=384'), '--shorter_side=384 resizes a prepared copy: pass its directory, and --out'),
    (('cifar10', '--out={new}', '--shorter_side=384'), '--out rewrites a prepared copy, and cifar10 is no directory with a '
     'dataset_info.json: prepare the dataset without --out first, and pass the directory that this prints'),
    (('{folder}', '--out={new}', '--shorter_side=384'), '. An image folder has no place to say that it was resized'),
    (('{original}', '--out={new}', '--quality=90'), '--quality=90 is of resized images: pass --shorter_side too, or remove it'),
    (('{original}', '--out={new}', '--shorter_side=31'), 'shorter_side is 31; it must be at least 32 and at most 8192'),
    (('{original}', '--out={new}', '--shorter_side=9000'), 'shorter_side is 9000; it must be at least 32 and at most 8192'),
    (('{original}', '--out={new}', '--shorter_side=384', '--quality=0'), 'quality is 0; it must be at least 1 and at most 100'),
    (('{original}', '--out={new}', '--shorter_side=384', '--quality=101'), 'quality is 101; it must be at least 1 and at most'),
    (('{original}', '--out={new}', '--shorter_side=big'), "argument --shorter_side: invalid int value: 'big'"),
    (('{original}', '--out={folder}', '--shorter_side=384'), 'already exists; remove it or choose another --out'),
    (('{copy}', '--out={new}', '--shorter_side=32'), 'is itself a resized copy (shorter side at most 40, JPEG quality 95); '
     'resize the original'),
])
def test_what_cannot_be_resized_is_refused_in_a_line(arguments, message, copy, originals, tmp_path, capsys):
  (tmp_path / 'folder/train/cat').mkdir(parents=True)
  places = dict(original=originals['array_record'], copy=copy, new=tmp_path / 'new', folder=tmp_path / 'folder')
  with pytest.raises(SystemExit) as refused:
    prepare.main([argument.format(**places) for argument in arguments])
  said = capsys.readouterr().err if refused.value.code == 2 else refused.value.code
  assert message in said and said.count('\n') <= 1 and not (tmp_path / 'new').exists()
