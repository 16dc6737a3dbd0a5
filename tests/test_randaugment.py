import concurrent.futures
import pathlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
import tensorflow as tf

from mixer.data import randaugment

SIGNED = ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY']
SHAPES = [(1, 1), (2, 4), (3, 5), (224, 224)]
# What the authors' own code (big_vision 0127fb6, pp/archive/autoaugment.py) gives of two images, for each of 'keys',
# 'operation|level|sign|which of the places of a cutout'. Of its outputs, [2, 128, 128, 3] each, every 61st pixel is kept:
# x.reshape(2, -1, 3)[:, ::61].
AUTHORS = np.load(pathlib.Path(__file__).parent / 'randaugment_authors.npz')


def noise(height, width, low=0, high=256):
  return np.random.default_rng(0).integers(low, high, (height, width, 3), np.uint8)


def smooth(height, width):
  """Slopes in the three channels, the first two not over all of the values. [H, W, 3] uint8."""
  y, x = np.mgrid[:height, :width]
  return np.stack([40 + 150 * y / height, 20 + 90 * x / width, 255 * (x + y) / (width + height)], -1).astype(np.uint8)


class Drawn:
  """A generator of fixed numbers."""

  def __init__(self, *numbers):
    self.numbers = list(numbers)

  def integers(self, high):
    return self.numbers.pop(0)


def signed(sign):
  return Drawn(int(sign < 0))


@pytest.mark.parametrize('key', AUTHORS['keys'])
def test_as_the_authors_code(key):
  # On a CPU without fused multiply-add, Sharpness may differ; mixer/data/randaugment.py says why.
  name, level, sign, place = key.split('|')
  drawn = AUTHORS['places'][int(place)].tolist() if name == 'Cutout' else [int(sign == '-1')]
  got = [randaugment.OPERATIONS[name](image, float(level), Drawn(*drawn)) for image in AUTHORS['images']]
  expected = AUTHORS['outputs'][AUTHORS['keys'].tolist().index(key)]
  assert (np.reshape(got, (2, -1, 3))[:, ::61] == expected).all()


def test_the_authors_outputs_are_of_all_operations_at_all_levels_of_the_paper_but_0():
  assert {tuple(key.split('|')[:2]) for key in AUTHORS['keys']} == {
      (name, level) for name in randaugment.OPERATIONS for level in ('5', '10', '15', '20')}


# The operations that agree with Pillow's, also at other levels and of other shapes. `sign` is of those with a direction.


def shift(along, across):
  return lambda picture, level, sign: picture.transform(
      picture.size, PIL.Image.Transform.AFFINE, (1, 0, sign * along * level, 0, 1, sign * across * level),
      PIL.Image.Resampling.NEAREST, fillcolor=(128, 128, 128))


