import collections
import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from mixer.data.builders import imagenet21k
from mixer.data.builders import imagenet_tar
from mixer.data import image_files
from tools import prepare as tool

N1, N2, N3, N4 = WNIDS = ['n00000001', 'n00000002', 'n00000003', 'n00000004']


def picture(seed, mode='RGB', size=(9, 7), form='JPEG'):
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(pixels.squeeze(-1) if mode == 'L' else pixels, mode).save(file, form, quality=90)
  return file.getvalue()


GOOD = [picture(seed) for seed in range(12)]
TWICE, THRICE, BOTH = picture(100), picture(101), picture(102)
NOT_RGB_JPEG = {'cmyk': picture(103, 'CMYK'), 'grey': picture(104, 'L'), 'alpha': picture(105, 'RGBA', form='PNG')}
DOT = picture(106, size=(1, 1))
CORRUPT, TRUNCATED = b'no image at all', picture(107, size=(64, 64))[:-900]
UNREADABLE = {CORRUPT, TRUNCATED}

# As in a tar: its synsets in some order, and their files.
FILES = {
    N3: {'c_1.JPEG': THRICE, 'c_2.JPEG': NOT_RGB_JPEG['grey'], 'c_3.JPEG': NOT_RGB_JPEG['alpha'], 'c_4.JPEG': DOT}
        | {f'c_{k}.JPEG': GOOD[k] for k in range(5, 8)},
    N1: {'a_1.JPEG': THRICE, 'a_2.JPEG': TWICE, 'a_3.JPEG': BOTH, 'a_4.JPEG': BOTH}
        | {f'a_1{k}.JPEG': GOOD[k] for k in range(5)} | {'a_9.JPEG': TRUNCATED},
    N4: {'d_1.JPEG': CORRUPT},
    N2: {'b_1.JPEG': TWICE, 'b_2.JPEG': THRICE, 'b_3.JPEG': NOT_RGB_JPEG['cmyk'], 'b_4.JPEG': CORRUPT}
        | {f'b_{k}.JPEG': GOOD[k] for k in range(8, 12)},
}
SMALL = imagenet21k.Imagenet21kConfig(name='small', file='small.tar.gz', num_synsets=4, validation=0.4,
                                      published={'images': 99})
FOLDERS = dataclasses.replace(SMALL, name='folders', layout=imagenet_tar.FOLDERS)


