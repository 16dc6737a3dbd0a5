"""The models that are measured."""

import functools

import jax
import ml_collections

from mixer import flops
from mixer import models
from mixer.models import mlp_mixer
from mixer.models import vit

CLASSES = 1000
VARIANTS = ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')  # of Table 1
# The resolution in pixels, and the sizes. 'demo' has those of configs/mixer_digits.py.
MODELS = {
    **{variant: (224, mlp_mixer.variant_fields(variant)) for variant in VARIANTS},
    'ViT-B/16': (224, dict(name='vit', **vit.variant_fields('B/16'))),
    'demo': (8, dict(patch_size=4, num_blocks=2, hidden_dim=64, tokens_mlp_dim=32, channels_mlp_dim=256)),
}
IMAGES = 128  # of a batch of the input pipeline
DATA = 'runs/bench_data'  # where JPEGs are generated, once


def is_mixer(model: str) -> bool:
  return 'name' not in MODELS[model][1]


def config(model: str, batch: int, **fields) -> ml_collections.ConfigDict:
  """What train.py would train: Adam, clipped, on one batch of fake images again and again, and nothing besides.

  `fields` are further ones of the model.
  """
  resolution, sizes = MODELS[model]
  return ml_collections.ConfigDict(dict(
      seed=0, total_steps=100_000, log_every_steps=50, eval_every_steps=100_000,
      model={'name': 'mlp_mixer', 'num_classes': CLASSES, **sizes, **fields},
      data=dict(dataset='fake', split='train', batch_size=batch, resolution=resolution),
      step=dict(loss='softmax_xent'),
      optimizer=dict(name='adamw', learning_rate=1e-3, clip_norm=1., schedule=dict(name='cosine')),
      checkpoint=dict(every_steps=100_000), evals={}))


@functools.cache
def forward_gflops(model: str) -> float:
  """GFLOPs of an image, forward; a training step costs three times as much."""
  resolution, _ = MODELS[model]
  built = models.build(**config(model, 1).model, platform='any')
  params = jax.eval_shape(built.init, jax.random.key(0), jax.ShapeDtypeStruct((1, resolution, resolution, 3), 'float32'))['params']
  return flops.forward(built, params, resolution) / 1e9
