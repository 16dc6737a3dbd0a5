"""Batches of images in files, for predictions."""

from collections.abc import Callable, Iterator, Sequence
import itertools
import os

import numpy as np

from mixer.data import image_files
from mixer.data.lazy import tf
from mixer.data import preprocess
from mixer.data import read_errors


def path_batches(paths: Sequence[str], *, batch_size: int, resolution: int, resize: int, crop: str,
                 failed: Callable[[int, str], None]) -> Iterator[dict]:
  """Batches of the images in some files, in their order; the last batch is filled up with repetitions of its last one.

  Yields {'image': [batch_size, R, R, 3] uint8, 'index': [n] ints}, n <= batch_size: the first n images are those of
  paths[index]. Files that cannot be decoded are left out.

  Args:
    resize, crop: as in `input_pipeline.eval_batches`.
    failed: is called with the index of each file that is left out, and the reason.
  """
  names = tf.constant([os.fsencode(path) for path in paths])

  def prepare(index):
    image = preprocess.decode(image_files.normalize(tf.io.read_file(names[index])))
    return preprocess.EVALUATION_CROPS[crop](image, resize, resolution)

  def good():
    tried = read_errors.try_each(tf.data.Dataset.range(len(paths)), len(paths), prepare, prepare, os.cpu_count(), batch_size)
    for index, image, error in tried:
      if image is None:
        failed(index, preprocess.reason(error) if error else 'it could only be read on a second try')
      else:
        yield index, image

  images = good()
  while part := list(itertools.islice(images, batch_size)):
    indices, pixels = zip(*part)
    filled = np.stack([*pixels, *pixels[-1:] * (batch_size - len(part))])
    yield {'image': filled, 'index': np.array(indices)}
