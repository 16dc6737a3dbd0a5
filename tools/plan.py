"""What a run will take on a slice of TPUs, without any and without its data: in seconds, or after a compilation.

  python -m tools.plan --config=configs/mixer_b16_i21k.py                       # on the slice that the config names
  python -m tools.plan --config=configs/mixer_b16_i21k.py --topology=v5e:4x4 --compile
  python -m tools.plan --config=configs/mixer_b16_i21k.py --compile --sweep     # the largest batch a core that fits
  python -m tools.plan --all --compile --out=docs/tpu_plans.md                  # the page of all pre-training configs

--compile has XLA compile the whole training step, as train.py builds it, for the slice, and tells what XLA says of it.
It needs requirements-tpu.txt and minutes of two cores. Beside the page, tpu_plans.jsonl keeps what was compiled: the
same command goes on where it was stopped, and compiles again only what has changed; without --compile the page is
made from what is kept.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import time

from absl import app
from absl import flags
from etils import epath
import jax
import ml_collections

from mixer import accelerators
from mixer import command_line
from mixer import configuration
from mixer import flops
from mixer import models
from mixer import optim
from mixer import storage
from mixer import train_step
from paper import matching
from paper import tables

ROOT = pathlib.Path(__file__).parent.parent
GIB = 2**30

TOPOLOGY = flags.DEFINE_string('topology', None, 'Generation and chips along each axis, such as v3:4x4; by default that '
                               'of the slice that the config names.')
COMPILE = flags.DEFINE_bool('compile', False, 'Compile the training step for the slice.')
SWEEP = flags.DEFINE_bool('sweep', False, 'With --compile: find the largest batch a core that fits, of powers of two.')
NUM_EXAMPLES = flags.DEFINE_integer('num_examples', None, 'How many images the training split has, where neither the '
                                    'data are here nor their number is published.', lower_bound=1)
UTILISATION = flags.DEFINE_float('utilisation', 0.4, 'The part of the peak that the run is taken to reach. It is an '
                                 'assumption.', lower_bound=0.01, upper_bound=1.)
ALL = flags.DEFINE_bool('all', False, 'Plan every config that names a slice, each on its own.')
OUT = flags.DEFINE_string('out', None, 'With --all: the page to write, in Markdown.')

# Table 2 does not say how long the models were trained that are not in Table 3 as well. As in their own papers (arXiv
# 2010.11929, 1912.11370): epochs by pre-training data and model.
EPOCHS_OF_TABLE_2 = {('imagenet21k', 'ViT-L/16'): 90, ('imagenet21k', 'BiT-R152x4'): 90, ('jft300m', 'BiT-R152x4'): 40}


@dataclasses.dataclass(frozen=True)
class Images:
  """The images of training: how many, who says so, and the labels of one as in `sources.open_split`."""
  number: int
  said_by: str
  labels: dict


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
    'fake': ({'train': 1_281_167}, 'mixer/datasets/sources.py', _ONE_LABEL),
}


def images_of(config, num_examples: int | None = None) -> Images:
  """The training images of a config: `num_examples` of them, or those that are here, or the published ones.

  Raises:
    ValueError: if there are none of these.
  """
  data = config.data
  part = data.fraction if 'fraction' in data else 1.
  splits, source, labels = PUBLISHED.get(data.dataset, ({}, '', _ONE_LABEL))
  if num_examples:
    return Images(round(num_examples * part), '--num_examples', labels)
  found = _opened(config, must_be_here=data.dataset not in PUBLISHED)
  if found:
    return Images(found.num_examples, found.name, found.labels)
  split = re.fullmatch(r'(\w+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?', data.split)
  if not split or split[1] not in splits:
    known = ', '.join(f'{name} {split}' for name, (splits, *_) in PUBLISHED.items() for split in splits)
    raise ValueError(f'dataset {data.dataset!r}, split {data.split!r}, is not here, and its number of images is not '
                     f'among the published ones ({known}; and parts of them in percent); give --num_examples=')
  whole = splits[split[1]]
  first, last = (round(whole * int(percent) / 100) for percent in (split[2] or 0, split[3] or 100))  # as TFDS rounds
  return Images(round((last - first) * part), source, labels)


def _opened(config, must_be_here):
  """The source of the training images, or None where they are not here."""
  data = config.data
  folder = data.data_dir if 'data_dir' in data else os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  places = [epath.Path(data.dataset).expanduser(), epath.Path(folder).expanduser() / data.dataset.partition('/')[0]]
  if not any(place.exists() for place in places):
    return None
  import input_pipeline  # it imports TensorFlow, which takes as long as all the rest
  try:
    return input_pipeline.attempts(config, input_pipeline.Hosts(0, 1, 1))['data']().source
  except ValueError:
    if must_be_here:
      raise
    return None  # it is not whole


@dataclasses.dataclass(frozen=True)
class Plan:
  """A config on a slice. Bytes are those of one core, and FLOPs count a multiply-add as two."""
  name: str  # of the config
  slice: accelerators.Slice
  config: ml_collections.ConfigDict  # all durations in steps
  images: Images
  model: object
  optimizer: object
  learning_rate: object

  @classmethod
  def of(cls, name: str, config, slice_: accelerators.Slice, num_examples: int | None = None):
    """Raises a ValueError if the config is wrong, or if its batch does not divide over the slice's cores."""
    configuration.check(config)
    size, cores = config.data.batch_size, slice_.cores
    if size <= 0 or size % cores:
      below = max(size // cores, 1) * cores
      raise ValueError(f'config.data.batch_size is {size}; it must be a multiple of the {cores} cores of {slice_} '
                       f'({below} or {below + cores}), or choose another --topology')
    images = images_of(config, num_examples)
    config = configuration.in_steps(config, images.number / size)
    model = configuration.call(models.build, 'model', config.model, platform='tpu')
    optimizer, learning_rate = configuration.call(optim.build, 'optimizer', config.optimizer,
                                                  total_steps=config.total_steps)
    plan = cls(name, slice_, config, images, model, optimizer, learning_rate)
    if plan.parts < 1 or plan.images_per_core % plan.parts:
      raise ValueError(f'config.step.accumulate is {plan.parts}; it must divide the {plan.images_per_core} images a '
                       'core')
    return plan

  def init(self) -> train_step.TrainState:
    side = self.config.data.resolution
    return train_step.init(self.model, self.optimizer, (side, side, 3), self.config.seed)

  @functools.cached_property
  def state(self) -> train_step.TrainState:
    """Its shapes and types."""
    return jax.eval_shape(self.init)

  @property
  def images_per_core(self) -> int:
    return self.config.data.batch_size // self.slice.cores

  @property
  def parts(self) -> int:
    """In how many parts a core takes its images."""
    return self.config.step.accumulate if 'accumulate' in self.config.step else 1

  @property
  def params(self) -> int:
    return _count(self.state.params)

  @property
  def params_without_head(self) -> int:
    """As Table 1 counts them."""
    return self.params - _count(self.state.params['head'])

  @functools.cached_property
  def flops_per_image(self) -> float:
    """Of the forward pass; in training the backward pass costs twice as much again."""
    side = self.config.data.resolution
    image = jax.ShapeDtypeStruct((1, side, side, 3), 'float32')
    return 2 * flops.macs(self.model.apply, {'params': self.state.params}, image)

  @property
  def flops(self) -> float:
    """Of the whole training, without its evaluations."""
    return 3 * self.flops_per_image * self.config.data.batch_size * self.config.total_steps

  @property
  def epochs(self) -> float:
    return self.config.total_steps * self.config.data.batch_size / self.images.number

  def core_days(self, utilisation: float) -> float:
    return self.flops / (self.slice.generation.peak * utilisation) / 86_400

  @property
  def paper_core_days(self) -> int | None:
    """TPUv3 core-days of the paper's run on as many images of 224 pixels; None where Tables 2 and 3 have none."""
    data, model = self.config.data, self.config.model
    if data.resolution != 224 or data.dataset not in matching.PRETRAINING:
      return None
    passes = self.epochs * (data.fraction if 'fraction' in data else 1.)  # of the whole data
    pretrain, *_ = matching.PRETRAINING[data.dataset]
    of_table_2 = [{**row, 'epochs': EPOCHS_OF_TABLE_2.get((pretrain, row['model'])), 'resolution': '224'}
                  for row in tables.published('table2_transfer')]
    for row in (*tables.published('table3_scales'), *of_table_2):
      if ((row['pretrain'], row['model'], row['resolution']) == (pretrain, matching.label(model), '224')
          and row['epochs'] and matching.same_epochs(row['epochs'], passes)):
        return int(row['tpuv3_core_days'])
    return None

  @property
  def paper_utilisation(self) -> float | None:
    """The part of a TPUv3's peak that the paper's core-days come to."""
    days = self.paper_core_days
    return days and self.flops / (days * 86_400 * accelerators.GENERATIONS['v3'].peak)

  @property
  def state_bytes(self) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.state))

  @property
  def gradient_bytes(self) -> int:
    """With `accumulate` there is a sum beside those of the part at hand."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.state.params)) * (2 if self.parts > 1 else 1)

  @property
  def activation_bytes(self) -> int | None:
    """What the backward pass finds of the forward pass: an estimate; None for models that give none.

    It takes of each block what the model says. With `remat` it takes of each block the input, and one block whole. A
    `scan` without `remat` keeps more than this: XLA computes nothing anew in a loop.
    """
    if not hasattr(self.model, 'activations'):
      return None
    inputs, insides = zip(*self.model.activations(self.config.data.resolution))
    numbers = sum(insides) if self.model.remat == 'none' else sum(inputs) + max(insides)
    return numbers * jax.numpy.dtype(self.model.dtype).itemsize * self.images_per_core // self.parts

  @property
  def bytes(self) -> int:
    """All of it: an estimate, without the activations where they are not known."""
    return self.state_bytes + self.gradient_bytes + (self.activation_bytes or 0)

  @property
  def fits(self) -> bool:
    return self.bytes <= self.slice.generation.usable * GIB

  def describe(self, utilisation: float) -> str:
    core, gib = self.slice.generation, lambda size: f'{size / GIB:.3g}'
    days = self.core_days(utilisation)
    rows = {
        'model': f'{type(self.model).__name__}, {self.params:,} parameters, {self.params_without_head:,} without the '
                 f'head; {self.flops_per_image / 1e9:.3g} GFLOPs an image forward, {3 * self.flops_per_image / 1e9:.3g} in '
                 'training',
        'data': f'{self.config.data.dataset}: {self.images.number:,} images ({self.images.said_by})',
        'slice': f'{self.slice}: {self.slice.cores} cores; a core has {core.memory:g} GiB, {core.usable:g} of them for a '
                 f'program, and a peak of {core.peak / 1e12:g} TFLOP/s in bfloat16',
        'batch': f'{self.config.data.batch_size:,}, {self.images_per_core:,} a core'
                 + (f' in {self.parts} parts' if self.parts > 1 else ''),
        'steps': f'{self.config.total_steps:,}, {self.epochs:,.1f} epochs',
        'memory': f'{gib(self.bytes)} GiB a core, an estimate, which {"fits" if self.fits else "DOES NOT FIT"}: '
                  f'{gib(self.state_bytes)} parameters and optimizer, {gib(self.gradient_bytes)} gradients, '
                  + ('activations are not estimated for this model' if self.activation_bytes is None else
                     f'{gib(self.activation_bytes)} activations (estimated)'),
        'time': f'{self.flops:.3g} FLOPs; at {utilisation:.0%} of the peak, which is an assumption, {days:,.3g} '
                f'core-days, {days / self.slice.cores:,.3g} days'}
    if self.paper_core_days:
      rows['paper'] = (f'{self.paper_core_days} TPUv3 core-days (Tables 2, 3), which is {self.paper_utilisation:.0%} of '
                       'the peak')
    return _aligned(rows)


def _count(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def _aligned(rows: dict[str, str]) -> str:
  return '\n'.join(f'{name:<9} {text}' for name, text in rows.items())


def lower(plan: Plan, images_per_core: int):
  """The training step as train.py builds it, for the slice, not yet compiled.

  Raises:
    ValueError: as `devices_of` does.
  """
  cores, side = plan.slice.cores, plan.config.data.resolution
  update = configuration.call(
      train_step.parallel, 'step', plan.config.step, model=plan.model, optimizer=plan.optimizer,
      learning_rate=plan.learning_rate, seed=plan.config.seed, devices=devices_of(plan.slice))
  shapes = {'image': ((side, side, 3), 'uint8'), **plan.images.labels}
  batch = {name: jax.ShapeDtypeStruct((cores, images_per_core, *shape), dtype)
           for name, (shape, dtype) in shapes.items()}
  return update.lower(train_step.replicated_shapes(plan.init, cores), batch)


def devices_of(slice_: accelerators.Slice) -> list:
  """The devices of a slice that need not be there, to compile for.

  Raises:
    ValueError: if the compiler is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError('--compile needs libtpu, the compiler for TPUs, which is not installed here:\n'
                     '  pip install -r requirements-tpu.txt -c requirements.lock')
  os.environ.update(
      TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost',  # or it asks a server of Google's for both
      TPU_ACCELERATOR_TYPE=slice_.name,
      ALLOW_MULTIPLE_LIBTPU_LOAD='1')  # or /tmp/libtpu_lockfile keeps out all processes but one
  from jax.experimental import topologies
  # Two TensorCores as one, as a v4 comes up; the other generations are described as they come up.
  given = {'chip_config_name': 'megacore'} if slice_.topology.startswith('v4:') else {}
  devices = topologies.get_topology_desc(slice_.topology, 'tpu', **given).devices
  if len(devices) != slice_.cores:
    raise RuntimeError(f'libtpu gives {slice_} {len(devices)} devices, and mixer/accelerators.py {slice_.cores} cores')
  return devices


