"""Small Mixers with parameters that are all nonzero, for tests of files of weights."""

import jax
import jax.numpy as jnp
import numpy as np

from mixer.models import mlp_mixer

# Of 8 x 8 pixels: 4 tokens. No two sizes are alike, so that a transposed array shows.
FIELDS = dict(num_classes=5, patch_size=4, num_blocks=2, hidden_dim=12, tokens_mlp_dim=6, channels_mlp_dim=20)


def params(fields=FIELDS, shape=(8, 8), seed=0) -> dict:
  """Nested float32 numpy arrays: kernels that keep the scale, LayerNorm scales about 1, biases about 0."""
  rng = np.random.default_rng(seed)
  image = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
  shapes = jax.eval_shape(mlp_mixer.MlpMixer(**fields).init, jax.random.key(0), image)['params']

  def fill(path, leaf):
    values = rng.normal(size=leaf.shape)
    by_name = {'kernel': values / np.sqrt(np.prod(leaf.shape[:-1])), 'bias': 0.3 * values, 'scale': 1 + 0.3 * values}
    return by_name[path[-1].key].astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def equal(one, other) -> bool:
  """Whether two trees have the same names and arrays, bit for bit."""
  return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
      jax.tree.map(lambda x, y: x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), one, other))
