"""TFDS builder `imagenet21k`: ImageNet-21k from the tar that image-net.org gives out, without unpacking it.

  python -m tools.prepare imagenet21k/fall11 --manual_dir=WITH_THE_TAR

Many images stand under several synsets. Files of the same content are merged into one example with several labels, as
in the copy that the paper's authors trained on; the configs `*_unmerged` make one example for each synset. Where the
folders do not say the split, it depends on the content's hash alone, so that no content is in both. `report.json`
next to the data compares the counts with the published ones.

One process reads the tar to hash its files, and then each content once more by its place; a compressed tar has no
places, and is read once more for each split. It holds below 80 bytes a file. With `beam_options` or a `beam_runner` in
TFDS's DownloadConfig an Apache Beam pipeline makes the same examples; it reads an uncompressed tar once, in many places
at a time.
"""

import array
import collections
import dataclasses
import json

from absl import logging
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from mixer.data.builders import imagenet_tar
from mixer.data import image_files
from mixer.data import thread_map
from mixer import safe_io

SPLITS = ('train', 'validation')
COUNTS = 'counts.json'  # where a pipeline leaves them for the report
THREADS = 8  # that decode, without a pipeline
MAX_LISTED = 5000  # unreadable files in the report


@dataclasses.dataclass(eq=False)
class Imagenet21kConfig(tfds.core.BuilderConfig):
  """Which tar, and what becomes of it.

  Attributes:
    file: the tar in manual_dir, with or without its .gz.
    layout: of the tar: imagenet_tar.TARS or imagenet_tar.FOLDERS.
    num_synsets: how many it must hold; None takes any number.
    published: number of images, in all or in each split, for the report.
    validation: which share of the contents is for validation, where the folders do not say it.
    merge: whether files of the same content in several synsets are one example.
  """
  file: str = 'fall11_whole.tar'
  layout: str = imagenet_tar.TARS
  num_synsets: int | None = None
  published: dict[str, int] = dataclasses.field(default_factory=dict)
  validation: float = 0.01
  merge: bool = True


FALL11 = Imagenet21kConfig(
    name='fall11', description='The release of fall 2011, which most papers use.',
    num_synsets=21_841, published={'images': 14_197_122})
# We have not seen the tars of 2021. Their users tell of a folder around the synsets of this one; none is as well.
WINTER21 = Imagenet21kConfig(
    name='winter21', description='The release of winter 2021, with fewer synsets.', file='winter21_whole.tar.gz',
    num_synsets=19_167, published={'images': 13_151_276})
# And of a third folder in this one, imagenet21k_small_classes: not part of the 10,450 classes, so it is left out.
WINTER21_P = Imagenet21kConfig(
    name='winter21_p', description='Winter 2021 processed by Ridnik et al. (arXiv:2104.10972): fewer, smaller images.',
    file='imagenet21k_resized.tar.gz', layout=imagenet_tar.FOLDERS,
    num_synsets=10_450, published={'train': 11_060_223, 'validation': 522_500})


