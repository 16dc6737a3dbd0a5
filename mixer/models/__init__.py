"""Models. `build` turns a config's `model` section into one, here and nowhere else.

KINDS are those whose weights are read from files and runs: what each one's arrays tell of it.
"""

from collections.abc import Callable
import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer import configuration
from mixer.models import appendix_a
from mixer.models import bit_resnet
from mixer.models import mlp_mixer
from mixer.models import vit
from mixer import trees

MODELS = {'mlp_mixer': (mlp_mixer.MlpMixer, mlp_mixer.variant_fields),
          'vit': (vit.VisionTransformer, vit.variant_fields),
          'bit_resnet': (bit_resnet.BitResNet, bit_resnet.variant_fields), **appendix_a.MODELS}


@dataclasses.dataclass(frozen=True)
class Kind:
  """Models of one name.

  Attributes:
    title: what people call them, before the variant.
    sizes: the fields beside num_classes that the arrays tell.
    names: a pattern of names that only their arrays have.
    fields_of: arrays -> `num_classes` and `sizes`, or a ValueError that shows what is unlike.
    variant_of: such fields -> the name of the variant, or None.
    resolution_of: arrays -> the side in pixels of the images that they are for; None for models of images of any size.
  """
  title: str
  sizes: tuple[str, ...]
  names: str
  fields_of: Callable[[dict], dict]
  variant_of: Callable[[dict], str | None]
  resolution_of: Callable[[dict], int] | None = None


KINDS = {
    'mlp_mixer': Kind('Mixer', ('patch_size', *mlp_mixer.SIZES['B']), r'(stem|MixerBlock_\d+|pre_head_layer_norm)/',
                      mlp_mixer.fields_of, mlp_mixer.variant_of, mlp_mixer.resolution_of),
    'vit': Kind('ViT', ('patch_size', *vit.SIZES['B'], 'pool', 'representation_size'),
                r'(embedding|Transformer|pre_logits)/|cls$', vit.fields_of, vit.variant_of, vit.resolution_of),
    'bit_resnet': Kind('BiT', ('units', 'width_factor', 'root'), r'(root_block|block\d+|norm)/', bit_resnet.fields_of,
                       bit_resnet.variant_of),
}


def scale(images):
  """Pixels as the models take them. [...] uint8 in [0, 255] -> float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def build(*, name: str, variant: str | None = None, platform: str | None = None, **fields) -> nn.Module:
  """A model whose `apply` maps images and keys to logits. [B, H, W, 3] in [-1, 1], [B] keys or None -> [B, K].

  Args:
    name: of the model: one of MODELS, such as 'mlp_mixer', 'vit' or 'bit_resnet'.
    variant: 'B/16' and the like: fills in the sizes of the paper's Table 1, or of the model's own paper. Without it,
      `fields` give them.
    platform: what it is to run on: 'cpu', 'tpu', 'gpu', or 'any' for all of them; by default JAX's own. It decides on
      speed alone.
    **fields: the model class's attributes.

  Raises:
    ValueError: naming the field, if `fields` has one that the model lacks, or lacks one that it needs.
  """
  model, variant_fields = configuration.lookup('model', 'name', name, MODELS)
  sizes = variant_fields(variant) if variant else {}
  for field in sizes.keys() & fields.keys():
    raise ValueError(f'config.model.{field} is {fields[field]}, and config.model.variant {variant!r} makes it '
                     f'{sizes[field]}; drop one of the two fields')
  return configuration.instantiate(model, 'model', {**sizes, **fields, 'platform': platform or jax.default_backend()},
                                   hidden=('parent', 'name'))


def section_of(params: dict) -> dict:
  """The `model` section of a config that builds the model of some arrays: its name and sizes, read off the shapes.

  Raises:
    ValueError: if they are of no KINDS, showing them beside those of the nearest model of the nearest kind.
  """
  alike = lambda name: sum(bool(re.match(KINDS[name].names, array)) for array in trees.flat(params))
  name = max(KINDS, key=alike)  # a Mixer, where nothing is alike
  return {'name': name, **KINDS[name].fields_of(params)}


def sizes_in_arrays(section: dict) -> dict | None:
  """What `section_of` finds in the parameters of a config's model, which need not be there; None if of no KINDS."""
  model = build(**section)
  if section['name'] not in KINDS:
    return None
  fields = {field: getattr(model, field) for field in ('num_classes', *KINDS[section['name']].sizes)}
  if section['name'] == 'mlp_mixer':
    fields['tokens_mlp_dim'] *= model.tiles**2
  return {'name': section['name'], **fields}


def describe(section: dict) -> str:
  """'Mixer-B/16' for a section as of `section_of`; for sizes of no variant 'Mixer of patch_size 4, ...'."""
  kind = KINDS[section['name']]
  variant = kind.variant_of(section)
  sizes = (f'{field} {section[field]}' for field in kind.sizes if section[field] is not None)
  return f'{kind.title}-{variant}' if variant else f'{kind.title} of {", ".join(sizes)}'
