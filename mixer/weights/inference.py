"""Loaded weights at work: images of any kind to logits, features and named predictions."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import os

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from mixer.data import class_names as class_names_lib
from mixer.data import crops
from mixer.data import image_files
from mixer.data import image_paths
from mixer.data import normalize
from mixer import models
from mixer.run import devices
from mixer import storage
from mixer.training import losses
from mixer import trees

BATCH_SIZE = 32  # images that the model takes at a time
ONE = str, os.PathLike, PIL.Image.Image  # an image that is to be prepared


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A class and its probability for an image.

  Attributes:
    index: the class's number, from 0.
    id: its name in the data ('n01440764'), or its number where the weights know no names.
    name: the same in words ('tench').
    probability: in [0, 1]; those of all classes add up to 1, unless the model was trained by sigmoid cross-entropy.
  """
  index: int
  id: str
  name: str
  probability: float


def best(probabilities, names: Sequence | None, top: int) -> list[Prediction]:
  """The `top` of an image's classes, most probable first, of [K] probabilities and the classes' names, if any."""
  names = names or range(len(probabilities))
  return [Prediction(int(k), str(names[k]), class_names_lib.words(names[k]), float(probabilities[k]))
          for k in np.argsort(-probabilities, kind='stable')[:top]]


class Inference:
  """A model of loaded weights, its parameters copied to the device."""

  def __init__(self, weights):
    """`weights`: a `mixer.weights.Weights`."""
    self._weights = weights.with_crop()
    self._family = models.LOADABLE[weights.model['name']]
    self.model = models.build(**weights.model)
    self._headless = self.model.clone(num_classes=None)
    self._params = jax.device_put(weights.params)
    self._compiled: dict[Callable, Callable] = {}

  def logits(self, images) -> np.ndarray:
    """[B, K] float32 of arrays as `as_model_takes` lists them, or of others that `as_pixels` takes."""
    return self._over_batches(self._logits, self._taken(images))

  def features(self, images, tokens: bool = False) -> np.ndarray:
    """What the head is applied to, [B, C], or the tokens that it is the mean of, [B, S, C], in float32."""
    if tokens and not self._family.tokens:
      raise ValueError(f'{self._family.title} has no tokens; leave out tokens=True for its features')
    return self._over_batches(self._tokens if tokens else self._features, self._taken(images))

  def predict(self, images, top: int) -> list[list[Prediction]]:
    """The `top` classes of each image of `as_pixels`, most probable first."""
    probabilities = self._over_batches(self._probabilities, self.as_model_takes(self.as_pixels(images)))
    return [best(row, self._weights.class_names, top) for row in probabilities]

  def predict_paths(self, paths: Sequence[str], *, batch_size: int = BATCH_SIZE,
                    failed: Callable[[int, str], None]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (index of the path, [R, R, 3] uint8 as the model sees it, [K] probabilities) of each file, in their order.

    Calls failed(index, reason) for each file that cannot be decoded.
    """
    batches = image_paths.path_batches(
        paths, batch_size=batch_size, resolution=self._weights.resolution, resize=self._weights.resize,
        crop=self._weights.crop, failed=failed)
    compiled = self._jit(self._probabilities)
    under_way = ((batch['index'], batch['image'], compiled(self._params, batch['image'])) for batch in batches)
    for index, images, probabilities in devices.dispatch_ahead(under_way):
      yield from zip(index, images, np.asarray(probabilities))

  def _taken(self, images) -> np.ndarray:
    first = images if hasattr(images, 'ndim') else next(iter([images] if isinstance(images, ONE) else images), None)
    return self.as_model_takes(self.as_pixels(images) if isinstance(first, ONE) else images)

  def as_pixels(self, images) -> np.ndarray:
    """Images of any size to those that the model takes. -> [B, R, R, 3] uint8, or floats as they are.

    Args:
      images: a path, an image of Pillow or an array, or a sequence of them. uint8 arrays [H, W, 3] or [B, H, W, 3] are
        resized and cropped as the weights' evaluation does, images of Pillow and files turned upright before; floats
        are not resized.

    Raises:
      ValueError, OSError: naming the file, or the place in the sequence, of what cannot be read.
    """
    if isinstance(images, ONE) or getattr(images, 'ndim', None) == 3:
      images = [images]
    if hasattr(images, 'ndim'):
      images = np.asarray(images)
      if _is_float(images):
        return images
    cropped = [self._crop(image, place) for place, image in enumerate(images)]
    if not cropped:
      raise ValueError('images is empty; pass at least one')
    return np.stack(cropped)

  def _crop(self, image, place):
    where = image if isinstance(image, (str, os.PathLike)) else f'images[{place}]'
    try:
      if isinstance(image, (str, os.PathLike)):
        storage.check_no_url(image)
        image = image_files.decode(image_files.read(epath.Path(image)))
      elif isinstance(image, PIL.Image.Image):
        image = image_files.upright(image)
      image = np.asarray(image)
      if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'it is {_said(image)}; expected a path, an image of Pillow, or an array [H, W, 3] of uint8')
      return crops.crop(image, self._weights.crop, self._weights.resize, self._weights.resolution)
    except OSError as error:
      if error.errno is None:  # Pillow's
        raise ValueError(f'{where} cannot be used: {error}') from error
      raise type(error)(error.errno, error.strerror or str(error), str(where)) from error
    except ValueError as error:
      raise ValueError(f'{where} cannot be used: {error}') from error

  def as_model_takes(self, images) -> np.ndarray:
    """[B, R, R, 3] uint8 in [0, 255], or floats in [-1, 1], of the side R that the model takes -> the same.

    Raises:
      ValueError: showing what it is instead. Floats of which none is below -0.1 count as pixels in [0, 1], unless all are 0.
    """
    images = np.asarray(images)
    side = self._weights.resolution
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or not len(images):
      raise ValueError(f'images is {_said(images)}; expected [B, {side}, {side}, 3]. predict() resizes uint8 of any size')
    if images.dtype == np.uint8:
      return images
    if not _is_float(images):
      raise ValueError(f'images is {_said(images)}; expected uint8 in [0, 255], or floats in [-1, 1]')
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    if not (-1.01 <= low and high <= 1.01) or (low > -0.1 and (low or high)):
      raise ValueError(f'images are floats from {low:.3g} to {high:.3g}; expected floats in [-1, 1], which are 2 * x - 1 '
                       'for x in [0, 1], or uint8 in [0, 255]. model, params = weights.build() takes any floats')
    return images

  def _over_batches(self, function, images) -> np.ndarray:
    """The results for all images, computed BATCH_SIZE at a time; the last batch is filled up, so that one program does."""
    # Powers of two: few programs for all numbers of images.
    size, compiled = min(BATCH_SIZE, 1 << (len(images) - 1).bit_length()), self._jit(function)
    parts = (images[k:k + size] for k in range(0, len(images), size))
    filled = (np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)]) for part in parts)
    results = devices.dispatch_ahead(compiled(self._params, part) for part in filled)
    return np.concatenate([np.asarray(result) for result in results])[:len(images)]

  def _jit(self, function):
    return self._compiled.setdefault(function, jax.jit(function))

  def _logits(self, params, images):
    return self.model.apply(trees.variables(params), _normalized(images))

  def _probabilities(self, params, images):
    return losses.PROBABILITIES[self._weights.loss](self._logits(params, images))

  def _features(self, params, images):
    return self._headless.apply(trees.variables(params), _normalized(images))

  def _tokens(self, params, images):
    _, state = self._headless.apply(trees.variables(params), _normalized(images), mutable='intermediates',
                                    capture_intermediates=lambda module, _: module.name == self._family.tokens)
    tokens, = jax.tree.leaves(state['intermediates'])
    return tokens.astype('float32')


def _normalized(images):
  return normalize.normalize_images(images) if images.dtype == 'uint8' else images


def _is_float(images) -> bool:
  return jnp.issubdtype(images.dtype, jnp.floating)  # with bfloat16


def _said(images) -> str:
  """'[3, 8, 8, 1] of float64'."""
  return f'{[*images.shape]} of {images.dtype}'
