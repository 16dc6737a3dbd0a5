"""The part of every global batch that belongs to one process."""

import dataclasses

import jax

from mixer import arguments


@dataclasses.dataclass(frozen=True)
class ProcessShard:
  """This process's place among all, and the devices over which its part of a batch is split."""
  index: int
  count: int
  local_devices: int

  @classmethod
  def current(cls):
    return cls(jax.process_index(), jax.process_count(), jax.local_device_count())

  def check(self, batch_size: int):
    """Raises an ArgumentError unless the devices of all processes divide the global batch."""
    devices = self.count * self.local_devices
    if batch_size % devices or batch_size <= 0:
      below = batch_size // devices * devices
      nearest = f'{below} or {below + devices}' if below > 0 else f'{devices}'
      raise arguments.ArgumentError(f'batch_size is {batch_size}; it must be a multiple of the {devices} devices ({nearest})')

  def local_slice(self, batch_size: int) -> slice:
    """This process's places in a global batch."""
    number = self.local_size(batch_size)
    return slice(self.index * number, (self.index + 1) * number)

  def local_size(self, batch_size: int) -> int:
    return batch_size // self.count

  def positions(self, batch_size: int, step: int) -> range:
    """The positions, counted from the first batch's first example, of this process's part of batch `step`."""
    return range(step * batch_size, (step + 1) * batch_size)[self.local_slice(batch_size)]

  def owns(self, batch_size: int, position):
    """Whether a position belongs to this process's part of its batch. [...] ints -> [...] bools, also in a graph."""
    local = self.local_slice(batch_size)
    return (position % batch_size >= local.start) & (position % batch_size < local.stop)

  def shard_to_devices(self, batch: dict) -> dict:
    """Splits this process's part over its devices. {name: [b, ...]} -> {name: [D, b / D, ...]}."""
    return {name: x.reshape(self.local_devices, -1, *x.shape[1:]) for name, x in batch.items()}
