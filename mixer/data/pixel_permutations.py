"""Images whose pixels have changed places: what an architecture takes for granted (section 3.4, Fig. 4).

  patches   the patches change places, and the pixels within each do, in every patch alike
  pixels    all pixels change places, over the whole image

One permutation holds for all images, in training, evaluation and probes, and the three colours of a pixel move
together. A Mixer cannot tell the first from the original: the same permutation of the rows of its stem and of its
token-mixing MLPs undoes it exactly, and neither their initialisation nor the optimizer prefers an order. A convolution
can tell both.
"""

import numpy as np

from mixer import arguments

KINDS = ('patches', 'pixels')


def draw(kind: str | None, resolution: int, patch_size: int | None, seed: int) -> np.ndarray | None:
  """Which pixel, counted along the rows of the whole image, comes to each place. -> [resolution^2] ints, or None.

  Args:
    kind: 'patches', 'pixels', or None for images as they are.
    resolution: of the images, in pixels.
    patch_size: in pixels, of 'patches'; None for the others.
    seed: of the permutation, whatever else is random in a run.

  Raises:
    ArgumentError: if these do not go together.
  """
  if kind not in (None, *KINDS):
    raise arguments.ArgumentError(f'permutation is {kind!r}; it must be {", ".join(map(repr, KINDS))} or None')
  if kind == 'patches' and (not patch_size or resolution % patch_size):
    raise arguments.ArgumentError(f'permutation_patch is {patch_size}; the patches to permute must tile the '
                                  f'{resolution} x {resolution} pixels: set it to model.patch_size')
  if kind != 'patches' and patch_size is not None:
    raise arguments.ArgumentError(f"permutation_patch is {patch_size}, and permutation is {kind!r}; drop it, or set "
                                  "permutation to 'patches'")
  rng = np.random.default_rng(seed)
  if kind == 'patches':
    return of_patches(rng.permutation((resolution // patch_size)**2), rng.permutation(patch_size**2))
  return None if kind is None else rng.permutation(resolution**2)


def of_patches(patches, within) -> np.ndarray:
  """The permutation of an image's pixels by one of its patches and one of the pixels within each.

  Args:
    patches: [S] ints, which patch comes to each place, in raster order.
    within: [P^2] ints, which pixel of a patch comes to each place in it.

  Returns:
    [S P^2] ints, as `draw` does.
  """
  side, size = (round(len(x)**0.5) for x in (patches, within))
  tiled = np.arange(len(patches) * len(within)).reshape(side, size, side, size).swapaxes(1, 2)
  moved = tiled.reshape(len(patches), len(within))[patches][:, within]
  return moved.reshape(side, side, size, size).swapaxes(1, 2).reshape(-1)
