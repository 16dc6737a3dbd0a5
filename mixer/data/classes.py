"""Classes of images against those of a model: the same names in the same order, and labels that are among them."""

from collections.abc import Sequence
import dataclasses
import unicodedata

from mixer.data.lazy import tf
from mixer import safe_io

SHOWN = 8  # names of a list, in a message
LABEL = 'its label is'  # how a message of `within` starts


@dataclasses.dataclass(frozen=True)
class ModelClasses:
  """The classes of a model's logits, which those of images must be.

  Attributes:
    number: how many; None for as many as the images have.
    names: in the order of the logits, or None where they are not known: then the numbers alone are compared.
    owner: whose they are, for messages.
    fix: what to do about others, for messages; {number} stands for how many classes the images have.
  """
  number: int | None = None
  names: Sequence[str] | None = None
  owner: str = 'the model'
  fix: str = ''

  @classmethod
  def of_config(cls, number: int | None):
    """Those of a config's model, whose names are not known; None for as many as the images have."""
    return cls(number, owner='the model (config.model.num_classes)',
               fix='Set --config.model.num_classes={number}, or see whether all of them are classes')

  @classmethod
  def of(cls, batches, path: str, like: str):
    """Those of batches that a config has under the path `like`, which others under `path` must have, too."""
    return cls(batches.num_classes, batches.source.class_names, batches.source.name,
               f'Give config.{path} and config.{like} the same classes under the same names')

  def check(self, source):
    """Raises a ValueError unless the classes of `source` are the model's: as many, and where both have names, the same."""
    expected, actual = self.names, source.class_names
    if None not in (expected, actual) and list(expected) != list(actual):
      raise ValueError(f'the classes of {self.owner} are {listed(expected)}, and those of {source.name} are '
                       f'{listed(actual)}: {_difference(expected, actual)} {self.fix}')
    if None not in (self.number, actual) and self.number != len(actual):
      fix = self.fix.replace('{number}', str(len(actual)))
      raise ValueError(f'the number of classes of {self.owner} is {self.number}, and that of {source.name} is '
                       f'{len(actual):,}: {listed(actual)}. {fix}'.rstrip())

  def number_for(self, source) -> int | None:
    """How many classes the labels of `source` may have; None for any."""
    return self.number or (len(source.class_names) if source.class_names else None)


def _difference(expected, actual):
  missing, extra = ([x for x in one if x not in set(other)] for one, other in ((expected, actual), (actual, expected)))
  what = [f'{listed(names)} only among the {which}' for names, which in ((missing, 'former'), (extra, 'latter')) if names]
  if not what:
    k = next(k for k, names in enumerate(zip(expected, actual)) if len(set(names)) > 1)
    what = [f'the same in another order: class {k} is {safe_io.show(expected[k])} in the former and '
            f'{safe_io.show(actual[k])} in the latter']
  return f'{"; ".join(what)}.{_alike(missing, extra)}'


def _alike(missing, extra):
  """Names that people take for the same."""
  folded = lambda name: unicodedata.normalize('NFKC', name).casefold().strip()
  by_fold = {folded(name): name for name in missing}
  pairs = [f'{by_fold[folded(name)]!a} and {name!a}' for name in extra if folded(name) in by_fold]
  return f' They differ in case, spaces or accents alone: {", ".join(pairs[:SHOWN])}.' if pairs else ''


def listed(names: Sequence[str]) -> str:
  """A list of names for a message, cut short where it is long."""
  more = f', ... ({len(names):,} in all)' if len(names) > SHOWN else ''
  return ', '.join(map(safe_io.show, names[:SHOWN])) + more


def within(labels: dict, number: int | None) -> dict:
  """The same labels of one example, in a graph; one that is not among `number` classes is an error. None checks none.

  'label' is [] int or [L] ints, padded with -1.
  """
  if number is None:
    return labels
  label = labels['label']
  low, high = tf.reduce_min(label), tf.reduce_max(label)
  fits = (low >= (-1 if label.shape.rank else 0)) & (high < number)
  with tf.control_dependencies([tf.raw_ops.Assert(condition=fits, data=[
      LABEL, tf.where(high < number, low, high), f'and the {number} classes are numbered 0 to {number - 1}'])]):
    return {**labels, 'label': tf.identity(label)}
