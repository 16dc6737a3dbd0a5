"""Trees of arrays by the names of their leaves: {'MixerBlock_0/LayerNorm_0/scale': leaf}."""

import jax

SHOWN = 20  # lines of a comparison
MAX_DEPTH = 20  # of a tree from a file: one of a thousand is too deep for JAX


def flat(tree) -> dict:
  """{'a/b/c': leaf} of nested dicts, dataclasses and tuples, in the order of `jax.tree`."""
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(leaves: dict) -> dict:
  """Nested dicts of {'a/b/c': leaf}: the inverse of `flat` for a tree of dicts.

  Raises:
    ValueError: if a name stands for a leaf and for a dict of others, has an empty part, or very many.
  """
  tree = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    if len(parents) >= MAX_DEPTH:
      raise ValueError(f'{name[:100]!r}... has {len(parents) + 1:,} parts; at most {MAX_DEPTH} are taken')
    place = tree
    for parent in parents:
      place = place.setdefault(parent, {})
      if not isinstance(place, dict):
        raise ValueError(f'{name!r} lies below another array: {parent!r} is one')
    if not all([*parents, last]) or last in place:
      raise ValueError(f'{name!r} cannot be the name of an array: it is taken, or a part of it is empty')
    place[last] = leaf
  return tree


def count(tree) -> int:
  """How many numbers all leaves have together: the number of parameters of a model."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(tree) -> dict[str, tuple[int, ...]]:
  """{'a/b/c': shape} of all that has one."""
  return {name: tuple(leaf.shape) for name, leaf in flat(tree).items()}


def compare(there: dict, here: dict, left: str, right: str) -> str:
  """The arrays whose names or shapes differ, both sides beside each other; '' if none do.

  Args:
    there, here: {name: shape}, as of `shapes`.
    left, right: what the two columns are called.
  """
  show = lambda side, name: str(side[name]) if name in side else '-'
  unlike = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
  if not unlike:
    return ''
  # Of many, some of each side: those of another model altogether would hide behind what is missing.
  missing = [name for name in unlike if name not in there]
  others = [name for name in unlike if name in there][:max(SHOWN // 2, SHOWN - len(missing))]
  shown = sorted(others + missing[:SHOWN - len(others)])
  width = max(60, *map(len, shown))
  lines = [f'{"array":<{width}} {left:<20} {right}']
  lines += [f'{name:<{width}} {show(there, name):<20} {show(here, name)}' for name in shown]
  if len(unlike) > len(shown):
    lines.append(f'and {len(unlike) - len(shown)} more')
  return ''.join(f'\n  {line}' for line in lines)
