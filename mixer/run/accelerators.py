"""TPUs by generation: cores, memory, peak throughput, and slices.

A core is what JAX calls a device: on v2 and v3 one of a chip's two TensorCores with its half of the chip's memory; on
v4 and v5p a whole chip, whose two TensorCores work as one; on v5e and v6e a whole chip, which has one TensorCore.

A topology is a generation and its chips along each axis of the torus, as in 'v3:4x4'. Cloud TPU calls that slice
'v3-32': it counts TensorCores up to v5p, and chips for v5e and v6e.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Generation:
  """One core of a generation, and the generation's slices.

  Attributes:
    cores_per_chip: as JAX counts devices.
    memory: of a core, in GiB, as published; GB in some sources are read as GiB.
    usable: GiB of a core that a program can use: the "available HBM" by which libtpu 0.0.42.1 and 0.0.50.1 reject one
      that is too large, the smaller of both (tests/test_plan.py).
    peak: bfloat16 FLOP/s of a core, as published.
    slice_name: Cloud TPU's name for a slice of {} TensorCores or chips.
    units_per_core: how many of those TensorCores or chips a core counts as.
    shapes: of the slices: chips along each axis.
  """
  cores_per_chip: int
  memory: float
  usable: float
  peak: float
  slice_name: str
  units_per_core: int
  shapes: tuple[str, ...]


_PLANE = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_SPACE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')

GENERATIONS = {
    # 180 TFLOP/s and 64 GB for the four chips of a v2-8: Google's announcement of Cloud TPU, 2017. Slices:
    # cloud.google.com/tpu/docs/v2.
    'v2': Generation(2, 8., 7.48, 22.5e12, 'v2-{}', 1, ('2x2', '4x4', '8x8', '8x16', '16x16')),
    # 123 TFLOP/s and 32 GiB a chip: cloud.google.com/tpu/docs/v3.
    'v3': Generation(2, 16., 15.48, 61.5e12, 'v3-{}', 1, ('2x2', '4x4', '8x8', '8x16', '16x16', '16x32', '32x32')),
    # 275 TFLOP/s and 32 GiB a chip: cloud.google.com/tpu/docs/v4.
    'v4': Generation(1, 32., 30.75, 275e12, 'v4-{}', 2, _SPACE),
    # 197 TFLOP/s and 16 GB a chip: cloud.google.com/tpu/docs/v5e.
    'v5e': Generation(1, 16., 15.75, 197e12, 'v5litepod-{}', 1, _PLANE),
    # 459 TFLOP/s and 95 GB a chip: cloud.google.com/tpu/docs/v5p.
    'v5p': Generation(1, 95., 95.73, 459e12, 'v5p-{}', 2, _SPACE),
    # 918 TFLOP/s and 32 GB a chip: cloud.google.com/tpu/docs/v6e.
    'v6e': Generation(1, 32., 31.24, 918e12, 'v6e-{}', 1, _PLANE),
}


def noun(device_kind: str) -> str:
  """What to call a JAX device: 'core' for TPU v2 and v3, which have two a chip, otherwise 'device'."""
  generation = GENERATIONS.get(device_kind.removeprefix('TPU '))
  return 'core' if generation and generation.cores_per_chip > 1 else 'device'


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice: chips that are connected."""
  topology: str  # 'v3:4x4'
  generation: Generation
  cores: int

  @property
  def name(self) -> str:
    """Cloud TPU's name for it: 'v3-32'."""
    return self.generation.slice_name.format(self.cores * self.generation.units_per_core)

  def __str__(self):
    return f'{self.name} ({self.topology})'


def slice_of(topology: str) -> Slice:
  """The slice of a topology such as 'v3:4x4'.

  Raises:
    ValueError: listing the known topologies, if it is not one of them.
  """
  name, _, shape = topology.partition(':')
  if name not in GENERATIONS or shape not in GENERATIONS[name].shapes:
    known = '\n'.join('  ' + ', '.join(f'{name}:{shape}' for shape in generation.shapes)
                      for name, generation in GENERATIONS.items())
    raise ValueError(f'unknown topology {topology!r}. A topology is a generation, a colon and the chips along each '
                     f'axis; expected one of\n{known}')
  generation = GENERATIONS[name]
  chips = math.prod(map(int, shape.split('x')))
  return Slice(topology, generation, chips * generation.cores_per_chip)
