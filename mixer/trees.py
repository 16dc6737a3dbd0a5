"""Trees of arrays by their leaves' names: {'MixerBlock_0/LayerNorm_0/scale': leaf}."""

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
    ValueError: if a name is of a leaf and of a dict of others, or has an empty part or very many parts.
  """
  tree = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    if len(parents) >= MAX_DEPTH:
      raise ValueError(f'{name[:100]!r}... has {len(parents) + 1:,} parts; at most {MAX_DEPTH} are allowed')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f'{name!r} lies below another array: {parent!r} is one')
    if not all([*parents, last]) or last in node:
      raise ValueError(f'{name!r} cannot be the name of an array: it is a duplicate, or a part of it is empty')
    node[last] = leaf
  return tree


def weights(variables: dict) -> dict:
  """A model's parameters, with its running statistics, if it has any, beside them as 'batch_stats'."""
  return {**variables['params'], **{name: tree for name, tree in variables.items() if name != 'params'}}


def variables(weights: dict) -> dict:
  """What a model's `init` returns and its `apply` takes, of its `weights`."""
  if 'batch_stats' not in weights:
    return {'params': weights}
  params = dict(weights)
  return {'batch_stats': params.pop('batch_stats'), 'params': params}


def count(tree) -> int:
  """How many numbers all leaves have together: the number of parameters of a model."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(tree) -> dict[str, tuple[int, ...]]:
  """{'a/b/c': shape} of all that has one."""
  return {name: tuple(leaf.shape) for name, leaf in flat(tree).items()}


def compare(loaded: dict, expected: dict, left: str, right: str) -> str:
  """A table of the arrays whose names or shapes differ; '' if none do.

  Args:
    loaded, expected: {name: shape}, as of `shapes`.
    left, right: the titles of their columns.
  """
  show = lambda side, name: str(side[name]) if name in side else '-'
  unlike = [name for name in sorted(loaded.keys() | expected.keys())
            if loaded.get(name) != expected.get(name)]
  if not unlike:
    return ''
  # Of many, some of each kind: otherwise the missing ones would hide those of an altogether different model.
  missing = [name for name in unlike if name not in loaded]
  others = [name for name in unlike if name in loaded][:max(SHOWN // 2, SHOWN - len(missing))]
  shown = sorted(others + missing[:SHOWN - len(others)])
  width = max(60, *map(len, shown))
  lines = [f'{"array":<{width}} {left:<20} {right}']
  lines += [f'{name:<{width}} {show(loaded, name):<20} {show(expected, name)}' for name in shown]
  if len(unlike) > len(shown):
    lines.append(f'and {len(unlike) - len(shown)} more')
  return ''.join(f'\n  {line}' for line in lines)
