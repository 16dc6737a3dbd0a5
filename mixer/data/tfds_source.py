"""A split, or a part of one, of a prepared TFDS dataset, as a source of encoded images (sources.py).

Copies in array_record files are read by index. Copies in tfrecord files cannot be, and are read as a stream.
"""

from collections.abc import Callable
import dataclasses
import os
import re
from typing import Any

from array_record.python import array_record_data_source
from etils import epath
from google.protobuf import message
import numpy as np

from mixer.data.lazy import tf
from mixer.data.lazy import tfds
from mixer.data import resized_copy
from mixer.data.source_protocol import RandomAccessSource
from mixer.data.source_protocol import SplitSpec
from mixer.data.source_protocol import StreamSource
from mixer.data import vtab_labels
from mixer import safe_io

FILES_AT_ONCE = 16  # of a stream; they take turns, a record each
SHUFFLE_BUFFER = 8_192  # records of a stream, still encoded: nearly a gigabyte of ImageNet

FEATURES = 'features.json'
OWN_CLASSES = 'tensorflow_datasets.core.features.'
CONFIG = re.compile(r'[\w+-][\w+.-]*', re.ASCII)  # the name of one, and of its folder


def builder_of(path):
  """TFDS's builder of a prepared copy. Raises as `check_features`, and a ValueError if the file to check is missing."""
  check_features(epath.Path(path))
  if not (features := epath.Path(path) / FEATURES).is_file():
    raise ValueError(f'{features} is missing, which says how the examples are stored. Prepare the dataset anew, or copy '
                     'it whole')
  return tfds.builder_from_directory(path)


def check_features(folder):
  """Raises a ValueError if the copies in a folder name other classes for their features than TFDS's own, or a default
  config that is none of them.

  TFDS imports whatever module they are in, and so the data would say what code runs.
  """
  # Listed, not matched by a pattern: the folder's own name may hold [ or *.
  below = lambda outer: [path for path in outer.iterdir() if path.is_dir()] if outer.is_dir() else []
  versions = below(folder)  # or configs, with versions in them
  for inner in (folder, *versions, *(version for config in versions for version in below(config))):
    if (path := inner / FEATURES).exists():
      _check_classes(safe_io.read_json_object(path), path)
  # TFDS opens this config where none is asked for: it must be one of the folders just checked.
  if (path := folder / '.config' / 'metadata.json').exists():
    default = safe_io.read_json_object(path).get('default_config_name')
    if default is not None and not (isinstance(default, str) and CONFIG.fullmatch(default)):
      raise ValueError(f'{path}: default_config_name is {safe_io.show(default)}; it must be the name of a folder in {folder}')


def _check_classes(value, path):
  for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
    if key in ('type', 'pythonClassName', 'python_class_name') and isinstance(part, str):
      if not part.startswith(OWN_CLASSES):
        raise ValueError(f'{path} names the class {safe_io.show(part)}, and only those of {OWN_CLASSES[:-1]} are taken, '
                         'since others may run any code. Prepare the dataset anew with features of TFDS alone')
    elif key == 'json' and isinstance(part, str):
      part = safe_io.parse_json(part, path)
    _check_classes(part, path)


def open_split(spec: SplitSpec):
  """The source of a split of a prepared copy; None if the dataset is no directory with one."""
  path = epath.Path(spec.dataset).expanduser()
  return open_copy(path, spec) if (path / 'dataset_info.json').exists() else None


def open_copy(path, spec: SplitSpec):
  """The source of a split of the copy in a folder, which `spec.dataset` names."""
  builder, split, label, max_labels = builder_of(path), spec.split, spec.label, spec.max_labels
  info = builder.info
  metadata = info.metadata or {}
  resized = resized_copy.stated(metadata)
  name = f'{info.full_name}{resized}{"," * bool(resized)} at {builder.data_path}'
  try:
    part = info.splits[split]
  except (KeyError, ValueError) as error:
    raise ValueError(f'split {split!r} is not in {name}; it has {", ".join(sorted(info.splits))}') from error
  if not part.num_examples:
    raise ValueError(f'split {split!r} of {name} is empty')
  if info.file_format not in (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.TFRECORD):
    raise ValueError(f'{name} is stored as {info.file_format.value}, and only array_record and tfrecord can be read. '
                     'Prepare it anew with python -m tools.prepare')
  present = {path.name for path in epath.Path(builder.data_path).iterdir()}
  for file in part.file_instructions:
    safe_io.check_below(builder.data_path, file.filename)
    if epath.Path(file.filename).name not in present:
      raise ValueError(f'{name} is not whole: its file {file.filename} is missing')
  possible = vtab_labels.possible(info.features)
  missing = [key for key in ('image', label) if key not in (*info.features, *possible)]
  if missing:
    also = f', of which these labels are made: {", ".join(possible)}' if possible else ''
    raise ValueError(f'{name} has no feature {missing[0]!r}; it has {", ".join(info.features)}{also}')
  made = None if label in info.features else vtab_labels.LABELS[label]
  feature, number = None if made else info.features[label], None
  if isinstance(feature, tfds.features.Sequence):
    feature, number = feature.feature, max_labels or metadata.get('max_labels')
    if number is None:
      raise ValueError(f'feature {label!r} of {name} is a list of classes; set max_labels beside the dataset to how '
                       'many an example has at most')
  if not made and not (isinstance(feature, tfds.features.Tensor) and feature.shape == ()
                       and np.dtype(feature.np_dtype).kind in 'iub'):
    raise ValueError(f'feature {label!r} of {name} is {feature!r}; a label is an integer, or a list of integers. It has '
                     f'{", ".join(info.features)}')
  features = {'image': True, **(made.features if made else {label: True})}
  if number and 'weight' in info.features:
    features['weight'] = True
  fields = dict(
      name=f'{name}, split {split}', num_examples=part.num_examples,
      contents=f'{info.full_name}, {part.num_examples} examples{resized}', resized=resized,
      folder=builder.data_path, split=split, label=label, made=made, max_labels=number, restore=vtab_labels.IMAGES.get(builder.name),
      class_names=(made.class_names if made else (label == 'label' and metadata.get('class_names'))
                   or getattr(feature, 'names', None)),
      features=vtab_labels.select(info.features, features))
  if info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    return TfdsByIndex(**fields, files=array_record_data_source.ArrayRecordDataSource(part.file_instructions))
  return TfdsStream(**fields, files=part.file_instructions)


