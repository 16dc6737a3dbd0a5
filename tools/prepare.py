"""Prepares a TFDS dataset so that training can read it by index, or rewrites a copy that is stored otherwise.

  python -m tools.prepare cifar10
  python -m tools.prepare imagenet2012 --manual_dir=WITH_THE_TARS
  python -m tools.prepare /data/imagenet2012/5.1.0 --out=/data/by_index/imagenet2012/5.1.0
"""

import argparse
import json
import os
import pathlib
import shutil

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # read when TensorFlow is imported

from array_record.python import array_record_module
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm


def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> pathlib.Path:
  """Downloads and prepares a dataset that TFDS knows by name. Returns its directory."""
  builder = tfds.builder(name, data_dir=data_dir, file_format='array_record', try_gcs=False)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
  return pathlib.Path(builder.data_path)


def rewrite(copy: pathlib.Path, out: pathlib.Path):
  """Writes the records of a prepared copy, byte for byte and in their order, to array_record files in `out`.

  An interrupted rewrite leaves `out` absent, and starts over.

  Raises:
    ValueError: if `copy` is no tfrecord copy, or `out` exists.
  """
  builder = tfds.builder_from_directory(copy)
  if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
    raise ValueError(f'{copy} is stored as {builder.info.file_format.value}; only tfrecord is rewritten')
  if out.exists():
    raise ValueError(f'{out} is there already; remove it or choose another --out')
  partial = out.with_name(f'{out.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for path in copy.iterdir():
    if path.suffix in ('.json', '.txt'):
      shutil.copy(path, partial)
  total = sum(split.num_examples for split in builder.info.splits.values())
  with tqdm.tqdm(total=total, unit='example') as bar:
    for split in builder.info.splits.values():
      for path in map(pathlib.Path, split.filepaths):
        # One record a group, as TFDS writes them: groups are what is read at once.
        writer = array_record_module.ArrayRecordWriter(
            str(partial / path.name.replace('.tfrecord', '.array_record')), 'group_size:1')
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
          writer.write(record)
          bar.update()
        writer.close()
  if bar.n != total:
    raise ValueError(f'{copy} holds {bar.n:,} records, and its dataset_info.json says {total:,}; it is damaged')
  info = json.loads((partial / 'dataset_info.json').read_text())
  info['fileFormat'] = 'array_record'
  (partial / 'dataset_info.json').write_text(json.dumps(info, indent=2))
  partial.rename(out)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('dataset', help="a TFDS name, or the directory of a prepared copy")
  parser.add_argument('--data_dir', help='where TFDS keeps its datasets; by default its own default')
  parser.add_argument('--manual_dir', help='where files lie that TFDS cannot download')
  parser.add_argument('--out', help='where to rewrite a copy; a directory that is not there yet', type=pathlib.Path)
  flags = parser.parse_args()
  copy = pathlib.Path(flags.dataset).expanduser()
  if (copy / 'dataset_info.json').exists():
    if not flags.out:
      parser.error(f'{copy} is a prepared copy: say with --out where to rewrite it')
    rewrite(copy, flags.out)
    print(f'prepared: {flags.out}')
  else:
    print(f'prepared: {prepare(flags.dataset, flags.data_dir, flags.manual_dir)}')


if __name__ == '__main__':
  main()