class Imagenet21k(tfds.core.GeneratorBasedBuilder):
  """Images with the WordNet ids under which they stand. Its metadata has class_names and max_labels.

  `partial` is whether to take a tar of other synsets than were published; a small one has an image to validate, too.
  """

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [FALL11, WINTER21, WINTER21_P] + [
      dataclasses.replace(config, name=f'{config.name}_unmerged', merge=False)
      for config in (FALL11, WINTER21, WINTER21_P)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = """
  Download fall11_whole.tar, winter21_whole.tar.gz or imagenet21k_resized.tar.gz from image-net.org, which wants you to
  ask for access. For classes with names put words.txt next to it (a WordNet id, a tab and its words in each line). Then
    python -m tools.prepare imagenet21k/fall11 --manual_dir=DIR
  """

  def __init__(self, *, partial: bool = False, **kwargs):
    self._partial = partial
    super().__init__(**kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        homepage='https://image-net.org',
        metadata=tfds.core.MetadataDict(),
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            'label': tfds.features.Sequence(tfds.features.ClassLabel()),  # its names come from the tar
            'file_name': tfds.features.Text()}))

  def _download_and_prepare(self, dl_manager, download_config):
    self._counts, self._unreadable = collections.Counter(), []
    if download_config.beam_options or download_config.beam_runner:
      self._split_generators = self._split_pipelines  # TFDS starts a pipeline, since it takes one
    super()._download_and_prepare(dl_manager, download_config)
    self._write_report()

  def _split_generators(self, dl_manager):
    path = self._tar(dl_manager)
    contents = Contents(path, self.builder_config, self._partial)
    self._set_classes(path, contents.wnids)
    splits = [split for split in SPLITS if not self._partial or contents.has(split)]
    if self._partial and 'validation' not in splits:
      logging.warning('%s: no image is left for validation; the copy has the split train alone', path)
    return {split: self._generate_examples(path, split, contents) for split in splits}

  def _generate_examples(self, path, split, contents):
    def make(first):
      digest, wnids, name, content = first()
      key = _key(self.builder_config, wnids[0], digest)
      return key, *_example(split, wnids, f'{wnids[0]}/{name}', content)

    for key, example, counts, unreadable in thread_map.map_in_order(make, contents.of(split), THREADS):
      self._counts.update(counts)
      if example:
        yield key, example
      elif len(self._unreadable) < MAX_LISTED:
        self._unreadable.append(unreadable)

  def _split_pipelines(self, dl_manager, pipeline):
    """The same in Beam: parts of the tar are read by themselves, and their files grouped by content."""
    beam = tfds.core.lazy_imports.apache_beam
    path, config = self._tar(dl_manager), self.builder_config
    with path.open('rb') as file:
      if imagenet_tar.is_compressed(file, path):
        raise ValueError(f'{path} is compressed, so Beam cannot read it in many places at a time. First run\n'
                         f'  gunzip {path}')
      file.seek(0)
      parts = list(tqdm.tqdm(imagenet_tar.ranges(file, path, config.layout), 'Listing', config.num_synsets, unit=' synsets'))
    self._set_classes(path, {wnid for wnid, _ in parts})
    made = (pipeline | beam.Create([part for _, part in parts]) | beam.Reshuffle()
            | beam.FlatMap(_read_part, path, config) | beam.GroupByKey()
            | 'Example' >> beam.FlatMap(_make_example).with_outputs())
    counts = made.counts | beam.CombinePerKey(sum) | beam.combiners.ToDict()
    unreadable = made.unreadable | beam.combiners.Top.Smallest(MAX_LISTED)
    _ = counts | beam.Map(_write_counts, beam.pvalue.AsSingleton(unreadable), self.data_path / COUNTS)
    return {split: made[split] for split in SPLITS}

  def _process_pipeline_result(self, pipeline_result):
    counts, self._unreadable = json.loads((self.data_path / COUNTS).read_text())
    self._counts.update(counts)
    (self.data_path / COUNTS).unlink()

  def _tar(self, dl_manager):
    file, folder = self.builder_config.file, dl_manager.manual_dir
    for path in (folder / file.removesuffix('.gz'), folder / file):
      if path.exists():
        return path
    raise ValueError(f'{file} is not in manual_dir, {folder}. Give the directory with it:\n'
                     f'  python -m tools.prepare {self.name}/{self.builder_config.name} --manual_dir=DIR')

  def _set_classes(self, path, wnids):
    config, wnids = self.builder_config, sorted(wnids)
    if config.num_synsets not in (None, len(wnids)) and not self._partial:
      raise ValueError(
          f'{path} holds {len(wnids):,} synsets, and {config.name} has {config.num_synsets:,}: it is not whole, or '
          'another release. To take what it holds, give --partial')
    words = _read_words(path.parent / 'words.txt')
    self.info.features['label'].feature.names = wnids
    self.info.metadata['class_names'] = [words.get(wnid, wnid) for wnid in wnids]

  def _write_report(self):
    """Writes the counts next to the data, whose folder gets its name only when it is complete."""
    counts, wnids = self._counts, self.info.features['label'].feature.names
    num_labels = sorted(int(name.split('/')[1]) for name in counts if name.startswith('labels/'))
    self.info.metadata['max_labels'] = max(num_labels, default=0)
    (self.data_path / 'report.json').write_text(json.dumps({
        'published': {'synsets': self.builder_config.num_synsets} | self.builder_config.published,
        'synsets': len(wnids),
        'empty_synsets': [wnid for wnid in wnids if not counts[f'synset/{wnid}']],
        'files': counts['files'],
        'unreadable': counts['unreadable'],
        'duplicates_merged': counts['duplicates'],
        'examples': {split: counts[f'examples/{split}'] for split in SPLITS},
        're_encoded': counts['re_encoded'],
        'examples_by_number_of_labels': {n: counts[f'labels/{n}'] for n in num_labels},
        'unreadable_files': [dict(zip(('file', 'copies', 'reason'), entry)) for entry in sorted(self._unreadable)],
    }, indent=2))