@dataclasses.dataclass(frozen=True)
class _Tfds:
  """What copies of both kinds have in common."""
  name: str
  num_examples: int
  contents: str
  resized: str  # of a resized copy what it says, else ''
  folder: Any
  split: str
  class_names: list[str] | None
  label: str
  made: vtab_labels.Label | None  # how, where `label` is no feature
  max_labels: int | None
  restore: Callable | None  # of the encoded images
  features: Any  # those that are read: 'image', 'weight', and `label` or what it is made of
  files: Any
  fix: str = 'Prepare the copy anew, from good images'

  @property
  def labels(self):
    shape = () if self.max_labels is None else (self.max_labels,)
    return {'label': (shape, 'int32'), **({'weight': (shape, 'float32')} if 'weight' in self.features else {})}

  @property
  def fingerprint(self):
    return f'{self.contents}, split {self.split}'

  def stored(self, record, index):
    return self.parse(record, index)[0]

  @staticmethod
  def canonical(record):
    # It is a map of features, which two processes that prepare the same dataset may write in different orders.
    try:
      return tf.train.Example.FromString(record).SerializeToString(deterministic=True)
    except message.DecodeError:
      return record  # a stream's layout; or damaged, which its reader will report

  def parse(self, record, index):
    del index  # the record says it all
    example = self.features.deserialize_example(record, decoders={'image': tfds.decode.SkipDecoding()})
    image = self.restore(example['image']) if self.restore else example['image']
    labels = {'label': self._make(example) if self.made else tf.saturate_cast(tf.cast(example[self.label], tf.int64), tf.int32)}
    if 'weight' in self.features:
      labels['weight'] = example['weight']
    if self.max_labels is not None:
      number = tf.shape(labels['label'])[0]
      tf.debugging.assert_less_equal(
          number, self.max_labels, f'an example of {self.name} has more classes than max_labels, {self.max_labels}')
      pad = lambda x, fill: tf.ensure_shape(tf.pad(x, [[0, self.max_labels - number]], constant_values=fill),
                                            [self.max_labels])
      labels = {key: pad(x, -1 if key == 'label' else 0) for key, x in labels.items()}
    return image, labels

  def _make(self, example):
    label, number = tf.cast(self.made.make(example), tf.int32), len(self.class_names)
    tf.debugging.Assert((label >= 0) & (label < number), [
        f'an example of {self.name} has none of the {number} classes of {self.label}; the split may lack annotations'])
    return label

  def locate(self, index):
    return f'example {index} of {self.name}'


@dataclasses.dataclass(frozen=True)
class TfdsByIndex(_Tfds, RandomAccessSource):
  """Of array_record files."""
  order: str = 'by index, since it is stored as array_record: a new permutation each epoch'

  def read(self, indices):
    get = lambda numbers: np.array(self.files.__getitems__(numbers.tolist()), dtype=object)
    return tf.ensure_shape(tf.numpy_function(get, [indices], tf.string), [None])


@dataclasses.dataclass(frozen=True)
class TfdsStream(_Tfds, StreamSource):
  """Of tfrecord files: shuffled files in turns, then a buffer of records, by (seed, epoch) alone."""
  order: str = ('a stream: tfrecord files cannot be read by index. Files are shuffled each epoch, and records in a '
                f'buffer of {SHUFFLE_BUFFER:,}; a resumed run first skips what it has seen')

  def stream(self, seed: int, start: int):
    first_epoch, seen = divmod(start, self.num_examples)
    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(lambda epoch: self._epoch(seed, epoch)).skip(seen)

  def _epoch(self, seed, epoch):
    base = tf.stack([tf.constant(seed, tf.int64), epoch])
    number = len(self.files)
    place = tf.random.experimental.stateless_shuffle(tf.range(number), seed=base)
    files = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(x, place) for x in self._file_table()))
    records = files.interleave(_read, cycle_length=FILES_AT_ONCE, num_parallel_calls=2, deterministic=True)
    use = tf.random.stateless_uniform([], base, minval=None, maxval=None, dtype=tf.int64)
    return records.shuffle(SHUFFLE_BUFFER, seed=use)

  def records(self):
    return tf.data.Dataset.from_tensor_slices(self._file_table()).flat_map(_read)

  @property
  def layout(self):
    """(file's name, skip, take) of each file."""
    return [(os.path.basename(file.filename), file.skip, file.take) for file in self.files]

  def _file_table(self):
    return ([str(file.filename) for file in self.files], np.array([file.skip for file in self.files], np.int64),
            np.array([file.take for file in self.files], np.int64))


def _read(filename, skip, take):
  return tf.data.TFRecordDataset(filename).skip(skip).take(take)
