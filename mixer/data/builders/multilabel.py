"""TFDS builder `multilabel`: images with any number of weighted labels each, such as JFT's, from manifests.

manifests.py says what lies in manual_dir. Images with the same content become one example with the labels of all of
them, each with its largest weight. Files that cannot be read are left out; report.json in the finished copy names them,
and counts the rest.

  python -m tools.prepare multilabel --manual_dir=WITH_THE_MANIFESTS

One process reads every image twice, first for its hash, and keeps 32 bytes of each. With `beam_options` or a
`beam_runner` in TFDS's DownloadConfig an Apache Beam pipeline makes the same examples (the extra beam).
"""

import collections
import functools
import json
import statistics
from typing import NamedTuple

from absl import logging
from etils import epath
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from mixer.data.builders import manifests
from mixer.data import image_files
from mixer.data import thread_map
from mixer import safe_io

COUNTS = '{}.counts.json'  # where a pipeline leaves them for the report
MAX_LISTED = 5000  # unreadable files in the report
THREADS = 16  # that read and decode: reading from a bucket is slow to begin


class Multilabel(tfds.core.GeneratorBasedBuilder):
  """Images and their classes, sorted, with a weight each.

  `images` is the folder below which all images lie that the manifests name by their paths; by default manual_dir.
  """

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = manifests.__doc__

  def __init__(self, *, images=None, **kwargs):
    self._images = images
    super().__init__(**kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        metadata=tfds.core.MetadataDict(),  # max_labels, class_names
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            # Its names come from the manifests' vocabulary, or with a finished copy, where TFDS keeps them.
            'label': tfds.features.Sequence(tfds.features.ClassLabel()),
            'weight': tfds.features.Sequence(np.float32)}))

  def download_and_prepare(self, *, download_config=None, **kwargs):
    config = download_config or tfds.download.DownloadConfig()
    # TFDS takes any finished copy for the one that is asked for.
    if self.is_prepared() and config.manual_dir and not config.download_mode.overwrite_dataset:
      existing = safe_io.read_json_object(self.data_path / 'report.json')['files']
      new = manifests.digests(epath.Path(config.manual_dir))
      if existing != new:
        raise ValueError(f'{self.data_path} was prepared from other files:\n  {existing}\nand {config.manual_dir} has\n'
                         f'  {new}\nGive another data_dir, or remove that copy')
    super().download_and_prepare(download_config=config, **kwargs)

  def _download_and_prepare(self, dl_manager, download_config):
    self._with_beam = bool(download_config.beam_runner or download_config.beam_options)
    super()._download_and_prepare(dl_manager, download_config)
    names = self.info.features['label'].feature.names
    reports = {split: _report(counts, names) for split, counts in self._counts.items()}
    self.info.metadata.update(max_labels=max(report['max_labels'] for report in reports.values()), class_names=names)
    (self.data_path / 'report.json').write_text(json.dumps(
        {'dataset': self.info.full_name, 'files': manifests.digests(dl_manager.manual_dir), 'classes': len(names),
         'splits': reports}, indent=2, ensure_ascii=False))
    for split, report in reports.items():
      logging.warning('%s: %d examples, %d files unreadable, %d of %d classes without an image; see report.json', split,
                      report['examples'], report['unreadable'], len(report['empty_classes']), len(names))

  def _split_generators(self, dl_manager):
    folder = dl_manager.manual_dir
    splits, names = manifests.find(folder), manifests.class_names(folder / 'classes.txt')
    self.info.features['label'].feature.names = names
    self._counts = {split: collections.Counter() for split in splits}
    arguments = dict(folder=epath.Path(self._images or folder),
                     classes={name: number for number, name in enumerate(names)})
    if self._with_beam:
      return {split: _beam_examples(paths, arguments, self.data_path / COUNTS.format(split))
              for split, paths in splits.items()}
    return {split: self._generate_examples(split, paths, arguments) for split, paths in splits.items()}

  def _generate_examples(self, split, paths, arguments):
    entries = lambda: (entry for path in paths for entry in manifests.entries(path, **arguments))
    counts = self._counts[split]
    for key, example, facts in thread_map.map_in_order(lambda keyed: _example(*keyed), _merged(entries, split), THREADS):
      counts.update(facts)
      if example:
        yield key, example
    if not counts['images', 'examples']:
      unreadable = [': '.join(key[1:]) for key in counts if key[0] == 'unreadable']
      raise ValueError(f'{", ".join(map(str, paths))}: ' + (
          f'none of the images can be read, such as {min(unreadable)}' if unreadable else 'no images are listed'))

  def _process_pipeline_result(self, pipeline_result):
    for split, counts in self._counts.items():
      path = self.data_path / COUNTS.format(split)
      counts.update({tuple(key): number for key, number in json.loads(path.read_text())})
      path.unlink()


