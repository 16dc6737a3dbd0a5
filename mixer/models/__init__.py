"""Models. `build` turns a config's `model` section into one, here and nowhere else.

FAMILIES holds all that the program knows about the models of a name; LOADABLE are those whose weights files can hold.
"""

import flax.linen as nn
import jax

from mixer import configuration
from mixer.models.families import FAMILIES
from mixer.models.families import family_of
from mixer.models.families import LOADABLE
from mixer import trees


def build(*, name: str, variant: str | None = None, platform: str | None = None, **fields) -> nn.Module:
  """A model whose `apply` maps images and keys to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K].

  Args:
    name: of the model: 'mlp_mixer', 'vit', 'bit_resnet', 'halonet', 'resmlp' or one of appendix_a.py.
    variant: 'B/16' and the like: fills in the sizes of the paper's Table 1, or of the model's own paper. Without it,
      `fields` give them.
    platform: what it is to run on: 'cpu', 'tpu', 'gpu', or 'any' for all of them; by default JAX's own. It changes
      speed alone.
    **fields: the model class's attributes.

  Raises:
    ValueError: naming the field, if `fields` has one that the model lacks, or lacks one that it needs.
  """
  family = configuration.lookup('model', 'name', name, FAMILIES)
  with configuration.named('config.model'):
    sizes = family.variant_fields(variant) if variant else {}
  for field in sizes.keys() & fields.keys():
    raise ValueError(f'config.model.{field} is {fields[field]}, and config.model.variant {variant!r} makes it '
                     f'{sizes[field]}; drop one of the two fields')
  fields = {**sizes, **fields, 'platform': platform or jax.default_backend()}
  return configuration.instantiate(family.model, 'model', fields, hidden=('parent', 'name', 'axis_name'))


def config_from_params(params: dict) -> dict:
  """The `model` section of a config that builds the model of some arrays: its name and sizes, read off the shapes.

  Raises:
    ValueError: if they belong to none of LOADABLE, with a table of them and of the nearest model of the nearest family.
  """
  family = family_of(trees.flat(params))
  assert family.fields_from_params, f'{family.name} is LOADABLE'
  return {'name': family.name, **family.fields_from_params(params)}


def expected_config(section: dict) -> dict | None:
  """What `config_from_params` would return for the parameters of a config's model; None if it is not LOADABLE."""
  model = build(**section)
  if section['name'] not in LOADABLE:
    return None
  family = LOADABLE[section['name']]
  fields = {field: getattr(model, field) for field in ('num_classes', *family.sizes)}
  return {'name': family.name, **fields, **(family.fields_in_params(model) if family.fields_in_params else {})}


def describe(section: dict) -> str:
  """'Mixer-B/16' for a section as of `config_from_params`; for sizes of no variant 'Mixer of patch_size 4, ...'."""
  family = LOADABLE[section['name']]
  variant = family.variant_of(section)
  sizes = (f'{field} {section[field]}' for field in family.sizes if section[field] is not None)
  return f'{family.title}-{variant}' if variant else f'{family.title} of {", ".join(sizes)}'
