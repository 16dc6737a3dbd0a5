"""Counts parameters and multiply-adds of the models of the paper's tables, as the code builds them.

  python -m paper.count --out=paper/ours/table1.jsonl

This is the one command of this package that needs JAX. Nothing is compiled or run.
"""

import argparse
import datetime
import json

import jax
import jax.numpy as jnp

from mixer import configuration
from mixer import flops
from mixer import models
from mixer.run import provenance
from mixer import storage
from mixer import trees
from paper import command_line
from paper import records

# Table 1, Mixer-L/16 at 448 with its widened token mixing (App. C), and the baselines of Table 3's speeds.
MODELS = (*(('mlp_mixer', variant, 224, 1) for variant in ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')),
          ('mlp_mixer', 'L/16', 448, 2), *(('vit', variant, 224, 1) for variant in ('B/16', 'L/16', 'H/14')))
# The fields of a model that are sizes.
SIZES = ('num_blocks', 'patch_size', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim', 'mlp_dim', 'num_heads')


def count(name: str, variant: str, resolution: int, tiles: int) -> records.Count:
  """Of a model with a head of 1,000 classes, for one image."""
  fields = dict(name=name, variant=variant, num_classes=1000, **({'tiles': tiles} if tiles > 1 else {}))
  model = configuration.instantiate(models.build, 'model', fields, platform='any')
  image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  sizes = {field: getattr(model, field) for field in SIZES if hasattr(model, field)}
  return records.Count(
      model=name, variant=variant, resolution=resolution,
      params_without_head=trees.count(params) - trees.count(params['head']),
      params_1000_classes=trees.count(params), gmacs=flops.macs(model.apply, {'params': params}, image) / 1e9,
      fields={**sizes, 'tokens': (resolution // sizes['patch_size'])**2}, commit=provenance.commit(),
      versions=provenance.versions(('jax', 'flax')),
      time=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'))


def main(arguments: list[str] | None = None):
  command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  command.add_argument('--out', type=storage.path_of, default=storage.path_of('paper/ours/table1.jsonl'),
                       help='the file; default: paper/ours/table1.jsonl')
  flags = command.parse_args(arguments)
  counted = [count(*which) for which in MODELS]
  storage.write(flags.out, ''.join(json.dumps(records.to_object(one)) + '\n' for one in counted))
  for one in counted:
    print(f'{one.model} {one.variant} at {one.resolution}: {one.params_1000_classes:,} parameters with 1,000 classes, '
          f'{one.gmacs:,.2f} GMACs')


if __name__ == '__main__':
  command_line.run(main)
