import math

import numpy as np
import pytest
import scipy.stats

from mixer.data import random_erasing

SEEDS = [np.array([seed, k]) for seed in (0, -1) for k in range(1500)]


def box_of(image, erased):
  """(top, left, height, width) of the pixels that differ, or None."""
  differs = (image != erased).any(-1)
  if not differs.any():
    return None
  rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
  return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def boxes_by_hand(number, height, width):
  """[number, (top, left, height, width)]: as in the class RandomErasing of timm's random_erasing.py."""
  rng, boxes = np.random.default_rng(0), []
  while len(boxes) < number:
    for _ in range(10):
      area, ratio = rng.uniform(0.02, 1 / 3) * height * width, math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
      h, w = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
      if w < width and h < height:
        boxes.append((rng.integers(0, height - h, endpoint=True), rng.integers(0, width - w, endpoint=True), h, w))
        break
  return np.array(boxes)


def test_boxes_are_those_of_timm():
  black = np.zeros((40, 24, 3), np.uint8)
  boxes = np.array([box_of(black, random_erasing.apply(black, seed, 1.)) for seed in SEEDS])
  expected = boxes_by_hand(30_000, 40, 24)
  area, ratio = boxes[:, 2] * boxes[:, 3] / black[..., 0].size, boxes[:, 2] / boxes[:, 3]
  assert 0.01 < area.min() < 0.03 and 0.31 < area.max() < 0.36 and 0.2 < ratio.min() and ratio.max() < 4
  assert boxes[:, :2].min() == 0 and (boxes[:, :2] + boxes[:, 2:]).max(0).tolist() == [40, 24] and boxes[:, 3].max() == 23
  for ours, theirs in ((area, expected[:, 2] * expected[:, 3] / (40 * 24)), (ratio, expected[:, 2] / expected[:, 3]),
                       *zip(boxes.T, expected.T)):
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_noise_is_the_normal_distribution_of_imagenets_pixels_clipped():
  black = np.zeros((200, 200, 3), np.uint8)
  values = []
  for seed in SEEDS[:60]:
    erased = random_erasing.apply(black, seed, 1.)
    top, left, height, width = box_of(black, erased)
    values.append(erased[top:top + height, left:left + width])
  neighbours = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for x in values for a, b in (
      (x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[..., 0], x[..., 1]), (x[..., 1], x[..., 2]))]
  assert np.abs(np.mean(neighbours)) < 0.01
  values = np.concatenate([x.reshape(-1, 3) for x in values])
  for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
    edges = (np.arange(257) - 0.5) / 255
    share = np.diff(np.concatenate([[0], scipy.stats.norm.cdf(edges[1:-1], mean, std), [1]]))
    counts = np.bincount(values[:, channel], minlength=256)
    assert scipy.stats.chisquare(counts, share * counts.sum()).pvalue > 1e-3
    assert np.mean(values[:, channel]) == pytest.approx(np.arange(256) @ share, abs=0.25)


@pytest.mark.parametrize('probability', [0., 0.25, 1.])
def test_a_share_of_the_images_is_erased_and_the_others_are_as_they_were(probability):
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  before = image.copy()
  image.flags.writeable = False
  erased = [random_erasing.apply(image, seed, probability) for seed in SEEDS]
  assert (image == before).all() and all(x.dtype == np.uint8 and x.shape == image.shape for x in erased)
  assert np.mean([(x != image).any() for x in erased]) == pytest.approx(probability, abs=0.03)
  for x in erased[:200]:
    if box := box_of(image, x):
      top, left, height, width = box
      inside = (x != image)[top:top + height, left:left + width]
      assert inside.all(-1).mean() > 0.9  # a value may come out as it was


@pytest.mark.parametrize('shape', [(1, 1), (2, 4), (3, 5), (300, 2)])
def test_small_images_and_strips_may_have_no_box_that_fits(shape):
  black = np.zeros((*shape, 3), np.uint8)
  erased = [random_erasing.apply(black, seed, 1.) for seed in SEEDS[:200]]
  assert all(x.shape == black.shape for x in erased) and any((x == 0).all() for x in erased)


def test_what_is_drawn_never_changes():
  # If this fails, NumPy or the module now draws otherwise: earlier runs can no longer be repeated or resumed.
  black = np.zeros((32, 32, 3), np.uint8)
  drawn = [random_erasing.apply(black, np.array(seed), 0.7) for seed in ([0, 0], [0, 1], [1, 0], [-1, 2**40])]
  assert [box_of(black, x) for x in drawn] == [(5, 9, 6, 16), None, (9, 0, 11, 26), None]
  assert [x.sum() for x in drawn] == [33059, 0, 100416, 0]
