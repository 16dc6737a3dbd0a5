"""Labels that are no feature of a TFDS dataset but follow from some, and images that are not stored as 0 to 255.

They are VTAB's (Zhai et al., 2019, arXiv 1910.04867); bins and their edges are those of its code,
github.com/google-research/task_adaptation.
"""

from collections.abc import Callable
import dataclasses

from mixer.data.lazy import tf
from mixer.data.lazy import tfds
from mixer.data import preprocess


@dataclasses.dataclass(frozen=True)
class Label:
  """A label, what it is made of, and how."""
  features: dict  # the names of features, as tfds.decode.PartialDecoding takes them
  class_names: list[str]
  make: Callable  # {feature: value} of one example -> [] int, in a graph


def _clevr_count(example):
  return tf.size(example['objects']['size']) - 3  # every scene has 3 to 10


def _clevr_distance(example):
  # To the camera. The last edge is beyond all, so that a scene without annotations has no class.
  return _bin(tf.reduce_min(example['objects']['pixel_coords'][:, 2]), [8., 8.5, 9., 9.5, 10., 100.])


def _kitti_distance(example):
  objects = example['objects']
  ahead = objects['location'][:, 2]  # metres
  is_vehicle = objects['type'] < 3  # car, van, truck
  return _bin(tf.reduce_min(tf.where(is_vehicle, ahead, float('inf'))), [8., 20., 999.])


def _bin(value, edges):
  """How many of the edges lie below. [] float -> [] int."""
  return tf.reduce_sum(tf.cast(tf.constant(edges) < value, tf.int32))


def _in_16(feature, number):
  """A class label of `number` values, neighbours taken together so that 16 are left."""
  return Label({feature: True}, [str(k) for k in range(16)], lambda example: example[feature] * 16 // number)


LABELS = {
    'clevr_count': Label({'objects': ['size']}, [f'{k} objects' for k in range(3, 11)], _clevr_count),
    'clevr_distance': Label({'objects': ['pixel_coords']},
                            ['to 8', '8 to 8.5', '8.5 to 9', '9 to 9.5', '9.5 to 10', 'over 10'], _clevr_distance),
    'kitti_distance': Label({'objects': ['type', 'location']}, ['to 8 m', '8 to 20 m', 'over 20 m', 'no vehicle'],
                            _kitti_distance),
    'dsprites_location': _in_16('label_x_position', 32),
    'dsprites_orientation': _in_16('label_orientation', 40),
}


def select(features, names: dict):
  """A part of a dataset's features: those that PartialDecoding takes `names` for. Raises a ValueError if one is missing."""
  absent = [name for name in names if name not in features]
  if absent:
    raise ValueError(f'no feature {absent[0]!r}')
  # PartialDecoding warns of TFDS's own deprecations, so it is used only for a part of a feature.
  part = lambda name: tfds.decode.PartialDecoding({name: names[name]}).extract_features(features)[name]
  return tfds.features.FeaturesDict({name: features[name] if names[name] is True else part(name) for name in names})


def possible(features) -> list[str]:
  """The names of the labels that can be made of a dataset's features."""
  def fits(label):
    try:
      select(features, label.features)
    except ValueError:
      return False
    return True
  return [name for name, label in LABELS.items() if fits(label)]


def _black_and_white(encoded):
  """A PNG whose pixels are 0 and 1 as one whose are 0 and 255. [] string -> [] string."""
  return tf.io.encode_png(tf.io.decode_png(preprocess.within_limits(encoded), channels=1) * 255)


# dataset -> a function of its encoded images
IMAGES = {'dsprites': _black_and_white}
