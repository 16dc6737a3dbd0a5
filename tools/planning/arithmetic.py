"""What a run takes on a slice of TPUs or on GPUs, by arithmetic: parameters, operations, steps, memory, device-days."""

import dataclasses
import functools
import os
import re

from etils import epath
import jax
import ml_collections

from mixer import configuration
from mixer.data import process_shard
from mixer import flops
from mixer import models
from mixer.run import accelerators
from mixer.training import optim
from mixer.training import sam as sam_lib
from mixer.training import train_step
from mixer import trees
from paper import matching
from paper import tables

GIB = 2**30

# Table 2 does not say how long the models were trained that are not in Table 3 as well. As in their own papers (arXiv
# 2010.11929, 1912.11370): epochs by pre-training data and model.
EPOCHS_OF_TABLE_2 = {('imagenet21k', 'ViT-L/16'): 90, ('imagenet21k', 'BiT-R152x4'): 90, ('jft300m', 'BiT-R152x4'): 40}


@dataclasses.dataclass(frozen=True)
class Images:
  """The training images: their number and its source, the labels of one as in `sources.open_split`, and their classes."""
  number: int
  origin: str
  labels: dict
  num_classes: int | None = None


_ONE_LABEL = {'label': ((), 'int32')}
# How many labels an image has at most is up to the data, and moves neither memory nor time by much.
_LABELS = {'label': ((8,), 'int32')}
_WEIGHTED_LABELS = {'label': ((8,), 'int32'), 'weight': ((8,), 'float32')}

# What a config's data.dataset stands for in the paper: (images of each split, who published it, labels of one).
PUBLISHED = {
    'imagenet2012': ({'train': 1_281_167, 'validation': 50_000}, 'Russakovsky et al., arXiv 1409.0575', _ONE_LABEL),
    # Before duplicates are merged and one in a hundred is left for validation.
    'imagenet21k': ({'train': 14_197_122}, 'image-net.org, release of fall 2011, all images', _LABELS),
    'multilabel': ({'train': 303_000_000}, 'JFT-300M: Dosovitskiy et al., arXiv 2010.11929', _WEIGHTED_LABELS),
    'fake': ({'train': 1_281_167}, 'mixer/data/sources.py', _ONE_LABEL),
    **{name: ({'train': 50_000, 'test': 10_000}, 'Krizhevsky, 2009', _ONE_LABEL) for name in ('cifar10', 'cifar100')},
    'oxford_iiit_pet': ({'train': 3_680, 'test': 3_669}, 'Parkhi et al., 2012', _ONE_LABEL),
    'oxford_flowers102': ({'train': 1_020, 'validation': 1_020, 'test': 6_149}, 'Nilsback and Zisserman, 2008', _ONE_LABEL),
}
CLASSES = {'imagenet2012': 1000, 'fake': 1000, 'cifar10': 10, 'cifar100': 100, 'oxford_iiit_pet': 37,
           'oxford_flowers102': 102}


def images_of(config, num_examples: int | None = None) -> Images:
  """The training images of a config: `num_examples` of them, or the local data's, or the published number.

  Raises:
    ValueError: if none of these is known.
  """
  data = config.data
  part = data.fraction if 'fraction' in data else 1.
  splits, source, labels = PUBLISHED.get(data.dataset, ({}, f'its split, {data.split}', _ONE_LABEL))
  num_classes, chosen = CLASSES.get(data.dataset), data.get('classes')
  if chosen and num_classes:
    part, num_classes = part * len(chosen) / num_classes, len(chosen)  # classes of published data are of like sizes
  if num_examples:
    return Images(round(num_examples * part), '--num_examples', labels, num_classes)
  local = _opened(config, must_be_here=data.dataset not in PUBLISHED)
  if local:
    names = local.class_names
    return Images(local.num_examples, local.name, local.labels, len(names) if names else None)
  numbers = [_number_of(split, splits) for split in data.split.split('+')]
  if None in numbers:
    known = ', '.join(f'{name} {split}' for name, (splits, *_) in PUBLISHED.items() for split in splits)
    raise ValueError(f'dataset {data.dataset!r}, split {data.split!r}, is not available, and its number of images is not '
                     f'among the published ones ({known}; and parts of them in percent); pass --num_examples=')
  return Images(round(sum(numbers) * part), source, labels, num_classes)


def _number_of(split: str, splits: dict[str, int]) -> int | None:
  """The images of a split as TFDS writes it: 'train', 'train[:99%]' or 'train[800:1000]'; None if unknown."""
  match = re.fullmatch(r'(?P<name>\w+)(?:\[(?P<first>\d+%?)?:(?P<last>\d+%?)?\])?', split)
  if not match:
    return None
  whole, first, last = splits.get(match['name']), match['first'] or '0', match['last'] or '100%'
  if whole is None and (last.endswith('%') or first.endswith('%')):
    return None
  place = lambda text: round(whole * int(text[:-1]) / 100) if text.endswith('%') else int(text)  # as TFDS rounds
  return max(place(last) - place(first), 0) or None


