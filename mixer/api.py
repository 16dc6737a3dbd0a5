"""What `import mixer` offers: weights of any origin, and models without weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer import arguments
from mixer import models
from mixer import trees
from mixer.weights import load
from mixer.weights import Prediction
from mixer.weights import save
from mixer.weights import Weights

__all__ = ['Prediction', 'Weights', 'create', 'load', 'save']


def create(name: str, *, variant: str | None = None, num_classes: int | None = None, resolution: int = 224, seed: int = 0,
           **fields) -> tuple[nn.Module, dict]:
  """A model without trained weights: the Flax module, and its parameters as a run's start draws them.

  >>> model, params = mixer.create('mlp_mixer', variant='B/16', num_classes=10)
  >>> logits = model.apply({'params': params}, images)  # [B, 224, 224, 3] in [-1, 1] -> [B, 10]

  A HaloNet's running statistics are among its parameters: model.apply(mixer.trees.variables(params), images).

  Args:
    name: 'mlp_mixer', 'vit', 'bit_resnet', 'halonet', 'resmlp' or another of `models.FAMILIES`.
    variant: 'B/16' and the like; without it, `fields` give the sizes.
    num_classes: of the head, or None for the features before it.
    resolution: the side of the images in pixels; the parameters of a Mixer depend on it.
    seed: of the random parameters.
    **fields: other attributes of the model's class.

  Raises:
    ValueError: naming the field that is unknown, missing or out of range.
  """
  arguments.check(dict(resolution=resolution), at_least=1)
  model = models.build(name=name, variant=variant, num_classes=num_classes, **fields)
  images = jnp.zeros((1, resolution, resolution, 3))
  return model, trees.weights(jax.jit(model.init)(jax.random.key(seed), images))
