"""Text goldens: what a person has read and accepted, as files in tests/golden/."""

import difflib
import os
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent / 'golden'


def check(name: str, text: str):
  """Fails with a diff unless `text` is that of tests/golden/NAME.txt; with UPDATE_GOLDEN=1, writes it there."""
  path = FOLDER / f'{name}.txt'
  if os.environ.get('UPDATE_GOLDEN') == '1':
    path.write_text(text)
    return
  accepted = path.read_text() if path.exists() else ''
  if text != accepted:
    diff = '\n'.join(difflib.unified_diff(accepted.splitlines(), text.splitlines(), f'tests/golden/{name}.txt', 'now',
                                          lineterm=''))
    test = os.environ['PYTEST_CURRENT_TEST'].split('::')[0]
    pytest.fail(f'{diff}\n\nIf that is meant: UPDATE_GOLDEN=1 .venv/bin/python -m pytest {test}', pytrace=False)
