"""From manifests to a prepared copy: what is kept, merged, left out and refused, by one process and by Beam."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tracemalloc

from array_record.python import array_record_data_source
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from conftest import ROOT
from mixer.data.builders import digits
from mixer.data.builders import manifests
from mixer.data.builders import multilabel
from mixer.data import image_files
from tools.experiments import digits_manifest
from tools import prepare as prepare_tool

CLASSES = ['cat', 'dog', 'animal', 'a unicorn', 'été']


def picture(seed, mode='RGB', size=(12, 9), kind='JPEG'):
  """The bytes of an image file."""
  channels = {'L': (), 'RGB': (3,), 'CMYK': (4,), 'RGBA': (4,)}[mode]
  pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(pixels, mode).save(file, kind)
  return file.getvalue()


GOOD, CMYK, GREY, ALPHA, TINY = (picture(0), picture(1, 'CMYK'), picture(2, 'L'), picture(3, 'RGBA', kind='PNG'),
                                 picture(4, size=(1, 1)))
EMBEDDED = picture(5)
TRUNCATED = picture(6, size=(90, 90))[:2000]
FILES = {'good.jpg': GOOD, 'again/copy.jpg': GOOD, 'cmyk.jpg': CMYK, 'grey.jpg': GREY, 'alpha.png': ALPHA,
         'tiny.jpg': TINY, 'truncated.jpg': TRUNCATED, 'also truncated.jpg': TRUNCATED, 'text.jpg': b'no image'}


def base64_of(data):
  return base64.b64encode(data).decode()


def row(image, labels=(), weights=None):
  return {'image': image, 'labels': list(labels)} | ({} if weights is None else {'weights': weights})


TRAIN = [
    row('good.jpg', ['dog', 'animal'], [0.25, 1]),
    row('cmyk.jpg', ['animal', 'cat']),
    row('missing.jpg', ['cat']),
    row('again/copy.jpg', ['cat', 'dog', 'animal'], [0.125, 0.5, 0.75]),
    {'bytes': base64_of(EMBEDDED), 'labels': ['été', 'cat'], 'weights': [0, 1], 'source': 'elsewhere'},
    row('grey.jpg'),
    row('truncated.jpg', ['cat']),
    row('alpha.png', ['dog']),
    {'bytes': base64_of(GOOD), 'labels': ['dog']},
    row('tiny.jpg', ['dog', 'dog'], [0.5, 0.25]),
    row('also truncated.jpg', ['dog']),
    row('text.jpg', ['dog']),
    row('missing.jpg', ['cat']),
    row('text.jpg', ['dog']),
]
VALIDATION = [row('good.jpg', ['dog'])]
# {original file: {class: weight}}, as they must come out.
EXPECTED = {GOOD: {0: 0.125, 1: 1, 2: 1}, CMYK: {0: 1, 2: 1}, EMBEDDED: {0: 1, 4: 0}, GREY: {}, ALPHA: {1: 1},
          TINY: {1: 0.5}}


def write_lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_parquet(path, rows, **options):
  """With binary `bytes`, and all columns in every row."""
  whole = lambda row: {**row, 'bytes': base64.b64decode(row['bytes']) if 'bytes' in row else None}
  schema = pyarrow.schema({'labels': pyarrow.list_(pyarrow.string()), 'weights': pyarrow.list_(pyarrow.float32()),
                           'bytes': pyarrow.binary(), 'image': pyarrow.string()})
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist([whole(row) for row in rows], schema), path, **options)


def write_shards(path, rows):
  """In three files of one kind and another; one has no line at all."""
  write_lines(path.with_name('train-00000.jsonl'), rows[:5])
  write_lines(path.with_name('train-00001.jsonl'), [])
  write_parquet(path.with_name('train-00002.parquet'), rows[5:])


@pytest.fixture
def folder(tmp_path):
  """A manual_dir with good files and bad ones, and no manifest of `train` yet."""
  for name, data in FILES.items():
    path = tmp_path / 'manual' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  (tmp_path / 'manual/classes.txt').write_text('\n'.join(CLASSES) + '\n\n')
  write_lines(tmp_path / 'manual/validation.jsonl', VALIDATION)
  return tmp_path / 'manual'


def prepare(folder, name='data', images=None, **config):
  builder = multilabel.Multilabel(data_dir=folder.parent / name, file_format='array_record', images=images)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
      manual_dir=folder, try_download_gcs=False, **config))
  return builder


def report(builder):
  return json.loads((builder.data_path / 'report.json').read_text())


def records(builder, split='train'):
  """As they are stored."""
  files = array_record_data_source.ArrayRecordDataSource(builder.info.splits[split].file_instructions)
  return files.__getitems__(list(range(len(files))))


def examples(builder, split='train'):
  """As training reads them, except that images stay encoded."""
  parse = lambda record: builder.info.features.deserialize_example(
      record, decoders={'image': tfds.decode.SkipDecoding()})
  return [{key: value.numpy() for key, value in parse(record).items()} for record in records(builder, split)]


def assert_same(builder, other, split='train'):
  """The same examples in the same order. Their bytes may differ: protocol buffers write maps in any order."""
  np.testing.assert_equal(examples(builder, split), examples(other, split))


@pytest.fixture
def prepared(folder):
  write_lines(folder / 'train.jsonl', TRAIN)
  return prepare(folder)


def test_examples_are_those_of_the_manifest_each_content_once(prepared):
  """In TFDS's order of their keys, the content hashes of the original files."""
  place = tfds.core.hashing.Hasher('train').hash_key
  expected = sorted(EXPECTED, key=lambda data: place(image_files.content_hash(data)))
  got = examples(prepared)
  assert [dict(zip(example['label'].tolist(), example['weight'].tolist())) for example in got] == [
      EXPECTED[data] for data in expected]
  assert all(sorted(example['label']) == list(example['label']) for example in got)
  assert {example['weight'].dtype for example in got} == {np.dtype('float32')}
  assert [example['image'] == data for example, data in zip(got, expected)] == [
      data in (GOOD, EMBEDDED, TINY) for data in expected]
  for example, data in zip(got, expected):
    image = PIL.Image.open(io.BytesIO(example['image']))
    assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', PIL.Image.open(io.BytesIO(data)).size)
  example, = examples(prepared, 'validation')
  assert (example['image'], example['label'].tolist(), example['weight'].tolist()) == (GOOD, [1], [1])