def write_tar(path, files, mode='w'):
  """A tar of {name: content}, where a content that is a dict is a tar itself."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode=mode) as tar:
    for name, content in files.items():
      content = write_tar(None, content) if isinstance(content, dict) else content
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
  return file.getvalue()


def tar_of_tars(path, files=None, folder='', mode='w'):
  tars = {f'{folder}{wnid}.tar': images for wnid, images in (files or FILES).items()}
  return write_tar(path, {f'{folder}README': b'not a synset', f'{folder}._{N1}.tar': b'nor this'} | tars, mode)


def tar_of_folders(path, mode='w'):
  """Every third image of a synset is for validation; a folder of small classes lies beside."""
  root = 'imagenet21k_resized/imagenet21k_'
  place = lambda k: 'val' if k % 3 == 0 else 'train'
  images = {f'{root}{place(k)}/{wnid}/{name}': content for wnid, files in FILES.items()
            for k, (name, content) in enumerate(files.items(), 1)}
  images = dict(sorted(images.items(), key=lambda item: '_val/' in item[0]))
  return write_tar(path, images | {f'{root}small_classes/n00000009/x.JPEG': GOOD[0]}, mode)


def prepare(manual_dir, data_dir, config=SMALL, beam=False, **settings):
  """Prepares, and opens the copy without the tar and the class."""
  config = dataclasses.replace(config, **settings)
  builder = imagenet21k.Imagenet21k(data_dir=data_dir, config=config, file_format='array_record')
  download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
  if beam:
    import apache_beam
    download_config.beam_options = apache_beam.options.pipeline_options.PipelineOptions(['--runner=DirectRunner'])
  builder.download_and_prepare(download_config=download_config)
  return tfds.builder_from_directory(builder.data_path)


def examples(builder, split):
  """(file name, image, wnids) of a split, in its order."""
  int2str = builder.info.features['label'].feature.int2str
  return [(example['file_name'].decode(), example['image'], tuple(int2str(label) for label in example['label']))
          for example in builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})]


def records(builder):
  # Not their bytes: protobuf writes an example's features in an order that differs from process to process.
  return {split: examples(builder, split) for split in builder.info.splits}


def report(builder):
  return json.loads((builder.data_path / 'report.json').read_text())


def expected_groups(config, files=None):
  """What must come out, by another way: {split: {key: (file name, content, wnids)}} in the order of the tar."""
  groups = collections.defaultdict(list)
  for wnid, images in (files or FILES).items():
    for k, (name, content) in enumerate(images.items(), 1):
      digest = hashlib.blake2b(content, digest_size=16).hexdigest()
      by_hash = 'validation' if int(digest, 16) % 2**32 < 0.4 * 2**32 else 'train'
      by_folder = 'validation' if k % 3 == 0 else 'train'
      split = by_folder if config.layout == imagenet_tar.FOLDERS else by_hash
      if content not in UNREADABLE:
        groups[split, digest if config.merge else f'{digest}/{wnid}'].append((f'{wnid}/{name}', content, wnid))
  out = {'train': {}, 'validation': {}}
  for (split, key), group in groups.items():
    names, contents, wnids = zip(*group)
    out[split][key] = names[0], contents[0], tuple(sorted(set(wnids)))
  return out


@pytest.fixture(scope='module')
def tars(tmp_path_factory):
  """Directories with a tar as it is published, and names of classes beside."""
  root = tmp_path_factory.mktemp('manual')
  for name, write in (('tars', tar_of_tars), ('folders', tar_of_folders)):
    write(root / name / 'small.tar')
    write(root / f'{name}_gz' / 'small.tar.gz', mode='w:gz')
  (root / 'tars/words.txt').write_text(f'{N2}\ttench, Tinca tinca\nn09999999\tnot here\n{N1}\tcafé\n')
  return root


@pytest.fixture(scope='module')
def merged(tars, tmp_path_factory):
  return prepare(tars / 'tars', tmp_path_factory.mktemp('merged'))


CASES = [(config, merge) for config in (SMALL, FOLDERS) for merge in (True, False)]
ids = lambda value: value.name if isinstance(value, imagenet21k.Imagenet21kConfig) else f'merge={value}'


@pytest.mark.parametrize('config, merge', CASES, ids=ids)
def test_each_content_is_one_example_with_all_its_synsets(tars, tmp_path, config, merge):
  config = dataclasses.replace(config, merge=merge)
  builder = prepare(tars / f'{"folders" if config.layout == imagenet_tar.FOLDERS else "tars"}_gz', tmp_path, config)
  total = expected_groups(config)
  assert all(len(total[split]) > 3 for split in total)
  for split, group in total.items():
    # TFDS orders examples by a hash of their keys, so that the order tells of the keys.
    order = sorted(group, key=tfds.core.hashing.Hasher(split).hash_key)
    got = examples(builder, split)
    assert [(name, wnids) for name, _, wnids in got] == [(group[key][0], group[key][2]) for key in order]
    for (_, image, _), key in zip(got, order):
      content = group[key][1]
      if content in NOT_RGB_JPEG.values():
        reread = PIL.Image.open(io.BytesIO(image))
        assert (reread.format, reread.mode, reread.size) == ('JPEG', 'RGB', (9, 7))
      else:
        assert image == content
  most = max(len(wnids) for group in total.values() for _, _, wnids in group.values())
  assert builder.info.metadata['max_labels'] == most == (3 if merge else 1)


def test_report_tells_what_was_found_beside_what_was_published(merged):
  got = report(merged)
  reasons = {entry['file']: (entry['copies'], entry['reason']) for entry in got.pop('unreadable_files')}
  assert reasons[f'{N4}/d_1.JPEG'] == (2, 'it is not one of JPEG, PNG, GIF, WEBP, BMP, TIFF')
  assert reasons[f'{N1}/a_9.JPEG'][0] == 1 and 'Invalid JPEG data' in reasons[f'{N1}/a_9.JPEG'][1]
  assert len(reasons) == 2
  splits = {split: len(group) for split, group in expected_groups(SMALL).items()}
  assert got == {
      'published': {'synsets': 4, 'images': 99}, 'synsets': 4, 'empty_synsets': [N4], 'files': 26, 'unreadable': 3,
      'duplicates_merged': 4, 'examples': splits, 're_encoded': 3,
      'examples_by_number_of_labels': {'1': 17, '2': 1, '3': 1}}
  assert got['files'] == got['unreadable'] + got['duplicates_merged'] + sum(splits.values())
  assert {name: split.num_examples for name, split in merged.info.splits.items()} == splits


def test_a_finished_copy_knows_its_classes_without_the_tar(merged):
  again = imagenet21k.Imagenet21k(data_dir=merged.data_path.parent.parent.parent, config=SMALL)
  for builder in (merged, again):
    assert builder.info.features['label'].feature.names == WNIDS
    assert builder.info.metadata['class_names'] == ['café', 'tench, Tinca tinca', N3, N4]
    assert builder.info.metadata['max_labels'] == 3
  image = next(iter(again.as_data_source('train')))['image']
  assert image.shape[-1] == 3


def test_classes_are_called_by_their_ids_without_words(tars, tmp_path):
  assert prepare(tars / 'tars_gz', tmp_path).info.metadata['class_names'] == WNIDS


@pytest.mark.slow
@pytest.mark.parametrize('config, merge', CASES[:3], ids=ids)
def test_beam_and_one_process_make_the_same(tars, tmp_path, config, merge):
  manual_dir = tars / ('folders' if config is FOLDERS else 'tars')
  one, many = (prepare(manual_dir, tmp_path / str(beam), config, beam, merge=merge) for beam in (False, True))
  assert records(many) == records(one)
  assert report(many) == report(one)
  assert dict(many.info.metadata) == dict(one.info.metadata)
  assert many.info.features['label'].feature.names == one.info.features['label'].feature.names
  assert {path.name for path in many.data_path.iterdir()} == {path.name for path in one.data_path.iterdir()}


def test_the_same_again_from_a_folder_in_a_compressed_tar(tars, merged, tmp_path):
  tar_of_tars(tmp_path / 'small.tar.gz', folder='winter21_whole/', mode='w:gz')
  again = prepare(tmp_path, tmp_path / 'data')
  assert records(again) == records(merged)
  assert report(again) == report(merged)


def test_the_order_of_synsets_changes_no_more_than_the_names(merged, tmp_path):
  tar_of_tars(tmp_path / 'small.tar', dict(sorted(FILES.items())))
  again = prepare(tmp_path, tmp_path / 'data')
  without_names = lambda builder: [(split, *rest) for split in ('train', 'validation')
                                   for _, *rest in examples(builder, split)]
  assert without_names(again) == without_names(merged)


def test_only_the_share_of_the_config_is_for_validation():
  digests = [image_files.content_hash(b'%d' % k) for k in range(20_000)]
  splits = collections.Counter(imagenet21k._split(imagenet21k.FALL11, digest) for digest in digests)
  assert splits.keys() == {'train', 'validation'}
  assert 150 < splits['validation'] < 250
  # Of those whose first digits are small just as many are for validation.
  few = [imagenet21k._split(SMALL, digest) for digest in digests if digest < '1']
  assert 0.35 < few.count('validation') / len(few) < 0.45


@pytest.mark.parametrize('beam', [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize('config, text', [
    (SMALL, r'small.tar holds 3 synsets, and small has 4: it is not whole, or another release. To .* --partial'),
    (imagenet21k.FALL11, r'fall11_whole.tar holds 3 synsets, and fall11 has 21,841'),
    (imagenet21k.WINTER21, r'winter21_whole.tar holds 3 synsets, and winter21 has 19,167'),
], ids=['small', 'fall11', 'winter21'])
def test_a_part_of_the_synsets_is_refused(tmp_path, config, text, beam):
  tar_of_tars(tmp_path / config.file.removesuffix('.gz'), {wnid: FILES[wnid] for wnid in (N1, N2, N3)})
  with pytest.raises(ValueError, match=text):
    if config is SMALL:
      prepare(tmp_path, tmp_path / 'data', beam=beam)
    else:
      builder = imagenet21k.Imagenet21k(data_dir=tmp_path / 'data', config=config.name)
      list(builder._split_pipelines(Manual(tmp_path), None) if beam else builder._split_generators(Manual(tmp_path)))


@dataclasses.dataclass
class Manual:
  manual_dir: object


def test_any_number_of_synsets_is_taken_if_the_config_says_so(tmp_path):
  tar_of_tars(tmp_path / 'small.tar', {wnid: FILES[wnid] for wnid in (N1, N3)})
  builder = prepare(tmp_path, tmp_path / 'data', num_synsets=None)
  assert builder.info.features['label'].feature.names == [N1, N3]


def damage(data, what):
  whole = write_tar(None, FILES[N1])
  at = data.index(whole)
  inner = at + whole.index(b'a_2.JPEG') + 110
  return {
      'in an image': data[:at + 700],
      'in a header': data[:at + 100],
      "in a synset's header": data[:at - 300],
      'before a synset': data[:at - tarfile.BLOCKSIZE],
      'without its end': data[:len(data.rstrip(b'\0')) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE],
      'a header overwritten': data[:at - 400] + b'damage' + data[at - 394:],
      'an inner header overwritten': data[:inner] + b'damage' + data[inner + 6:],
      'no tar': b'<html>you need to log in</html>' * 99,
      'nothing': b'',
  }[what]


@pytest.mark.parametrize('what, beam', [
    pytest.param(what, beam, marks=[pytest.mark.slow] if beam else []) for beam in (False, True) for what in (
        'in an image', 'in a header', "in a synset's header", 'before a synset', 'without its end',
        'a header overwritten', 'no tar', 'nothing')
] + [('an inner header overwritten', False)])
def test_a_tar_that_is_damaged_is_named(tmp_path, what, beam):
  path = tmp_path / 'small.tar'
  path.write_bytes(damage(tar_of_tars(None), what))
  with pytest.raises(Exception, match=f'{path} cannot be read: .* It is no tar, or the tar is cut off or damaged'):
    prepare(tmp_path, tmp_path / 'data', beam=beam, num_synsets=None)
  assert not list((tmp_path / 'data').glob('**/*.array_record*'))
  assert not list((tmp_path / 'data').glob('**/report.json'))


def test_a_compressed_tar_that_is_cut_off_is_named(tmp_path):
  path = tmp_path / 'small.tar.gz'
  data = tar_of_folders(None, 'w:gz')
  for size in (len(data) - 500, len(data) // 2):
    path.write_bytes(data[:size])
    with pytest.raises(ValueError, match=f'{path} cannot be read: .* It is no tar, or the tar is cut off or damaged'):
      prepare(tmp_path, tmp_path / 'data', FOLDERS, num_synsets=None)


@pytest.mark.parametrize('beam', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_synset_that_is_no_tar_is_named(tmp_path, beam):
  tar_of_tars(tmp_path / 'small.tar', FILES | {N2: b'<html>not found</html>' * 99})
  with pytest.raises(Exception, match=f'{N2}.tar in {tmp_path}/small.tar cannot be read: .* It is no tar, or '):
    prepare(tmp_path, tmp_path / 'data', beam=beam)


def header(name, size=0, kind=tarfile.REGTYPE, pax=None, **fields):
  """A member's header, as its writer likes it."""
  member = tarfile.TarInfo(name)
  member.size, member.type, member.pax_headers = size, kind, pax or {}
  block = bytearray(member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT))
  for place, value in fields.get('overwrite', {}).items():
    block[place:place + len(value)] = value
    block[148:156] = b'%06o\0 ' % sum(block[:148], 256 + sum(block[156:512]))
  return bytes(block)


