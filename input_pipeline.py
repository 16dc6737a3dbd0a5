"""The images that a config's `data` section, evaluations and probes name, and what is done to them on their way.

`train_batches` and `eval_batches` take the fields of a section. The order of the images, and how a run resumes within
it, is in mixer/data/batches.py; where images come from, in mixer/data/sources.py; crops, in mixer/data/preprocess.py.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os

import mixer  # before TensorFlow: it sets how much that prints  # noqa: F401

import numpy as np

from mixer import arguments
from mixer import configuration
from mixer.data import autoaugment
from mixer.data.batches import EvalBatches
from mixer.data.batches import TrainBatches
from mixer.data.classes import ModelClasses
from mixer.data import crop_sizes
from mixer.data.lazy import tf
from mixer.data import pixel_permutations
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer.data import randaugment
from mixer.data import random_erasing
from mixer.data import sources
from mixer.data import subset
from mixer import limits


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """The training transform of an image file: a random crop, maybe a flip, and augmentation, all drawn from the seed."""
  crop: Callable  # of (encoded, resolution=, seed=)
  resolution: int
  flip: bool
  augment: Callable | None  # of (image, seed)
  cutout: int | None = None
  erase: Callable | None = None  # of (image, seed)

  def __call__(self, encoded, seed):
    """[] string, [2] ints -> [R, R, 3] uint8, in a graph."""
    seed_of = functools.partial(tf.random.experimental.stateless_fold_in, seed)
    image = self.crop(encoded, resolution=self.resolution, seed=seed_of(0))
    if self.flip:
      image = preprocess.flip(image, seed_of(1))
    image = self.augment(image, seed) if self.augment else image  # which draws in its own way, and needs no fold
    image = preprocess.cutout(image, self.cutout, seed_of(2)) if self.cutout else image
    return self.erase(image, seed_of(3)) if self.erase else image


def train_batches(*, dataset: str, split: str, batch_size: int, resolution: int, seed: int, shard: ProcessShard,
                  data_dir: str | None = None, label: str = 'label', max_labels: int | None = None,
                  classes: Sequence[str] | None = None, fraction: float = 1., resize: int | None = None,
                  min_area: float | None = None, pad: int = 0, antialias: bool = False, flip: bool = True,
                  randaugment_magnitude: float | None = None, randaugment_layers: int = 2,
                  randaugment_translate: float = 100., randaugment_cutout: float = 40., autoaugment: str | None = None,
                  cutout: int | None = None, random_erasing: float = 0., permutation: str | None = None,
                  permutation_patch: int | None = None, permutation_seed: int = 0, threads: int | None = None,
                  num_classes: int | None = None) -> TrainBatches:
  """The training batches of a config's `data` section.

  Args:
    dataset, split, data_dir, label, max_labels, classes: which images and labels: `sources.open_split`.
    num_classes: of the model, by default of the images; a label that is not among them is an error.
    batch_size: of all devices of all processes together.
    resolution: of the images, in pixels.
    fraction: how much of the split, or of its `classes`, to use, chosen by content: `subset.Subset`.
    seed: of order and augmentation.
    shard: which part of each batch this process reads, over how many devices.
    resize: the side to which whole images are resized before a crop at a random place (fine-tuning); by default crops
      are Inception's, of any part of an image (pre-training).
    min_area: the smallest part of an image's area that an Inception crop may cover; by default 0.05.
    pad: black pixels to add on each side before the crop, and after `resize`: 4 with resize 32 is CIFAR's usual crop.
    antialias: whether crops are resized with antialiasing, as photographs at much less than 224 pixels should be.
    flip: whether to mirror half of the images.
    randaugment_magnitude, randaugment_layers: m of Table 4, None for no RandAugment, and how many operations.
    randaugment_translate, randaugment_cutout: how far it moves images, and half the side of the squares that it cuts out,
      in pixels at a magnitude of 10: for 32 pixels 10 and 10, instead of ImageNet's numbers.
    autoaugment: the policy of AutoAugment to apply after crop and flip, 'cifar10'; None for none.
    cutout: the side of a square to grey out of each image, after all that, in pixels: 16 for CIFAR-10; None for none.
    random_erasing: the probability that a box of an image becomes noise, after all other augmentation; 0 to 1, 0.25 in DeiT.
    permutation, permutation_patch, permutation_seed: of the pixels of all images, after all else:
      `pixel_permutations.draw`. Evaluations and probes must have the same.
    threads: that decode and augment; by default one a core. The batches are the same.
  """
  shard.check(batch_size)
  with configuration.named('config'):
    limits.check(seed=seed)
  limits.check(resolution=resolution, resize=resize, pad=pad, randaugment_magnitude=randaugment_magnitude,
               randaugment_layers=randaugment_layers, randaugment_translate=randaugment_translate,
               randaugment_cutout=randaugment_cutout, cutout=cutout, random_erasing=random_erasing,
               permutation_patch=permutation_patch, threads=threads, permutation_seed=permutation_seed, max_labels=max_labels)
  limits.check_crop(resize=resize, min_area=min_area)
  limits.check_augmentation(autoaugment=autoaugment, randaugment_magnitude=randaugment_magnitude)
  augment = _augment(autoaugment, randaugment_magnitude, layers=randaugment_layers, translate=randaugment_translate,
                     cutout=randaugment_cutout)
  if resize is None:
    crop = functools.partial(preprocess.inception_crop, min_area=0.05 if min_area is None else min_area)
  else:
    crop = functools.partial(preprocess.random_crop, resize=resize)
  crop = functools.partial(crop, pad=pad, antialias=antialias)
  source = sources.open_split(dataset, split, data_dir, label, max_labels, training=True, classes=classes)
  source = source if fraction == 1 else subset.Subset.of(source, fraction)
  order = pixel_permutations.draw(permutation, resolution, permutation_patch, permutation_seed)
  model_classes = ModelClasses.of_config(num_classes)
  model_classes.check(source)
  transform = Augmentation(crop, resolution, flip, augment, cutout, _erase(random_erasing))
  return TrainBatches(source, batch_size, resolution, seed, shard, transform, threads or os.cpu_count(), order,
                      model_classes.number_for(source))


def _augment(policy, magnitude, **of_randaugment):
  """AutoAugment, RandAugment, or None: a function of (image, seed) in a graph."""
  if policy is not None:
    arguments.check_choice('autoaugment', policy, autoaugment.POLICIES)
    return _in_numpy(functools.partial(autoaugment.apply, policy=autoaugment.POLICIES[policy]))
  if magnitude is not None:
    return _in_numpy(functools.partial(randaugment.apply, magnitude=magnitude, **of_randaugment))
  return None


def _erase(probability):
  return _in_numpy(functools.partial(random_erasing.apply, probability=probability)) if probability else None


def _in_numpy(function):
  def apply(image, seed):
    # In numpy and OpenCV, which let go of Python's lock: TensorFlow's operations take four times as long.
    return tf.ensure_shape(tf.numpy_function(function, [image, seed], tf.uint8, stateful=False), image.shape)
  return apply


def eval_batches(*, dataset: str, split: str, batch_size: int, resolution: int, shard: ProcessShard,
                 data_dir: str | None = None, label: str = 'label', max_labels: int | None = None,
                 classes: Sequence[str] | None = None, crop: str = 'paper_resize', resize: int | None = None,
                 permutation: str | None = None, permutation_patch: int | None = None, permutation_seed: int = 0,
                 threads: int | None = None, model_classes: ModelClasses = ModelClasses()) -> EvalBatches:
  """The batches of one of a config's `evals`, or of a part of one of its `probes`.

  Args:
    dataset, split, data_dir, label, max_labels, classes: which images and labels: `sources.open_split`.
    batch_size: of all devices of all processes together; what is scored does not depend on it.
    resolution: of the images, in pixels.
    shard: as in `train_batches`.
    crop: of preprocess.EVALUATION_CROPS, of which paper_resize and paper_crop are (i) and (ii) of the paper's App. C.
    resize: the side before the crop, in pixels; by default 8/7 of the resolution, as in 256 for 224 (App. C), or for
      'antialiased' the resolution.
    permutation, permutation_patch, permutation_seed: as in `train_batches`.
    threads: that decode; by default one a core.
    model_classes: the classes to score by; those of an image folder are numbered by their names.

  Raises:
    ValueError: if the images are missing, or are of other classes.
  """
  shard.check(batch_size)
  arguments.check_choice('crop', crop, preprocess.EVALUATION_CROPS)
  limits.check(resolution=resolution, resize=resize, permutation_patch=permutation_patch, threads=threads,
               permutation_seed=permutation_seed, max_labels=max_labels)
  resize = resize or crop_sizes.resize_for(resolution, None, crop)
  source = sources.open_split(dataset, split, data_dir, label, max_labels, model_classes.names, classes=classes)
  model_classes.check(source)
  order = pixel_permutations.draw(permutation, resolution, permutation_patch, permutation_seed)
  return EvalBatches(source, batch_size, resolution, shard, crop, resize, threads or os.cpu_count(), order,
                     model_classes.number_for(source))


def build_datasets(config, shard: ProcessShard) -> tuple[TrainBatches, dict[str, EvalBatches],
                                                         dict[str, tuple[EvalBatches, EvalBatches]]]:
  """The batches of a config: for training, of each evaluation by its name, and of each probe (training, test).

  Raises:
    ValueError: names every dataset that is missing, or whose classes do not fit the model.
  """
  opened, problems = {}, []
  for section, open_dataset in dataset_openers(config, shard).items():
    try:
      opened[section] = open_dataset()
    except ValueError as error:
      problems.append(str(error))
  if problems:
    raise ValueError('\n'.join(dict.fromkeys(problems)))  # two sections may have the same one
  data = opened.pop('data')
  for section, batches in opened.items():
    if batches.resolution != data.resolution:
      raise ValueError(f'config.{section}.resolution is {batches.resolution}, and config.data.resolution is '
                       f'{data.resolution}: the token-mixing MLPs take one; set both to the same')
    if not np.array_equal(batches.permutation, data.permutation):
      raise ValueError(f'config.{section} permutes the pixels in another way than config.data; give both the same '
                       'permutation, permutation_patch and permutation_seed')
  return data, {name: opened[f'evals.{name}'] for name in config.evals}, {
      name: (opened[f'probes.{name}.train'], opened[f'probes.{name}.test']) for name in configuration.probes_of(config)}


def dataset_openers(config, shard: ProcessShard) -> dict[str, Callable]:
  """{'data', 'evals.NAME', 'probes.NAME.train', ...}: for each section that names a dataset, the function that opens it.

  Called in this order, evaluations and probes are checked against the classes of what was opened for training.
  """
  opened = {}

  def train():
    opened['data'] = configuration.instantiate(train_batches, 'data', config.data, shard=shard, seed=config.seed,
                                               num_classes=config.model.num_classes)
    return opened['data']

  def evaluation(path, fields, reference):
    opened[path] = configuration.instantiate(eval_batches, path, fields, shard=shard,
                                             model_classes=model_classes(path, reference))
    return opened[path]

  def model_classes(path, reference):
    """The classes of the section `reference`; if it could not be opened, those of the model, or any for a probe."""
    if reference in opened:
      return ModelClasses.of(opened[reference], path, reference)
    return ModelClasses.of_config(config.model.num_classes if reference == 'data' else None)

  openers = {'data': train}
  for name, fields in config.evals.items():
    openers[f'evals.{name}'] = functools.partial(evaluation, f'evals.{name}', fields, 'data')
  for name, probe in configuration.probes_of(config).items():
    for part in ('train', 'test'):
      if part not in probe:
        raise ValueError(f'config.probes.{name}.{part} is missing; give it the fields of an evaluation')
      path = f'probes.{name}.{part}'
      openers[path] = functools.partial(evaluation, path, probe[part], f'probes.{name}.train')
  return openers