def compiled(lowered, counted_once: bool) -> dict:
  """What XLA says of a lowered step.

  Args:
    counted_once: whether the step has a loop over blocks or parts of the batch: XLA counts its body once in the time
      and the traffic, which are then left out.

  Returns:
    {'fits': False, 'message', 'compile_seconds'} if it does not fit, with XLA's message; else {'fits': True,
    'peak_bytes' of a core's memory, 'step_seconds' by XLA's own estimate, which is a lower bound, 'accessed_bytes' of
    memory and 'all_reduce_bytes' of a core in a step, 'compile_seconds'}. What is not known is None.
  """
  began = time.monotonic()
  try:
    step = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return dict(fits=False, message=str(error).partition('\n')[0], compile_seconds=time.monotonic() - began)
  took = time.monotonic() - began
  cost, memory = step.cost_analysis(), step.memory_analysis()
  seconds = cost.get('optimal_seconds', 0)
  return dict(fits=True, peak_bytes=memory.peak_memory_in_bytes,
              step_seconds=None if counted_once or seconds <= 0 else seconds,  # it has been negative
              accessed_bytes=None if counted_once else cost['bytes accessed'],
              all_reduce_bytes=all_reduce_bytes(step.as_text()), compile_seconds=took)


_BITS = {'pred': 8, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'f16': 16, 'bf16': 16, 's32': 32, 'u32': 32, 'f32': 32,
         's64': 64, 'u64': 64, 'f64': 64}