class Contents:
  """Which files of a tar hold the same: a first pass over it.

  Of a `partial` one, the readable content that is nearest to validation is for validation where no other is.
  """

  def __init__(self, path, config, partial=False):
    nearest = 2**32, ''  # the last 32 bits of the hash, which say the split, and the hash
    numbers, keys, labels, places = {}, bytearray(), array.array('I'), array.array('Q')
    for split, wnid, images in tqdm.tqdm(_read(path, config), 'Hashing', config.num_synsets, unit=' synsets'):
      label = numbers.setdefault(wnid, len(numbers))
      for _, place, content in images:
        digest = image_files.content_hash(content)
        keys += bytes.fromhex(digest) + bytes([SPLITS.index(split or _split(config, digest))])
        keys += b'' if config.merge else label.to_bytes(4, 'big')
        labels.append(label)
        places.append(place)
        if partial and not split and (candidate := (int(digest[-8:], 16), digest)) < nearest and _is_readable(content):
          nearest = candidate
    if not labels:
      raise ValueError(f'{path} holds no images that {config.name} would take')
    self._path, self._config, self.wnids = path, config, list(numbers)
    self._labels, self._places = np.array(labels), np.array(places)
    self._keys = np.frombuffer(keys, np.uint8).reshape(len(labels), -1)
    if nearest[0] >= config.validation * 2**32 and nearest[1] and len(np.unique(self._keys[:, :16], axis=0)) > 1:
      self._keys[(self._keys[:, :16] == list(bytes.fromhex(nearest[1]))).all(1), 16] = SPLITS.index('validation')
    keys = self._keys.view(f'S{self._keys.shape[1]}')[:, 0]
    # Files in the order of their keys: the same ones stand side by side, in the order of the tar.
    self._order = np.argsort(keys, kind='stable').astype(np.uint32)
    self._starts = np.flatnonzero(np.append(True, keys[self._order[1:]] != keys[self._order[:-1]]))

  def has(self, split) -> bool:
    return bool((self._keys[:, 16] == SPLITS.index(split)).any())

  def of(self, split):
    """Yields for each content of a split, in the order of its first files in the tar, what may be called in a thread

    to have (content hash, WordNet ids of all its files, name of the first, content).
    """
    ends = np.append(self._starts[1:], len(self._order))
    firsts = self._order[self._starts]
    groups = np.flatnonzero(self._keys[firsts, 16] == SPLITS.index(split))
    groups = groups[np.argsort(firsts[groups])]
    with self._path.open('rb') as file:
      fetch = self._stream(firsts[groups]) if imagenet_tar.is_compressed(file, self._path) else map(self._at, firsts[groups])
    for group, get in zip(groups, fetch):
      files = self._order[self._starts[group]:ends[group]]
      known = self._keys[files[0], :16].tobytes().hex(), [self.wnids[label] for label in self._labels[files]]
      yield lambda known=known, get=get: (*known, *get())

  def _at(self, number):
    def get():
      with self._path.open('rb') as file:
        return imagenet_tar.read_at(file, self._path, int(self._places[number]))
    return get

  def _stream(self, numbers):
    files = enumerate((name, content) for _, _, images in _read(self._path, self._config)
                      for name, _, content in images)
    for target in numbers:
      image = next(file for number, file in files if number == target)
      yield lambda image=image: image


def _split(config, digest):
  return 'validation' if int(digest[-8:], 16) < config.validation * 2**32 else 'train'


def _is_readable(content):
  try:
    return bool(image_files.as_jpeg(content))
  except image_files.Unreadable:
    return False


def _key(config, wnid, digest):
  return digest if config.merge else f'{digest}/{wnid}'


def _example(split, wnids, file_name, content):
  """Of files of one content. -> example or None, {count: by how much it grows}, (file, copies, reason) or None."""
  counts = {'files': len(wnids)}
  try:
    jpeg = image_files.as_jpeg(content, upright=False)
  except image_files.Unreadable as error:
    return None, counts | {'unreadable': len(wnids)}, (file_name, len(wnids), str(error))
  labels = sorted(set(wnids))
  counts |= {f'examples/{split}': 1, f'labels/{len(labels)}': 1, 'duplicates': len(wnids) - 1,
             're_encoded': int(jpeg is not content)} | {f'synset/{wnid}': 1 for wnid in labels}
  return {'image': jpeg, 'label': labels, 'file_name': file_name}, counts, None


def _read(path, config):
  with path.open('rb') as file:
    yield from imagenet_tar.read(file, path, config.layout)


def _read_words(path):
  """The words of each WordNet id; none without the file."""
  words = {}
  for number, line in enumerate(safe_io.text(path).splitlines() if path.exists() else (), 1):
    wnid, tab, words[wnid] = line.partition('\t')
    if not tab:
      raise ValueError(f'{path}, line {number}: {line!r} is no WordNet id, a tab and its words')
  return words


def _read_part(part, path, config):
  """Yields the files of a part of the tar: (split, key), and (place in the tar, WordNet id, name, content)."""
  with path.open('rb') as file:
    for folder, wnid, images in imagenet_tar.read_range(file, path, config.layout, *part):
      for name, place, content in images:
        digest = image_files.content_hash(content)
        split = folder or _split(config, digest)
        yield (split, _key(config, wnid, digest)), ((part, place), wnid, name, content)


def _make_example(group):
  """Yields for files of one key, each with a tag: an example, or what makes them unreadable; and what to count."""
  tagged = tfds.core.lazy_imports.apache_beam.pvalue.TaggedOutput
  (split, key), files = group
  first, wnids = None, []
  for file in files:  # one at a time: some contents have very many
    first = min(first or file, file)
    wnids.append(file[1])
  _, wnid, name, content = first
  example, counts, unreadable = _example(split, wnids, f'{wnid}/{name}', content)
  yield tagged(split, (key, example)) if example else tagged('unreadable', unreadable)
  for count in counts.items():
    yield tagged('counts', count)


def _write_counts(counts, unreadable, path):
  path.write_text(json.dumps([counts, unreadable]))
