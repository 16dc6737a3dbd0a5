"""IDX files of MNIST and Fashion-MNIST, and the image folder that is written from them."""

import gzip
import re
import struct

import numpy as np
import PIL.Image
import pytest

from mixer.data import folder_source
from tools import idx_folder

SIDES = (5, 4)
LABELS = {'train': [3, 0, 9, 3], 't10k': [9, 0]}
TRAIN, LABEL = 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte'


def packed(array, magic=None):
  return struct.pack(f'>{1 + array.ndim}I', magic or 0x0800 + array.ndim, *array.shape) + array.tobytes()


def images_of(start):
  return np.random.default_rng(len(start)).integers(0, 256, (len(LABELS[start]), *SIDES), np.uint8)


@pytest.fixture
def files(tmp_path):
  """A folder with the four files, gzipped."""
  folder = tmp_path / 'idx'
  folder.mkdir()
  for start, labels in LABELS.items():
    (folder / f'{start}-images-idx3-ubyte.gz').write_bytes(gzip.compress(packed(images_of(start))))
    (folder / f'{start}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(packed(np.array(labels, np.uint8))))
  return folder


@pytest.mark.parametrize('flags, names', [([], '0123456789'),
                                          (['--classes=fashion_mnist'], idx_folder.CLASSES['fashion_mnist'])])
def test_each_image_is_in_the_folder_of_its_class_under_its_number(files, tmp_path, flags, names, capsys):
  out = tmp_path / 'new' / 'out'
  idx_folder.main([str(files), str(out), *flags])
  assert f'--config=configs/image_folder.py:{out} ' in capsys.readouterr().out
  expected = {f'{split}/{names[label]}/{number:05}.png': image for split, start in (('train', 'train'), ('test', 't10k'))
              for number, (label, image) in enumerate(zip(LABELS[start], images_of(start)), 1)}
  assert {str(path.relative_to(out)) for path in out.rglob('*.*')} == set(expected)
  for name, image in expected.items():
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(out / name)), image)
  source = folder_source.FolderSource.open(out, 'test')
  assert source.class_names == sorted(names[label] for label in set(LABELS['train'])) and source.num_examples == 2
  assert [path.name for path in out.parent.iterdir()] == ['out']


def test_files_that_are_not_compressed_are_read_too(files, tmp_path):
  for path in list(files.iterdir()):
    path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
  idx_folder.main([str(files), str(tmp_path / 'out')])
  assert len(list(tmp_path.glob('out/*/*/*.png'))) == 6


def test_the_names_of_fashion_mnist_are_ten_folders():
  names = idx_folder.CLASSES['fashion_mnist']
  assert len(set(names)) == 10 and not any('/' in name for name in names)


whole = gzip.compress(packed(images_of('train')))
BAD = {
    'missing': (TRAIN, None, f'neither {TRAIN}.gz nor {TRAIN}; pass the folder with the four IDX files'),
    'truncated': (TRAIN, whole[:-20], f'{TRAIN}.gz is truncated or damaged .*; download it again'),
    'damaged': (TRAIN, whole[:40] + b'\xff' * 9 + whole[49:], f'{TRAIN}.gz is truncated or damaged .*; download it'),
    'no gzip': (TRAIN, b'<html>', f'{TRAIN}.gz is truncated or damaged .*Not a gzipped'),
    'of labels': (TRAIN, gzip.compress(packed(np.zeros(4, np.uint8))),
                  f'{TRAIN}.gz begins with the number 2049, but an IDX file of bytes in 3 dimensions begins with 2051'),
    'empty': (TRAIN, gzip.compress(b''), f'{TRAIN}.gz begins with the number 0, but '),
    'short': (TRAIN, gzip.compress(packed(images_of('train'))[:-1]),
              f'{TRAIN}.gz has 79 bytes after its header, which states 4 x 5 x 4: 80; download it again'),
    'long': (TRAIN, gzip.compress(packed(images_of('train')) + b'\0'),
             f'{TRAIN}.gz has more bytes after its header, which states 4 x 5 x 4: 80'),
    'a bomb': (TRAIN, gzip.compress(struct.pack('>4I', 2051, 2**20, 2**10, 2**10)), 'would take 1,048,576 MiB in memory'),
    'no images': (TRAIN, gzip.compress(packed(np.zeros((4, 0, 3), np.uint8))), 'states 4 x 0 x 3, which is no image'),
    'counts': (LABEL, gzip.compress(packed(np.zeros(3, np.uint8))), f'{TRAIN} has 4 images, but {LABEL} 3 labels'),
    'labels': (LABEL, gzip.compress(packed(np.full(4, 10, np.uint8))),
               f'{LABEL} has the label 10, but the classes are 10, from 0 on; pass the files of'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_files_get_one_line_and_nothing_is_written(files, tmp_path, name):
  file, data, message = BAD[name]
  path = files / f'{file}.gz'
  path.unlink() if data is None else path.write_bytes(data)
  with pytest.raises(SystemExit, match=r'^error: [^\n]*' + message) as error:
    idx_folder.main([str(files), str(tmp_path / 'out')])
  assert '\n' not in str(error.value) and str(files) in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['idx']


def test_a_bad_test_split_is_found_before_anything_is_written(files, tmp_path):
  (files / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(SystemExit, match='neither t10k-labels-idx1-ubyte.gz nor '):
    idx_folder.main([str(files), str(tmp_path / 'out')])
  assert [path.name for path in tmp_path.iterdir()] == ['idx']


def test_what_exists_is_kept(files, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').write_text('mine')
  with pytest.raises(SystemExit, match=f'^error: {re.escape(str(tmp_path))}/out already exists; remove it or choose another'):
    idx_folder.main([str(files), str(tmp_path / 'out')])
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']


def test_an_interrupted_run_leaves_nothing_under_its_name_and_starts_over(files, tmp_path, monkeypatch):
  out, save, written = tmp_path / 'out', PIL.Image.Image.save, []

  def fail(image, path):
    written.append(path)
    if len(written) == 4:
      raise OSError(28, 'No space left on device')
    save(image, path)

  monkeypatch.setattr(PIL.Image.Image, 'save', fail)
  with pytest.raises(SystemExit, match='No space left'):
    idx_folder.main([str(files), str(out)])
  assert not out.exists() and (tmp_path / 'out.partial').exists()
  monkeypatch.undo()
  idx_folder.main([str(files), str(out)])
  assert len(list(out.rglob('*.png'))) == 6 and not (tmp_path / 'out.partial').exists()


def test_a_folder_with_a_comma_is_refused_and_the_next_command_is_quoted(files, tmp_path, capsys):
  with pytest.raises(SystemExit):
    idx_folder.main([str(files), str(tmp_path / 'a,b')])
  assert 'takes paths without a comma' in capsys.readouterr().err
  idx_folder.main([str(files), str(tmp_path / 'a b')])
  assert f"'--config=configs/image_folder.py:{tmp_path}/a b' --workdir" in capsys.readouterr().out