def _opened(config, must_be_here):
  """The source of the training images, or None if they are not available."""
  data = config.data
  folder = data.get('data_dir') or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  places = [epath.Path(data.dataset).expanduser(), epath.Path(folder).expanduser() / data.dataset.partition('/')[0]]
  if not any(place.exists() for place in places):
    return None
  import input_pipeline  # it imports TensorFlow, which takes as long as all the rest
  try:
    return input_pipeline.dataset_openers(config, process_shard.ProcessShard(0, 1, 1))['data']().source
  except ValueError:
    if must_be_here:
      raise
    return None  # incomplete


@dataclasses.dataclass(frozen=True)
class Plan:
  """A config on a slice. Bytes are those of one of its devices, and FLOPs count a multiply-add as two."""
  name: str  # of the config
  slice: accelerators.Slice
  config: ml_collections.ConfigDict  # all durations in steps
  images: Images
  model: object
  optimizer: object
  learning_rate: object

  @classmethod
  def of(cls, name: str, config, slice_: accelerators.Slice, num_examples: int | None = None):
    """Raises a ValueError if the config is wrong, or if its batch does not divide over the slice's devices."""
    configuration.check(config)
    size, devices, noun = config.data.batch_size, slice_.devices, slice_.device.noun
    if size <= 0 or size % devices:
      below = max(size // devices, 1) * devices
      raise ValueError(f'config.data.batch_size is {size}; it must be a multiple of the {devices} {noun}s of {slice_} '
                       f'({below} or {below + devices}), or choose another --topology')
    images = images_of(config, num_examples)
    if images.num_classes:
      config = configuration.with_classes(config, range(images.num_classes))
    config = configuration.epochs_to_steps(config, images.number / size)
    model = configuration.instantiate(models.build, 'model', config.model, platform=slice_.device.platform)
    optimizer, learning_rate = configuration.instantiate(optim.build, 'optimizer', config.optimizer,
                                                         total_steps=config.total_steps)
    plan = cls(name, slice_, config, images, model, optimizer, learning_rate)
    accumulate = config.step.get('accumulate', 1)
    if accumulate < 1 or plan.images_per_device % accumulate:
      raise ValueError(f'config.step.accumulate is {accumulate}; it must divide the {plan.images_per_device} images a {noun}')
    _ = plan.parts  # refuses groups that do not divide
    return plan

  def init(self) -> train_step.TrainState:
    side = self.config.data.resolution
    return train_step.init(self.model, self.optimizer, (side, side, 3), self.config.seed, self.config.step.get('ema'))

  @functools.cached_property
  def state(self) -> train_step.TrainState:
    """Its shapes and types."""
    return jax.eval_shape(self.init)

  @property
  def images_per_device(self) -> int:
    return self.config.data.batch_size // self.slice.devices

  @property
  def parts(self) -> int:
    """In how many parts a device takes its images: microbatches, or with SAM the groups of a perturbation."""
    accumulate = self.config.step.get('accumulate', 1)
    if sam := self.config.step.get('sam'):
      return accumulate * configuration.instantiate(sam_lib.Sam, 'step.sam', sam).groups(self.images_per_device, accumulate)
    return accumulate

  @property
  def passes(self) -> int:
    return flops.passes(self.config.step)

  @property
  def params(self) -> int:
    return trees.count(self.state.params)

  @property
  def params_without_head(self) -> int:
    """As Table 1 counts them."""
    return self.params - trees.count(self.state.params.get('head', {}))

  @functools.cached_property
  def flops_per_image(self) -> float:
    """Of the forward pass; in training the backward pass costs twice as much again."""
    return flops.forward(self.model, self.state.weights, self.config.data.resolution)

  @property
  def flops(self) -> float:
    """Of the whole training, without its evaluations."""
    return self.passes * self.flops_per_image * self.config.data.batch_size * self.config.total_steps

  @property
  def epochs(self) -> float:
    return self.config.total_steps * self.config.data.batch_size / self.images.number

  def device_days(self, utilisation: float) -> float:
    return self.flops / (self.slice.device.peak * utilisation) / 86_400

  @functools.cached_property
  def paper_core_days(self) -> int | None:
    """TPUv3 core-days of the paper's run on as many images of 224 pixels; None where Tables 2 and 3 have none."""
    data, model = self.config.data, self.config.model
    if data.resolution != 224 or data.dataset not in matching.PRETRAINING or matching.beyond(self.config):
      return None
    passes = self.epochs * (data.fraction if 'fraction' in data else 1.)  # of the whole data
    pretrain, *_ = matching.PRETRAINING[data.dataset]
    of_table_2 = [{**row, 'epochs': EPOCHS_OF_TABLE_2.get((pretrain, row['model'])), 'resolution': '224'}
                  for row in tables.published('table2_transfer')]
    for row in (*tables.published('table3_scales'), *of_table_2):
      if ((row['pretrain'], matching.of_row(row), row['resolution']) == (pretrain, matching.label(model), '224')
          and row['epochs'] and matching.same_epochs(row['epochs'], passes)):
        return int(row['tpuv3_core_days'])
    return None

  @property
  def paper_utilisation(self) -> float | None:
    """The part of a TPUv3's peak that the paper's core-days come to."""
    days = self.paper_core_days
    return days and self.flops / (days * 86_400 * accelerators.TPUS['v3'].peak)

  @property
  def state_bytes(self) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.state))

  @property
  def gradient_bytes(self) -> int:
    """With `accumulate`, the sum and the gradients of the current part; with SAM, also those before and the weights there."""
    copies = (2 if self.parts > 1 else 1) + (2 if self.config.step.get('sam') else 0)
    return copies * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.state.params))

  @property
  def activation_bytes(self) -> int:
    """What the backward pass needs of the forward pass: an estimate.

    For each block, the activations that the model states. With `remat`, the input of each block and one whole block. A
    `scan` without `remat` keeps more than this: XLA recomputes nothing in a loop.
    """
    inputs, insides = zip(*self.model.activations(self.config.data.resolution))
    remat = getattr(self.model, 'remat', 'none')  # not all models have one
    numbers = sum(insides) if remat == 'none' else sum(inputs) + max(insides)
    return numbers * jax.numpy.dtype(self.model.dtype).itemsize * self.images_per_device // self.parts

  @property
  def bytes(self) -> int:
    """The total: an estimate."""
    return self.state_bytes + self.gradient_bytes + self.activation_bytes

  @property
  def fits(self) -> bool:
    return self.bytes <= self.slice.device.usable * GIB

  def needs_setting(self, size: int) -> bool:
    """Whether a program of so many bytes fits a GPU only with `setting`."""
    device = self.slice.device
    return isinstance(device, accelerators.Gpu) and size > device.preallocated * GIB

  @property
  def setting(self) -> str:
    return (f'XLA_CLIENT_MEM_FRACTION={accelerators.MEM_FRACTION:g} is needed: by default JAX takes '
            f'{accelerators.DEFAULT_MEM_FRACTION:.0%} of a GPU, {self.slice.device.preallocated:.4g} GiB')

  def describe(self, utilisation: float) -> str:
    device, gib = self.slice.device, lambda size: f'{size / GIB:.3g}'
    noun = device.noun
    days = self.device_days(utilisation)
    rows = {
        'model': f'{type(self.model).__name__}, {self.params:,} parameters, '
                 + (f'{self.params_without_head:,} without the head' if self.model.num_classes else 'without a head, since '
                    'config.model.num_classes is None')
                 + f'; {self.flops_per_image / 1e9:.3g} GFLOPs an image forward, {self.passes * self.flops_per_image / 1e9:.3g} in '
                 'training',
        'data': f'{self.config.data.dataset}: {self.images.number:,} images ({self.images.origin})',
        'slice': f'{self.slice}: {self.slice.devices} {noun}{"s" * (self.slice.devices > 1)}; a {noun} has {device.memory:.4g} GiB, '
                 f'{device.usable:.4g} of them for a program, and a peak of {device.peak / 1e12:g} TFLOP/s in bfloat16',
        'batch': f'{self.config.data.batch_size:,}, {self.images_per_device:,} a {noun}'
                 + (f' in {self.parts} parts' if self.parts > 1 else ''),
        'steps': f'{self.config.total_steps:,}, {self.epochs:,.1f} epochs',
        'memory': f'{gib(self.bytes)} GiB a {noun}, an estimate, which {"fits" if self.fits else "DOES NOT FIT"}: '
                  f'{gib(self.state_bytes)} parameters and optimizer, {gib(self.gradient_bytes)} gradients, '
                  f'{gib(self.activation_bytes)} activations (estimated)',
        'time': f'{self.flops:.3g} FLOPs; at {utilisation:.0%} of the peak, which is an assumption, {days:,.3g} '
                f'{noun}-days, {days / self.slice.devices:,.3g} days'}
    if self.fits and self.needs_setting(self.bytes):
      rows['setting'] = self.setting
    if self.paper_core_days:
      rows['paper'] = (f'{self.paper_core_days} TPUv3 core-days (Tables 2, 3), which is {self.paper_utilisation:.0%} of '
                       "a TPUv3's peak")
    return aligned(rows)


def aligned(rows: dict[str, str]) -> str:
  return '\n'.join(f'{name:<9} {text}' for name, text in rows.items())
