"""Prepares a TFDS dataset so that training can read it by index, or rewrites a prepared copy: to read it so, or resized.

  python -m tools.prepare cifar10
  python -m tools.prepare imagenet2012 --manual_dir=WITH_THE_TARS
  python -m tools.prepare multilabel --manual_dir=WITH_THE_MANIFESTS --images=WITH_THE_IMAGES
  python -m tools.prepare imagenet21k/fall11 --manual_dir=WITH_THE_TAR --beam=runner=DirectRunner
  python -m tools.prepare /data/imagenet2012/5.1.0 --out=/data/by_index/imagenet2012/5.1.0
  python -m tools.prepare /data/imagenet2012/5.1.0 --out=/data/384/imagenet2012/5.1.0 --shorter_side=384
"""

import collections
import json
import os
import pathlib
import shutil

import mixer  # before TensorFlow: it sets how much that prints  # noqa: F401

from array_record.python import array_record_module
from etils import epath
import tqdm

from mixer.data import image_files
from mixer.data.lazy import tf
from mixer.data.lazy import tfds
from mixer.data import resized_copy
from mixer.data import tfds_builders
from mixer.data import tfds_source
from mixer.data import thread_map
from mixer import safe_io
from mixer import user_errors

AT_ONCE = 64  # records that are read
# Files without which TFDS would go on, and leave a copy that looks complete.
NEEDED = {'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
          'imagenet2012_real': ('ILSVRC2012_img_val.tar',)}

PUBLISHED = {'imagenet2012': dict(train=1_281_167, validation=50_000), 'imagenet2012_real': dict(validation=50_000),
             'imagenet_v2': dict(test=10_000)}


def prepare(name: str, data_dir: str | None, manual_dir: str | None, beam: str | None = None,
            partial: bool = False, images: str | None = None) -> pathlib.Path:
  """Downloads and prepares a dataset by its name, this repository's or TFDS's. Returns its directory.

  Args:
    beam: options of an Apache Beam pipeline, 'runner=DataflowRunner,project=...'; None for one process.
    partial: whether to take fewer examples than were published.
    images: for `multilabel`, the folder that contains all images; by default manual_dir.

  Raises:
    ValueError: naming a file that is missing in `manual_dir`, or an incomplete split, whose copy is renamed.
  """
  if images and name != 'multilabel':
    raise ValueError(f'--images is the folder of the images of manifests, from which only multilabel is made; '
                     f'remove it for {name}')
  options = {'images': _folder(images)} if images else {}
  if partial and name.partition('/')[0] == 'imagenet21k':
    if beam:
      raise ValueError('--partial and --beam exclude each other: one process prepares a part. Remove one of them')
    options = {'partial': True}
  builder = tfds_builders.builder(name, data_dir, **options)
  folder = pathlib.Path(manual_dir or builder.data_dir_root / 'downloads' / 'manual')
  for file in NEEDED.get(name, ()):
    if not tfds_builders.is_prepared(builder) and not (folder / file).exists():
      raise ValueError(f'{name} is made from {folder / file}, which is missing. Download it, and pass its folder: '
                       f'python -m tools.prepare {name} --manual_dir=FOLDER')
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False,
                                                   beam_options=beam and _beam_options(beam)))
  path = pathlib.Path(builder.data_path)
  counts = {split: (builder.info.splits[split].num_examples, published, 'examples')
            for split, published in PUBLISHED.get(name, {}).items()}
  if synsets := getattr(builder.builder_config, 'num_synsets', None):
    counts['label'] = builder.info.features['label'].feature.num_classes, synsets, 'synsets'
  for part, (count, published, what) in counts.items():
    print(f'{name}, {part}: {count:,} {what}; published: {published:,}')
    if count != published and not partial:
      aside = path.with_name(f'{path.name}.not_whole')
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)
      raise ValueError(f'{name}, {part}: {count:,} {what}, but {published:,} were published; the copy is now '
                       f'{aside}. Download the tar again, or use what it contains with --partial')
  return path


def _folder(folder):
  path = epath.Path(folder).expanduser()
  if not path.is_dir():
    raise ValueError(f'--images is {folder}, which is not a folder')
  return path


def _beam_options(text):
  from apache_beam.options import pipeline_options  # the extra beam
  return pipeline_options.PipelineOptions([f'--{option}' for option in text.split(',')])


