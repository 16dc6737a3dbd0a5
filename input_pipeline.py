"""Batches of images for this host's devices, from a config's `data` section and its evaluations.

How the order works: example `i` of batch `k` has the position p = k * batch_size + i, in epoch p // N of a split of N
examples. In each epoch a permutation that depends on (seed, epoch) alone maps p % N to an example, and the example's
augmentation depends on (seed, p) alone. So batch k is a function of the seed and k: a run goes on at step k without
replaying anything, and the batches are the same for any number of threads, processes and devices. Where the examples
cannot be read by index, they come as a stream, whose order also depends on (seed, epoch) alone; a run that goes on
passes over the records that it has seen.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import collections
import dataclasses
import functools
import itertools
import os

import mixer  # before TensorFlow: it sets how much that prints  # noqa: F401

import jax
import numpy as np
import tensorflow as tf

from mixer import configuration
from mixer.data import classes
from mixer.data import export_crops
from mixer.data import folder_source
from mixer.data import image_files
from mixer.data import pixel_permutations
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer.data import randaugment
from mixer.data import read_errors
from mixer.data import sources
from mixer.data import subset
from mixer.data import tf_reading
from mixer.data import tfds_source
from mixer import limits

tf.config.set_visible_devices([], 'GPU')  # jax wants all of its memory

Source = tfds_source.TfdsByIndex | tfds_source.TfdsStream | folder_source.FolderSource | subset.Subset | sources.FakeSource


@dataclasses.dataclass(frozen=True)
class TrainBatches:
  """Batches without end over shuffled epochs of `source`; `start(k)` begins at batch k."""
  source: Source
  batch_size: int
  resolution: int
  seed: int
  shard: ProcessShard
  crop: Callable  # of (encoded, resolution=, seed=)
  flip: bool
  augment: Callable | None  # of (image, seed), after the flip
  threads: int
  permutation: np.ndarray | None = None  # of the pixels, last of all: permutations.draw
  num_classes: int | None = None  # that labels must be among; None for any

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.resolution, self.resolution, 3

  @property
  def shapes(self) -> dict:
    """The shapes and types of a batch, as `start` yields it."""
    leading = self.shard.local_devices, self.batch_size // (self.shard.count * self.shard.local_devices)
    of_one = {'image': (self.image_shape, 'uint8'), **self.source.labels}
    return {name: jax.ShapeDtypeStruct((*leading, *shape), dtype) for name, (shape, dtype) in of_one.items()}

  def start(self, step: int) -> Iterator[dict]:
    """Yields the batches from batch `step` on: of D devices, b images each of R x R pixels and at most L classes,

    {'image': [D, b, R, R, 3] uint8, 'label': [D, b] or [D, b, L] int32, and where there are any 'weight': [D, b, L]}.
    Labels are padded with -1.
    """
    if isinstance(self.source, sources.FakeSource):
      batches = _fake(self.shard.local_size(self.batch_size), self.resolution)
    else:
      examples = self.records(step).map(self._augment, num_parallel_calls=self.threads)
      batches = read_errors.ErrorReportingIterator(
          batch_and_prefetch(examples, self.shard.local_size(self.batch_size)).as_numpy_iterator(), self.source,
          lambda k: self.index(self.shard.positions(self.batch_size, step + k)).numpy(), self.whole)
    return map(self.shard.shard_to_devices, batches)

  def index(self, positions):
    """Which examples stand at some positions, in the shuffled epochs. [n] -> [n] int64."""
    positions = tf.cast(positions, tf.int64)
    epochs, places = positions // self.source.num_examples, positions % self.source.num_examples
    seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(self.seed, tf.int64)), epochs, tf.zeros_like(epochs)], 1)
    # tf.random.experimental.index_shuffle takes 4 rounds of the cipher, after which neighbours still lie at a few fixed
    # distances (on 1.28 million examples, chi2 of 4,487 at 255 degrees of freedom; 236 after 16 rounds).
    return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, rounds=16,
                                         max_index=tf.constant(self.source.num_examples - 1, tf.int64))

  def records(self, step: int) -> tf.data.Dataset:
    """(position, index, record) of each example of this process from batch `step` on; the index is -1 in a stream."""
    return self._stream(step) if isinstance(self.source, tfds_source.TfdsStream) else self._by_index(step)

  def _by_index(self, step):
    local = self.shard.local_slice(self.batch_size)
    number = local.stop - local.start
    # It counts the examples of this process; the k-th is at place k % number of its part of batch k // number.
    counter = tf.data.Dataset.range(step * number, np.iinfo(np.int64).max).batch(tf_reading.READ_AT_ONCE)
    positions = counter.map(lambda n: n // number * self.batch_size + local.start + n % number)
    return tf_reading.records(self.source, positions.map(lambda p: (p, self.index(p))).unbatch())

  def _stream(self, step):
    start = step * self.batch_size
    positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    records = tf.data.Dataset.zip(positions, self.source.stream(self.seed, start))
    mine = records.filter(lambda p, _: self.shard.owns(self.batch_size, p))
    return mine.map(lambda p, record: (p, tf.constant(-1, tf.int64), record))

  @property
  def identity(self) -> dict:
    """What a run that resumes must find again, wherever it lies, and by what a copy elsewhere is known."""
    return {'contents': self.source.contents, 'contents_sample': sources.sample(self.source)}

  def whole(self, index, record):
    """An example with its whole image: an error, in a graph, where `start` could have one."""
    encoded, labels = _parse(self, index, record)
    return {'image': preprocess.decode(encoded), **labels}

  def _augment(self, position, index, record):
    encoded, labels = _parse(self, index, record)
    base = tf.stack([tf.constant(self.seed, tf.int64), position])
    seed = lambda use: tf.random.experimental.stateless_fold_in(base, use)
    image = self.crop(encoded, resolution=self.resolution, seed=seed(0))
    if self.flip:
      image = preprocess.flip(image, seed(1))
    if self.augment:
      image = self.augment(image, base)  # which draws in its own way, and so needs no fold
    return {'image': preprocess.permute(image, self.permutation), **labels}


def train_batches(*, dataset: str, split: str, batch_size: int, resolution: int, seed: int, shard: ProcessShard,
                  data_dir: str | None = None, label: str = 'label', max_labels: int | None = None,
                  fraction: float = 1., resize: int | None = None, min_area: float | None = None, pad: int = 0,
                  antialias: bool = False, flip: bool = True, randaugment_magnitude: float | None = None,
                  randaugment_layers: int = 2, permutation: str | None = None, permutation_patch: int | None = None,
                  permutation_seed: int = 0, threads: int | None = None, num_classes: int | None = None) -> TrainBatches:
  """The training batches of a config's `data` section.

  Args:
    dataset, split, data_dir, label, max_labels: which images and labels: `sources.open_split`.
    num_classes: of the model, by default of the images; a label that is not among them is an error.
    batch_size: of all devices of all processes together.
    resolution: of the images, in pixels.
    fraction: how much of the split to use, chosen by content: `subset.Subset`.
    seed: of order and augmentation.
    shard: which part of each batch this process reads, over how many devices.
    resize: the side to which whole images are resized before a crop at a random place (fine-tuning); by default crops
      are Inception's, of any part of an image (pre-training).
    min_area: the smallest part of an image's area that an Inception crop may cover; by default 0.05.
    pad: black pixels to add on each side before an Inception crop.
    antialias: whether crops are resized with antialiasing, as photographs at much less than 224 pixels should be.
    flip: whether to mirror half of the images.
    randaugment_magnitude, randaugment_layers: m of Table 4, None for no RandAugment, and how many operations.
    permutation, permutation_patch, permutation_seed: of the pixels of all images, after all else:
      `permutations.draw`. Evaluations and probes must have the same.
    threads: that decode and augment; by default one a core. The batches are the same.
  """
  shard.check(batch_size)
  with configuration.named('config'):
    limits.check(seed=seed)
  limits.check(resolution=resolution, resize=resize, pad=pad, randaugment_magnitude=randaugment_magnitude,
               randaugment_layers=randaugment_layers, permutation_patch=permutation_patch, threads=threads,
               permutation_seed=permutation_seed, max_labels=max_labels)
  limits.check_crop(resize=resize, min_area=min_area, pad=pad)
  if resize is None:
    crop = functools.partial(preprocess.inception_crop, min_area=0.05 if min_area is None else min_area, pad=pad)
  else:
    crop = functools.partial(preprocess.random_crop, resize=resize)
  crop = functools.partial(crop, antialias=antialias)
  source = sources.open_split(dataset, split, data_dir, label, max_labels, training=True)
  source = source if fraction == 1 else subset.Subset.of(source, fraction)
  augment = None if randaugment_magnitude is None else _randaugment(randaugment_layers, randaugment_magnitude)
  order = pixel_permutations.draw('data', permutation, resolution, permutation_patch, permutation_seed)
  return TrainBatches(source, batch_size, resolution, seed, shard, crop, flip, augment, threads or os.cpu_count(), order,
                      classes.ModelClasses(num_classes).number_for(source))


def _randaugment(layers, magnitude):
  def apply(image, seed):
    # In numpy and OpenCV, which let go of Python's lock: TensorFlow's operations take four times as long.
    augmented = tf.numpy_function(lambda image, seed: randaugment.apply(image, seed, layers, magnitude),
                                  [image, seed], tf.uint8, stateful=False)
    return tf.ensure_shape(augmented, image.shape)
  return apply


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """Every example of `source` once, in order; the last batch is filled up with masked repetitions."""
  source: Source
  batch_size: int
  resolution: int
  shard: ProcessShard
  crop: str
  resize: int
  threads: int
  permutation: np.ndarray | None = None  # of the pixels, last of all: permutations.draw
  num_classes: int | None = None  # that labels must be among; None for any

  def __iter__(self) -> Iterator[dict]:
    """Yields batches as TrainBatches does, with 'mask': [D, b] float32, 1 for real examples."""
    if isinstance(self.source, sources.FakeSource):
      batch = next(_fake(self.shard.local_size(self.batch_size), self.resolution))
      batches = (dict(batch, mask=self.mask(k)) for k in range(len(self)))
    else:
      decoded = read_errors.ErrorReportingIterator(
          self._dataset.as_numpy_iterator(), self.source, lambda k: self.index(self.shard.positions(self.batch_size, k)),
          self.whole)
      batches = (dict(batch, mask=self.mask(k)) for k, batch in enumerate(decoded))
    return map(self.shard.shard_to_devices, batches)

  def __len__(self):
    return -(-self.source.num_examples // self.batch_size)

  def index(self, positions):
    """Which examples stand at some positions; past the end it is the last one again. [n] -> [n] int64."""
    return np.minimum(positions, self.source.num_examples - 1)

  def mask(self, step: int):
    return np.array([p < self.source.num_examples for p in self.shard.positions(self.batch_size, step)], np.float32)

  @functools.cached_property
  def _dataset(self):
    records = self._stream() if isinstance(self.source, tfds_source.TfdsStream) else self._by_index()
    return batch_and_prefetch(records.map(self.whole, num_parallel_calls=self.threads), self.shard.local_size(self.batch_size))

  def _by_index(self):
    indices = np.concatenate([self.index(self.shard.positions(self.batch_size, k)) for k in range(len(self))])
    return tf_reading.records(self.source, tf.data.Dataset.from_tensor_slices(indices))

  def _stream(self):
    filling = len(self) * self.batch_size - self.source.num_examples
    records = self.source.in_order()
    records = records.concatenate(records.take(1).repeat(filling)).enumerate()
    return records.filter(lambda p, _: self.shard.owns(self.batch_size, p))

  def whole(self, index, record):
    """An example as it is scored, in a graph."""
    encoded, labels = _parse(self, index, record)
    crop = preprocess.EVALUATION_CROPS[self.crop]
    image = crop(preprocess.decode(encoded), self.resize, self.resolution)
    return {'image': preprocess.permute(image, self.permutation), **labels}


def eval_batches(*, where: str, dataset: str, split: str, batch_size: int, resolution: int, shard: ProcessShard,
                 data_dir: str | None = None, label: str = 'label', max_labels: int | None = None,
                 crop: str = 'paper_resize', resize: int | None = None, permutation: str | None = None,
                 permutation_patch: int | None = None, permutation_seed: int = 0, threads: int | None = None,
                 of_model: classes.ModelClasses = classes.ModelClasses()) -> EvalBatches:
  """The batches of one of a config's `evals`, or of a part of one of its `probes`.

  Args:
    where: the path of the section in the config, for messages.
    dataset, split, data_dir, label, max_labels: which images and labels: `sources.open_split`.
    batch_size: of all devices of all processes together; what is scored does not depend on it.
    resolution: of the images, in pixels.
    shard: as in `train_batches`.
    crop: of preprocess.EVALUATION_CROPS, of which paper_resize and paper_crop are (i) and (ii) of the paper's App. C.
    resize: the side before the crop, in pixels; by default 8/7 of the resolution, as in 256 for 224 (App. C), or for
      'antialiased' the resolution.
    permutation, permutation_patch, permutation_seed: as in `train_batches`.
    threads: that decode; by default one a core.
    of_model: the classes to score by; those of an image folder are numbered by their names.

  Raises:
    ValueError: if the images are not there, or are of other classes.
  """
  shard.check(batch_size)
  configuration.lookup(where, 'crop', crop, preprocess.EVALUATION_CROPS)
  limits.check(resolution=resolution, resize=resize, permutation_patch=permutation_patch, threads=threads,
               permutation_seed=permutation_seed, max_labels=max_labels)
  resize = resize or export_crops.side_before(resolution, None, crop)
  source = sources.open_split(dataset, split, data_dir, label, max_labels, of_model.names)
  of_model.check(source)
  order = pixel_permutations.draw(where, permutation, resolution, permutation_patch, permutation_seed)
  return EvalBatches(source, batch_size, resolution, shard, crop, resize, threads or os.cpu_count(), order,
                     of_model.number_for(source))


def _parse(batches, index, record):
  """An example's encoded image and its labels, which are the model's."""
  encoded, labels = batches.source.parse(record, index)
  return encoded, classes.within(labels, batches.num_classes)


def build_datasets(config, shard: ProcessShard) -> tuple[TrainBatches, dict[str, EvalBatches],
                                            dict[str, tuple[EvalBatches, EvalBatches]]]:
  """The batches of a config: for training, of each evaluation by its name, and of each probe (training, test).

  Raises:
    ValueError: that tells of every dataset that is not there, or whose classes the model does not fit.
  """
  opened, problems = {}, []
  for name, attempt in dataset_openers(config, shard).items():
    try:
      opened[name] = attempt()
    except ValueError as error:
      problems.append(str(error))
  if problems:
    raise ValueError('\n'.join(dict.fromkeys(problems)))  # two sections may have the same one
  data = opened.pop('data')
  for name, batches in opened.items():
    if batches.resolution != data.resolution:
      raise ValueError(f'config.{name}.resolution is {batches.resolution}, and config.data.resolution is '
                       f'{data.resolution}: the token-mixing MLPs take one; set both to the same')
    if not np.array_equal(batches.permutation, data.permutation):
      raise ValueError(f'config.{name} permutes the pixels in another way than config.data; give both the same '
                       'permutation, permutation_patch and permutation_seed')
  return data, {name: opened[f'evals.{name}'] for name in config.evals}, {
      name: (opened[f'probes.{name}.train'], opened[f'probes.{name}.test']) for name in configuration.probes_of(config)}


def dataset_openers(config, shard: ProcessShard) -> dict[str, Callable]:
  """{'data', 'evals.NAME', 'probes.NAME.train', ...}: for each section that names a dataset, what opens it."""
  opened = {}

  def train():
    data = configuration.instantiate(train_batches, 'data', config.data, shard=shard, seed=config.seed,
                                     num_classes=config.model.num_classes)
    check_classes(data, config.model)
    opened['data'] = data
    return data

  def evaluation(path, fields, like):
    batches = configuration.instantiate(eval_batches, path, fields, shard=shard, where=path,
                                        of_model=of_model(path, like))
    opened[path] = batches
    return batches

  def of_model(path, like):
    """The classes of what was opened as `like`, and of the model, if that is for it."""
    if like not in opened:
      return classes.ModelClasses(config.model.num_classes if like == 'data' else None, owner='the model (config.model.num_classes)')
    return classes.ModelClasses.of(opened[like], path, like)

  sections = {'data': train}
  for name, fields in config.evals.items():
    sections[f'evals.{name}'] = functools.partial(evaluation, f'evals.{name}', fields, 'data')
  for name, probe in configuration.probes_of(config).items():
    for part in ('train', 'test'):
      if part not in probe:
        raise ValueError(f'config.probes.{name}.{part} is missing; give it the fields of an evaluation')
      path = f'probes.{name}.{part}'
      sections[path] = functools.partial(evaluation, path, probe[part], f'probes.{name}.train')
  return sections


def check_classes(batches: TrainBatches | EvalBatches, model):
  """Raises a ValueError unless the batches' labels fit `model.num_classes`; None fits any."""
  source = batches.source
  if None not in (source.class_names, model.num_classes) and len(source.class_names) != model.num_classes:
    raise ValueError(f'config.model.num_classes is {model.num_classes}, and {source.name} has '
                     f'{len(source.class_names)} classes; set --config.model.num_classes={len(source.class_names)}, or see '
                     f'whether all of them are classes: {classes.listed(source.class_names)}')


