import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import example_images
from mixer.data import image_files
from mixer.data import preprocess
from mixer.data import thread_map

RNG = np.random.default_rng(0)
SMOOTH = np.stack([*np.mgrid[60:140:2, 50:110:2], np.full((40, 30), 90)], -1).astype(np.uint8)  # [40, 30, 3]


def file(image, kind, **options):
  data = io.BytesIO()
  image.save(data, kind, **options)
  return data.getvalue()


def rgb():
  return PIL.Image.fromarray(SMOOTH)


def pixels(data):
  image = PIL.Image.open(io.BytesIO(data))
  assert (image.format, image.mode) == ('JPEG', 'RGB')
  return np.asarray(image).astype(int)


def test_a_good_jpeg_keeps_its_bytes():
  for options in ({}, {'progressive': True}, {'quality': 30, 'subsampling': 0}):
    data = file(rgb(), 'JPEG', **options)
    assert image_files.as_jpeg(data) is data


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_other_files_become_jpegs_of_the_same_pixels(kind):
  data = file(rgb(), kind, **({'lossless': True} if kind == 'WEBP' else {}))
  assert np.abs(pixels(image_files.as_jpeg(data)) - SMOOTH).mean() < (8 if kind == 'GIF' else 2)


def test_what_is_not_rgb_becomes_it():
  grey = np.asarray(rgb().convert('L')).astype(int)
  for data in (file(rgb().convert('L'), 'JPEG'), file(rgb().convert('L'), 'PNG')):
    assert np.abs(pixels(image_files.as_jpeg(data)) - grey[..., None]).max() < 6
  assert np.abs(pixels(image_files.as_jpeg(file(rgb().convert('CMYK'), 'JPEG', quality=95))) - SMOOTH).mean() < 3
  of_16_bits = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
  assert np.abs(pixels(image_files.as_jpeg(file(of_16_bits, 'PNG'))) - grey[..., None]).max() < 4


def test_transparent_pixels_are_laid_on_white():
  image = rgb().convert('RGBA')
  image.putalpha(PIL.Image.fromarray(np.where(np.arange(30) < 16, 0, 255)[None].repeat(40, 0).astype(np.uint8)))
  got = pixels(image_files.as_jpeg(file(image, 'PNG')))
  assert got[:, :14].min() > 245 and np.abs(got[:, 18:] - SMOOTH[:, 18:]).mean() < 4


def test_of_several_images_the_first_is_taken():
  other = PIL.Image.fromarray(255 - SMOOTH)
  for kind in ('GIF', 'WEBP', 'MPO'):
    data = file(rgb(), kind, save_all=True, append_images=[other])
    got = image_files.as_jpeg(data)
    assert got != data and np.abs(pixels(got) - SMOOTH).mean() < 8, kind


@pytest.mark.parametrize('data, reason', [
    (b'', 'it is not one of JPEG, PNG'),
    (b'not an image', 'it is not one of JPEG, PNG'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n', 'it is not one of JPEG, PNG'),
    (file(rgb(), 'JPEG')[:-200], '[Tt]runcated|Invalid JPEG'),  # in its header
    (file(PIL.Image.fromarray(RNG.integers(0, 256, (90, 90, 3), np.uint8)), 'JPEG')[:-999], 'Invalid JPEG data'),
    (file(rgb(), 'PNG')[:-30], '[Tt]runcated|broken|incomplete'),
    (file(PIL.Image.new('1', (20_000, 20_000)), 'PNG'), 'pixels'),
    (file(PIL.Image.new('1', (1, 51)), 'PNG'), '1 x 51 pixels; the limit is sides of 50 to 1'),
    (file(PIL.Image.new('1', (9_000, 9_000)), 'PNG'), 'its header claims 81000000 pixels; the limit is 80,000,000'),
])
def test_what_cannot_be_decoded_says_why(data, reason):
  with pytest.raises(image_files.Unreadable, match=reason):
    image_files.as_jpeg(data)


def test_the_smallest_image_is_one():
  assert pixels(image_files.as_jpeg(file(PIL.Image.new('RGB', (1, 1), 'white'), 'PNG'))).tolist() == [[[255] * 3]]


def test_a_content_hash_is_of_the_bytes():
  assert image_files.content_hash(b'a') == image_files.content_hash(b'a') != image_files.content_hash(b'b')
  assert len(image_files.content_hash(b'')) == 32


def test_threads_keep_the_order_and_few_items():
  taken = []
  results = thread_map.map_in_order(lambda k: k * k, (taken.append(k) or k for k in range(1_000)), threads=8)
  assert next(results) == 0
  assert len(taken) < 50
  assert list(results) == [k * k for k in range(1, 1_000)]


@pytest.mark.parametrize('kind', example_images.zoo())
def test_a_prepared_jpeg_is_what_people_see(kind):
  data, seen, tolerance = example_images.zoo()[kind]
  got = preprocess.decode(image_files.as_jpeg(data)).numpy().astype(int)
  assert np.abs(got - seen).mean() < tolerance + 15  # JPEG blurs sharp edges, most of all their colours


def test_imagenets_files_stay_as_they_are_stored():
  """The numbers of its models were computed on pixels that no EXIF data had turned."""
  data, seen, _ = example_images.zoo()['jpeg, orientation 6']
  assert image_files.as_jpeg(data, upright=False) is data
  turned = example_images.zoo()['png, orientation 6'][0]
  stored = np.rot90(seen).astype(int)
  for each in (data, image_files.as_jpeg(turned, upright=False)):
    assert np.abs(preprocess.decode(each).numpy() - stored).max() <= 12


def test_nothing_that_needs_no_change_is_decoded_twice():
  for kind in ('jpeg', 'grey jpeg', 'jpeg, orientation 1', 'png', 'grey png', 'webp', 'lossless webp', 'bmp'):
    data = example_images.zoo()[kind][0]
    assert image_files.normalize(data).numpy() == data


@pytest.mark.parametrize('exif', [b'', b'Exif\0\0', b'II*\0\xff\xff\xff\xff', b'MM\0*\0\0\0\x08\xff\xff', b'XX', b'Exif\0\0II*\0'])
def test_damaged_exif_data_turn_nothing(exif):
  assert np.array_equal(preprocess.decode(image_files.normalize(file(rgb(), 'PNG', exif=exif) if exif else file(rgb(), 'PNG'))),
                        SMOOTH)


@pytest.mark.parametrize('kind', [kind for kind in example_images.KINDS if 'jpeg' not in kind])
def test_a_header_is_checked_before_pillow_makes_room(kind, monkeypatch):
  monkeypatch.setattr(PIL.Image, 'open', None)
  data = example_images.claiming(kind, 16_000, 16_000)
  with pytest.raises(image_files.Unreadable, match='its header claims 256000000 pixels; the limit is 80,000,000'):
    image_files.as_jpeg(data)


def test_what_is_wrong_with_a_rare_file_is_said_in_a_graph():
  with_alpha = example_images.zoo()['rgba png'][0]
  images = iter(tf.data.Dataset.from_tensor_slices([with_alpha[:-40], with_alpha]).map(image_files.normalize))
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    next(images)
  assert preprocess.reason(error.value) in ('image file is truncated (0 bytes not processed)', 'image file is truncated')
