"""Compiles the training step for a slice of TPUs or for GPUs, without any, and reports XLA's analysis."""

import importlib.metadata
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
from tools.planning import gpu_target


def lower(plan: arithmetic.Plan, images_per_device: int):
  """The training step as train.py builds it, for the slice, not yet compiled.

  Raises:
    ValueError: as `devices_of` does, and if the model has no head.
  """
  if plan.model.num_classes is None:
    raise ValueError('config.model.num_classes is None, and the data that would give it are not here; set it to compile')
  number, side = plan.slice.devices, plan.config.data.resolution
  update = configuration.instantiate(
      train_step.make_train_step, 'step', plan.config.step, model=plan.model, optimizer=plan.optimizer,
      learning_rate=plan.learning_rate, seed=plan.config.seed, devices=devices_of(plan.slice))
  shapes = {'image': ((side, side, 3), 'uint8'), **plan.images.labels}
  batch = {name: jax.ShapeDtypeStruct((number, images_per_device, *shape), dtype)
           for name, (shape, dtype) in shapes.items()}
  return update.lower(plan.state, batch)


def devices_of(slice_: accelerators.Slice) -> list:
  """Descriptions of a slice's devices, to compile for; none is needed.

  Raises:
    ValueError: if the compiler is not installed.
  """
  if isinstance(slice_.device, accelerators.Gpu):
    devices = gpu_target.devices_of(slice_)
  else:
    devices = _tpus_of(slice_)
  if len(devices) != slice_.devices:
    raise RuntimeError(f'the compiler gives {slice_} {len(devices)} devices, and mixer/run/accelerators.py {slice_.devices}')
  return devices


def _tpus_of(slice_: accelerators.Slice) -> list:
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
  return topologies.get_topology_desc(slice_.topology, 'tpu', **options).devices


def compiled(lowered, device: accelerators.Tpu | accelerators.Gpu, counted_once: bool) -> dict:
  """Compiles a lowered step and returns XLA's analysis.

  Args:
    device: what it was lowered for.
    counted_once: whether the step has a loop over blocks or parts of the batch: XLA counts its body once in the time
      and the traffic, which are then None.

  Returns:
    {'fits', 'compile_seconds'} and, unless a TPU's compiler refused it, 'peak_bytes' of a device's memory and
    'all_reduce_bytes' of a device in a step. If it was refused, XLA's 'message'. For TPUs 'step_seconds' by XLA's own
    estimate, which is a lower bound, and 'accessed_bytes' of memory; None if unknown. For GPUs 'kernels'.
  """
  devices.release_free_memory()  # of the compilation before: one leaves gigabytes
  began = time.monotonic()
  try:
    step = gpu_target.compile_step(lowered) if device.platform == 'gpu' else lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return dict(fits=False, message=str(error).partition('\n')[0], compile_seconds=time.monotonic() - began)
  return dict(compile_seconds=time.monotonic() - began, **analysis(step, device, counted_once))


def analysis(step, device: accelerators.Tpu | accelerators.Gpu, counted_once: bool) -> dict:
  """XLA's analysis of a compiled step, as of `compiled`."""
  cost, memory, text = step.cost_analysis(), step.memory_analysis(), step.as_text()
  result = dict(all_reduce_bytes=all_reduce_bytes(text))
  if device.platform == 'gpu':
    # XLA compiles what does not fit as well. Of the state, the result has the place of the arguments.
    peak = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes)
    return dict(result, fits=peak <= device.usable * arithmetic.GIB, peak_bytes=peak, kernels=kernels(text))
  seconds = cost.get('optimal_seconds', 0)
  return dict(result, fits=True, peak_bytes=memory.peak_memory_in_bytes,
              step_seconds=None if counted_once or seconds <= 0 else seconds,  # it has been negative
              accessed_bytes=None if counted_once else cost['bytes accessed'])