def long(name_size, kind=tarfile.GNUTYPE_LONGNAME):
  return header('././@LongLink', name_size, kind) + bytes(-(-min(name_size, 2**20) // 512) * 512)


PAX = tarfile.XHDTYPE
BAD_MEMBERS = {
    'of exabytes': (header('a.JPEG', 2**62), r"'a\.JPEG' claims 4,611,686,018,427,387,904 bytes; the limit is 68,719"),
    'below zero': (header('a.JPEG', -512), r"'a\.JPEG' claims -512 bytes"),
    'a name of a gigabyte': (long(2**30), r'claims 1,073,741,824 bytes; the limit is 16,384'),
    'names of names': (long(600) * 2_000, r'a damaged header'),
    'more headers of a gigabyte': (header('a', 2**30, PAX), r'claims 1,073,741,824 bytes; the limit is 16,384'),
    'another size': (header('a.JPEG', 9, pax={'size': str(2**62)}), r'claims 4,611,686,018,427,387,904 bytes'),
    'another size of many digits': (header('x', 512, PAX) + b'%s size=1\n' % (b'9' * 502), r'.'),
    'sparse': (header('a.JPEG', 512, tarfile.GNUTYPE_SPARSE, overwrite={
        386: b'%011o\0' % 2**32 + b'%011o\0' % 512, 483: b'%011o\0' % 2**33}), r"is a sparse file"),
    'sparse of 0.0': (header('a.JPEG', 9, pax={'GNU.sparse.size': str(2**40)}), r'is a sparse file'),
    'sparse of 0.1': (header('a.JPEG', 9, pax={'GNU.sparse.map': '0,1,1099511627776,1'}), r'is a sparse file'),
    'sparse of 1.0': (header('a.JPEG', 9, pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}), r'is a sparse file'),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize('what', BAD_MEMBERS)
def test_a_member_that_claims_what_it_does_not_hold_is_named(tmp_path, what, mode):
  """Inside a synset's tar, and beside it; at once, and without the memory that is claimed."""
  content, message = BAD_MEMBERS[what]
  path = tmp_path / 'small.tar'
  compress = gzip.compress if mode == 'w:gz' else bytes
  good = write_tar(None, FILES[N1]).rstrip(b'\0')
  good += bytes(-len(good) % tarfile.BLOCKSIZE)
  bad = good + content + bytes(4 * tarfile.BLOCKSIZE)
  for data in write_tar(None, {f'{N1}.tar': bad}), bad:
    path.write_bytes(compress(data))
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf'small\.tar cannot be read: .*{message}.* or the tar is cut off or damaged'):
      with path.open('rb') as file:
        for *_, images in imagenet_tar.read(file, path, imagenet_tar.TARS):
          list(images)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_file_without_end_in_a_tar_is_read_to_the_limit_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(image_files, 'MAX_BYTES', 2**16)
  images = {'a.JPEG': GOOD[0], 'b.JPEG': bytes(2**24), 'c.JPEG': GOOD[1]}
  tar_of_tars(tmp_path / 'small.tar.gz', {N1: images}, mode='w:gz')
  builder = prepare(tmp_path, tmp_path / 'data', num_synsets=None)
  assert report(builder)['files'] == 3
  assert report(builder)['unreadable_files'] == [
      {'file': f'{N1}/b.JPEG', 'copies': 1, 'reason': 'more than 65,536 bytes'}]


def test_no_member_is_written_to_where_its_name_leads(tmp_path):
  """Names are read, and nothing else."""
  names = ['../evil.JPEG', '/tmp/evil.JPEG', '../../evil.JPEG', 'a/../../evil.JPEG', '~/evil.JPEG']
  links = [header('link.JPEG', 0, tarfile.SYMTYPE), header('hard.JPEG', 0, tarfile.LNKTYPE),
           header('device.JPEG', 0, tarfile.CHRTYPE), header('../evil', 0, tarfile.DIRTYPE)]
  inner = write_tar(None, dict(zip(names, GOOD)))
  folder = tmp_path / 'a/b/manual'
  write_tar(folder / 'small.tar', {f'../../{N1}.tar': b''.join(links) + inner})
  before = {path for path in tmp_path.rglob('*')}
  builder = prepare(folder, tmp_path / 'a/b/data', num_synsets=None)
  written = {path for path in tmp_path.rglob('*')} - before
  assert all(path.is_relative_to(tmp_path / 'a/b/data') for path in written) and not list(tmp_path.rglob('*evil*'))
  assert {name for split in ('train', 'validation') for name, *_ in examples(builder, split)} == {f'{N1}/evil.JPEG'}
  assert report(builder)['files'] == 5


def test_a_synset_without_files_or_without_the_mark_at_its_end_is_read(tmp_path):
  without = write_tar(None, FILES[N2]).rstrip(b'\0')
  tar_of_tars(tmp_path / 'small.tar', FILES | {N4: {}, N2: without + bytes(-len(without) % tarfile.BLOCKSIZE)})
  builder = prepare(tmp_path, tmp_path / 'data')
  assert builder.info.features['label'].feature.names == WNIDS
  assert report(builder)['empty_synsets'] == [N4]
  assert report(builder)['files'] == 25


def test_what_is_missing_is_named_with_the_way_out(tmp_path):
  (tmp_path / 'other.tar').write_bytes(b'')
  with pytest.raises(ValueError, match=rf'small.tar.gz is not in manual_dir, {tmp_path}. Give the directory with it:\n'
                                       r'  python -m tools.prepare imagenet21k/small --manual_dir=DIR'):
    prepare(tmp_path, tmp_path / 'data')
  with pytest.raises(AssertionError, match=r'(?s)nowhere does not exist.* fall11_whole.tar.* --manual_dir=DIR'):
    prepare(tmp_path / 'nowhere', tmp_path / 'data')
  write_tar(tmp_path / 'small.tar', {'README': b''})
  with pytest.raises(ValueError, match='small.tar holds no images that small would take'):
    prepare(tmp_path, tmp_path / 'data', num_synsets=None)
  (tmp_path / 'words.txt').write_text(f'{N1}\tcat\n{N2} dog\n')
  tar_of_tars(tmp_path / 'small.tar')
  with pytest.raises(ValueError, match=rf"words.txt, line 2: '{N2} dog' is no WordNet id, a tab and its words"):
    prepare(tmp_path, tmp_path / 'data')


def test_beam_wants_an_uncompressed_tar(tars, tmp_path):
  with pytest.raises(ValueError, match=r'small.tar.gz is compressed, so Beam cannot .*\n  gunzip .*small.tar.gz'):
    prepare(tars / 'tars_gz', tmp_path, beam=True)


@pytest.mark.parametrize('beam', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_interrupted_is_not_taken_for_whole(tars, merged, tmp_path, monkeypatch, beam):
  with monkeypatch.context() as patch:
    patch.setattr(imagenet21k.Imagenet21k, '_write_report', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepare(tars / 'tars', tmp_path, beam=beam)
  assert not list(tmp_path.glob('**/*array_record*')) and not list(tmp_path.glob('**/report.json'))
  assert not imagenet21k.Imagenet21k(data_dir=tmp_path, config=SMALL).is_prepared()
  if not beam:  # which takes long, and has been compared above
    again = prepare(tars / 'tars', tmp_path)
    assert records(again) == records(merged)
    assert report(again) == report(merged)


def test_memory_grows_by_some_bytes_a_file_and_not_with_their_size(tmp_path):
  def memory(num_files, size):
    content = lambda k: k.to_bytes(4, 'big') * (size // 4)
    tar_of_tars(tmp_path / 'small.tar', {N1: {f'{k}.JPEG': content(k) for k in range(num_files)}})
    tracemalloc.start()
    contents = imagenet21k.Contents(tmp_path / 'small.tar', SMALL)
    assert sum(1 for split in ('train', 'validation') for _ in contents.of(split)) == num_files
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, peak

  (few, few_peak), (many, many_peak) = (memory(num_files, 8) for num_files in (500, 2_500))
  assert (many - few) / 2_000 < 60
  assert (many_peak - few_peak) / 2_000 < 300  # while they are sorted
  assert memory(20, 1_000_000)[1] < 10_000_000  # of 20 MB


def test_a_part_is_prepared_by_its_published_name_with_an_image_to_validate(tmp_path, capsys):
  tar_of_tars(tmp_path / 'winter21_whole.tar', {wnid: FILES[wnid] for wnid in (N1, N2)})
  command = lambda **flags: tool.prepare('imagenet21k/winter21', str(tmp_path / 'data'), str(tmp_path), **flags)
  with pytest.raises(ValueError, match='holds 2 synsets, and winter21 has 19,167: .* To take what it holds, give --partial'):
    command()
  with pytest.raises(ValueError, match='--partial and --beam exclude each other'):
    command(partial=True, beam='runner=DirectRunner')
  builder = tfds.builder_from_directory(command(partial=True))
  assert 'imagenet21k/winter21, label: 2 synsets; published: 19,167' in capsys.readouterr().out
  (name, image, _), = examples(builder, 'validation')
  readable = {content for files in (FILES[N1], FILES[N2]) for content in files.values()} - UNREADABLE
  value = lambda content: int(hashlib.blake2b(content, digest_size=16).hexdigest()[-8:], 16)
  assert min(readable, key=value) == FILES[name.split('/')[0]][name.split('/')[1]]
  assert len(examples(builder, 'train')) == len(readable) - 1
  with pytest.raises(ValueError, match='label: 2 synsets, but 19,167 were published; the copy is now .*not_whole'):
    command()  # a part is not taken for the whole


def test_a_part_of_one_image_has_none_to_validate_and_says_so(tmp_path, caplog):
  tar_of_tars(tmp_path / 'winter21_whole.tar', {N1: {'a.JPEG': GOOD[0]}})
  builder = tfds.builder_from_directory(
      tool.prepare('imagenet21k/winter21', str(tmp_path / 'data'), str(tmp_path), partial=True))
  assert list(builder.info.splits) == ['train'] and len(examples(builder, 'train')) == 1
  assert 'no image is left for validation; the copy has the split train alone' in caplog.text


def test_published_configs():
  configs = imagenet21k.Imagenet21k.builder_configs
  assert {name: (config.num_synsets, config.merge) for name, config in configs.items()} == {
      'fall11': (21841, True), 'winter21': (19167, True), 'winter21_p': (10450, True),
      'fall11_unmerged': (21841, False), 'winter21_unmerged': (19167, False), 'winter21_p_unmerged': (10450, False)}
  assert imagenet21k.Imagenet21k.name == 'imagenet21k'
  assert imagenet21k.Imagenet21k(data_dir='/nowhere').builder_config.name == 'fall11'
