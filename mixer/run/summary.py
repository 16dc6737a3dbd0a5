"""A summary of what a run is about to do, printed at its start."""

import jax

from mixer import flops
from mixer.run import accelerators
from mixer import trees
from mixer.wording import counted


def describe(model, params, forward_flops: float, data, memory, first_step: int, total_steps: int) -> str:
  """Lines for people: parameters, FLOPs, data, devices, steps and, if known, memory.

  Args:
    forward_flops: as of `flops_and_peak_speed`.
    data: the training batches, an `input_pipeline.TrainBatches`.
    memory: XLA's memory analysis of the compiled step, or None.
    first_step: the number of steps already taken.
  """
  source, batch_size, resolution = data.source, data.batch_size, data.resolution
  mib = lambda size: f'{size / 2**20:,.0f} MiB'
  devices, hosts = jax.device_count(), jax.process_count()
  rows = {
      'model': f'{type(model).__name__}, {trees.count(params):,} parameters, '
               f'{forward_flops / 1e9:,.3g} GFLOPs an image forward at {resolution} x {resolution}',
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


def flops_and_peak_speed(model, params, resolution: int, step) -> tuple[float, float | None]:
  """FLOPs of one image's forward pass, and images/s at which a training step would take all of a device's peak FLOP/s.

  Speed over the latter, which is None if the peak is unknown, is the model FLOPs utilisation, MFU. The peak is that of
  bfloat16, whatever the model computes in. `step` is the config's section.
  """
  forward_flops = flops.forward(model, params, resolution)
  device = accelerators.of_kind(jax.devices()[0].device_kind)
  return forward_flops, device and device.peak / (flops.passes(step) * forward_flops)