def all_reduce_bytes(hlo: str) -> int:
  """Bytes of the results of all all-reduces in the text of a compiled module."""
  total = 0
  for result in re.findall(r'^ *(?:ROOT )?%\S+ = (.+?) all-reduce(?:-start)?\(', hlo, re.M):
    for dtype, shape in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', result):
      total += math.prod(map(int, filter(None, shape.split(',')))) * _BITS[dtype] // 8
  return total


def _counted_once(plan: Plan) -> bool:
  return plan.parts > 1 or getattr(plan.model, 'scan', False)  # not all models have one


def describe_compiled(plan: Plan, found: dict, images_per_core: int) -> str:
  usable = plan.slice.generation.usable
  if not found['fits']:
    return _aligned({'compiled': f'DOES NOT FIT {usable:g} GiB with {images_per_core:,} images a core. XLA: '
                                 f'{found["message"]}'})
  rows = {'compiled': f'in {found["compile_seconds"]:.0f} s; it fits: at most {found["peak_bytes"] / GIB:.3g} of '
                      f'{usable:g} GiB a core',
          'traffic': f'{found["all_reduce_bytes"] / 2**20:,.3g} MiB all-reduced a step'}
  if found['accessed_bytes'] is None:
    rows['speed'] = "not told: XLA counts a loop's body once"
  else:
    rows['traffic'] += f', {found["accessed_bytes"] / 1e9:,.3g} GB of memory accessed'
    rows['speed'] = "XLA's estimate is no time" if found['step_seconds'] is None else (
        f'{found["step_seconds"]:.3g} s a step as XLA estimates it, {images_per_core / found["step_seconds"]:,.0f} '
        'images/s a core: an upper bound')
  return _aligned(rows)


