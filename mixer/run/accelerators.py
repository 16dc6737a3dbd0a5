"""TPUs by generation and NVIDIA's GPUs by card: memory, peak throughput, and how many are used together.

A core is what JAX calls a device: on v2 and v3 one of a chip's two TensorCores with its half of the chip's memory; on
v4 and v5p a whole chip, whose two TensorCores work as one; on v5e and v6e a whole chip, which has one TensorCore.

A topology of TPUs is a generation and its chips along each axis of the torus, as in 'v3:4x4'. Cloud TPU calls that slice
'v3-32': it counts TensorCores up to v5p, and chips for v5e and v6e. A topology of GPUs is a card and the number in a
machine, 'h100:8', or of several machines, 'h100:4x8'.
"""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Tpu:
  """One core of a generation, and the generation's slices.

  Attributes:
    device_kinds: what JAX calls it; the compiler's name first.
    cores_per_chip: as JAX counts devices.
    memory: of a core, in GiB, as published; GB in some sources are read as GiB.
    usable: GiB of a core that a program can use: the "available HBM" by which libtpu 0.0.42.1 and 0.0.50.1 reject one
      that is too large, the smaller of both (tests/test_plan.py).
    peak: bfloat16 FLOP/s of a core, as published.
    slice_name: Cloud TPU's name for a slice of {} TensorCores or chips.
    units_per_core: how many of those TensorCores or chips a core counts as.
    shapes: of the slices: chips along each axis.
  """
  device_kinds: tuple[str, ...]
  cores_per_chip: int
  memory: float
  usable: float
  peak: float
  slice_name: str
  units_per_core: int
  shapes: tuple[str, ...]
  platform = 'tpu'
  noun = 'core'


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A card of NVIDIA's.

  Attributes:
    title: 'H100'.
    device_kinds: what JAX calls it.
    memory: GiB, as CUDA reports it.
    peak: bfloat16 FLOP/s of its tensor cores, without sparsity, as published.
  """
  title: str
  device_kinds: tuple[str, ...]
  memory: float
  peak: float
  platform = 'gpu'
  noun = 'GPU'

  @property
  def usable(self) -> float:
    """GiB that a program can use with XLA_CLIENT_MEM_FRACTION at MEM_FRACTION."""
    return self.memory * MEM_FRACTION

  @property
  def preallocated(self) -> float:
    """GiB that a program can use by default: as much as JAX allocates at its start."""
    return self.memory * DEFAULT_MEM_FRACTION


# Of a card's memory JAX allocates DEFAULT_MEM_FRACTION at its start, and JAX 0.10.2 no more later; later versions may
# (docs.jax.dev, "GPU memory allocation"). The tenth beside MEM_FRACTION is left to CUDA, cuDNN and NCCL: a margin chosen
# here, not measured.
DEFAULT_MEM_FRACTION, MEM_FRACTION = 0.75, 0.9

_PLANE = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_SPACE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')

TPUS = {
    # 180 TFLOP/s and 64 GB for the four chips of a v2-8: Google's announcement of Cloud TPU, 2017. Slices:
    # cloud.google.com/tpu/docs/v2.
    'v2': Tpu(('TPU v2',), 2, 8., 7.48, 22.5e12, 'v2-{}', 1, ('2x2', '4x4', '8x8', '8x16', '16x16')),
    # 123 TFLOP/s and 32 GiB a chip: cloud.google.com/tpu/docs/v3.
    'v3': Tpu(('TPU v3',), 2, 16., 15.48, 61.5e12, 'v3-{}', 1, ('2x2', '4x4', '8x8', '8x16', '16x16', '16x32', '32x32')),
    # 275 TFLOP/s and 32 GiB a chip: cloud.google.com/tpu/docs/v4.
    'v4': Tpu(('TPU v4',), 1, 32., 30.75, 275e12, 'v4-{}', 2, _SPACE),
    # 197 TFLOP/s and 16 GB a chip: cloud.google.com/tpu/docs/v5e.
    'v5e': Tpu(('TPU v5 lite', 'TPU v5e'), 1, 16., 15.75, 197e12, 'v5litepod-{}', 1, _PLANE),
    # 459 TFLOP/s and 95 GB a chip: cloud.google.com/tpu/docs/v5p.
    'v5p': Tpu(('TPU v5', 'TPU v5p'), 1, 95., 95.73, 459e12, 'v5p-{}', 2, _SPACE),
    # 918 TFLOP/s and 32 GB a chip: cloud.google.com/tpu/docs/v6e.
    'v6e': Tpu(('TPU v6 lite', 'TPU v6e'), 1, 32., 31.24, 918e12, 'v6e-{}', 1, _PLANE),
}


# Memory: openxla/xla, xla/backends/gpu/target_config/specs. Peaks: NVIDIA's data sheets of each card, SXM.
GPUS = {
    'a100-40': Gpu('A100 40 GB', ('NVIDIA A100-SXM4-40GB',), 42_331_013_120 / 2**30, 312e12),
    'a100-80': Gpu('A100 80 GB', ('NVIDIA A100-SXM4-80GB',), 85_100_068_864 / 2**30, 312e12),
    'h100': Gpu('H100', ('NVIDIA H100 80GB HBM3',), 84_942_979_072 / 2**30, 989.4e12),
    'h200': Gpu('H200', ('NVIDIA H200',), 151_397_597_184 / 2**30, 989.4e12),
    'b200': Gpu('B200', ('NVIDIA B200',), 191_514_411_008 / 2**30, 2250e12),
}


def of_kind(device_kind: str) -> Tpu | Gpu | None:
  """What a JAX device of that kind is; None for CPUs and for what is not listed here."""
  return next((device for device in (*TPUS.values(), *GPUS.values()) if device_kind in device.device_kinds), None)


def noun(device_kind: str) -> str:
  """What to call a JAX device: 'core' for TPU v2 and v3, which have two a chip, 'GPU' for 'NVIDIA ...', otherwise 'device'."""
  if device_kind.startswith('NVIDIA '):
    return Gpu.noun
  device = of_kind(device_kind)
  return Tpu.noun if isinstance(device, Tpu) and device.cores_per_chip > 1 else 'device'


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices that train together: a TPU slice, or GPUs of one machine or several."""
  topology: str  # 'v3:4x4', 'h100:4x8'
  device: Tpu | Gpu  # each of them
  devices: int  # how many
  machines: int | None = None  # of GPUs

  @property
  def name(self) -> str:
    """Cloud TPU's name for it, 'v3-32'; '32 x H100'."""
    if isinstance(self.device, Tpu):
      return self.device.slice_name.format(self.devices * self.device.units_per_core)
    return f'{self.devices} x {self.device.title}'

  def __str__(self):
    return f'{self.name} ({self.topology})'


def slice_of(topology: str) -> Slice:
  """The slice of a topology such as 'v3:4x4' or 'h100:8'.

  Raises:
    ValueError: listing the known topologies, if it is not one of them.
  """
  name, _, shape = topology.partition(':')
  if name in TPUS and shape in TPUS[name].shapes:
    chips = math.prod(map(int, shape.split('x')))
    return Slice(topology, TPUS[name], chips * TPUS[name].cores_per_chip)
  if name in GPUS and (match := re.fullmatch(r'(?:([1-9]\d{0,3})x)?([1248])', shape)):
    machines, gpus = int(match[1] or 1), int(match[2])
    return Slice(topology, GPUS[name], machines * gpus, machines)
  known = '\n'.join('  ' + ', '.join(f'{name}:{shape}' for shape in tpu.shapes) for name, tpu in TPUS.items())
  raise ValueError(f'unknown topology {topology!r}. A topology is a generation of TPUs, a colon and the chips along each '
                   f'axis; expected one of\n{known}\nor a card of {", ".join(GPUS)}, a colon and 1, 2, 4 or 8, or '
                   'of several machines such as 4x8')
