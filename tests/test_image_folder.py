import pytest

from configs import image_folder
from mixer.data import sources


def folder(root, classes=('cat', 'dog'), count=4):
  for name in classes:
    (root / 'train' / name).mkdir(parents=True)
    for k in range(count):
      header = b'\x89PNG\r\n\x1a\n' + b'\0\0\0\rIHDR' + (80).to_bytes(4, 'big') + (70).to_bytes(4, 'big')
      (root / 'train' / name / f'{k}.png').write_bytes(header)
  return root


def test_size_batch_and_splits_come_from_the_folder(tmp_path):
  config = image_folder.get_config(str(folder(tmp_path / 'my photos')))
  assert (config.data.resolution, config.data.batch_size, config.model.num_classes) == (64, 4, None)
  assert (config.data.split, config.evals.test.split) == ('train[:90%]', 'train[90%:]')
  (tmp_path / 'my photos' / 'val').mkdir()
  config = image_folder.get_config(f'{tmp_path}/my photos,S,224')
  assert (config.data.split, config.evals.test.split, config.model.patch_size) == ('train', 'val', 16)


@pytest.mark.parametrize('classes, options, message', [
    (None, '', 'train is no folder; lay the images out as'),
    ((), '', 'train is no folder'),
    (('cat',), '', 'images of 1 classes, and training takes at least 2'),
    (('cat', 'dog'), ',huge', 'VARIANT is one of nano, S, B'),
    (('cat', 'dog'), ',nano,30', 'RESOLUTION is a multiple of 8'),
    (('cat', 'dog'), ',nano,x', 'RESOLUTION is a multiple of 8')])
def test_what_is_no_image_folder_is_refused_in_a_line(tmp_path, classes, options, message):
  if classes:
    folder(tmp_path, classes)
  with pytest.raises(ValueError, match=message) as error:
    image_folder.get_config(f'{tmp_path}{options}')
  assert '\n' not in str(error.value)


def test_folders_of_classes_alone_are_the_split_train(tmp_path):
  folder(tmp_path).joinpath('train').rename(tmp_path / 'root')
  assert sources.open_split(f'{tmp_path}/root', 'train').class_names == ['cat', 'dog']
