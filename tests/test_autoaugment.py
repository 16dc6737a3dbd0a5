import math

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest

from mixer.data import autoaugment

# What an operation is: what the authors' code for CIFAR calls of Pillow (tensorflow/models, research/autoaugment).
OPAQUE = {
    'AutoContrast': lambda picture, m: PIL.ImageOps.autocontrast(picture),
    'Equalize': lambda picture, m: PIL.ImageOps.equalize(picture),
    'Invert': lambda picture, m: PIL.ImageOps.invert(picture),
    'Posterize': lambda picture, m: PIL.ImageOps.posterize(picture, 4 - 4 * m // 10),
    'Solarize': lambda picture, m: PIL.ImageOps.solarize(picture, 256 - 256 * m // 10),
}
ENHANCE = {name: getattr(PIL.ImageEnhance, name) for name in ('Color', 'Contrast', 'Brightness', 'Sharpness')}
AFFINE = {
    'ShearY': lambda picture, m: (1, 0, 0, 0.3 * m / 10, 1, 0),
    'TranslateX': lambda picture, m: (1, 0, math.trunc(m * picture.width / 32), 0, 1, 0),
    'TranslateY': lambda picture, m: (1, 0, 0, 0, 1, math.trunc(m * picture.height / 32)),
}
SIGNED = ['Rotate', *AFFINE]
NAMES = [*OPAQUE, *ENHANCE, *SIGNED]


def by_pillow(image, operations):
  picture = PIL.Image.fromarray(image).convert('RGBA')
  for name, m, sign in operations:
    if name in OPAQUE:
      picture = OPAQUE[name](picture.convert('RGB'), m).convert('RGBA')
    elif name in ENHANCE:
      picture = ENHANCE[name](picture).enhance(1.8 * m / 10 + 0.1)
    elif name == 'Rotate':
      picture = picture.rotate(sign * (30 * m // 10))
    else:
      picture = picture.transform(picture.size, PIL.Image.Transform.AFFINE, AFFINE[name](picture, sign * m))
  pixels = np.array(picture)
  pixels[pixels[..., 3] == 0, :3] = autoaugment.MEAN
  return pixels[..., :3]


def noise(height, width, low=0, high=256):
  return np.random.default_rng(0).integers(low, high, (height, width, 3), np.uint8)


def smooth(height, width):
  y, x = np.mgrid[:height, :width]
  return np.stack([40 + 150 * y / height, 20 + 90 * x / width, 255 * (x + y) / (width + height)], -1).astype(np.uint8)


IMAGES = [noise(32, 32), smooth(32, 32), noise(32, 32, 60, 201), noise(45, 20), smooth(96, 64), noise(1, 1), noise(2, 3)]


@pytest.mark.parametrize('name', NAMES)
def test_an_operation_is_pillows(name):
  for magnitude in range(10):
    for sign in (1, -1) if name in SIGNED else (1,):
      for image in IMAGES:
        got = autoaugment.operate(image, [(name, magnitude, sign)])
        assert got.dtype == np.uint8 and (got == by_pillow(image, [(name, magnitude, sign)])).all(), (magnitude, sign)


@pytest.mark.parametrize('pair', autoaugment.CIFAR10)
def test_a_pair_is_pillows_and_what_lies_outside_is_filled_as_by_the_authors(pair):
  signs = lambda name: (1, -1) if name in SIGNED else (1,)
  for first in signs(pair[0][0]):
    for second in signs(pair[1][0]):
      operations = [(pair[0][0], pair[0][2], first), (pair[1][0], pair[1][2], second)]
      for image in IMAGES:
        before = image.copy()
        assert (autoaugment.operate(image, operations) == by_pillow(image, operations)).all()
        assert (image == before).all()


def test_an_autocontrast_stretches_any_range_as_pillow_does():
  for low in range(0, 256, 5):
    for high in range(low, 256, 7):
      image = np.linspace([low] * 3, [high] * 3, 256).astype(np.uint8).reshape(16, 16, 3)
      assert (autoaugment.operate(image, [('AutoContrast', 0, 1)]) == by_pillow(image, [('AutoContrast', 0, 1)])).all()


def test_colours_are_blended_as_in_pillow():
  colours = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 5, np.uint8)]), -1).reshape(-1, 52, 3)
  for magnitude in (0, 3, 7, 9):
    assert (autoaugment.operate(colours, [('Color', magnitude, 1)]) == by_pillow(colours, [('Color', magnitude, 1)])).all()


def test_translations_are_in_32nds_of_the_side():
  moved = autoaugment.operate(noise(96, 64), [('TranslateX', 9, 1), ('TranslateY', 9, -1)])
  assert (moved[27:, :46] == noise(96, 64)[:-27, 18:]).all()
  assert (moved[:27] == autoaugment.MEAN).all() and (moved[:, 46:] == autoaugment.MEAN).all()


# The policy.


def test_the_policy_is_of_25_pairs():
  # The sums of the probabilities and of the magnitudes of Table 7, which most slips would change.
  operations = [operation for pair in autoaugment.CIFAR10 for operation in pair]
  assert len(autoaugment.CIFAR10) == 25 and len(operations) == 50
  assert {name for name, *_ in operations} == set(NAMES)
  assert round(sum(p for _, p, _ in operations), 6) == 26.5 and sum(m for *_, m in operations) == 267


@pytest.fixture
def drawn(monkeypatch):
  """What `apply` draws of seeds: {seed: operations}."""
  monkeypatch.setattr(autoaugment, 'operate', lambda image, operations: operations)
  return lambda *seed: autoaugment.apply(None, np.array(seed))


def test_what_is_drawn_never_changes(drawn):
  # If this fails, NumPy or the module now draws otherwise: earlier runs can no longer be repeated or resumed.
  assert [drawn(0, 0), drawn(0, 1), drawn(1, 0), drawn(-1, 2**40)] == [
      [], [('AutoContrast', 3, -1)], [('Brightness', 9, -1)], [('Solarize', 5, -1), ('AutoContrast', 3, 1)]]


def test_pairs_are_drawn_equally_often_and_operations_at_their_probability(drawn, monkeypatch):
  number = 20_000
  policy = tuple(((k, probability, k), (k, 1., -k)) for k, probability in enumerate((0., 0.1, 0.5, 0.9)))
  monkeypatch.setattr(autoaugment.apply, '__defaults__', (policy,))
  all_drawn = [drawn(7, k) for k in range(number)]
  assert all(operations[-1][1] == -operations[-1][0] for operations in all_drawn)  # the second is always applied, last
  for k, (first, _) in enumerate(policy):
    of_pair = [operations for operations in all_drawn if operations[-1][0] == k]
    assert abs(len(of_pair) - number / 4) < 4 * math.sqrt(number * 3 / 16)
    applied = [operations[0] for operations in of_pair if len(operations) == 2]
    assert abs(len(applied) - first[1] * len(of_pair)) <= 4 * math.sqrt(len(of_pair) * first[1] * (1 - first[1]))
    for signs in ([sign for *_, sign in applied], [operations[-1][2] for operations in of_pair]):
      assert set(signs) <= {1, -1} and abs(sum(signs)) <= 4 * math.sqrt(len(signs))


def test_the_result_is_a_function_of_the_seed_alone():
  image = smooth(32, 32)
  once = [autoaugment.apply(image, np.array([3, k])) for k in range(300)]
  again = [autoaugment.apply(image, np.array([3, k])) for k in reversed(range(300))]
  assert all((a == b).all() for a, b in zip(once, reversed(again)))
  assert 40 < len({result.tobytes() for result in once}) < 150  # of the outcomes of 25 pairs, one is the image itself
