"""The classes of ImageNet-1k and of Google's ImageNet-21k heads: their WordNet ids, and words for people.

imagenet1k_classes.tsv.xz and imagenet21k_classes.tsv.xz have a class a line, in the order of the logits: its WordNet id,
a tab, and its synonyms. The 1,000 are those of ILSVRC 2012 in their usual order; the 21,843 are those that Google's
published heads have (Mixer, ViT, BiT), sorted by id: all synsets of the releases up to fall 2011. The words are those of
WordNet 3.0, Copyright 2006 by Princeton University, whose license lets them be copied with this notice
(https://wordnet.princeton.edu/license-and-commercial-use).
"""

from collections.abc import Sequence
import functools
import lzma
import pathlib

FILES = {1000: 'imagenet1k_classes.tsv.xz', 21843: 'imagenet21k_classes.tsv.xz'}


@functools.cache
def synonyms(num_classes: int) -> dict[str, str]:
  """{WordNet id: 'tench, Tinca tinca'} of ImageNet's 1000 or 21843 classes, in the order of the logits."""
  content = lzma.decompress((pathlib.Path(__file__).parent / FILES[num_classes]).read_bytes()).decode()
  return dict(line.split('\t') for line in content.splitlines())


def wordnet_ids(num_classes: int) -> list[str] | None:
  """The WordNet ids of ImageNet's 1000 or 21843 classes, in the order of the logits; None for another number."""
  return list(synonyms(num_classes)) if num_classes in FILES else None


def words(name) -> str:
  """The first word of a class whose name is a WordNet id of ImageNet ('n01440764': 'tench'); other names as they are."""
  name = str(name)
  if not (len(name) == 9 and name[0] == 'n' and name[1:].isdecimal()):
    return name
  known = synonyms(1000).get(name) or synonyms(21843).get(name) or name
  return known.split(', ')[0]


def label(name) -> str:
  """'tench (n01440764)' for 'n01440764'; names that are no WordNet ids of ImageNet as they are."""
  return f'{words(name)} ({name})' if words(name) != str(name) else str(name)


def labels(names: Sequence) -> list[str]:
  """The `label` of each."""
  return [label(name) for name in names]
