"""How fast this machine multiplies large float32 matrices: the limit of all models.

  seq 4 | python -m benchmarks.matmul jax
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contender


def rates(kind, side, seconds):
  """GFLOP/s of [side, side] times [side, side], 2 side^3 FLOPs."""
  x = np.random.default_rng(0).standard_normal((side, side), np.float32)
  if kind == 'jax':
    x, product = jax.device_put(x), jax.jit(jnp.dot)
    run = lambda number: jax.block_until_ready([product(x, x) for _ in range(number)])
  else:
    run = lambda number: [x @ x for _ in range(number)]
  return contender.rates(run, 2 * side**3 / 1e9, seconds)


def main():
  parser = contender.parser(__doc__, ('jax', 'numpy'))
  parser.add_argument('--side', type=int, default=4096, help='of the matrices; default: %(default)s')
  flags = parser.parse_args()
  contender.serve(contender.speed(lambda: rates(flags.kind, flags.side, flags.seconds), 'GFLOP/s'),
                  contender=flags.kind, quantity='matmul', model=None, batch=None, dtype='float32')


if __name__ == '__main__':
  main()
