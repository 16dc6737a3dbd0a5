"""Compiles the training step for a slice of TPUs, without any, and reports XLA's analysis."""

import importlib.util
import math
import os
import re
import sys
import time

import jax

from mixer import configuration
from mixer.run import accelerators
from mixer.run import devices
from mixer.training import train_step
from tools.planning import arithmetic


def lower(plan: arithmetic.Plan, images_per_core: int):
  """The training step as train.py builds it, for the slice, not yet compiled.

  Raises:
    ValueError: as `devices_of` does, and if the model has no head.
  """
  if plan.model.num_classes is None:
    raise ValueError('config.model.num_classes is None, and the data that would give it are not here; set it to compile')
  cores, side = plan.slice.cores, plan.config.data.resolution
  update = configuration.instantiate(
      train_step.make_train_step, 'step', plan.config.step, model=plan.model, optimizer=plan.optimizer,
      learning_rate=plan.learning_rate, seed=plan.config.seed, devices=devices_of(plan.slice))
  shapes = {'image': ((side, side, 3), 'uint8'), **plan.images.labels}
  batch = {name: jax.ShapeDtypeStruct((cores, images_per_core, *shape), dtype)
           for name, (shape, dtype) in shapes.items()}
  return update.lower(plan.state, batch)


def devices_of(slice_: accelerators.Slice) -> list:
  """Descriptions of a slice's devices, to compile for; no TPU is needed.

  Raises:
    ValueError: if the compiler is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError('--compile needs libtpu, the compiler for TPUs, which is not installed here:\n'
                     "  pip install -e '.[tpu]' -c requirements.lock")
  os.environ.update(
      TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost',  # or it asks a server of Google's for both
      TPU_ACCELERATOR_TYPE=slice_.name,
      ALLOW_MULTIPLE_LIBTPU_LOAD='1')  # or /tmp/libtpu_lockfile keeps out all processes but one
  from jax.experimental import topologies
  # Two TensorCores as one, as a v4 comes up; the other generations are described as they come up.
  options = {'chip_config_name': 'megacore'} if slice_.topology.startswith('v4:') else {}
  devices = topologies.get_topology_desc(slice_.topology, 'tpu', **options).devices
  if len(devices) != slice_.cores:
    raise RuntimeError(f'libtpu gives {slice_} {len(devices)} devices, and mixer/run/accelerators.py {slice_.cores} cores')
  return devices


def compiled(lowered, counted_once: bool) -> dict:
  """Compiles a lowered step and returns XLA's analysis.

  Args:
    counted_once: whether the step has a loop over blocks or parts of the batch: XLA counts its body once in the time
      and the traffic, which are then None.

  Returns:
    {'fits': False, 'message', 'compile_seconds'} if it does not fit, with XLA's message; else {'fits': True,
    'peak_bytes' of a core's memory, 'step_seconds' by XLA's own estimate, which is a lower bound, 'accessed_bytes' of
    memory and 'all_reduce_bytes' of a core in a step, 'compile_seconds'}. Unknown values are None.
  """
  devices.release_free_memory()  # of the compilation before: one leaves gigabytes
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


def counted_once(plan: arithmetic.Plan) -> bool:
  return plan.parts > 1 or getattr(plan.model, 'scan', False)  # not all models have one


def describe_compiled(plan: arithmetic.Plan, analysis: dict, images_per_core: int) -> str:
  usable = plan.slice.generation.usable
  if not analysis['fits']:
    return arithmetic.aligned({'compiled': f'DOES NOT FIT {usable:g} GiB with {images_per_core:,} images a core. XLA: '
                                           f'{analysis["message"]}'})
  peak = analysis['peak_bytes'] / arithmetic.GIB
  rows = {'compiled': f'in {analysis["compile_seconds"]:.0f} s; it fits: at most {peak:.3g} of {usable:g} GiB a core',
          'traffic': f'{analysis["all_reduce_bytes"] / 2**20:,.3g} MiB all-reduced a step'}
  if analysis['accessed_bytes'] is None:
    rows['speed'] = "not reported: XLA counts a loop's body once"
  else:
    rows['traffic'] += f', {analysis["accessed_bytes"] / 1e9:,.3g} GB of memory accessed'
    rows['speed'] = "XLA's estimate is no time" if analysis['step_seconds'] is None else (
        f'{analysis["step_seconds"]:.3g} s a step as XLA estimates it, {images_per_core / analysis["step_seconds"]:,.0f} '
        'images/s a core: an upper bound')
  return arithmetic.aligned(rows)


def largest(plan: arithmetic.Plan) -> int | None:
  """The most images a core, of the powers of two, with which the step compiles; None if it never does."""
  def fits(number):
    tell(f'{number} images a core: compiling')
    analysis = compiled(lower(plan, number), counted_once(plan))
    print(f'{number} images a core\n{describe_compiled(plan, analysis, number)}', flush=True)
    return analysis['fits']

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


def tell(text: str):
  """Reports progress on stderr; results go to stdout."""
  print(text, file=sys.stderr, flush=True)
