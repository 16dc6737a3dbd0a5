"""One split of a dataset as a source of encoded images, whatever it is stored in.

`open_split` finds out what a config's `dataset` names. Each source has

  name, num_examples        for messages and for the order
  contents                  what a run that goes on must find again, wherever it lies
  order                     in which order it can be read, and why, for people
  class_names               a list, or None where the source has no classes of its own
  labels                    {'label': (shape, type), ...} of one example; 'weight' has the shape of 'label'
  parse([] string, [] int)  -> ([] string, {'label', ...}): a record's encoded image and its labels, in a graph
  stored(...)               -> [] string: the encoded image as it lies in the file, by which `subset` chooses
  locate(int)               -> where the example lies, for a message
  folder, split             where it lies
  fingerprint               changes whenever its images or their order do
  mend                      what to do about a bad example, for a message

and either, by index,

  read([n] ints)            -> [n] strings: the records at these indices, in a graph

or, where that cannot be,

  stream(seed, start)       -> tf.data: the records from position `start` on, of epochs shuffled by (seed, epoch)
  in_order()                -> tf.data: each record once
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import os
import re

from etils import epath
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.builders import digits
from mixer.data.builders import imagenet21k
from mixer.data.builders import mnist5k
from mixer.data.builders import multilabel
from mixer.data import folder_source
from mixer.data import tfds_source

SELF_PREPARING = {'digits': digits.Digits, 'few_digits': digits.FewDigits, 'other_digits': digits.OtherDigits,
                  'mnist5k': mnist5k.Mnist5k, 'few_mnist5k': mnist5k.FewMnist5k, 'other_mnist5k': mnist5k.OtherMnist5k}
BUILDERS = {**SELF_PREPARING, 'imagenet21k': imagenet21k.Imagenet21k, 'multilabel': multilabel.Multilabel}

# TFDS also takes namespaces, whose code comes from elsewhere, and keywords, such as another data_dir.
NAME = re.compile(rf'[a-z]\w*(/{tfds_source.CONFIG.pattern})?(:(\d+|\*)(\.(\d+|\*)){{2}})?', re.ASCII | re.IGNORECASE)


def open_split(dataset: str, split: str, data_dir: str | None = None, label: str = 'label',
               max_labels: int | None = None, class_names: Sequence[str] | None = None, training: bool = False):
  """The source of one split.

  Args:
    dataset: 'fake'; a directory with a prepared TFDS dataset (it holds dataset_info.json) or with an image folder,
      directory/split/class/image.jpg; or else a TFDS dataset's name, such as 'digits' or 'imagenet2012'.
    split: its name, or a part, such as 'train[:99%]'.
    data_dir: where TFDS keeps its datasets; by default its own default.
    label: the feature of a TFDS dataset that holds the class, or a list of classes; or a label made of others
      (vtab_labels.py).
    max_labels: the most classes that an example has, where they are a list and the dataset does not say it.
    class_names, training: by which names an image folder's classes are numbered: `folders.FolderSource.open`.

  Raises:
    ValueError: if the dataset, the split or an image in it is not there; it says what is, and the way out.
  """
  if dataset == 'fake':
    return FakeSource()
  path = epath.Path(dataset).expanduser()
  if (path / 'dataset_info.json').exists():
    return tfds_source.open_split(tfds_source.open_copy(path), split, label, max_labels)
  if path.is_dir():
    return folder_source.FolderSource.open(path, split, class_names, training)
  if dataset.startswith(('/', '.', '~')) or '://' in dataset:
    raise ValueError(f'dataset {dataset!r} is not a directory that can be read here')
  return tfds_source.open_split(_prepared_builder(dataset, data_dir), split, label, max_labels)


def sample(source) -> str | None:
  """A hash of a few of a source's records, at even distances: a copy that has it lies elsewhere and is the same.

  None where there are no records, or they cannot be read, which is for whoever needs them to say.
  """
  try:
    if hasattr(source, 'read'):
      records = source.read(np.unique(np.linspace(0, source.num_examples - 1, 16).astype(np.int64))).numpy()
    elif hasattr(source, 'in_order'):  # which comes out of files: their names and lengths stand for its order
      records = [repr(source.layout).encode(), *source.in_order().take(4).as_numpy_iterator()]
    else:
      return None
  except tf.errors.OpError:
    return None
  return hashlib.sha256(b''.join(hashlib.sha256(record).digest() for record in records)).hexdigest()[:16]


def builder(name: str, data_dir: str | None = None, **given):
  """Our builder of that name, or TFDS's: of the copy that there is, or else of one that can be read by index.

  `given` are what else a builder of ours takes. Raises a ValueError for what is no name of a dataset, and as `check_features`.
  """
  if not NAME.fullmatch(name):
    raise ValueError(f'dataset {name!r} is neither a directory here nor a name as TFDS has them: NAME, NAME/CONFIG, '
                     'NAME:VERSION or NAME/CONFIG:VERSION, such as imagenet2012:5.1.0')
  parsed, variant = tfds.core.naming.parse_builder_name_kwargs(name)  # of CamelCase, too
  own = str(parsed)
  if own in BUILDERS:
    make = lambda **stored: BUILDERS[own](**{'config': None, **variant}, data_dir=data_dir, **given, **stored)
  else:
    tfds_source.check_features(epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / own)
    make = lambda **stored: tfds.builder(name, data_dir=data_dir, try_gcs=False, **stored)
  try:
    there = make()
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
        f'dataset {name!r} is neither a directory here nor a dataset that TFDS {tfds.__version__} has a builder for. '
        f'Give the directory of a prepared copy or of an image folder, or {", ".join(BUILDERS)}') from error
  return there if is_prepared(there) else make(file_format='array_record')


def is_prepared(found) -> bool:
  """Whether a builder's copy is finished. TFDS warns of one that is not, and looks by a pattern, also of [ in its path."""
  return (found.data_path / 'dataset_info.json').exists()


def _prepared_builder(name, data_dir):
  advice = ('Set --config.data.data_dir, and --config.evals.NAME.data_dir of each evaluation, or the environment variable '
            'TFDS_DATA_DIR, to a folder that can be written to')
  folder = data_dir or tfds.core.constants.DATA_DIR
  if os.path.expanduser(folder).startswith('~'):
    raise ValueError(f'dataset {name!r} would lie in {folder}, and this user has no home folder: HOME is not set. {advice}')
  found = builder(name, data_dir)
  if not is_prepared(found) and name in SELF_PREPARING:
    try:
      found.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
      # Another process may have prepared it at the same time.
      if not is_prepared(found):
        raise ValueError(f'dataset {name!r} cannot be prepared in {folder}: {error}. {advice}') from error
  if not is_prepared(found):
    manual = ' --manual_dir=FOLDER_WITH_ITS_FILES' if found.MANUAL_DOWNLOAD_INSTRUCTIONS else ''
    raise ValueError(
        f'dataset {name!r} is not prepared: {found.data_path} has no finished copy. Prepare it with\n'
        f'  python -m tools.prepare {name} --data_dir={found.data_dir_root}{manual}\n'
        'or set data.data_dir to where TFDS keeps it')
  return tfds_source.open_copy(found.data_path)


@dataclasses.dataclass(frozen=True)
class FakeSource:
  """No files: as many examples as ImageNet has, all alike, to time a loop without its data."""
  name: str = 'fake'
  num_examples: int = 1_281_167
  contents: str = 'fake'
  order: str = 'one batch, again and again'
  class_names: None = None

  @property
  def labels(self):
    return {'label': ((), 'int32')}