def rewrite(copy: epath.Path, out: pathlib.Path, resize: resized_copy.Resize | None = None):
  """Writes the records of a prepared copy in their order to array_record files in `out`: byte for byte, or resized.

  An interrupted rewrite leaves `out` absent, and starts over.

  Raises:
    ValueError: if `copy` is not a tfrecord copy, nor one that `resize` takes, or `out` exists.
  """
  builder = tfds_source.builder_of(copy)
  if resize:
    resize.check(builder)
  elif builder.info.file_format != tfds.core.FileFormat.TFRECORD:
    raise ValueError(f'{copy} is stored as {builder.info.file_format.value}; only tfrecord is rewritten')
  if out.exists():
    raise ValueError(f'{out} already exists; remove it or choose another --out')
  partial = out.with_name(f'{out.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for path in copy.iterdir():
    if path.suffix in ('.json', '.txt'):
      (partial / path.name).write_bytes(path.read_bytes())
  info, sizes = safe_io.read_json_object(partial / 'dataset_info.json'), {}
  for split in builder.info.splits.values():
    counts, before, sizes[split.name] = collections.Counter(), 0, 0
    with tqdm.tqdm(total=split.num_examples, unit='example', desc=split.name) as bar:
      for path in map(epath.Path, split.filepaths):
        # One record per group, as TFDS writes them: a group is read at once.
        writer = array_record_module.ArrayRecordWriter(
            str(partial / path.name.replace('.tfrecord', '.array_record')), 'group_size:1')
        make = lambda record: (len(record), *(resize.record(record) if resize else (record, resized_copy.KEPT)))
        for size, record, outcome in thread_map.map_in_order(make, _records(path), os.cpu_count()):
          writer.write(record)
          counts[outcome] += 1
          before, sizes[split.name] = before + size, sizes[split.name] + len(record)
          bar.update()
        writer.close()
    if counts.total() != split.num_examples:
      raise ValueError(f'{copy} holds {counts.total():,} records of split {split.name!r}, but its dataset_info.json '
                       f'states {split.num_examples:,}; it is damaged')
    if resize:
      print(f'{split.name}: {resized_copy.describe(counts, before, sizes[split.name])}')
  info['fileFormat'] = 'array_record'
  if resize:
    resize.mark(partial, info, sizes)
  (partial / 'dataset_info.json').write_text(json.dumps(info, indent=2))
  partial.rename(out)


def _records(path):
  """The records of a file in their order."""
  if '.tfrecord' in path.name:
    yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return
  reader = array_record_module.ArrayRecordReader(str(path))
  number = reader.num_records()
  for start in range(0, number, AT_ONCE):
    yield from reader.read(start, min(start + AT_ONCE, number))
  reader.close()


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('dataset', help="a TFDS name, or the directory of a prepared copy")
  parser.add_argument('--data_dir', help='where TFDS keeps its datasets; by default its own default')
  parser.add_argument('--manual_dir', help='the folder of the files that TFDS cannot download')
  parser.add_argument('--images', help='for multilabel: the folder that contains all images of the manifests; default: '
                      '--manual_dir')
  parser.add_argument('--beam', help='prepare with Apache Beam, with these options: runner=DataflowRunner,project=...')
  parser.add_argument('--partial', help='take fewer examples, or synsets of ImageNet-21k, than were published', action='store_true')
  parser.add_argument('--out', help='where to rewrite a copy; a new directory', type=pathlib.Path)
  parser.add_argument('--shorter_side', help='with --out: resize larger images so that their shorter side has that many '
                      'pixels', type=int)
  parser.add_argument('--quality', help='of the JPEGs that --shorter_side makes, 1 to 100; default: '
                      f'{image_files.QUALITY}', type=int)
  flags = parser.parse_args(arguments)
  copy = epath.Path(flags.dataset).expanduser()
  is_copy = (copy / 'dataset_info.json').exists()
  if is_copy and not flags.out:
    parser.error(f'{copy} is a prepared copy: pass --out, where to rewrite it')
  if flags.quality is not None and flags.shorter_side is None:
    parser.error(f'--quality={flags.quality} is of resized images: pass --shorter_side too, or remove it')
  if flags.shorter_side is not None and not flags.out:
    parser.error(f'--shorter_side={flags.shorter_side} resizes a prepared copy: pass its directory, and --out')
  if flags.out and not is_copy:
    parser.error(f'--out rewrites a prepared copy, and {copy} is no directory with a dataset_info.json'
                 + ('. An image folder has no place to say that it was resized' if copy.is_dir() else
                    ': prepare the dataset without --out first, and pass the directory that this prints'))
  try:
    if flags.out:
      quality = image_files.QUALITY if flags.quality is None else flags.quality
      resize = None if flags.shorter_side is None else resized_copy.Resize(flags.shorter_side, quality)
      rewrite(copy, flags.out.expanduser(), resize)
      path = flags.out
    else:
      path = prepare(flags.dataset, flags.data_dir, flags.manual_dir, flags.beam, flags.partial, flags.images)
  except (ValueError, AssertionError) as error:  # TFDS raises both for files that are missing
    raise ValueError(str(error)) from error
  print(f'prepared: {path}')


if __name__ == '__main__':
  main()
