"""Units of a layer in the order of the paper's Figures 5 to 7: by frequency, each followed by its nearest inverse.

The paper sorts "by a heuristic that tries to show low-frequency filters first", and has each unit followed by its
closest inverse (App. D); it gives no details. Here, for a map w of weights and its Fourier transform W,

  frequency(w) = sum_k |k| |W(k)|^2 / sum_k |W(k)|^2,   k in cycles per pixel, -1/2 <= k_x, k_y < 1/2:

the centroid of its power spectrum, 0 for a constant map; of maps with several channels the power is summed over them.
The nearest inverse of w is the unit v with the lowest cosine <v, w> / (|v| |w|), -1 for v = -w. Each unit is in one
pair: of all pairs the one with the lowest cosine comes together, then that of the rest, and so on, so that no unit
takes another's inverse that fits it worse.
"""

import numpy as np


def frequency(maps):
  """The centroid of each map's power spectrum in cycles per pixel. [N, h, w] or [N, h, w, c] -> [N]."""
  power = np.abs(np.fft.fft2(maps, axes=(1, 2)))**2
  if power.ndim == 4:
    power = power.sum(axis=3)
  radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, power.shape[1:]), indexing='ij'))
  total = power.sum(axis=(1, 2))
  return (power * radius).sum(axis=(1, 2)) / np.where(total > 0, total, 1)


def inverses(maps):
  """The index of each map's partner, and their cosine. [N, ...] -> [N] ints, [N]; an odd one out has itself and 1."""
  flat = np.asarray(maps, np.float64).reshape(len(maps), -1)
  norms = np.linalg.norm(flat, axis=1, keepdims=True)
  flat = flat / np.where(norms > 0, norms, 1)
  cosines = flat @ flat.T
  partner = np.arange(len(flat))
  free = np.ones(len(flat), bool)
  first, second = np.triu_indices(len(flat), 1)
  for place in np.argsort(cosines[first, second], kind='stable'):
    one, other = first[place], second[place]
    if free[one] and free[other]:
      partner[[one, other]] = other, one
      free[[one, other]] = False
  return partner, np.where(partner == np.arange(len(flat)), 1., cosines[np.arange(len(flat)), partner])


def paired(maps):
  """The order in which to show maps: by frequency, each followed by its partner of `inverses`. [N, ...] -> [N] ints."""
  partner, _ = inverses(maps)
  order = []
  for unit in np.argsort(frequency(maps), kind='stable'):
    if unit not in order:
      order += [unit] if partner[unit] == unit else [unit, partner[unit]]
  return np.array(order, int)
