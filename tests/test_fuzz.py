"""A few damaged files for every reader; tests/fuzz.py has any number of them."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_damaged_files_are_read_or_refused_by_name_in_bounded_memory():
  done = subprocess.run([sys.executable, 'tests/fuzz.py', '--inputs=101', '--seed=7'], cwd=ROOT, capture_output=True,
                        text=True)
  assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
  table = re.findall(r'^(\w+) +(\d+) +(\d+) +0 +[\d.]+$', done.stdout, re.M)
  assert len(table) == 10
  assert all(int(refused) for _, _, refused in table)
  assert sum(int(read) for _, read, _ in table) > 50


def test_a_finding_is_told(tmp_path):
  """Of a reader that raises what it should not, and one that takes more memory than is available."""
  script = f'''if True:
      import pathlib, sys
      sys.argv = ['fuzz.py', '--inputs=5', '--reader=vocabulary', '--keep={tmp_path}']
      sys.path.insert(0, 'tests')
      import fuzz
      class Careless(fuzz.Vocabulary):
        number = 0
        def read(self, data):
          self.number += 1
          if self.number > 4:
            bytearray(2**32) if self.number % 2 else [][data[0]]
      fuzz.READERS['vocabulary'] = Careless
      sys.exit(fuzz.main())
  '''
  done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert re.search(r'^\d x vocabulary: MemoryError', done.stdout, re.M)
  assert re.search(r'^\d x vocabulary: IndexError: list index out of range', done.stdout, re.M)
  assert '--reader=vocabulary --first=2 --inputs=1 --seed=0' in done.stdout
  assert (tmp_path / 'vocabulary-2').exists()