def prefetch(batches: Iterable[dict], depth: int = 2) -> Iterator[dict]:
  """The same batches on this host's devices. The first `depth` are sent by this call, and each further one in time."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ('batch',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('batch'))
  sent = (jax.device_put(batch, sharding) for batch in batches)
  queue = collections.deque(itertools.islice(sent, depth))

  def draw():
    while queue:
      yield queue.popleft()
      queue.extend(itertools.islice(sent, 1))

  return draw()


def batch_and_prefetch(examples: tf.data.Dataset, number: int) -> tf.data.Dataset:
  """Batches of `number` examples in their order, two of them ready ahead."""
  return tf_reading.untuned(examples.batch(number, drop_remainder=True).prefetch(2))


def _fake(number, resolution):
  rng = np.random.default_rng(0)
  batch = {'image': rng.integers(0, 256, (number, resolution, resolution, 3), np.uint8),
           'label': np.arange(number, dtype=np.int32) % 2}
  while True:
    yield batch


def path_batches(paths: Sequence[str], *, batch_size: int, resolution: int, resize: int, crop: str,
                 failed: Callable[[int, str], None]) -> Iterator[dict]:
  """Batches of the images in some files, in their order; the last batch is filled up with repetitions of its last one.

  Yields {'image': [batch_size, R, R, 3] uint8, 'index': [n] ints}, n <= batch_size: the first n images are those of
  paths[index]. Files that cannot be decoded are left out.

  Args:
    resize, crop: as in `eval_batches`.
    failed: is told the index of each file that is left out, and why.
  """
  names = tf.constant([os.fsencode(path) for path in paths])

  def prepare(index):
    image = preprocess.decode(image_files.normalize(tf.io.read_file(names[index])))
    return {'image': preprocess.EVALUATION_CROPS[crop](image, resize, resolution), 'index': index}

  def explain(indices):
    for index in indices:
      why = 'it could only be read on a second try'
      try:
        prepare(index)
      except tf.errors.OpError as error:
        why = preprocess.reason(error)
      failed(index, why)

  images = tf.data.Dataset.range(len(paths)).map(prepare, num_parallel_calls=os.cpu_count(), deterministic=True)
  batches = tf_reading.untuned(images.ignore_errors().batch(batch_size).prefetch(2))
  seen = 0
  for batch in batches.as_numpy_iterator():
    explain(sorted({*range(seen, batch['index'][-1] + 1)} - {*batch['index'].tolist()}))
    seen = batch['index'][-1] + 1
    filling = batch_size - len(batch['index'])
    yield {'image': np.pad(batch['image'], [(0, filling), (0, 0), (0, 0), (0, 0)], 'edge'), 'index': batch['index']}
  explain(range(seen, len(paths)))
