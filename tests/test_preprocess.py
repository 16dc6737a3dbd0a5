import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import example_images
from mixer.data import preprocess


def image(height, width):
  """A smooth image, so that resizing changes little. [H, W, 3] uint8."""
  y, x = np.mgrid[:height, :width]
  return np.stack([255 * y / height, 255 * x / width, 127 + 0 * x], -1).astype(np.uint8)


def encode(pixels, kind, **options):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize('crop', preprocess.EVALUATION_CROPS)
def test_large_images_are_resized_to_the_same_numbers_in_less_memory(crop, monkeypatch):
  pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  resize = lambda: preprocess.EVALUATION_CROPS[crop](pixels, 40, 32).numpy()
  as_floats = resize()
  types, original = [], tf.image.resize

  def noted(image, *arguments, **fields):
    types.append(image.dtype)
    return original(image, *arguments, **fields)

  monkeypatch.setattr(tf.image, 'resize', noted)
  monkeypatch.setattr(preprocess, 'RESIZED_AS_FLOATS', pixels.size - 1)
  np.testing.assert_array_equal(resize(), as_floats)
  assert types[0] == 'uint8'


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_decode_gives_rgb_whatever_the_file(kind):
  pixels = image(20, 30)
  options = {} if kind == 'PNG' else {'quality': 100}
  got = preprocess.decode(encode(pixels, kind, **options)).numpy()
  assert got.shape == (20, 30, 3)
  assert np.abs(got.astype(int) - pixels).max() <= (0 if kind == 'PNG' else 12)
  grey = preprocess.decode(encode(pixels[:, :, 0], kind, **options)).numpy()
  assert (grey[:, :, 0] == grey[:, :, 2]).all()


def test_inception_crop_of_jpeg_and_png_take_the_same_part():
  pixels = image(80, 120)
  for seed in ([0, 1], [0, 2]):
    of_jpeg, of_png = (preprocess.inception_crop(encode(pixels, kind, **options), 32, 0.1, 0, seed).numpy().astype(int)
                       for kind, options in (('JPEG', {'quality': 100, 'subsampling': 0}), ('PNG', {})))
    assert np.abs(of_jpeg - of_png).max() <= 4


def test_inception_crop_depends_on_the_seed_alone_and_covers_the_area_asked_for():
  pixels = encode(image(100, 100), 'PNG')
  crops = [preprocess.inception_crop(pixels, 50, 0.25, 0, [7, k]).numpy().astype(int) for k in range(200)]
  again = preprocess.inception_crop(pixels, 50, 0.25, 0, [7, 3]).numpy()
  assert (crops[3] == again).all()
  # The image's brightness rises by 2.55 a pixel, so a crop's range tells its height and width.
  height, width = (np.array([np.ptp(crop[:, :, axis]) / 250 for crop in crops]) for axis in (0, 1))
  area, ratio = height * width, width / height
  assert 0.2 < area.min() < 0.3 and 0.85 < area.max()
  assert 0.7 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.4


def test_where_a_crop_lies_has_nothing_to_do_with_its_shape():
  pixels = encode(image(100, 100), 'PNG')
  crops = np.array([preprocess.inception_crop(pixels, 20, 0.1, 0, [7, k]).numpy() for k in range(300)], int)
  top, left = crops[:, 0, 0, 0] / 255, crops[:, 0, 0, 1] / 255
  height, width = np.ptp(crops[..., 0], axis=(1, 2)) / 255, np.ptp(crops[..., 1], axis=(1, 2)) / 255
  for place, side in ((top, height), (left, width)):
    place = place / np.maximum(1 - side * 20 / 19, 0.05)  # its share of the room
    assert abs(np.corrcoef(place, width / height)[0, 1]) < 0.25  # 4.3 standard deviations


def test_padded_crops_also_shift_and_shrink():
  white = encode(np.full((8, 8, 3), 255, np.uint8), 'PNG')
  crops = np.stack([preprocess.inception_crop(white, 8, 0.64, 1, [0, k]).numpy()[:, :, 0] for k in range(100)])
  sides = crops[:, 0].max(1), crops[:, -1].max(1), crops[:, :, 0].max(1), crops[:, :, -1].max(1)
  black = np.stack(sides, 1) < 255  # which sides show some of the padding
  assert {tuple(row) for row in black} >= {(True, False, True, False), (False, True, False, True), (True,) * 4}


