"""The evaluation crops in JAX alone, against those of the input pipeline."""

import jax
from jax import export
import numpy as np
import pytest
import tensorflow as tf

from mixer.data import crop_sizes
from mixer.data import crops
from mixer.data import preprocess

# Landscape, portrait and square; smaller and larger than what they become; a line.
SHAPES = (50, 97), (97, 50), (300, 200), (15, 21), (37, 37), (1, 7)


def noise(shape):
  return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_the_names_are_those_of_the_input_pipeline():
  assert list(crops.CROPS) == list(preprocess.EVALUATION_CROPS) == list(crop_sizes.NAMES)


TOLERANCE = 2e-3  # the share of values that may differ, by one level: where float32's last bit decides


@pytest.mark.slow
@pytest.mark.parametrize('name', crops.CROPS)
def test_one_program_for_all_sizes_gives_the_pixels_of_the_input_pipeline(name):
  whole = jax.jit(lambda images: crops.CROPS[name](images, 37, 32))
  images = jax.ShapeDtypeStruct(export.symbolic_shape('b, h, w, 3'), np.uint8)
  program = export.export(whole)(images)
  for shape in SHAPES:
    pixels = noise(shape)
    got, upside_down = np.asarray(program.call(np.stack([pixels, pixels[::-1]]))).astype(int)
    expected, expected_down = (preprocess.EVALUATION_CROPS[name](tf.constant(x), 37, 32).numpy()
                           for x in (pixels, pixels[::-1]))
    for error in (np.abs(got - expected), np.abs(upside_down - expected_down)):
      assert error.max() <= 1 and error.mean() <= TOLERANCE, shape


@pytest.mark.parametrize('name', crops.CROPS)
def test_an_even_image_stays_even_to_its_edges(name):
  for shape in ((50, 97), (21, 15)):
    white = np.full((*shape, 3), 255, np.uint8)
    got = np.asarray(jax.jit(crops.CROPS[name], static_argnums=(1, 2))(white, 32, 32))
    np.testing.assert_array_equal(got, preprocess.EVALUATION_CROPS[name](tf.constant(white), 32, 32), str(shape))
    # By area, weights that add up to 0.99999 make 254 of white, in the authors' code as here.
    assert got.min() >= (254 if name == 'paper_crop' else 255), shape


@pytest.mark.parametrize('name', crops.CROPS)
@pytest.mark.parametrize('side', [7, 32, 49])  # 49 / 49 is not 1 where it is computed as 49 * (1 / 49)
def test_an_image_of_the_expected_size_stays_as_it_is(name, side):
  pixels = noise((side, side))
  got = jax.jit(crops.CROPS[name], static_argnums=(1, 2))(pixels, side, side)
  np.testing.assert_array_equal(got, pixels)


def test_the_default_is_the_proportion_of_appendix_c():
  assert [crop_sizes.resize_for(resolution, None, 'paper_crop') for resolution in (224, 448, 28)] == [256, 512, 32]
  assert crop_sizes.resize_for(8, 8, 'timm') == crop_sizes.resize_for(8, None, 'antialiased') == 8
  with pytest.raises(ValueError, match='--resize is 7, smaller than the crop: the model takes 8 x 8 pixels'):
    crop_sizes.resize_for(8, 7, 'paper_crop')
