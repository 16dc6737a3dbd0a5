"""Batches of images in files, for predictions: read and decoded by threads, without TensorFlow."""

from collections.abc import Callable, Iterator, Sequence
import itertools
import os

from etils import epath
import numpy as np

from mixer.data import crops
from mixer.data import image_files
from mixer.data import thread_map


def path_batches(paths: Sequence[str], *, batch_size: int, resolution: int, resize: int, crop: str,
                 failed: Callable[[int, str], None]) -> Iterator[dict]:
  """Batches of the images in some files, in their order; the last batch is filled up with repetitions of its last one.

  Yields {'image': [batch_size, R, R, 3] uint8, 'index': [n] ints}, n <= batch_size: the first n images are those of
  paths[index]. Files that cannot be decoded are left out.

  Args:
    resize, crop: as in `input_pipeline.eval_batches`.
    failed: is called with the index of each file that is left out, and the reason.
  """
  def prepare(path):
    try:
      return crops.crop(image_files.decode(image_files.read(epath.Path(path))), crop, resize, resolution)
    except (OSError, ValueError) as error:
      return error

  def good():
    for index, image in enumerate(thread_map.map_in_order(prepare, paths, os.cpu_count())):
      if isinstance(image, Exception):
        failed(index, str(image))
      else:
        yield index, image

  images = good()
  while part := list(itertools.islice(images, batch_size)):
    indices, pixels = zip(*part)
    filled = np.stack([*pixels, *pixels[-1:] * (batch_size - len(part))])
    yield {'image': filled, 'index': np.array(indices)}