def largest(plan: Plan) -> int | None:
  """The most images a core, of the powers of two, with which the step compiles; None if it never does."""
  def fits(number):
    _tell(f'{number} images a core: compiling')
    found = compiled(lower(plan, number), _counted_once(plan))
    print(f'{number} images a core\n{describe_compiled(plan, found, number)}', flush=True)
    return found['fits']

  possible = lambda number: number >= 1 and number % plan.parts == 0
  number = 2**int(math.log2(plan.images_per_core))
  if possible(number) and fits(number):
    while fits(2 * number):
      number *= 2
    return number
  while possible(number := number // 2):
    if fits(number):
      return number
  return None


def named_slice(path: pathlib.Path, of: str = 'Slice( of each)?') -> tuple[str, str, int] | None:
  """('v3-32', 'v3:4x4', 128): the slice that a config's docstring names, and its images a core. It is not imported.

  A config of several runs names a 'Slice of each'.
  """
  docstring = ast.get_docstring(ast.parse(path.read_text())) or ''
  found = re.search(rf'^(?:{of}): (?P<name>\S+) \((?P<topology>\S+)\), (?P<images>\d+) images a core', docstring, re.M)
  return (found['name'], found['topology'], int(found['images'])) if found else None


def plan_all(num_examples: int | None = None) -> list[Plan]:
  """Every config of one run that names a slice, and of those that list several NAMES each that is for the slice."""
  plans = []
  for path in sorted((ROOT / 'configs').glob('*.py')):
    file, module = f'configs/{path.name}', importlib.import_module(f'configs.{path.stem}')
    if named := named_slice(path, of='Slice'):
      configs = {file: module.get_config()}
    elif (named := named_slice(path, of='Slice of each')) and hasattr(module, 'NAMES'):
      configs = {f'{file}:{name}': module.get_config(name) for name in module.NAMES}
    else:
      continue
    plans += [Plan.of(name, config, accelerators.slice_of(named[1]), num_examples) for name, config in configs.items()
              if config.data.dataset in PUBLISHED]  # not the digits
  return plans


class Kept:
  """What has been compiled, as JSON lines: one for each config, topology and number of images a core."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    lines = path.read_text().splitlines() if path.exists() else []
    self._rows = {self._key(row): row for row in map(json.loads, lines)}

  @staticmethod
  def _key(row):
    return row['config'], row['topology'], row['images_per_core']

  def get(self, plan: Plan) -> dict | None:
    return self._rows.get((plan.name, plan.slice.topology, plan.images_per_core))

  def put(self, row: dict):
    self._rows[self._key(row)] = row
    storage.write(storage.path_of(self.path), ''.join(json.dumps(row) + '\n' for _, row in sorted(self._rows.items())))


def compile_all(plans: list[Plan], kept: Kept, after_each):
  """Compiles what is not kept, or has changed since: another program, or another compiler."""
  for number, plan in enumerate(plans, 1):
    where = f'[{number}/{len(plans)}] {plan.name} for {plan.slice}'
    _tell(f'{where}: lowering')
    lowered = lower(plan, plan.images_per_core)
    made_of = dict(jax=jax.__version__, libtpu=importlib.metadata.version('libtpu'),
                   program=hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16])
    row = kept.get(plan)
    if row and made_of.items() <= row.items():
      _tell(f'{where}: kept from before')
      continue
    _tell(f'{where}: compiling, which takes minutes')
    kept.put({'config': plan.name, 'topology': plan.slice.topology, 'images_per_core': plan.images_per_core, **made_of,
              **compiled(lowered, _counted_once(plan))})
    after_each()


def page(plans: list[Plan], kept: Kept, utilisation: float, path: str) -> str:
  """The page of all plans, in Markdown."""
  quick, of_compiler = [], []
  for plan in plans:
    name = f'`{plan.name.removeprefix("configs/").replace(".py", "")}`'
    paper = f'{plan.paper_core_days:,} ({plan.paper_utilisation:.0%})' if plan.paper_core_days else ''
    quick.append([
        name, f'{plan.params:,}', f'{plan.flops_per_image / 1e9:.3g}', f'{plan.images.number / 1e6:.3g} M',
        f'{plan.config.total_steps:,}', f'{plan.epochs:.3g}', plan.slice, plan.images_per_core,
        f'{plan.state_bytes / GIB:.2f}', f'{plan.bytes / GIB:.1f}', 'yes' if plan.fits else 'NO', f'{plan.flops:.2g}',
        f'{plan.core_days(utilisation):,.0f}', paper])
    row = kept.get(plan)
    head = [name, plan.slice, plan.images_per_core]
    if row is None:
      of_compiler.append([*head, 'not yet compiled', *[''] * 7])
    elif not row['fits']:
      of_compiler.append([*head, 'DOES NOT FIT', *[''] * 5, f'{row["compile_seconds"]:.0f}', row['libtpu']])
    else:
      known = lambda value, text: 'not told' if value is None else text(value)
      of_compiler.append([
          *head, f'{row["peak_bytes"] / GIB:.2f}', f'{row["peak_bytes"] / GIB / plan.slice.generation.usable:.0%}',
          known(row['step_seconds'], lambda x: f'{x:.3f}'),
          known(row['step_seconds'], lambda x: f'{plan.images_per_core / x:,.0f}'),
          known(row['accessed_bytes'], lambda x: f'{x / 1e9:.1f}'), f'{row["all_reduce_bytes"] / 2**20:,.0f}',
          f'{row["compile_seconds"]:.0f}', row['libtpu']])
  return f'''# The pre-training runs on TPU slices, as planned

Made by `python -m tools.plan --all --compile --out={path}`, with JAX {jax.__version__}, without a TPU. For one config:
`python -m tools.plan --config=configs/mixer_b16_i21k.py`. Nothing here was measured on a TPU.

## By arithmetic

{_table(['config', 'parameters', 'GFLOPs an image, forward', 'images', 'steps', 'epochs', 'slice', 'images a core',
         'state, GiB a core', 'estimated, GiB a core', 'fits', 'FLOPs of training',
         f'core-days at {utilisation:.0%}', "paper's TPUv3 core-days"], quick)}

Training takes three times the operations of the forward pass. Evaluations are not counted. **The utilisation is an
assumption**; in brackets stands the one that the paper's core-days come to. The paper gives these to one or two digits,
and those on ImageNet and ImageNet-21k extrapolated (Table 3). The state is the parameters and the optimizer's moments;
to it the estimate adds gradients and activations. The numbers of images are published ones: tools/plan.py has their
sources.

## As compiled

The training step of train.py, whole, compiled for the slice by libtpu. The seconds to compile are those of the machine at
hand.

{_table(['config', 'slice', 'images a core', 'peak, GiB a core', 'of what a program may have', "XLA's seconds a step",
         'images/s a core, at most', 'GB accessed a step', 'MiB all-reduced a step', 'seconds to compile', 'libtpu'],
        of_compiler)}

XLA's seconds are its own estimate. They are a lower bound on the time of a step, and the images/s an upper bound on the
speed. Where a step has a loop over blocks or parts of the batch, XLA counts its body once, and neither is told.
'''


def _table(head: list[str], rows: list[list]) -> str:
  return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in (head, ['---'] * len(head), *rows))


def _tell(text):
  print(text, file=sys.stderr, flush=True)


def main(arguments):
  jax.config.update('jax_platforms', 'cpu')  # whatever is here: nothing is run
  # A cache could not give back what was compiled for devices that are not here, and would falsify the seconds.
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    if ALL.value:
      _plan_all()
    else:
      _plan_one(command_line.config(arguments))
  except ValueError as error:
    sys.exit(str(error))


def _plan_all():
  for flag, name in ((TOPOLOGY, 'topology'), (SWEEP, 'sweep'), (command_line.CONFIG, 'config')):
    if flag.value:
      raise app.UsageError(f'--all plans every config on the slice that it names; drop --{name}')
  if OUT.value is None:
    raise app.UsageError('--all writes a page: --out=docs/tpu_plans.md')
  path = pathlib.Path(OUT.value)
  plans, kept = plan_all(NUM_EXAMPLES.value), Kept(path.with_suffix('.jsonl'))
  write = lambda: path.write_text(page(plans, kept, UTILISATION.value, OUT.value))
  write()
  if COMPILE.value:
    compile_all(plans, kept, write)
  _tell(f'{len(plans)} configs: {path}')


def _plan_one(config):
  if SWEEP.value and not COMPILE.value:
    raise app.UsageError('--sweep compiles for each batch: give --compile, too')
  name = flags.FLAGS['config'].config_filename
  topology = TOPOLOGY.value
  if topology is None:
    named = named_slice(pathlib.Path(name.partition('.py:')[0].removesuffix('.py') + '.py'))
    if named is None:
      raise ValueError(f'{name} names no slice in its docstring; give --topology, such as --topology=v3:4x4')
    topology = named[1]
  plan = Plan.of(name, config, accelerators.slice_of(topology), NUM_EXAMPLES.value)
  print(plan.describe(UTILISATION.value), flush=True)
  if SWEEP.value:
    number = largest(plan)
    print('no batch fits' if number is None else f'the largest that fits: {number:,} images a core, '
          f'{number * plan.slice.cores:,} in all')
  elif COMPILE.value:
    _tell(f'compiling for {plan.slice}, which takes minutes')
    found = compiled(lower(plan, plan.images_per_core), _counted_once(plan))
    print(describe_compiled(plan, found, plan.images_per_core))


if __name__ == '__main__':
  command_line.run(main)