def test_flip_mirrors_about_half_of_the_images():
  pixels = image(4, 6)
  flipped = [preprocess.flip(pixels, [0, k]).numpy() for k in range(200)]
  mirrored = sum((f == pixels[:, ::-1]).all() for f in flipped)
  assert mirrored + sum((f == pixels).all() for f in flipped) == 200
  assert 70 < mirrored < 130


@pytest.mark.parametrize('side', [1, 4, 5, 30])
def test_cutout_greys_a_square_around_any_pixel_and_what_lies_outside_is_lost(side):
  height, width = 5, 7
  pixels = np.random.default_rng(0).integers(129, 256, (height, width, 3), np.uint8)
  expected = {}
  for y in range(height):
    for x in range(width):
      cut = expected[y, x] = pixels.copy()
      top, left = y - side // 2, x - side // 2
      cut[max(top, 0):top + side, max(left, 0):left + side] = 128
  drawn = [preprocess.cutout(pixels, side, [3, k]).numpy() for k in range(300)]
  seen = {cut.tobytes() for cut in drawn}
  assert seen == {cut.tobytes() for cut in expected.values()}
  assert (preprocess.cutout(pixels, side, [3, 7]).numpy() == drawn[7]).all()


def test_the_two_evaluation_crops_of_appendix_c():
  # A wide image: (i) squeezes it and so sees nearly all of its width, (ii) keeps its shape and sees the middle.
  wide = tf.constant(image(100, 300))
  squeezed = preprocess.paper_resize(wide, 64, 56).numpy().astype(int)
  kept = preprocess.paper_crop(wide, 64, 56).numpy().astype(int)
  assert squeezed.shape == kept.shape == (56, 56, 3)
  seen = lambda crop, axis: np.ptp(crop[:, :, axis]) / 255
  assert seen(squeezed, 1) == pytest.approx(56 / 64, abs=0.03)
  assert seen(kept, 1) == pytest.approx(56 / 192, abs=0.03)
  assert seen(squeezed, 0) == pytest.approx(seen(kept, 0), abs=0.03) == pytest.approx(56 / 64, abs=0.03)
  for crop in (squeezed, kept):
    assert np.abs(crop[:, ::-1, 1] + crop[:, :, 1] - 254).max() <= 6  # from the centre


def test_an_image_of_the_size_asked_for_stays_as_it_is():
  pixels = tf.constant(image(32, 32))
  for crop in preprocess.EVALUATION_CROPS.values():
    assert (crop(pixels, 32, 32).numpy() == pixels.numpy()).all()


def authors_resize(image, size, method):
  """What big_vision's resize, resize_small and inception_crop do to pixels: pp/ops_image.py."""
  resized = tf.image.resize(image, size, method=method, antialias=False)
  return tf.cast(tf.clip_by_value(resized, 0, 255), tf.uint8).numpy()


