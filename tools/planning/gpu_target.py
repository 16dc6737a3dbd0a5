"""NVIDIA's GPUs as XLA's compiler knows them, to compile for without one: the facts that it would ask of the card.

The facts are those of openxla/xla, xla/backends/gpu/target_config/specs, without its table of rates, by which XLA alone
estimates times. XLA chooses among implementations of a product by running them (autotuning); without a card it cannot,
so that kernels, and with them some temporary memory, may differ on one.
"""

import dataclasses
import importlib.util

import jax

from mixer.run import accelerators

OPTIONS = {'xla_gpu_autotune_level': 0}
LIBRARY_PRODUCTS = {'xla_gpu_enable_triton_gemm': False}


@dataclasses.dataclass(frozen=True)
class _Chip:
  """What the compiler asks of a card beside its memory's size."""
  capability: int  # the major compute capability; minor is 0
  multiprocessors: int
  fpus: int  # of a multiprocessor
  clock: float  # GHz
  bandwidth: int  # of the memory, bytes/s
  l2_cache: int  # bytes
  shared_memory: tuple[int, int]  # bytes of a multiprocessor, and of a block that asks for more than 48 KiB


_HOPPER = dict(fpus=128, shared_memory=(233_472, 232_448))
_AMPERE = dict(capability=8, multiprocessors=108, fpus=64, clock=1.41, l2_cache=40 * 2**20, shared_memory=(167_936, 166_912))
_CHIPS = {
    'a100-40': _Chip(bandwidth=1_555_200_000_000, **_AMPERE),
    'a100-80': _Chip(bandwidth=2_039_040_000_000, **_AMPERE),
    'h100': _Chip(9, 132, clock=1.98, bandwidth=3_352_320_000_000, l2_cache=50 * 2**20, **_HOPPER),
    'h200': _Chip(9, 132, clock=1.98, bandwidth=4_800_000_000_000, l2_cache=50 * 2**20, **_HOPPER),
    'b200': _Chip(10, 148, clock=1.965, bandwidth=7_672_320_000_000, l2_cache=132_644_864, **_HOPPER),
}


def devices_of(slice_: accelerators.Slice) -> list:
  """Descriptions of the GPUs.

  Raises:
    ValueError: if the compiler is not installed.
  """
  plugin()
  from jax.experimental import topologies
  card = slice_.topology.partition(':')[0]
  shape = f'1x{slice_.machines}x{slice_.devices // slice_.machines}'  # slices, machines in each, GPUs in each of them
  return topologies.get_topology_desc(card, 'cuda', target_config=target_config(card), topology=shape).devices


def compile_step(lowered):
  """`lowered.compile()`, without a card.

  The tiling that XLA gives a product when it cannot try others does not suit some shapes, as of ViT: such a step is
  compiled with the library's products instead of XLA's own.
  """
  try:
    return lowered.compile(OPTIONS)
  except jax.errors.JaxRuntimeError as error:
    if 'output tile sizes' not in str(error):
      raise
    return lowered.compile({**OPTIONS, **LIBRARY_PRODUCTS})


def plugin() -> str:
  """The module, and package, of JAX's plugin for CUDA, which holds the compiler.

  Raises:
    ValueError: if none is installed.
  """
  for name in ('jax_cuda13_plugin', 'jax_cuda12_plugin'):
    if importlib.util.find_spec(name):
      return name
  raise ValueError("--compile for GPUs needs JAX's plugin for CUDA, which is not installed here:\n"
                   "  pip install -e '.[cuda]' -c requirements.lock")


def target_config(card: str) -> str:
  """XLA's GpuTargetConfigProto of a card, in text format."""
  gpu, chip = accelerators.GPUS[card], _CHIPS[card]
  features = 'ACCELERATED_FEATURES' if chip.capability >= 9 else 'NONE'
  return f'''
gpu_device_info {{
  cuda_compute_capability {{ major: {chip.capability} feature_extension: {features} }}
  core_count: {chip.multiprocessors} fpus_per_core: {chip.fpus} clock_rate_ghz: {chip.clock}
  device_memory_size: {round(gpu.memory * 2**30)} memory_bandwidth: {chip.bandwidth} l2_cache_size: {chip.l2_cache}
  shared_memory_per_block: {48 * 2**10} shared_memory_per_core: {chip.shared_memory[0]}
  shared_memory_per_block_optin: {chip.shared_memory[1]}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1} block_dim_limit_y: 65535 block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.device_kinds[0]}"
'''
