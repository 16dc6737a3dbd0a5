"""Mixup and CutMix: parts of another example come into each one, and as large a part of its targets.

Mixup (Zhang et al., 2018) takes a weighted mean of the two. CutMix (Yun et al., arXiv 1905.04899) pastes a box of the
other one.
"""

import dataclasses

from etils import epy
import jax
import jax.numpy as jnp
import numpy as np

from mixer import arguments

with epy.lazy_imports():  # it takes 0.3 s
  import scipy.special


@dataclasses.dataclass(frozen=True)
class Mixing:
  """How the examples of a step are mixed: by CutMix or else by mixup, each with one lambda for the whole batch.

  It is true if some steps are mixed.

  Attributes:
    mixup: alpha of its Beta distribution, at least 0; 0 for none.
    cutmix: the same of CutMix.
    cutmix_probability: the share of the steps that have CutMix, 0 to 1; the others have mixup, if there is any.
  """
  mixup: float = 0.
  cutmix: float = 0.
  cutmix_probability: float = 1.

  def __post_init__(self):
    arguments.check(dict(mixup=self.mixup, cutmix=self.cutmix), at_least=0)
    arguments.check(dict(cutmix_probability=self.cutmix_probability), at_least=0, at_most=1)
    if self.cutmix_probability != 1 and not self.cutmix:
      raise arguments.ArgumentError(f'cutmix_probability is {self.cutmix_probability}, and cutmix is {self.cutmix}, so that '
                                    'no step has it; set cutmix, to 1.0 as in its paper, or drop cutmix_probability')

  def __bool__(self):
    return bool(self.mixup or self.cutmix)

  def __call__(self, images, targets, seed: int, step, axis_name: str):
    """Mixes each example with the previous one in the global batch. [b, H, W, 3], [b, K] floats -> the same.

    The result does not depend on how the batch is divided over the devices of the mapped axis `axis_name`. The step is
    counted from 0.
    """
    of_pixels, lam = self.weights(seed, step, *images.shape[1:3])
    blend = lambda x, weight: weight * x + (1 - weight) * _previous(x, axis_name)
    return blend(images, of_pixels), blend(targets, lam)

  def weights(self, seed: int, step, height: int, width: int):
    """The weights of each example itself: of its pixels, [] or [H, W, 1], and lambda, of its targets, []."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    lam = sample_lambda(self.mixup, jax.random.fold_in(key, 1)) if self.mixup else 1.
    if not self.cutmix:
      return lam, lam
    switch, box = jax.random.split(jax.random.fold_in(key, 2))
    outside = sample_box(self.cutmix, box, height, width)
    is_cutmix = jax.random.uniform(switch) < self.cutmix_probability
    return jnp.where(is_cutmix, outside, lam), jnp.where(is_cutmix, outside.mean(), lam)


def sample_lambda(alpha: float, key):
  """Samples the weight of each example itself: from Beta(alpha, alpha), the larger of it and its complement. -> [].

  As in the authors' code, with one weight for the whole batch. `alpha` is p of Table 4.
  """
  # By its quantiles, in the upper half of the symmetric distribution: jax.random.beta takes seconds to compile on CPU.
  quantiles = np.linspace(0.5, 1, 4097)
  return jnp.interp(jax.random.uniform(key, minval=0.5), quantiles, scipy.special.betaincinv(alpha, alpha, quantiles))


def sample_box(alpha: float, key, height: int, width: int):
  """Samples the box of CutMix: 0 in it, and 1 where pixels stay. -> [H, W, 1].

  As in the authors' code: the centre is any pixel, each side sqrt(1 - lambda) of the image's in whole pixels, and what
  lies outside the image is lost. So the share of the ones is lambda or more, and it is the weight for the targets.
  """
  larger, swap, *centres = jax.random.split(key, 4)
  # All of the Beta distribution, unlike mixup's: what a large box leaves is a frame, and no small box.
  lam = sample_lambda(alpha, larger)
  lam = jnp.where(jax.random.bernoulli(swap), lam, 1 - lam)

  def is_inside(side, key):
    half = side * jnp.sqrt(1 - lam) // 2
    from_centre = jnp.arange(side) - jax.random.randint(key, (), 0, side)
    return (from_centre >= -half) & (from_centre < half)

  rows, columns = is_inside(height, centres[0]), is_inside(width, centres[1])
  return 1. - (rows[:, None] & columns)[..., None]


def _previous(x, axis_name):
  """The example before each; the first one's is the last of the previous device."""
  devices = jax.lax.axis_size(axis_name)
  last = jax.lax.ppermute(x[-1:], axis_name, [(k, (k + 1) % devices) for k in range(devices)])
  return jnp.concatenate([last, x[:-1]])
