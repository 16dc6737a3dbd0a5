"""Datasets by their TFDS names: our builders, and TFDS's own."""

import os
import re

from etils import epath
from etils import epy

with epy.lazy_imports():
  from mixer.data.builders import digits
  from mixer.data.builders import imagenet21k
  from mixer.data.builders import mnist5k
  from mixer.data.builders import multilabel

from mixer.data.lazy import tfds
from mixer.data.source_protocol import SplitSpec
from mixer.data import tfds_source

# Functions that return the classes, whose modules import TFDS.
SELF_PREPARING = {'digits': lambda: digits.Digits, 'few_digits': lambda: digits.FewDigits,
                  'other_digits': lambda: digits.OtherDigits, 'mnist5k': lambda: mnist5k.Mnist5k,
                  'few_mnist5k': lambda: mnist5k.FewMnist5k, 'other_mnist5k': lambda: mnist5k.OtherMnist5k}
BUILDERS = {**SELF_PREPARING, 'imagenet21k': lambda: imagenet21k.Imagenet21k, 'multilabel': lambda: multilabel.Multilabel}

# TFDS also takes namespaces, whose code comes from elsewhere, and keywords, such as another data_dir.
NAME = re.compile(rf'[a-z]\w*(/{tfds_source.CONFIG.pattern})?(:(\d+|\*)(\.(\d+|\*)){{2}})?', re.ASCII | re.IGNORECASE)


def builder(name: str, data_dir: str | None = None, **options):
  """Our builder of that name, or TFDS's: of the existing copy, or else of one that can be read by index.

  `options` are further arguments of our builders. Raises a ValueError for what is no name of a dataset, and as
  `tfds_source.check_features`.
  """
  if not NAME.fullmatch(name):
    raise ValueError(f'dataset {name!r} is neither an existing directory nor a valid TFDS name: NAME, NAME/CONFIG, '
                     'NAME:VERSION or NAME/CONFIG:VERSION, such as imagenet2012:5.1.0')
  parsed, variant = tfds.core.naming.parse_builder_name_kwargs(name)  # of CamelCase, too
  own = str(parsed)
  if own in BUILDERS:
    make = lambda **stored: BUILDERS[own]()(**{'config': None, **variant}, data_dir=data_dir, **options, **stored)
  else:
    tfds_source.check_features(epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / own)
    make = lambda **stored: tfds.builder(name, data_dir=data_dir, try_gcs=False, **stored)
  try:
    existing = make()
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
        f'dataset {name!r} is neither an existing directory nor a dataset that TFDS {tfds.__version__} has a builder for. '
        f'Give the directory of a prepared copy or of an image folder, or {", ".join(BUILDERS)}') from error
  return existing if is_prepared(existing) else make(file_format='array_record')


def is_prepared(copy) -> bool:
  """Whether a builder's copy is finished. TFDS would warn of one that is not, and takes [ in its path for a pattern."""
  return (copy.data_path / 'dataset_info.json').exists()


def open_split(spec: SplitSpec):
  """The source of a dataset that TFDS, or a builder of ours, knows by its name; ours that need no files are prepared."""
  if spec.dataset.startswith(('/', '.', '~')) or '://' in spec.dataset:
    raise ValueError(f'dataset {spec.dataset!r} is not a directory that can be read here')
  source = tfds_source.open_copy(_prepared(spec.dataset, spec.data_dir), spec)
  if source.resized:
    raise ValueError(f'dataset {spec.dataset!r} names the original, and {source.folder} is a copy{source.resized}. To use it, '
                     'give this directory as the dataset')
  return source


def _prepared(name, data_dir):
  """The folder of a finished copy."""
  advice = ('Set --config.data.data_dir, and --config.evals.NAME.data_dir of each evaluation, or the environment variable '
            'TFDS_DATA_DIR, to a folder that can be written to')
  folder = data_dir or tfds.core.constants.DATA_DIR
  if os.path.expanduser(folder).startswith('~'):
    raise ValueError(f'dataset {name!r} would be stored in {folder}, and this user has no home folder: HOME is not set. {advice}')
  copy = builder(name, data_dir)
  if not is_prepared(copy) and name in SELF_PREPARING:
    try:
      copy.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
      # Another process may have prepared it at the same time.
      if not is_prepared(copy):
        raise ValueError(f'dataset {name!r} cannot be prepared in {folder}: {error}. {advice}') from error
  if not is_prepared(copy):
    manual = ' --manual_dir=FOLDER_WITH_ITS_FILES' if copy.MANUAL_DOWNLOAD_INSTRUCTIONS else ''
    raise ValueError(
        f'dataset {name!r} is not prepared: {copy.data_path} has no finished copy. Prepare it with\n'
        f'  python -m tools.prepare {name} --data_dir={copy.data_dir_root}{manual}\n'
        'or set data.data_dir to where TFDS keeps it')
  return copy.data_path