PILLOW = {
    'Equalize': lambda picture, level, sign: PIL.ImageOps.equalize(picture),
    'Invert': lambda picture, level, sign: PIL.ImageOps.invert(picture),
    'Posterize': lambda picture, level, sign: PIL.ImageOps.posterize(picture, min(8, max(1, 4 * level // 10))),
    'Brightness': lambda picture, level, sign: PIL.ImageEnhance.Brightness(picture).enhance(0.1 + 0.18 * level),
    'TranslateX': shift(10, 0),
    'TranslateY': shift(0, 10),
    'SolarizeAdd': lambda picture, level, sign: picture.point(
        lambda value: min(255, value + 11 * level) if value < 128 else value),
}


@pytest.mark.parametrize('level', [0, 1, 5, 7, 10, 15, 20])
@pytest.mark.parametrize('name', PILLOW)
def test_as_in_pillow(name, level):
  # The fourth has values from 60 to 99 and so also a histogram with gaps; in the fifth, Equalize has too few pixels.
  for image in (noise(200, 224), smooth(200, 224), smooth(215, 77), noise(40, 50, 60, 100), noise(3, 5), noise(1, 1)):
    for sign in (1, -1) if name in SIGNED else (1,):
      got = randaugment.OPERATIONS[name](image, level, signed(sign))
      assert (got == np.array(PILLOW[name](PIL.Image.fromarray(image), level, sign))).all()


@pytest.mark.parametrize('place', [(0, 0), (0, 49), (20, 30), (39, 2), (39, 49)])
@pytest.mark.parametrize('level', [0, 1, 3, 10, 20])
def test_cutout_greys_a_square_and_what_lies_outside_is_lost(level, place):
  image = noise(40, 50)
  (y, x), half = place, 4 * level
  expected = PIL.Image.fromarray(image)
  expected.paste((128, 128, 128), (x - half, y - half, x + half, y + half))
  assert (randaugment.OPERATIONS['Cutout'](image, level, Drawn(y, x)) == expected).all()


@pytest.mark.parametrize('name', ['ShearX', 'ShearY'])
def test_a_shear_leaves_the_first_row_and_moves_each_next_one_further(name):
  image = noise(20, 20)
  to = {'ShearX': randaugment.shear_x, 'ShearY': randaugment.shear_y}[name]
  turned = (lambda x: x) if name == 'ShearX' else (lambda x: x.transpose(1, 0, 2))
  for slope, move in ((1, lambda row: row), (-1, lambda row: -row), (0.5, lambda row: (row + 1) // 2)):
    got, rows = turned(to(image, slope)), turned(image)
    for row in range(20):
      padded = np.pad(rows[row], [(20, 20), (0, 0)], constant_values=128)
      assert (got[row] == padded[20 + move(row):40 + move(row)]).all()


def test_a_rotation_is_about_the_centre_of_the_pixels():
  image = noise(31, 31)
  assert (randaugment.rotate(image, 90) == np.rot90(image)).all()
  assert (randaugment.rotate(image, -90) == np.rot90(image, -1)).all()


@pytest.mark.parametrize('operation, amount', [
    ('rotate', 0), ('shear_x', 0), ('shear_y', 0), ('translate_x', 0), ('translate_y', 0), ('posterize', 8),
    ('posterize', 9), ('solarize_add', 0), ('color', 1), ('contrast', 1), ('brightness', 1), ('sharpness', 1)])
def test_the_levels_that_change_nothing(operation, amount):
  for height, width in SHAPES:
    image = noise(height, width)
    assert (getattr(randaugment, operation)(image, amount) == image).all()


def test_the_accidents_of_the_authors_code_at_the_ends_of_the_scale():
  image = noise(20, 30)
  apply = lambda name, level: randaugment.OPERATIONS[name](image, level, None)
  for level in (0, 10, 20):
    assert (apply('Solarize', level) == 255 - image).all()
  for level in (5, 15):
    assert (apply('Solarize', level) == np.where(image < 128, image, 255 - image)).all()
  assert (apply('Posterize', 0) == image // 128 * 128).all()
  assert (apply('Posterize', 20) == image).all() and (apply('Posterize', 30) == image).all()


def test_a_constant_channel_has_nothing_to_stretch_or_even_out():
  image = smooth(100, 120)
  image[..., 1] = 77
  for operation in (randaugment.autocontrast, randaugment.equalize):
    constant = np.full((100, 120, 3), 200, np.uint8)
    assert (operation(constant) == constant).all()
    assert (operation(image)[..., 1] == 77).all() and (operation(image)[..., 0] != image[..., 0]).any()


@pytest.mark.parametrize('side, grey', [(8, 0), (128, 64), (224, 196), (256, 255), (300, 255)])
def test_contrast_blends_with_a_grey_of_the_size_alone(side, grey):
  for image in (noise(side, side), noise(side, side, 0, 3)):
    assert np.unique(randaugment.contrast(image, 0)).tolist() == [grey]


def test_the_grey_of_a_colour_is_that_of_tensorflow():
  red, green, blue = np.meshgrid(*3 * [np.arange(0, 256, 5, np.uint8)])
  image = np.stack([red, green, blue], -1).reshape(-1, 52, 3)
  differs = randaugment.color(image, 0)[..., :1] != tf.image.rgb_to_grayscale(image)
  assert np.mean(differs) < 1e-4


@pytest.mark.parametrize('name, moved', [('TranslateX', randaugment.translate_x), ('TranslateY', randaugment.translate_y)])
def test_how_far_images_are_moved_is_chosen_for_a_magnitude_of_10(monkeypatch, name, moved):
  monkeypatch.setattr(randaugment, 'OPERATIONS', {name: randaugment.OPERATIONS[name]})
  image = noise(32, 32)
  results = lambda magnitude, *of_size: {randaugment.apply(image, np.array([0, k]), 1, magnitude, *of_size).tobytes()
                                         for k in range(20)}
  both = lambda pixels: {moved(image, sign * pixels).tobytes() for sign in (1, -1)}
  assert results(10, 10.) == both(10) and results(4, 10.) == both(4) and results(1) == both(10)


def test_how_much_is_cut_out_is_chosen_for_a_magnitude_of_10(monkeypatch):
  monkeypatch.setattr(randaugment, 'OPERATIONS', {'Cutout': randaugment.OPERATIONS['Cutout']})
  most = lambda *of_size: max((randaugment.apply(np.zeros((64, 64, 3), np.uint8), np.array([0, k]), 1, *of_size)[..., 0] == 128).sum()
                              for k in range(40))
  assert most(10, 100., 10.) == 20**2 and most(7, 100., 10.) == 14**2 and most(1) == 8**2


@pytest.fixture
def recorded(monkeypatch):
  """Of all operations drawn, the names; they leave the image as it is and draw nothing."""
  names = []
  record = lambda name: lambda image, level, rng, *_: names.append((name, level)) or image
  monkeypatch.setattr(randaugment, 'OPERATIONS', {name: record(name) for name in randaugment.OPERATIONS})
  return names


def test_the_16_operations_are_drawn_equally_often_and_independently(recorded):
  for k in range(3000):
    randaugment.apply(noise(1, 1), np.array([0, k]), 2, 15)
  drawn = [name for name, _ in recorded]
  assert len(drawn) == 6000 and {level for _, level in recorded} == {15}
  counts = np.array([drawn.count(name) for name in randaugment.OPERATIONS])
  assert len(counts) == 16
  assert counts.sum() == 6000
  assert np.abs(counts - 375).max() < 80  # 4.3 standard deviations
  pairs = list(zip(drawn[::2], drawn[1::2]))
  assert abs(sum(first == second for first, second in pairs) - 187) < 57
  assert len(set(pairs)) == 256


def test_as_many_layers_as_asked_for(recorded):
  for layers in range(4):
    recorded.clear()
    randaugment.apply(noise(1, 1), np.array([0, 1]), layers, 10)
    assert len(recorded) == layers


def test_what_is_drawn_never_changes(recorded):
  # If this fails, NumPy or the module now draws otherwise: earlier runs can no longer be repeated or resumed.
  for seed in ([0, 0], [0, 1], [1, 0], [-1, 2**40]):
    randaugment.apply(noise(1, 1), np.array(seed), 2, 10)
  assert [name for name, _ in recorded] == [
      'AutoContrast', 'AutoContrast', 'SolarizeAdd', 'TranslateY', 'Contrast', 'Posterize', 'ShearX', 'TranslateY']


@pytest.mark.parametrize('name', SIGNED)
def test_both_directions_are_drawn_equally_often(name):
  image, rng = noise(40, 40), np.random.default_rng(0)
  forward, backward = (randaugment.OPERATIONS[name](image, 1, signed(sign)) for sign in (1, -1))
  drawn = [randaugment.OPERATIONS[name](image, 1, rng) for _ in range(200)]
  times = sum((d == forward).all() for d in drawn)
  assert times + sum((d == backward).all() for d in drawn) == 200
  assert 70 < times < 130


def test_cutout_may_lie_around_any_pixel():
  white = np.full((3, 5, 3), 255, np.uint8)
  rng = np.random.default_rng(0)
  grey = [np.argwhere((randaugment.OPERATIONS['Cutout'](white, 0.25, rng) == 128).all(-1)) for _ in range(300)]
  assert {tuple(places.max(0)) for places in grey} == {(y, x) for y in range(3) for x in range(5)}
  assert {tuple(np.ptp(places, axis=0) + 1) for places in grey} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_the_result_is_a_function_of_the_seed():
  image = noise(32, 32)
  seeds = [np.array([seed, k]) for seed in (0, 1, -1) for k in range(100)]
  once = [randaugment.apply(image, seed, 2, 3) for seed in seeds]
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    again = list(threads.map(lambda seed: randaugment.apply(image, seed, 2, 3), reversed(seeds)))
  assert all((a == b).all() for a, b in zip(once, reversed(again)))
  assert len({result.tobytes() for result in once}) > 150  # of 300: some seeds draw the same operations
  for one, other in ((0, 100), (0, 200), (100, 200)):  # the first int of the seed matters as much as the second
    assert sum((once[one + k] != once[other + k]).any() for k in range(100)) > 80


def test_opencv_starts_no_threads():
  assert cv2.getNumThreads() == 1


def test_layers_act_one_after_the_other(monkeypatch):
  picked = {name: randaugment.OPERATIONS[name] for name in ('Cutout', 'Rotate')}
  monkeypatch.setattr(randaugment, 'OPERATIONS', picked)
  image = noise(60, 60)
  results = {randaugment.apply(image, np.array([0, k]), 2, 2).tobytes() for k in range(200)}
  turned = [randaugment.rotate(image, sign * 6) for sign in (1, -1)]
  back = [randaugment.rotate(t, sign * 6) for t in turned for sign in (1, -1)]
  assert {b.tobytes() for b in back} <= results


@pytest.mark.parametrize('magnitude', [0, 10, 15, 20, 7.5])
@pytest.mark.parametrize('shape', SHAPES)
def test_any_shape_and_layout_at_any_magnitude_and_the_input_stays(shape, magnitude):
  image = noise(*shape)
  before = image.copy()
  strided = np.asfortranarray(noise(2 * shape[0], shape[1]))[::-2]
  strided[:] = image
  image.flags.writeable = False
  for name, operation in randaugment.OPERATIONS.items():
    got = operation(image, magnitude, np.random.default_rng(0))
    assert got.shape == image.shape and got.dtype == np.uint8 and not np.shares_memory(got, image), name
  for k in range(100):
    got, of_strided = (randaugment.apply(i, np.array([3, k]), 2, magnitude) for i in (image, strided))
    assert got.shape == image.shape and got.dtype == np.uint8
    assert (got == of_strided).all()
  assert (image == before).all() and (strided == before).all()
