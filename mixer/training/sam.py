"""SAM and GSAM: the step's gradient is taken where the loss of a group of images is highest nearby.

Sharpness-aware minimization (Foret et al., arXiv 2010.01412), and the surrogate gap guided one (Zhuang et al., arXiv
2203.08065, Algorithm 1). For each group of images, with g = grad f(w):

  w_adv = w + rho_t g / |g|,  g_p = grad f(w_adv),  the step's gradient: g_p - alpha g_perp,

where g_perp is the part of g that is orthogonal to g_p. Published results perturb by the images of one device, 64 in
the authors' runs. Here the size of a group is a field, so that the devices' number does not matter, up to one a group.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import optax

from mixer import arguments
from mixer.training import schedules

EPS = 1e-12  # of the authors' code: a gradient of zero perturbs nothing


@dataclasses.dataclass(frozen=True)
class Sam:
  """The fields of config.step.sam. SAM is rho_max = rho_min and alpha = 0; the two steps cost about twice one.

  rho_t follows the learning rate, from rho_max at its peak to rho_min at its end. It is the absolute learning rate's:
  of one that is relative to the peak, the authors' first release exploded. In the warmup, below the end's learning rate,
  it is rho_min; the authors' code goes below.

  Attributes:
    rho_max: the length of the perturbation where the learning rate is at its peak; at least 0.
    rho_min: the same where it is at its end; at least 0, and at most rho_max.
    alpha: the weight of the surrogate gap, GSAM's; at least 0.
    images_per_perturbation: of a group, which shares a perturbation; at least 1, and a divisor of a device's part of the
      batch, which may have at most batch_size / images_per_perturbation devices.
  """
  rho_max: float
  rho_min: float
  alpha: float = 0.
  images_per_perturbation: int = 64

  def __post_init__(self):
    arguments.check(dict(rho_max=self.rho_max, rho_min=self.rho_min, alpha=self.alpha), at_least=0)
    arguments.check(dict(images_per_perturbation=self.images_per_perturbation), at_least=1)
    if self.rho_min > self.rho_max:
      raise arguments.ArgumentError(f'rho_min is {self.rho_min}, above rho_max, which is {self.rho_max}; exchange them')

  def groups(self, size: int, accumulate: int) -> int:
    """How many groups `size` images of a device make, each of which is divided into `accumulate` microbatches.

    Raises:
      ValueError: with the numbers that would do.
    """
    group = self.images_per_perturbation
    if size % group:
      fits = ', '.join(str(k) for k in range(1, size + 1) if size % k == 0)
      raise ValueError(f'config.step.sam.images_per_perturbation is {group}; it must divide the {size} images a device: use '
                       f'fewer devices, or for other steps than those one of {fits}')
    if group % accumulate:
      raise ValueError(f'config.step.accumulate is {accumulate}; it must divide the {group} images of '
                       'config.step.sam.images_per_perturbation')
    return size // group

  def rho(self, learning_rate: schedules.Schedule, step):
    """rho_t of a step. -> []."""
    highest, last = learning_rate.peak, learning_rate.last
    share = (learning_rate(step) - last) / (highest - last) if highest > last else 1.
    return self.rho_min + (self.rho_max - self.rho_min) * jnp.clip(share, 0, 1)

  def gradient(self, value_and_grad: Callable, rho) -> Callable:
    """(params, ...) -> (value, metrics), gradient of one group, as of `value_and_grad` with has_aux.

    The value is that at `params`, and the metrics have 'surrogate_gap', how much higher it is at w_adv.
    """
    def perturbed(params, *batch):
      (value, metrics), g = value_and_grad(params, *batch)
      scale = rho / (optax.tree.norm(g) + EPS)
      (value_p, _), g_p = value_and_grad(jax.tree.map(lambda w, g: (w + scale * g).astype(w.dtype), params, g), *batch)
      parallel = optax.tree.vdot(g, g_p) / (optax.tree.norm(g_p) + EPS)**2
      gradient = jax.tree.map(lambda g, g_p: (g_p - self.alpha * (g - parallel * g_p)).astype(g_p.dtype), g, g_p)
      return (value, {**metrics, 'surrogate_gap': value_p - value}), gradient
    return perturbed
