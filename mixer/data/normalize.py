"""Pixels as the models take them: the last step of the images on their way, on the devices."""

import jax.numpy as jnp


def normalize_images(images):
  """[...] uint8 in [0, 255] -> float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1
