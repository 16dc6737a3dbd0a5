"""All families of models. A new one is a line here, and its file, which ends with its record."""

import re

from mixer.models import appendix_a
from mixer.models import bit_resnet
from mixer.models import halonet
from mixer.models import mlp_mixer
from mixer.models import resmlp
from mixer.models import vit
from mixer.models.family import ModelFamily

FAMILIES = {family.name: family for family in (
    mlp_mixer.FAMILY,
    vit.FAMILY,
    bit_resnet.FAMILY,
    halonet.FAMILY,
    resmlp.FAMILY,
    *appendix_a.FAMILIES,
)}
# The families whose weights are read from files.
LOADABLE = {name: family for name, family in FAMILIES.items() if family.fields_from_params}


def family_of(names) -> ModelFamily:
  """The family in LOADABLE that matches most of the array names 'a/b/c'; the Mixer if none matches any."""
  names = list(names)
  return max(LOADABLE.values(), key=lambda family: sum(bool(re.match(family.array_pattern, name)) for name in names))
