"""One split of a dataset as a source of encoded images by index, whatever it is stored in.

`open_split` finds out what a config's `dataset` names. Each source has

  name, num_examples        for messages and for the order
  contents                  what a run that goes on must find again, wherever it lies
  class_names               a list, or None where the source has no classes of its own
  read([n] ints)            -> [n] strings: the records at these indices, in a graph
  parse([] string, [] int)  -> ([] string, [] int): a record's encoded image and its label, in a graph
  locate(int)               -> where the example lies, for a message
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

from array_record.python import array_record_data_source
from etils import epath
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.datasets import digits

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
SELF_PREPARING = {'digits': digits.Digits}


def open_split(dataset: str, split: str, data_dir: str | None = None):
  """The source of one split.

  Args:
    dataset: 'fake'; a directory with a prepared TFDS dataset (it holds dataset_info.json) or with an image folder,
      directory/split/class/image.jpg; or else a TFDS dataset's name, such as 'digits' or 'imagenet2012'.
    split: its name; of a TFDS dataset also a part, such as 'train[:99%]'.
    data_dir: where TFDS keeps its datasets; by default its own default.

  Raises:
    ValueError: if the dataset, the split or an image in it is not there; it says what is, and the way out.
  """
  if dataset == 'fake':
    return FakeSource()
  path = epath.Path(dataset).expanduser()
  if (path / 'dataset_info.json').exists():
    return TfdsSource.open(tfds.builder_from_directory(path), split)
  if path.is_dir():
    return FolderSource.open(path, split)
  if dataset.startswith(('/', '.', '~')) or '://' in dataset:
    raise ValueError(f'dataset {dataset!r} is not a directory that can be read here')
  return TfdsSource.open(_prepared_builder(dataset, data_dir), split)


def _prepared_builder(name, data_dir):
  if name in SELF_PREPARING:
    builder = SELF_PREPARING[name](data_dir=data_dir, file_format='array_record')
    if not builder.is_prepared():
      try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
      except OSError:
        # Another process may have prepared it at the same time.
        if not builder.is_prepared():
          raise
    return builder
  try:
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
        f'dataset {name!r} is neither a directory here nor a dataset that TFDS {tfds.__version__} has a builder for. '
        f'Give the directory of a prepared copy or of an image folder, or {", ".join(SELF_PREPARING)}') from error
  if not builder.is_prepared():
    raise ValueError(
        f'dataset {name!r} is not prepared: {builder.data_path} has no finished copy. Prepare it with\n'
        f'  python -m tools.prepare {name} --data_dir={builder.data_dir_root}\n'
        'or set data.data_dir to where TFDS keeps it')
  return builder


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """A split, or a part of one, of a prepared TFDS dataset in array_record files."""
  name: str
  num_examples: int
  contents: str
  class_names: list[str] | None
  records: Any
  features: Any

  @classmethod
  def open(cls, builder, split):
    info = builder.info
    name = f'{info.full_name} at {builder.data_path}'
    try:
      part = info.splits[split]
    except (KeyError, ValueError) as error:
      raise ValueError(f'split {split!r} is not in {name}; it has {", ".join(sorted(info.splits))}') from error
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
      raise ValueError(
          f'{name} is stored as {info.file_format.value}, which cannot be read by index. Rewrite it with\n'
          f'  python -m tools.prepare {builder.data_path} --out=NEW\n'
          'and give NEW as the dataset')
    missing = [key for key in ('image', 'label') if key not in info.features]
    if missing:
      raise ValueError(f'{name} has no feature {missing[0]!r}; it has {", ".join(info.features)}')
    wanted = tfds.features.FeaturesDict({key: info.features[key] for key in ('image', 'label')})
    if not part.num_examples:
      raise ValueError(f'split {split!r} of {name} is empty')
    records = array_record_data_source.ArrayRecordDataSource(part.file_instructions)
    return cls(f'{name}, split {split}', part.num_examples, f'{info.full_name}, {part.num_examples} examples',
               getattr(info.features['label'], 'names', None), records, wanted)

  def read(self, indices):
    get = lambda numbers: np.array(self.records.__getitems__(numbers.tolist()), dtype=object)
    return tf.ensure_shape(tf.numpy_function(get, [indices], tf.string), [None])

  def parse(self, record, index):
    example = self.features.deserialize_example(record, decoders={'image': tfds.decode.SkipDecoding()})
    return example['image'], example['label']

  def locate(self, index):
    return f'example {index} of {self.name}'


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """The images of root/split/class/, in the order of their paths. Classes are numbered over all splits."""
  name: str
  num_examples: int
  contents: str
  class_names: list[str]
  paths: np.ndarray
  labels: np.ndarray

  @classmethod
  def open(cls, root, split):
    folders = lambda path: sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(('.', '__')))
    splits = {path.name: path for path in folders(root)}
    if split not in splits:
      raise ValueError(f'split {split!r} is not in the image folder {root}; it has the folders '
                       f'{", ".join(splits) or "(none)"}. The layout is root/split/class/image.jpg')
    class_names = sorted({path.name for folder in splits.values() for path in folders(folder)})
    files = [(path, class_names.index(folder.name)) for folder in folders(splits[split])
             for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != '.']
    if not files:
      raise ValueError(f'{splits[split]} holds no images: none of its folders has a file that ends in '
                       f'{", ".join(IMAGE_SUFFIXES)}. The layout is root/split/class/image.jpg')
    paths, labels = zip(*files)
    listing = '\n'.join(f'{path.relative_to(root)} {label}' for path, label in files)
    contents = f'{len(files)} files, sha256 of their names {hashlib.sha256(listing.encode()).hexdigest()[:16]}'
    return cls(f'{root}, split {split}', len(files), contents, class_names,
               np.array([str(path) for path in paths], dtype=object), np.array(labels))

  def read(self, indices):
    return tf.map_fn(tf.io.read_file, tf.gather(self.paths, indices), fn_output_signature=tf.string)

  def parse(self, record, index):
    return record, tf.gather(self.labels, index)

  def locate(self, index):
    return self.paths[index]


@dataclasses.dataclass(frozen=True)
class FakeSource:
  """No files: as many examples as ImageNet has, all alike, to time a loop without its data."""
  name: str = 'fake'
  num_examples: int = 1_281_167
  contents: str = 'fake'
  class_names: None = None
