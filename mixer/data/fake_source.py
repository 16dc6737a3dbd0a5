"""Images without files, to time a loop without its data."""

import dataclasses

import numpy as np

from mixer.data.source_protocol import Source
from mixer.data.source_protocol import SplitSpec


@dataclasses.dataclass(frozen=True)
class FakeSource(Source):
  """As many examples as ImageNet has, of which one batch stands for all: nothing is read."""
  name: str = 'fake'
  num_examples: int = 1_281_167
  contents: str = 'fake'
  order: str = 'one batch, again and again'
  class_names: None = None
  random_access: bool = False
  is_synthetic: bool = True
  canonical: None = None

  @property
  def labels(self):
    return {'label': ((), 'int32')}

  def synthetic_batch(self, number: int, resolution: int) -> dict:
    """{'image': [number, R, R, 3] uint8, 'label': [number] int32}."""
    images = np.random.default_rng(0).integers(0, 256, (number, resolution, resolution, 3), np.uint8)
    return {'image': images, 'label': np.arange(number, dtype=np.int32) % 2}

  def sample(self):
    return []


def open_split(spec: SplitSpec) -> FakeSource | None:
  """None for another dataset than 'fake'."""
  return FakeSource() if spec.dataset == 'fake' else None
