"""What the devices of this machine need of the loops that feed them."""

import jax


def settle(results):
  """Waits for `results` where several devices are simulated on a CPU.

  Queued collectives can take up all the threads of XLA's CPU client and then wait for one another for ever.
  """
  if jax.default_backend() == 'cpu' and jax.local_device_count() > 1:
    jax.block_until_ready(results)
