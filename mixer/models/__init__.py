"""Models. `build` turns a config's `model` section into one, here and nowhere else."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer import configuration
from mixer.models import mlp_mixer

MODELS = {'mlp_mixer': (mlp_mixer.MlpMixer, mlp_mixer.variant_fields)}


def scale(images):
  """Pixels as the models take them. [...] uint8 in [0, 255] -> float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def build(*, name: str, variant: str | None = None, platform: str | None = None, **fields) -> nn.Module:
  """A model whose `apply` maps images and keys to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K].

  Args:
    name: 'mlp_mixer'.
    variant: 'B/16' and the like: fills in the sizes of the paper's Table 1. Without it, `fields` give them.
    platform: what it is to run on: 'cpu', 'tpu', 'gpu', or 'any' for all of them; by default JAX's own. It decides on
      speed alone.
    **fields: the model class's attributes.

  Raises:
    ValueError: naming the field, if `fields` has one that the model lacks, or lacks one that it needs.
  """
  model, variant_fields = configuration.choose('model', 'name', name, MODELS)
  sizes = variant_fields(variant) if variant else {}
  for field in sizes.keys() & fields.keys():
    raise ValueError(f'config.model.{field} is {fields[field]}, and config.model.variant {variant!r} makes it '
                     f'{sizes[field]}; drop one of the two fields')
  return configuration.call(model, 'model', {**sizes, **fields, 'platform': platform or jax.default_backend()},
                            hidden=('parent', 'name'))