class Image(NamedTuple):
  """A file, and what the lines with it say."""
  name: str  # for people
  data: bytes | image_files.Unreadable | None
  weights: dict[int, float]  # of its classes
  lines: int = 1


def _load(entry):
  """-> (content hash, or one of its name if it cannot be read; Image)."""
  data = entry.image
  if not isinstance(data, bytes):
    try:
      data = image_files.read(data)
    except (OSError, ValueError) as error:  # the latter of a path that no file can have
      return image_files.content_hash(entry.name.encode()), Image(entry.name, image_files.Unreadable(str(error)), entry.weights)
  return image_files.content_hash(data), Image(entry.name, data, entry.weights)


def _merge(one, other):
  """Two of the same content."""
  weights = {k: max(one.weights.get(k, 0), other.weights.get(k, 0)) for k in one.weights | other.weights}
  return Image(min(one.name, other.name), other.data, weights, one.lines + other.lines)


def _merged(entries, split):
  """(hash, image) of each content, when the last line that has it is read."""
  bar = tqdm.tqdm(thread_map.map_in_order(_load, entries(), THREADS), desc=f'Hashing {split} images', unit=' images', leave=False)
  hashes = np.fromiter((key for key, _ in bar), 'S32')
  hashes.sort()
  to_come = collections.Counter(key.decode() for key in hashes[1:][hashes[1:] == hashes[:-1]])
  del hashes
  waiting = {}
  for key, image in thread_map.map_in_order(_load, entries(), THREADS):
    if key in waiting:
      image = _merge(waiting.pop(key), image)
    if to_come[key] > 0:
      to_come[key] -= 1
      waiting[key] = image._replace(data=None)
    else:
      yield key, image
  if waiting:
    raise ValueError(f'images changed while they were read: {min(image.name for image in waiting.values())}')


def _example(key, image):
  """-> (key, example or None, {fact: number} for the report)."""
  try:
    if isinstance(image.data, image_files.Unreadable):
      raise image.data
    jpeg = image_files.as_jpeg(image.data)
  except image_files.Unreadable as error:
    return key, None, {('unreadable', image.name, str(error)): image.lines}
  labels = sorted(image.weights)
  facts = {('images', 'examples'): 1, ('images', 'duplicates_merged'): image.lines - 1,
           ('images', 're_encoded'): int(jpeg is not image.data), ('labels', len(labels)): 1,
           **{('class', k): 1 for k in labels if image.weights[k] > 0}}
  return key, {'image': jpeg, 'label': labels, 'weight': [image.weights[k] for k in labels]}, facts


def _report(counts, names):
  """From {fact: number}, summed over a split."""
  images = [counts['class', k] for k in range(len(names))]
  unreadable = sorted((*key[1:], number) for key, number in counts.items() if key[0] == 'unreadable')
  return {
      **{kind: counts['images', kind] for kind in ('examples', 'duplicates_merged', 're_encoded')},
      'unreadable': sum(number for *_, number in unreadable),
      'unlabelled': counts['labels', 0],
      'max_labels': max(key[1] for key in counts if key[0] == 'labels'),
      'images_per_class': {'min': min(images), 'median': statistics.median(images), 'max': max(images)},
      'empty_classes': [name for name, number in zip(names, images) if not number],
      'unreadable_files': [dict(zip(('file', 'reason', 'copies'), file)) for file in unreadable[:MAX_LISTED]]}


def _beam_examples(paths, arguments, counts_path):
  """The examples of a split as a transform, which also writes its counts to a file."""
  import apache_beam as beam

  @beam.ptransform_fn
  def examples(pipeline):
    # Not CombinePerKey, whose workers gather 100,000 images before they pass any on.
    grouped = (pipeline | beam.Create(paths) | beam.FlatMap(manifests.entries, **arguments) | beam.Reshuffle()
               | beam.Map(_load) | beam.GroupByKey()
               | beam.MapTuple(lambda key, images: _example(key, functools.reduce(_merge, images))))
    _ = (grouped | 'Facts' >> beam.FlatMap(lambda result: result[2].items()) | beam.CombinePerKey(sum)
         | beam.combiners.ToList() | 'WriteCounts' >> beam.Map(lambda facts: counts_path.write_text(json.dumps(facts))))
    return grouped | 'Readable' >> beam.FlatMap(lambda result: [result[:2]] if result[1] else [])

  return examples()