def versions(device: accelerators.Tpu | accelerators.Gpu) -> dict[str, str]:
  """Of JAX and of the compiler for a device."""
  package = gpu_target.plugin() if device.platform == 'gpu' else 'libtpu'
  return {'jax': jax.__version__, package: importlib.metadata.version(package)}


def kernels(hlo: str) -> int:
  """Fusions and library calls in the text of a module compiled for a GPU; those of a loop's body count once."""
  return len(re.findall(r'^ *(?:ROOT )?%\S+ = .+? (?:fusion|custom-call|all-reduce(?:-start)?)\(', hlo, re.M))


_BITS = {'pred': 8, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'f16': 16, 'bf16': 16, 's32': 32, 'u32': 32, 'f32': 32,
         's64': 64, 'u64': 64, 'f64': 64}


def bytes_of(result: str) -> int:
  """Of 'f32[2,3]{1,0}', or of a tuple of such, as the text of a compiled module has them."""
  return sum(math.prod(map(int, filter(None, shape.split(',')))) * _BITS[dtype] // 8
             for dtype, shape in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', result))


def all_reduce_bytes(hlo: str) -> int:
  """Bytes of the results of all all-reduces in the text of a compiled module."""
  return sum(map(bytes_of, re.findall(r'^ *(?:ROOT )?%\S+ = (.+?) all-reduce(?:-start)?\(', hlo, re.M)))


def counted_once(plan: arithmetic.Plan) -> bool:
  return plan.parts > 1 or getattr(plan.model, 'scan', False)  # not all models have one


def describe_compiled(plan: arithmetic.Plan, analysis: dict, images_per_device: int) -> str:
  usable, noun = plan.slice.device.usable, plan.slice.device.noun
  if 'peak_bytes' not in analysis:
    return arithmetic.aligned({'compiled': f'DOES NOT FIT {usable:g} GiB with {images_per_device:,} images a {noun}. XLA: '
                                           f'{analysis["message"]}'})
  fits = 'it fits' if analysis['fits'] else 'it DOES NOT FIT'
  peak = analysis['peak_bytes'] / arithmetic.GIB
  rows = {'compiled': f'in {analysis["compile_seconds"]:.0f} s; {fits}: at most {peak:.3g} of {usable:.4g} GiB a {noun}',
          'traffic': f'{analysis["all_reduce_bytes"] / 2**20:,.3g} MiB all-reduced a step'}
  if plan.slice.device.platform == 'gpu':
    rows['kernels'] = f'{analysis["kernels"]:,}'
    if analysis['fits'] and plan.needs_setting(analysis['peak_bytes']):
      rows['setting'] = plan.setting
  elif analysis['accessed_bytes'] is None:
    rows['speed'] = "not reported: XLA counts a loop's body once"
  else:
    rows['traffic'] += f', {analysis["accessed_bytes"] / 1e9:,.3g} GB of memory accessed'
    rows['speed'] = "XLA's estimate is no time" if analysis['step_seconds'] is None else (
        f'{analysis["step_seconds"]:.3g} s a step as XLA estimates it, {images_per_device / analysis["step_seconds"]:,.0f} '
        f'images/s a {noun}: an upper bound')
  return arithmetic.aligned(rows)


def compile_plan(plan: arithmetic.Plan, images_per_device: int) -> dict:
  """`compiled` of a plan's step with so many images a device."""
  return compiled(lower(plan, images_per_device), plan.slice.device, counted_once(plan))


def largest(plan: arithmetic.Plan) -> int | None:
  """The most images a device, of the powers of two, with which the step fits; None if it never does."""
  noun = plan.slice.device.noun

  def fits(number):
    tell(f'{number} images a {noun}: compiling')
    analysis = compile_plan(plan, number)
    print(f'{number} images a {noun}\n{describe_compiled(plan, analysis, number)}', flush=True)
    return analysis['fits']

  possible = lambda number: number >= 1 and number % plan.parts == 0
  number = 2**int(math.log2(plan.images_per_device))
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
