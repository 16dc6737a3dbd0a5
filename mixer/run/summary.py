"""A summary of what a run is about to do, printed at its start."""

import jax

from mixer import flops
from mixer.run import accelerators
from mixer import trees
from mixer.wording import counted


def describe(model, params, data, memory, first_step: int, total_steps: int) -> str:
  """Lines for people: parameters, FLOPs, data, devices, steps and, if known, memory.

  Args:
    data: the training batches, an `input_pipeline.TrainBatches`.
    memory: XLA's memory analysis of the compiled step, or None.
    first_step: the number of steps already taken.
  """
  source, batch_size, resolution = data.source, data.batch_size, data.resolution
  flops_per_image = flops.forward(model, params, resolution)
  mib = lambda size: f'{size / 2**20:,.0f} MiB'
  devices, hosts = jax.device_count(), jax.process_count()
  rows = {
      'model': f'{type(model).__name__}, {trees.count(params):,} parameters, '
               f'{flops_per_image / 1e9:,.3g} GFLOPs an image forward at {resolution} x {resolution}',
      'data': f'{source.name}, {counted(source.num_examples, "image")}',
      'order': source.order,
      'devices': f'{devices} x {jax.devices()[0].device_kind} on {counted(hosts, "host")}; '
                 f'batch {batch_size:,}, {batch_size // devices:,} a device',
      'steps': f'{total_steps:,}, {total_steps * batch_size / source.num_examples:,.1f} epochs'
               + (f'; {first_step:,} {"is" if first_step == 1 else "are"} done' if first_step else '')}
  if memory:
    rows['memory'] = (f'{mib(memory.argument_size_in_bytes + memory.temp_size_in_bytes)} a device in a step: '
                      f'{mib(memory.argument_size_in_bytes)} state and batch, {mib(memory.temp_size_in_bytes)} temporary')
  return '\n'.join(f'{name:<8} {text}' for name, text in rows.items())


def peak_speed(model, params, resolution: int, step) -> float | None:
  """Images/s at which the training step would take all of a device's peak FLOP/s; None if the peak is unknown.

  Speed over this is the model FLOPs utilisation, MFU. The peak is that of bfloat16, whatever the model computes in.
  `step` is the config's section.
  """
  device = accelerators.of_kind(jax.devices()[0].device_kind)
  return device and device.peak / (flops.passes(step) * flops.forward(model, params, resolution))
