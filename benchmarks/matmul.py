"""How fast this machine multiplies large matrices, summed in float32: the limit of all models.

  seq 4 | python -m benchmarks.matmul jax
  seq 4 | python -m benchmarks.matmul torch --dtype=bfloat16
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contender
from mixer.run import devices


def rates(kind, side, seconds, dtype='float32'):
  """GFLOP/s of [side, side] times [side, side], 2 side^3 FLOPs."""
  x = np.random.default_rng(0).standard_normal((side, side), np.float32)
  if kind == 'jax':
    x = jnp.asarray(x, dtype)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
    def run(number):
      for _ in range(number):
        result = product(x)
      jax.block_until_ready(result)
  elif kind == 'torch':
    import torch
    x = torch.from_numpy(x).to(getattr(torch, dtype))
    out = torch.empty_like(x)
    run = lambda number: [torch.mm(x, x, out=out) for _ in range(number)]
  else:
    out = np.empty_like(x)
    run = lambda number: [np.matmul(x, x, out=out) for _ in range(number)]
  return contender.rates(run, 2 * side**3 / 1e9, seconds)


def main():
  parser = contender.parser(__doc__, ('jax', 'numpy', 'torch'))
  contender.add_dtype(parser)
  parser.add_argument('--side', type=int, default=2048, help='of the matrices; default: %(default)s')
  flags = parser.parse_args()
  devices.tune_glibc_malloc()  # as the models do
  if flags.kind == 'numpy' and flags.dtype != 'float32':
    parser.error(f'--dtype is {flags.dtype}, which numpy does not have; choose jax or torch')
  contender.serve(contender.speed(lambda: rates(flags.kind, flags.side, flags.seconds, flags.dtype), 'GFLOP/s'),
                  contender=flags.kind, quantity='matmul', model=None, batch=None, dtype=flags.dtype)


if __name__ == '__main__':
  main()
