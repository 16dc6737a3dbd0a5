"""Compares the training step with that of the paper's listing, both compiled for slices of TPUs, without a TPU.

  python -m benchmarks.tpu --out=benchmarks/results/tpu.md

B/16 of 21,843 classes in bfloat16, Adam, clipped, pmapped, at some number of images per core. Of both, XLA's analysis:
the bytes of memory that a core's step accesses, its peak memory, and XLA's estimate of its time, not measured on a TPU;
and what the bytes are of, counted from the program (traffic.py). It needs the extra tpu and some minutes per row.
"""

import argparse
import functools
import importlib.metadata
import pathlib
import sys

import jax
import jax.numpy as jnp
import optax
import tqdm

from benchmarks import listing
from benchmarks import traffic
from mixer import models
from mixer.models import mlp_mixer
from mixer.run import accelerators
from mixer.run import devices
from mixer.training import optim
from mixer.training import train_step
from tools.planning import arithmetic
from tools.planning import compiler

SLICES = {'v3:2x2': 64, 'v5e:2x4': 128}  # images a core
CLASSES, RESOLUTION, VARIANT = 21_843, 224, 'B/16'


def ours(devices, images: int, variant: str = VARIANT, platform: str = 'tpu', **fields):
  """The step of train.py, lowered for these devices; `fields` are more of the model's."""
  model = models.build(name='mlp_mixer', variant=variant, num_classes=CLASSES, dtype='bfloat16', platform=platform, **fields)
  optimizer, learning_rate = optim.build(name='adamw', learning_rate=1e-3, schedule=dict(name='cosine'),
                                         total_steps=100_000, clip_norm=1.)
  init = functools.partial(train_step.init, model, optimizer, (RESOLUTION, RESOLUTION, 3), 0)
  update = train_step.make_train_step(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0,
                                      loss='softmax_xent', devices=devices)
  return update.lower(jax.eval_shape(init), _batch(len(devices), images, 'uint8'))


def the_listing(devices, images: int):
  """The listing's model in bfloat16, with a step of a few lines: it takes scaled images."""
  net = listing.MlpMixer(CLASSES, **mlp_mixer.variant_fields(VARIANT), dtype=jnp.bfloat16)
  optimizer = optax.chain(optax.clip_by_global_norm(1.), optax.adam(1e-3))

  def init():
    params = net.init(jax.random.key(0), jnp.zeros((1, RESOLUTION, RESOLUTION, 3)))['params']
    return params, optimizer.init(params)

  def update(state, batch):
    params, moments = state
    loss = lambda params: optax.softmax_cross_entropy_with_integer_labels(
        net.apply({'params': params}, batch['image']).astype(jnp.float32), batch['label']).mean()
    value, grads = jax.lax.pmean(jax.value_and_grad(loss)(params), 'batch')
    changes, moments = optimizer.update(grads, moments, params)
    return (optax.apply_updates(params, changes), moments), value

  step = jax.pmap(update, axis_name='batch', in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0)
  return step.lower(jax.eval_shape(init), _batch(len(devices), images, 'float32'))


def _batch(devices, images, dtype):
  return {'image': jax.ShapeDtypeStruct((devices, images, RESOLUTION, RESOLUTION, 3), dtype),
          'label': jax.ShapeDtypeStruct((devices, images), 'int32')}


def row(topology: str, name: str, analysis: dict, moved: dict) -> str:
  """Of the table; `moved` is that of `traffic.by_kind`."""
  estimate = 'none' if analysis['step_seconds'] is None else f'{analysis["step_seconds"]:.4f} s'
  gigabytes = ' | '.join(f'{number / 1e9:.2f} GB' for number in (analysis['accessed_bytes'], *moved.values()))
  return f'| {topology} | {SLICES[topology]} | {name} | {gigabytes} | {analysis["peak_bytes"] / arithmetic.GIB:.2f} GiB | {estimate} |'


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--topologies', default=','.join(SLICES), help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, help='a file to write the table to')
  flags = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')  # libtpu is to compile, not to look for a TPU
  topologies = flags.topologies.split(',')
  for topology in topologies:
    if topology not in SLICES:
      parser.error(f'--topologies has {topology!r}; it must be one of {", ".join(SLICES)}')
  try:
    slices = {topology: accelerators.slice_of(topology) for topology in topologies}
    devices_of = {topology: compiler.devices_of(slice_) for topology, slice_ in slices.items()}
  except ValueError as error:  # without libtpu
    sys.exit(str(error))
  lines = [f'{VARIANT}, {CLASSES:,} classes, bfloat16, {RESOLUTION} x {RESOLUTION}, compiled by libtpu '
           f'{importlib.metadata.version("libtpu")}.', '',
           f'| slice | images a core | step | accessed a core | {" | ".join(traffic.KINDS)} | peak of a core | XLA\'s estimate |',
           '| --- ' * 9 + '|']
  contenders = {'ours': ours, "the listing's": the_listing}
  with tqdm.tqdm(total=len(topologies) * len(contenders), unit='step', disable=None) as bar:
    for topology in topologies:
      for name, lower in contenders.items():
        lowered = lower(devices_of[topology], SLICES[topology])
        step = lowered.compile()
        lines.append(row(topology, name, compiler.analysis(step, slices[topology].device, counted_once=False),
                         traffic.by_kind(step.as_text())))
        devices.release_free_memory()  # of the compilation, which leaves gigabytes
        bar.write(lines[-1])
        bar.update()
  table = '\n'.join(lines) + '\n'
  print(table, end='')
  if flags.out:
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(table)


if __name__ == '__main__':
  main()
