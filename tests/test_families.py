"""One record for each family of models: what it is needed for, and that nothing else names a family."""

import ast
import re

import pytest

from conftest import ROOT
from mixer import models
from mixer.models import family as family_lib
from paper import matching

# The models' own files, configs, and the rows of the paper's tables and experiments, in which a new model is not.
OWN = ('mixer/models/', 'configs/', 'paper/count.py', 'paper/studies.py', 'tools/experiments/')


def literals(path):
  """The strings in a file that are not docstrings."""
  tree = ast.parse(path.read_text())
  docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
  return {node.value for node in ast.walk(tree)
          if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs}


@pytest.mark.parametrize('name', models.FAMILIES)
def test_nothing_but_a_familys_own_file_names_it(name):
  for folder in ('mixer', 'paper', 'tools', ''):
    for path in (ROOT / folder).rglob('*.py') if folder else ROOT.glob('*.py'):
      relative = path.relative_to(ROOT).as_posix()
      assert relative.startswith(OWN) or name not in literals(path), relative


def test_the_paper_reads_the_titles_without_the_models():
  assert matching.titles() == {name: family.title for name, family in models.FAMILIES.items()}


@pytest.mark.parametrize('name', models.LOADABLE)
def test_a_record_is_complete(name):
  family = models.LOADABLE[name]
  assert re.match(family.array_pattern, f'{family.stem}/kernel')
  assert all(field in family.model.__dataclass_fields__ for field in ('num_classes', *family.sizes))
  assert {'platform', *family.training_only_fields} - {'variant'} <= {*family.model.__dataclass_fields__, *family_lib.TRAINING_ONLY_FIELDS}
  assert not {*family.sizes} & {*family.training_only_fields}
