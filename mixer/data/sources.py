"""The kinds of sources, and which of them a config's `dataset` names (source_protocol.py says what a source is)."""

from collections.abc import Sequence
import hashlib

from mixer.data import fake_source
from mixer.data import folder_source
from mixer.data.lazy import tf
from mixer.data.source_protocol import Source
from mixer.data.source_protocol import SplitSpec
from mixer.data import subset
from mixer.data import tfds_builders
from mixer.data import tfds_source

# Functions of a SplitSpec, each of which returns None if the dataset is not of its kind. The last takes what is left.
OPENERS = (fake_source.open_split, tfds_source.open_split, folder_source.open_split, tfds_builders.open_split)


def open_split(dataset: str, split: str, data_dir: str | None = None, label: str = 'label',
               max_labels: int | None = None, class_names: Sequence[str] | None = None, training: bool = False,
               classes: Sequence[str] | None = None) -> Source:
  """The source of one split.

  Args:
    dataset: 'fake'; a directory with a prepared TFDS dataset (it holds dataset_info.json) or with an image folder,
      directory/split/class/image.jpg, or directory/class/image.jpg for a split train alone; or else a TFDS dataset's
      name, such as 'digits' or 'imagenet2012'.
    split: its name, or a part, such as 'train[:99%]'.
    data_dir: where TFDS keeps its datasets; by default its own default.
    label: the feature of a TFDS dataset that holds the class, or a list of classes; or a label made of others
      (vtab_labels.py).
    max_labels: the most classes that an example has, where they are a list and the dataset does not say it.
    class_names, training: by which names an image folder's classes are numbered: `folder_source.FolderSource.open`.
    classes: the names of the classes to use, in the order of their new numbers; None for all. The labels of a TFDS
      dataset are read for it.

  Raises:
    ValueError: if the dataset, the split, an image or a class in it is missing; it says what exists, and the fix.
  """
  # With `classes`, the source numbers all of its own in its own way, and the subset renumbers them by name.
  spec = SplitSpec(dataset, split, data_dir, label, max_labels, class_names if classes is None else None, training)
  source = next(source for opener in OPENERS if (source := opener(spec)) is not None)
  return source if classes is None else subset.Subset.of_classes(source, classes)


def identity(source: Source) -> dict:
  """What a resumed run must find again, and by what a copy of it is recognized wherever it is stored.

  Returns:
    'contents' as the source has them; 'contents_sample', a hash of a few records; and where two copies of the same images
    may have different records, 'contents_features', a hash of what does not differ. A hash is None if the source has no
    records, or they cannot be read, which their reader will report.
  """
  try:
    records = source.sample()
  except tf.errors.OpError:
    records = []
  hashes = {'contents': source.contents, 'contents_sample': _hash(records)}
  return hashes if source.canonical is None else hashes | {'contents_features': _hash(map(source.canonical, records))}


def _hash(records):
  digests = [hashlib.sha256(record).digest() for record in records]
  return hashlib.sha256(b''.join(digests)).hexdigest()[:16] if digests else None
