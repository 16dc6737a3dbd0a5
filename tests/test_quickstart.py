"""docs/quickstart.ipynb runs from top to bottom, and the outputs that are kept in it are those of its cells."""

import copy
import re

import nbclient
import nbformat
import pytest

from conftest import ROOT

PATH = ROOT / 'docs/quickstart.ipynb'


def text(cell):
  """What a cell prints or returns."""
  return ''.join(output.get('text', '') or output.get('data', {}).get('text/plain', '') for output in cell.outputs)


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def test_outputs_are_kept_and_name_no_folder_of_one_machine():
  kept = code(nbformat.read(PATH, as_version=4))
  assert [cell.execution_count for cell in kept] == list(range(1, len(kept) + 1))
  assert sum('image/png' in output.get('data', {}) for cell in kept for output in cell.outputs) == 3
  for cell in kept:
    assert not re.search('error|Traceback', text(cell)), cell.source
    assert set(re.findall(r'(?<=[ \n])/\w+', text(cell))) <= {'/tmp'}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  kept = nbformat.read(PATH, as_version=4)
  new = copy.deepcopy(kept)
  nbclient.NotebookClient(new, timeout=600, resources={'metadata': {'path': str(PATH.parent)}}).execute()
  number = re.compile(r'[\d.]+%|\d+\.\d+')
  for old, cell in zip(code(kept), code(new), strict=True):
    # Numbers may differ from CPU to CPU, and where the time went; what is printed around them may not.
    last = lambda cell: [number.sub('#', line).replace(str(tmp_path), '/tmp') for line in text(cell).splitlines()
                         if not line.startswith('goodput ')][-1:]
    assert last(old) == last(cell), cell.source