def test_the_report_counts_every_line_and_names_what_is_left_out(prepared, folder):
  result = report(prepared)
  assert result['dataset'] == 'multilabel/1.0.0'
  digest = lambda name: hashlib.blake2b((folder / name).read_bytes(), digest_size=16).hexdigest()
  assert result['files'] == {name: digest(name) for name in ('classes.txt', 'train.jsonl', 'validation.jsonl')}
  train = result['splits']['train']
  files = train.pop('unreadable_files')
  assert train == {
      'examples': 6, 'duplicates_merged': 2, 're_encoded': 3, 'unreadable': 6, 'unlabelled': 1, 'max_labels': 3,
      'images_per_class': {'min': 0, 'median': 2, 'max': 3}, 'empty_classes': ['a unicorn', 'été']}
  assert sum(train[kind] for kind in ('examples', 'duplicates_merged', 'unreadable')) == len(TRAIN)
  # Of several lines with the same content, the report names one.
  assert [(file['file'], file['copies'], file['reason'].split(' ')[0]) for file in files] == [
      (f'{folder}/train.jsonl, line {line}', copies, reason) for line, copies, reason in (
          ('11, also truncated.jpg', 2, 'jpeg::Uncompress'), ('12, text.jpg', 2, 'it'), ('13, missing.jpg', 1, '[Errno'),
          ('3, missing.jpg', 1, '[Errno'))]
  assert result['splits']['validation']['re_encoded'] == 0
  assert result['splits']['validation']['empty_classes'] == ['cat', 'animal', 'a unicorn', 'été']


