"""JPEGs like ImageNet's, made from two photographs that come inside scikit-learn: 500 x 375 pixels, about 51 KB each.

  python -m benchmarks.jpegs
  python -m benchmarks.jpegs /path/to/photographs

prepares them as a TFDS copy in array_record files, once, which takes a few seconds; or the JPEGs of a folder of yours,
byte for byte: ImageNet's own are twice as large on average, and take longer to decode.
"""

import contextlib
import hashlib
import io
import pathlib
import sys

import cv2
import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds

from benchmarks import workloads

WIDTH, HEIGHT = 500, 375
QUALITY, NOISE = 85, 4.5  # of the noise the deviation, in grey levels: a photograph's grain, and what makes 51 KB


class BenchJpegs(tfds.core.GeneratorBasedBuilder):
  """Random parts of two photographs, the same on every machine: 2,048 to train on and 512 to evaluate on."""

  VERSION = tfds.core.Version('1.0.0')
  SPLITS = {'train': 2048, 'test': 512}

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(num_classes=workloads.CLASSES)}))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self.SPLITS}

  def _generate_examples(self, split):
    photographs = sklearn.datasets.load_sample_images().images
    for index in range(self.SPLITS[split]):
      rng = np.random.default_rng((list(self.SPLITS).index(split), index))
      yield index, {'image': io.BytesIO(encoded(photographs[index % 2], rng)),
                    'label': int(rng.integers(workloads.CLASSES))}


class BenchPhotographs(tfds.core.GeneratorBasedBuilder):
  """The JPEGs of a folder, to train on and to evaluate on alike."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, files: list[pathlib.Path], **fields):
    self._files = files
    super().__init__(**fields)

  def _info(self):
    return BenchJpegs._info(self)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples() for split in BenchJpegs.SPLITS}

  def _generate_examples(self):
    for index, path in enumerate(self._files):
      yield index, {'image': str(path), 'label': index % workloads.CLASSES}


def encoded(photograph, rng) -> bytes:
  """A random part of a photograph, larger or smaller, as a JPEG. [H, W, 3] uint8 RGB."""
  height = int(rng.integers(photograph.shape[0] // 2, photograph.shape[0] + 1))
  width = height * WIDTH // HEIGHT
  top, left = (int(rng.integers(side - size + 1)) for side, size in zip(photograph.shape, (height, width)))
  part = cv2.resize(photograph[top:top + height, left:left + width], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
  part = np.clip(part + rng.normal(0, NOISE, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)
  _, array = cv2.imencode('.jpg', part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
  return array.tobytes()


def prepare(photographs: str | None = None, data_dir: str = workloads.DATA) -> str:
  """The folder of the prepared copy, for a config's `dataset`; of the JPEGs anywhere in `photographs`, if it is set.

  Raises:
    ValueError: if there are too few for a batch of the input pipeline.
  """
  if photographs is None:
    builder = BenchJpegs(data_dir=data_dir, file_format='array_record')
  else:
    files = sorted(path for path in pathlib.Path(photographs).expanduser().rglob('*')
                   if path.suffix.lower() in ('.jpg', '.jpeg'))
    if len(files) < workloads.IMAGES:
      raise ValueError(f'{photographs} has {len(files)} JPEGs; at least {workloads.IMAGES} are needed')
    names = ''.join(f'{path.resolve()} {path.stat().st_size}\n' for path in files)
    folder = pathlib.Path(data_dir) / hashlib.sha256(names.encode()).hexdigest()[:16]
    builder = BenchPhotographs(files, data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  return str(pathlib.Path(builder.data_path).resolve())


if __name__ == '__main__':
  with contextlib.redirect_stdout(sys.stderr):  # of TFDS, for $(python -m benchmarks.jpegs)
    path = prepare(*sys.argv[1:2])
  print(path)
