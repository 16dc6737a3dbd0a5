"""What `pip install .` installs: mixer, with its data, and nothing else; and the Makefile's versions are pyproject's."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

from packaging.requirements import Requirement
import pytest

from conftest import ROOT

EXTRAS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']


def requirements(name):
  lines = [line.split('#')[0].strip() for line in (ROOT / name).read_text().splitlines()]
  return [Requirement(line) for line in lines if line]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The folder of an unpacked wheel, as it lies in site-packages."""
  folder = tmp_path_factory.mktemp('wheel')
  shutil.copytree(ROOT, folder / 'code', ignore=lambda path, names: [
      name for name in names if name in ('runs', 'tests', '__pycache__', 'build', 'docs') or name.startswith('.')
      or name.endswith('.egg-info')])
  build = f'from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})'
  done = subprocess.run([sys.executable, '-c', build], cwd=folder / 'code', capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  with zipfile.ZipFile(next(folder.glob('*.whl'))) as archive:
    archive.extractall(folder / 'installed')
  return folder / 'installed'


def test_the_wheel_holds_all_of_mixer_and_nothing_else(wheel):
  package, metadata = sorted(wheel.iterdir())
  assert package.name == 'mixer' and metadata.name.endswith('.dist-info')
  files = lambda folder: {str(path.relative_to(folder)) for path in folder.rglob('*')
                          if path.is_file() and '__pycache__' not in path.parts}
  assert files(package) == files(ROOT / 'mixer')


def test_it_asks_for_what_requirements_txt_pins(wheel):
  metadata = next(wheel.glob('*.dist-info/METADATA')).read_text()
  asked = re.findall('^Requires-Dist: (.*)$', metadata, re.MULTILINE)
  assert {Requirement(line) for line in asked if 'extra ==' not in line} == set(requirements('requirements.txt'))


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
def test_the_lock_has_one_version_of_each_package_and_it_is_as_asked(python):
  here = dict(python_version=python, python_full_version=f'{python}.0')
  for system, machine in (('linux', 'x86_64'), ('linux', 'aarch64'), ('darwin', 'arm64')):
    chosen = lambda all_: [each for each in all_ if not each.marker or each.marker.evaluate(
        {**here, 'sys_platform': system, 'platform_machine': machine})]
    locked = {}
    for each in chosen(requirements('requirements.lock')):
      assert each.name not in locked, f'{each} and {locked[each.name]} for Python {python}'
      locked[each.name] = next(iter(each.specifier)).version
    asked = chosen(requirements('requirements.txt'))
    asked += [each for each in map(Requirement, EXTRAS['test'] + EXTRAS['beam']) if each.name != 'mlp-mixer-jax']
    wrong = [str(each) for each in asked if locked.get(each.name) not in each.specifier]
    assert not wrong, f'requirements.lock differs from {wrong} for Python {python}: make lock'


def test_it_imports_outside_the_checkout_without_tensorflow(wheel, tmp_path):
  program = ('import sys, mixer, mixer.models; assert "tensorflow" not in sys.modules, "TensorFlow is imported"; '
             'print(mixer.__file__)')
  done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True,
                        env={**os.environ, 'PYTHONPATH': str(wheel)})
  assert done.stdout.strip() == str(wheel / 'mixer' / '__init__.py'), done.stderr


@pytest.mark.skipif(not shutil.which('make'), reason='make is not installed')
def test_make_installs_the_versions_of_the_extras():
  commands = subprocess.run(['make', '--dry-run', '--always-make', '.venv/extras'], cwd=ROOT, capture_output=True,
                            text=True).stdout
  for pinned in (*EXTRAS['timm'], *EXTRAS['mnist']):
    assert f' {pinned}' in commands