@pytest.mark.parametrize('opened', ['from its directory', 'by its builder'])
def test_a_finished_copy_needs_no_manifests(prepared, folder, opened):
  before = examples(prepared)
  for path in folder.rglob('*.*'):
    path.unlink()
  again = (tfds.builder_from_directory(prepared.data_path) if opened == 'from its directory' else
           multilabel.Multilabel(data_dir=folder.parent / 'data', file_format='array_record'))
  for builder in prepared, again:
    assert builder.info.features['label'].feature.names == CLASSES
    assert builder.info.metadata == {'max_labels': 3, 'class_names': CLASSES}
  assert again.info.splits['train'].num_examples == 6
  assert again.info.features['label'].feature.num_classes == 5
  np.testing.assert_equal(examples(again), before)


@pytest.mark.parametrize('write', [
    lambda path, rows: write_lines(path, rows),
    lambda path, rows: write_parquet(path.with_suffix('.parquet'), rows),
    lambda path, rows: write_parquet(path.with_suffix('.parquet'), rows, row_group_size=2),
    write_shards,
    lambda path, rows: write_lines(path, rows[::-1]),
    lambda path, rows: path.write_text('\r\n\n'.join(map(json.dumps, rows))),
], ids=['again', 'parquet', 'row groups', 'shards', 'other order', 'blank lines'])
def test_however_the_manifest_is_written_the_records_are_the_same(prepared, folder, write):
  (folder / 'train.jsonl').unlink()
  write(folder / 'train.jsonl', TRAIN)
  other = prepare(folder, 'other')
  assert_same(other, prepared)
  assert other.info.metadata == prepared.info.metadata
  counts = [report(builder)['splits']['train'] for builder in (other, prepared)]
  assert [len(result.pop('unreadable_files')) for result in counts] == [4, 4]
  assert counts[0] == counts[1]


@pytest.mark.slow
def test_beam_makes_the_same_copy(prepared, folder):
  other = prepare(folder, 'beam', beam_runner='DirectRunner')
  for split in 'train', 'validation':
    assert_same(other, prepared, split)
  assert sorted(path.name for path in other.data_path.iterdir()) == sorted(
      path.name for path in prepared.data_path.iterdir())
  for name in 'metadata.json', 'features.json', 'label.labels.txt':
    assert (other.data_path / name).read_text() == (prepared.data_path / name).read_text()
  assert (other.data_path / 'report.json').read_text() == (prepared.data_path / 'report.json').read_text()


@pytest.mark.slow
def test_beam_names_the_line_that_is_wrong(folder):
  write_lines(folder / 'train.jsonl', [row('good.jpg', ['cat']), row('good.jpg', ['fish'])])
  with pytest.raises(Exception, match=r"train.jsonl, line 2: 'fish' is not in classes.txt"):
    prepare(folder, beam_runner='DirectRunner')
  assert not (folder.parent / 'data/multilabel/1.0.0').exists()


def test_weights_are_merged_class_by_class(folder):
  (folder / 'é 1.jpg').write_bytes(GOOD)
  write_lines(folder / 'train.jsonl', [
      row(str(folder / 'é 1.jpg'), ['cat', 'dog'], [0, 0.75]), row('good.jpg', ['dog', 'animal'], [1, 0.5]),
      {'bytes': base64_of(GOOD), 'labels': ['cat'], 'weights': [0.5]}])
  example, = examples(prepare(folder))
  assert dict(zip(example['label'].tolist(), example['weight'].tolist())) == {0: 0.5, 1: 1, 2: 0.5}


@pytest.mark.parametrize('beam', [
    {}, pytest.param({'beam_runner': 'DirectRunner'}, marks=pytest.mark.slow)], ids=['one process', 'beam'])