@pytest.mark.parametrize('shape', [(90, 131), (131, 90), (20, 25), (64, 64), (375, 500)])
def test_the_papers_crops_are_the_authors_pixel_for_pixel(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  centre = lambda image: image[(image.shape[0] - 32) // 2:, (image.shape[1] - 32) // 2:][:32, :32]
  squeezed = authors_resize(pixels, (37, 37), 'bilinear')
  np.testing.assert_array_equal(preprocess.paper_resize(tf.constant(pixels), 37, 32), centre(squeezed))
  kept = tf.cast(tf.round(tf.cast(shape, tf.float32) * (37. / min(shape))), tf.int32)
  np.testing.assert_array_equal(preprocess.paper_crop(tf.constant(pixels), 37, 32),
                                centre(authors_resize(pixels, kept, 'area')))
  encoded = tf.io.encode_png(pixels)
  windows = [squeezed[y:y + 32, x:x + 32] for y in range(6) for x in range(6)]
  for seed in range(3):
    crop = preprocess.random_crop(encoded, 37, 32, [0, seed]).numpy()
    assert any(np.array_equal(crop, window) for window in windows)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_inception_crops_are_cut_to_whole_levels_as_the_authors_are(kind, monkeypatch):
  encoded, parts, resize = encode(image(90, 131), kind), [], tf.image.resize
  monkeypatch.setattr(tf.image, 'resize', lambda part, *rest, **fields: parts.append(part) or resize(part, *rest, **fields))
  got = preprocess.inception_crop(encoded, 32, 0.05, 0, [0, 1]).numpy()
  monkeypatch.undo()
  np.testing.assert_array_equal(got, authors_resize(tf.cast(parts[0], tf.uint8), (32, 32), 'bilinear'))


def test_small_ones_of_large_images_are_means_and_not_speckle():
  """A fine checkerboard becomes even grey where each pixel is the mean of many, as Pillow makes it."""
  board = (255 * (np.indices((130, 190)).sum(0) % 2)).astype(np.uint8)[..., None].repeat(3, -1)
  encoded = tf.io.encode_png(board)
  crops = {'antialiased': preprocess.antialiased(tf.constant(board), 32, 32),
           'inception': preprocess.inception_crop(encoded, 16, 0.9, 0, [0, 1], antialias=True),
           'random': preprocess.random_crop(encoded, 36, 32, [0, 1], antialias=True)}
  for name, crop in crops.items():
    assert np.ptp(crop.numpy()[1:-1, 1:-1].astype(int)) < 12 and abs(crop.numpy().mean() - 127.5) < 1, name
  paper = {'paper_resize': preprocess.paper_resize(tf.constant(board), 32, 32),
           'inception': preprocess.inception_crop(encoded, 16, 0.9, 0, [0, 1]),
           'random': preprocess.random_crop(encoded, 36, 32, [0, 1])}
  assert all(np.ptp(crop.numpy()) > 100 for crop in paper.values())


@pytest.mark.parametrize('shape', [(90, 131), (131, 90), (20, 25), (64, 64)])
def test_antialiased_is_pillows_bilinear_of_the_whole_shorter_side(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  height, width = (round(32 * side / min(shape)) for side in shape)
  resized = np.asarray(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR))
  top, left = (height - 32) // 2, (width - 32) // 2
  error = np.abs(preprocess.antialiased(tf.constant(pixels), 32, 32).numpy().astype(int)
                 - resized[top:top + 32, left:left + 32])
  assert error.max() <= 1  # Pillow rounds between the axes


def test_antialiasing_leaves_images_that_keep_their_size():
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  got = preprocess.random_crop(tf.io.encode_png(pixels), 8, 8, [0, 0], antialias=True)
  np.testing.assert_array_equal(got, pixels)


# The margins of 2.5 pixels beside each crop's shorter side become 2, and of (35, 37) those of 3.5 become 4.
@pytest.mark.parametrize('shape', [(90, 131), (131, 90), (20, 25), (64, 64), (32, 40), (35, 37), (41, 32)])
def test_timm_is_what_pillow_and_torchvision_do(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  resize, resolution = 37, 32
  height, width = (int(resize * side / min(shape)) for side in shape)
  resized = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BICUBIC)
  top, left = (round((side - resolution) / 2) for side in (height, width))
  expected = np.asarray(resized.crop((left, top, left + resolution, top + resolution))).astype(int)
  error = np.abs(preprocess.timm(tf.constant(pixels), resize, resolution).numpy() - expected)
  assert error.max() <= 1 and error.mean() < 0.005  # where Pillow rounds halves up


def test_a_random_crop_is_a_window_of_the_whole_image_at_any_place():
  image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
  encoded = tf.io.encode_png(image)
  crops = [preprocess.random_crop(encoded, resize=6, resolution=4, seed=[0, k]).numpy() for k in range(60)]
  windows = {(y, x): image[y:y + 4, x:x + 4] for y in range(3) for x in range(3)}
  places = [next(place for place, window in windows.items() if np.array_equal(window, crop)) for crop in crops]
  assert set(places) == set(windows)
  whole = preprocess.random_crop(encoded, resize=4, resolution=4, seed=[0, 0]).numpy()
  assert np.array_equal(whole, preprocess.paper_resize(tf.constant(image), 4, 4).numpy())


def test_a_padded_random_crop_is_the_image_shifted_to_any_place_and_black_outside():
  """CIFAR's usual crop, with (2 pad + 1)^2 places."""
  image = np.random.default_rng(0).integers(1, 256, (5, 5, 3), np.uint8)
  crop = lambda k, **fields: preprocess.random_crop(tf.io.encode_png(image), 5, 5, [0, k], **fields).numpy()
  shifted = {}
  for y in range(-2, 3):
    for x in range(-2, 3):
      expected = shifted[y, x] = np.zeros_like(image)
      for row in range(5):
        for column in range(5):
          if 0 <= row + y < 5 and 0 <= column + x < 5:
            expected[row, column] = image[row + y, column + x]
  places = [next(place for place, window in shifted.items() if (window == crop(k, pad=2)).all()) for k in range(250)]
  assert set(places) == set(shifted)
  assert (crop(0) == image).all()
  assert set(np.unique(preprocess.random_crop(tf.io.encode_png(np.full((9, 7, 3), 200, np.uint8)), 6, 4, [0, 2], pad=3))) == {0, 200}


CROPS = {'decode': preprocess.decode, 'inception': lambda data: preprocess.inception_crop(data, 8, 0.5, 0, [0, 1]),
         'padded': lambda data: preprocess.inception_crop(data, 8, 0.5, 1, [0, 1]),
         'random': lambda data: preprocess.random_crop(data, 9, 8, [0, 1]),
         **{name: lambda data, crop=crop: crop(preprocess.decode(data), 9, 8)
            for name, crop in preprocess.EVALUATION_CROPS.items()}}


def outcomes(crop, files):
  """Of each file the shape of its image, or what is said of it; as in training, in a graph."""
  images = iter(tf.data.Dataset.from_tensor_slices(files).map(CROPS[crop]))
  results = []
  for _ in files:
    try:
      results.append(next(images).shape)
    except tf.errors.OpError as error:
      results.append(preprocess.reason(error))
  return results


@pytest.mark.parametrize('crop', CROPS)
def test_an_image_of_more_pixels_than_the_limit_is_refused_and_one_of_as_many_is_not(crop, monkeypatch):
  monkeypatch.setattr(preprocess, 'MAX_PIXELS', 1_200)
  just = [example_images.file(kind) for kind in example_images.KINDS]
  larger = [example_images.file(kind, np.zeros((30, 41, 3), np.uint8)) for kind in example_images.KINDS]
  shape = (30, 40, 3) if crop == 'decode' else (8, 8, 3)
  refused = 'its header claims 1230 pixels; the limit is 1,200'
  assert outcomes(crop, just + larger) == [shape] * len(just) + [refused] * len(larger)


@pytest.mark.parametrize('crop', CROPS)
def test_a_header_that_claims_more_than_the_limit_is_not_believed(crop):
  sides = {kind: 16_000 if 'webp' in kind else 60_000 for kind in example_images.KINDS}  # WebP has 14 bits
  assert outcomes(crop, [example_images.claiming(kind, side, side) for kind, side in sides.items()]) == [
      f'its header claims {side**2} pixels; the limit is 80,000,000' for side in sides.values()]


@pytest.mark.parametrize('crop, taken', [('paper_crop', False), ('antialiased', False), ('timm', False), ('paper_resize', True),
                                         ('inception', True)])
def test_a_strip_is_refused_where_it_would_become_a_long_one(crop, taken):
  strips = [example_images.file('png', np.zeros(shape, np.uint8)) for shape in ((50, 1, 3), (1, 51, 3))]
  assert outcomes(crop, strips) == [(8, 8, 3), (8, 8, 3) if taken else (
      '51 x 1 pixels; the limit of a crop that keeps the shape is sides of 50 to 1')]


def test_formats_that_tensorflow_alone_would_decode_are_refused():
  """Of JPEG XL, nothing says beforehand how large it becomes."""
  files = [b'\xff\x0a' + bytes(50), b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(50), b'', b'no image']
  assert outcomes('decode', files) == ['it is not one of JPEG, PNG, GIF, WEBP, BMP'] * 4


def test_what_is_said_of_a_file_is_the_same_outside_a_graph():
  for kind in ('png', 'bmp'):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
      preprocess.decode(example_images.claiming(kind, 20_000, 30_000))
    assert preprocess.reason(error.value) == 'its header claims 600000000 pixels; the limit is 80,000,000'
