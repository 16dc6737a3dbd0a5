"""TFDS's ImageNet builders, prepared by our command from small tars of the true layout, and read as the configs do."""

import io
import json
import tarfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

import input_pipeline
from mixer.data.process_shard import ProcessShard
from mixer.data import sources
from tools import prepare


def jpeg(number, side=40):
  """A JPEG of one colour, which tells its number."""
  file = io.BytesIO()
  PIL.Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(file, 'JPEG', quality=95)
  return file.getvalue()


def tar(files):
  """A tar of {name: bytes}, as bytes."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return file.getvalue()


WNIDS = ('n01440764', 'n01443537', 'n15075141')  # the first two classes and the last


@pytest.fixture(scope='module')
def manual_dir(tmp_path_factory):
  """The two tars of ImageNet-1k, with 3 synsets of 4 images and 8 validation images."""
  folder = tmp_path_factory.mktemp('manual')
  synsets = {f'{wnid}.tar': tar({f'{wnid}_{k}.JPEG': jpeg(20 * i + k) for k in range(4)}) for i, wnid in enumerate(WNIDS)}
  (folder / 'ILSVRC2012_img_train.tar').write_bytes(tar(synsets))
  (folder / 'ILSVRC2012_img_val.tar').write_bytes(
      tar({f'ILSVRC2012_val_{k:08}.JPEG': jpeg(10 * k) for k in range(1, 9)}))
  return folder


@pytest.fixture(scope='module')
def imagenet(manual_dir, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('data')
  prepare.prepare('imagenet2012', str(data_dir), str(manual_dir), partial=True)
  return str(data_dir)


def test_training_images_come_from_the_tars_with_their_classes(imagenet):
  batches = input_pipeline.train_batches(dataset='imagenet2012', split='train', data_dir=imagenet, batch_size=12,
                                         num_classes=1000, resolution=32, seed=0, shard=ProcessShard(0, 1, 1))
  batch = next(batches.start(0))
  got = sorted((int(label), int(image.mean().round())) for image, label in zip(batch['image'][0], batch['label'][0]))
  expected = [(label, 20 * i + k) for i, label in enumerate((0, 1, 999)) for k in range(4)]
  assert np.abs(np.array(got) - expected).max() <= 1  # JPEG rounds grey by one


def test_its_split_can_be_cut_in_two(imagenet):
  sizes = [sources.open_split('imagenet2012', split, imagenet).num_examples
           for split in ('train[:75%]', 'train[75%:]', 'train', 'validation')]
  assert sizes == [9, 3, 12, 8]


def test_validation_labels_are_those_of_the_release(imagenet):
  batches = input_pipeline.eval_batches(dataset='imagenet2012', split='validation', data_dir=imagenet,
                                        batch_size=8, resolution=32, resize=36, shard=ProcessShard(0, 1, 1))
  batch = next(iter(batches))
  places = np.argsort(batch['image'][0].mean((1, 2, 3)))
  names = [sources.open_split('imagenet2012', 'validation', imagenet).class_names[k] for k in batch['label'][0][places]]
  assert names[0] == 'n01751748'  # the label of ILSVRC2012_val_00000001.JPEG: a sea snake
  assert len(set(names)) > 4


def test_real_labels_are_read_as_lists(manual_dir, tmp_path, monkeypatch):
  labels = [[1, 2], [], [3], [999, 0, 4], [5], [6], [7], [8]]
  (tmp_path / 'real.json').write_text(json.dumps(labels))
  monkeypatch.setattr(tfds.download.DownloadManager, 'download', lambda self, url: str(tmp_path / 'real.json'))
  prepare.prepare('imagenet2012_real', str(tmp_path), str(manual_dir), partial=True)
  batches = input_pipeline.eval_batches(
      dataset='imagenet2012_real', split='validation', data_dir=str(tmp_path), label='real_label',
      max_labels=3, batch_size=8, resolution=32, resize=36, shard=ProcessShard(0, 1, 1))
  batch = next(iter(batches))
  places = np.argsort(batch['image'][0].mean((1, 2, 3)))
  got = [[int(k) for k in row if k >= 0] for row in batch['label'][0][places]]
  assert got == labels


def test_imagenet_v2_is_read_from_its_folders(tmp_path, monkeypatch):
  root = tmp_path / 'download'
  for label in (0, 7, 999):
    for k in range(2):
      path = root / 'imagenetv2-matched-frequency-format-val' / str(label) / f'{k}.jpeg'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(jpeg(label // 4))
  monkeypatch.setattr(tfds.download.DownloadManager, 'download_and_extract', lambda self, url: str(root))
  prepare.prepare('imagenet_v2', str(tmp_path), None, partial=True)
  batches = input_pipeline.eval_batches(dataset='imagenet_v2', split='test', data_dir=str(tmp_path),
                                        batch_size=6, resolution=32, resize=36, shard=ProcessShard(0, 1, 1))
  batch = next(iter(batches))
  assert sorted(batch['label'][0]) == [0, 0, 7, 7, 999, 999]
  assert np.abs(batch['image'][0].mean((1, 2, 3)) - batch['label'][0] // 4).max() <= 1


def test_missing_tars_are_named(tmp_path):
  (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes(tar({'ILSVRC2012_val_00000001.JPEG': jpeg(1)}))
  with pytest.raises(ValueError, match='imagenet2012 is made from .*/ILSVRC2012_img_train.tar, which is missing'):
    prepare.prepare('imagenet2012', str(tmp_path), str(tmp_path))
  assert not (tmp_path / 'imagenet2012').exists()


@pytest.mark.parametrize('where, text', [('in an image', 'unexpected end of data|truncated'), ('between two synsets', '')])
def test_a_tar_that_is_cut_off_leaves_nothing_that_looks_whole(manual_dir, tmp_path, where, text):
  (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes((manual_dir / 'ILSVRC2012_img_val.tar').read_bytes())
  whole = (manual_dir / 'ILSVRC2012_img_train.tar').read_bytes()
  with tarfile.open(manual_dir / 'ILSVRC2012_img_train.tar') as archive:
    second = archive.getmembers()[1].offset
  (tmp_path / 'ILSVRC2012_img_train.tar').write_bytes(whole[:second + (4_000 if text else 0)])
  with pytest.raises(tarfile.ReadError if text else ValueError,
                     match=text or 'imagenet2012, train: 4 examples, but 1,281,167 were published; the copy is now'):
    prepare.prepare('imagenet2012', str(tmp_path / 'data'), str(tmp_path))
  with pytest.raises(ValueError, match="dataset 'imagenet2012' is not prepared(?s:.*)--manual_dir=FOLDER_WITH_ITS_FILES"):
    sources.open_split('imagenet2012', 'train', str(tmp_path / 'data'))


def test_counts_are_told_beside_the_published_ones(imagenet, manual_dir, capsys):
  prepare.prepare('imagenet2012', imagenet, str(manual_dir), partial=True)
  assert 'imagenet2012, train: 12 examples; published: 1,281,167' in capsys.readouterr().out