def test_images_lie_below_the_folder_that_its_owner_names(folder, tmp_path_factory, beam):
  elsewhere = tmp_path_factory.mktemp('elsewhere')
  (elsewhere / 'inner').mkdir()
  (elsewhere / 'inner/1.jpg').write_bytes(GOOD)
  (elsewhere / '2.jpg').symlink_to(folder / 'cmyk.jpg')  # whose links are its owner's business
  (folder / 'validation.jsonl').unlink()
  write_lines(folder / 'train.jsonl', [row('inner/1.jpg', ['cat']), row(f'{elsewhere}/2.jpg', ['dog'])])
  result = examples(prepare(folder, images=elsewhere, **beam))
  assert sorted(example['label'].tolist() for example in result) == [[0], [1]]
  write_lines(folder / 'train.jsonl', [row('inner/1.jpg', ['cat']), row(f'{folder}/good.jpg', ['dog'])])
  with pytest.raises(Exception, match=r"train\.jsonl, line 2: '.*good\.jpg' does not lie below .*elsewhere"):
    prepare(folder, 'other', images=elsewhere, **beam)


def test_the_command_takes_the_folder_of_the_images(folder, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp('elsewhere')
  (elsewhere / 'a.jpg').write_bytes(GOOD)
  (folder / 'validation.jsonl').unlink()
  write_lines(folder / 'train.jsonl', [row('a.jpg', ['cat'])])
  folders = dict(data_dir=str(folder.parent / 'data'), manual_dir=str(folder))
  path = prepare_tool.prepare('multilabel', **folders, images=str(elsewhere))
  assert len(examples(tfds.builder_from_directory(path))) == 1
  with pytest.raises(ValueError, match='--images is .*/none, which is not a folder'):
    prepare_tool.prepare('multilabel', **folders, images=str(folder / 'none'))
  with pytest.raises(ValueError, match='--images is the folder of the images of manifests, from which only multilabel is made; remove it for cifar10'):
    prepare_tool.prepare('cifar10', **folders, images=str(elsewhere))


BAD_LINES = {
    '{"image": "good.jpg", "labels": ["cat"]': r'not JSON, Expecting',
    '["good.jpg"]': r"\['good.jpg'\] is not an object, {\"image\"",
    '{"labels": ["cat"]}': r'neither of `image` and `bytes`; give one of them',
    '{"image": "good.jpg", "bytes": "", "labels": []}': r'both of `image` and `bytes`; give one of them',
    '{"image": 7, "labels": []}': r'`image` is 7 and `bytes` is None; a path or a file in base64 is needed',
    '{"bytes": [7], "labels": []}': r'`image` is None and `bytes` is \[7\]; a path or',
    '{"bytes": "?", "labels": []}': r'Only base64 data is allowed',
    '{"image": "https://a.b/c.jpg", "labels": []}': r"'https://a.b/c.jpg' is not supported; expected a local path",
    '{"image": "../good.jpg", "labels": []}': r"'\.\./good\.jpg' does not lie below .*/manual\. .* --images=FOLDER",
    '{"image": "/etc/hostname", "labels": []}': r"'/etc/hostname' does not lie below .*/manual",
    '{"image": "again/../../x.jpg", "labels": []}': r"'again/\.\./\.\./x\.jpg' does not lie below",
    '{"image": "gs://bucket/x.jpg", "labels": []}': r"'gs://bucket/x\.jpg' does not lie below",
    '{"image": "\\ud800.jpg", "labels": []}': r"can't encode character '\\ud800'",
    '{"image": "good.jpg", "labels": ["\\ud800"]}': r"'\\ud800' is not in classes.txt",
    '{"image": "good.jpg", "labels": ' + '[' * 100_000: r'lists and objects are nested more than 100 deep',
    '{"image": "good.jpg", "labels": [' + '"cat", ' * 1_000_001: r'has more than 1,000,000 values',
    '{"image": "good.jpg", "labels": ["cat"], "weights": [1' + '0' * 4_000 + ']}': r"'cat' is 10+\.\.\.0+; it must",
    '{"image": "good.jpg", "labels": ["cat"], "weights": [1' + '0' * 5_000 + ']}': r'not JSON, Exceeds the limit',
    '{"image": "good.jpg", "labels": ["' + 'do' * 100_000 + '"]}': r"'dodo.{280,300}dodo' is not in classes.txt",
    '"' + 'x' * 1_000_000 + '"': r"'x+\.\.\.x+' is not an object",
    '{"image": "good.jpg"}': r'`labels` is None; it must be a list of class names, \[\] for none',
    '{"image": "good.jpg", "labels": "cat"}': r"`labels` is 'cat'; it must be a list",
    '{"image": "good.jpg", "labels": [1]}': r'`labels` is \[1\]; it must be a list',
    '{"image": "good.jpg", "labels": ["cat", "dig"]}': r"'dig' is not in classes.txt; the nearest name is 'dog'",
    '{"image": "good.jpg", "labels": ["Été"]}': r"'Été' is not in classes.txt; the nearest name is 'été'",
    '{"image": "good.jpg", "labels": ["cat"], "weights": []}': r'`weights` is \[\]; it must be a list of 1, one',
    '{"image": "good.jpg", "labels": ["cat"], "weights": 1}': r'`weights` is 1; it must be a list of 1',
    '{"image": "good.jpg", "labels": ["cat"], "weights": [1.5]}': r"'cat' is 1.5; it must be a number from 0 to 1",
    '{"image": "good.jpg", "labels": ["cat"], "weights": [-0.5]}': r"weight of 'cat' is -0.5",
    '{"image": "good.jpg", "labels": ["cat"], "weights": [NaN]}': r"weight of 'cat' is nan",
    '{"image": "good.jpg", "labels": ["cat"], "weights": ["1"]}': r"weight of 'cat' is '1'",
    '{"image": "good.jpg", "labels": ["cat"], "weights": [true]}': r"weight of 'cat' is True",
}


@pytest.mark.parametrize('line', BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_wrong_line_is_named_with_what_is_wrong(folder, line):
  (folder / 'train.jsonl').write_text(f'{json.dumps(TRAIN[0])}\n\n{line}\n')
  with pytest.raises(ValueError, match='/train.jsonl, line 3.*' + BAD_LINES[line]) as error:
    prepare(folder)
  assert len(str(error.value)) < 1_000
  assert list((folder.parent / 'data/multilabel').iterdir()) == []


def test_a_wrong_row_of_parquet_is_named(folder):
  rows = [row('good.jpg', ['cat'])] * 100 + [row('good.jpg', ['fish'])]
  write_parquet(folder / 'train.parquet', rows, row_group_size=30)
  with pytest.raises(ValueError, match=r"/train.parquet, row 101: 'fish' is not in classes.txt"):
    prepare(folder)
  (folder / 'train.parquet').write_bytes(b'no table')
  with pytest.raises(ValueError, match=r'/train.parquet: not Parquet, '):
    prepare(folder)


def remove_manifests(folder):
  for path in folder.glob('*.jsonl'):
    path.unlink()


@pytest.mark.parametrize('damage, text', [
    (lambda folder: (folder / 'classes.txt').unlink(), r'/classes.txt is missing: the vocabulary, one class name a'),
    (lambda folder: (folder / 'classes.txt').write_text('\n \n'), r'/classes.txt has no class names'),
    (lambda folder: (folder / 'classes.txt').write_text('cat\n\ndog\ncat \n'),
     r"/classes.txt, line 4: 'cat' is already in line 1"),
    (lambda folder: (folder / 'classes.txt').write_bytes(b'\xff'), r'/classes.txt is not UTF-8 text'),
    (lambda folder: (folder / 'classes.txt').write_text('cat\n' + 'x' * 1_001),
     r'/classes.txt, line 2: a class name of 1,001 characters; at most 1,000 are taken'),
    (remove_manifests, r'/manual has no manifest, such as train.jsonl or train.parquet'),
    (lambda folder: write_lines(folder / 'my-train.jsonl', []),
     r'/my-train.jsonl is not named like a manifest, such as train.jsonl or train-00000.parquet'),
    (lambda folder: write_lines(folder / 'test-00001.jsonl', []),
     r'/manual lacks shard 0 of test, which needs 0 to 1'),
    (lambda folder: write_lines(folder / 'test-00000-of-00003.jsonl', []), r'lacks shard 1 of test, .* 0 to 2'),
    (lambda folder: write_lines(folder / 'train.jsonl', []), r'/train.jsonl: no images are listed'),
    (lambda folder: write_lines(folder / 'train.jsonl', [row('missing.jpg'), row('text.jpg')]),
     r'/train.jsonl: none of the images can be read, such as .*/train.jsonl, line 1, missing.jpg: .* No such file'),
], ids=range(11))
def test_a_wrong_folder_is_named_with_what_it_lacks(folder, damage, text):
  write_lines(folder / 'train.jsonl', TRAIN)
  damage(folder)
  with pytest.raises(ValueError, match=text):
    prepare(folder)


def test_a_copy_of_other_manifests_is_not_taken_for_the_one_asked_for(prepared, folder):
  assert_same(prepare(folder), prepared)
  text = (folder / 'train.jsonl').read_text()
  (folder / 'train.jsonl').write_text(text.replace('"cat"', '"dog"'))  # of the same size
  with pytest.raises(ValueError, match='was prepared from other files'):
    prepare(folder)
  write_lines(folder / 'train.jsonl', TRAIN[:1])
  with pytest.raises(ValueError, match=r"data/multilabel/1.0.0 was prepared from other files:\n .*'train.jsonl': "
                                       r"'[0-9a-f]+.*\n.*/manual has\n .*\nGive another data_dir, or remove that copy"):
    prepare(folder)
  anew = prepare(folder, download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
  assert len(records(anew)) == 1
  assert anew.info.metadata['max_labels'] == 2


@pytest.mark.slow
def test_a_preparation_that_dies_leaves_nothing_that_is_taken_for_whole(prepared, folder):
  script = f'''if True:
      import os
      import tensorflow_datasets as tfds
      from mixer.data import image_files
      from mixer.data.builders import multilabel
      as_jpeg, done = image_files.as_jpeg, []
      image_files.as_jpeg = lambda data: os._exit(9) if len(done) > 3 else done.append(data) or as_jpeg(data)
      multilabel.Multilabel(data_dir='{folder.parent}/died', file_format='array_record').download_and_prepare(
          download_config=tfds.download.DownloadConfig(manual_dir='{folder}', try_download_gcs=False))
  '''
  assert subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True).returncode == 9
  left, = (folder.parent / 'died/multilabel').iterdir()
  assert 'incomplete' in left.name
  builder = multilabel.Multilabel(data_dir=folder.parent / 'died', file_format='array_record')
  assert not builder.is_prepared()
  assert_same(prepare(folder, 'died'), prepared)


def test_an_error_leaves_nothing(folder, monkeypatch):
  write_lines(folder / 'train.jsonl', TRAIN)
  monkeypatch.setattr(image_files, 'as_jpeg', lambda data: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    prepare(folder)
  assert list((folder.parent / 'data/multilabel').iterdir()) == []


def test_a_line_without_end_is_not_read_to_it(tmp_path, monkeypatch):
  monkeypatch.setattr(manifests, 'MAX_LINE', 2**20)
  lines = [json.dumps(row('good.jpg')), ' ' * (2**20 - 100) + json.dumps(row('good.jpg')), 'x' * 2**25, '{}']
  (tmp_path / 'train.jsonl').write_text('\n'.join(lines))
  entries = manifests.entries(tmp_path / 'train.jsonl', tmp_path, {})
  assert len([next(entries), next(entries)]) == 2
  tracemalloc.start()
  with pytest.raises(ValueError, match='/train.jsonl, line 3 has more than 1,048,576 bytes'):
    next(entries)
  assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
  tracemalloc.stop()


def test_a_file_without_end_is_not_read_to_it(folder, monkeypatch):
  monkeypatch.setattr(image_files, 'MAX_BYTES', 2**20)
  with (folder / 'large.jpg').open('wb') as file:
    file.truncate(2**40)  # as large as it says, and empty on the disk
  write_lines(folder / 'train.jsonl', [row('large.jpg'), row('good.jpg')])
  result, = report(prepare(folder))['splits']['train']['unreadable_files']
  assert result['file'].endswith('line 1, large.jpg') and result['reason'] == 'more than 1,048,576 bytes'


def test_images_that_change_between_the_readings_are_an_error():
  contents = iter([GOOD, GOOD, GOOD, CMYK])
  entries = lambda: (manifests.Entry(f'line {number}', next(contents), {}) for number in (1, 2))
  with pytest.raises(ValueError, match='images changed while they were read: line 1'):
    list(multilabel._merged(entries, 'train'))


def test_memory_is_bounded_by_hashes_not_images():
  """400 images of 100 kB, each listed twice, so that half of them wait for their second line."""
  content = lambda number: number.to_bytes(4, 'big') * 25_000
  entries = lambda: (manifests.Entry(str(number), content(number % 400), {0: 1.}) for number in range(800))
  tracemalloc.start()
  images = sum(image.lines for _, image in multilabel._merged(entries, 'train'))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert images == 800
  assert peak < 10e6


def test_a_row_group_of_parquet_is_not_read_at_once(tmp_path):
  rng = np.random.default_rng(0)
  rows = [{'bytes': base64_of(rng.bytes(50_000)), 'labels': []} for _ in range(1000)]
  write_parquet(tmp_path / 'train.parquet', rows, use_dictionary=False, write_batch_size=10)
  del rows
  before, most = pyarrow.total_allocated_bytes(), 0
  tracemalloc.start()
  for _ in manifests.entries(tmp_path / 'train.parquet', tmp_path, {}):
    most = max(most, pyarrow.total_allocated_bytes() - before)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert most + peak < 25e6  # of 50


@pytest.mark.parametrize('options', [pytest.param([], marks=pytest.mark.slow), ['--embed']])
def test_the_digits_as_a_manifest(tmp_path, monkeypatch, options):
  folder = tmp_path / 'manual'
  monkeypatch.setattr(sys, 'argv', ['digits_manifest', str(folder), *options])
  digits_manifest.main()
  assert (folder / 'images').exists() != bool(options)
  builder = prepare(folder)
  names = builder.info.features['label'].feature.names
  assert len(names) == 15
  assert builder.info.metadata['max_labels'] == 4
  pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
  for split, indices in zip(('train', 'validation'), digits.split_indices()):
    result = report(builder)['splits'][split]
    assert (result['examples'], result['duplicates_merged'], result['unreadable']) == (len(indices), 0, 0)
  for example in examples(builder, 'validation'):
    image = np.asarray(PIL.Image.open(io.BytesIO(example['image']))).mean(axis=-1).ravel() * (16 / 255)
    nearest = indices[np.square(pixels[indices] - image).sum(axis=1).argmin()]
    assert example['label'][0] == labels[nearest]
  result = {tuple((names[k], w) for k, w in zip(example['label'], example['weight']))
           for example in examples(builder, 'validation')}
  assert result == {
      (('zero', 1), ('even', 1), ('has a loop', 1)), (('one', 1), ('odd', 1), ('straight lines only', 0.5)),
      (('two', 1), ('even', 1), ('prime', 1)), (('three', 1), ('odd', 1), ('prime', 1)),
      (('four', 1), ('even', 1), ('straight lines only', 0.5)), (('five', 1), ('odd', 1), ('prime', 1)),
      (('six', 1), ('even', 1), ('has a loop', 1)),
      (('seven', 1), ('odd', 1), ('prime', 1), ('straight lines only', 0.5)),
      (('eight', 1), ('even', 1), ('has a loop', 1)), (('nine', 1), ('odd', 1), ('has a loop', 1))}
