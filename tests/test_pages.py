"""The commands and links of README.md and of docs/: they name what exists, and their flags are those of the programs."""

import re
import subprocess

from absl import flags
import pytest

from conftest import ROOT
from mixer import config_fields
from mixer import configuration
from mixer.run import config_flags
import own_images

MADE = ('config.md', 'gpu_plans.md', 'tpu_plans.md')  # held by tests/test_config_fields.py, test_gpu_plan.py, test_plan.py
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md')))}
WRITTEN = {name: path for name, path in PAGES.items() if path.name not in MADE}
BLOCK = re.compile(r'^```sh\n(.*?)^```', re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r'(?:^|[\s(])python (-m [\w.]+|\w+\.py)((?: [^`)#\n]*)?)')


def blocks(name):
  return [block.replace('\\\n', '') for block in BLOCK.findall(WRITTEN[name].read_text())]


def programs(name):
  """[(file of the program, its arguments)] of all commands on a page, in blocks and inside of lines."""
  text = WRITTEN[name].read_text()
  inside = re.findall(r'`((?:python|make) [^`]+)`', BLOCK.sub('', text))
  found = []
  for line in '\n'.join(blocks(name) + inside).split('\n'):
    for program, rest in PROGRAM.findall(line):
      path = program if program.endswith('.py') else program.removeprefix('-m ').replace('.', '/')
      candidates = [ROOT / path] if path.endswith('.py') else [
          ROOT / f'{path}.py', ROOT / path / '__main__.py', ROOT / 'tools/experiments' / f'{path.split("/")[-1]}.py']
      found.append((next((file for file in candidates if file.exists()), None), rest.split(), line))
  return found


def anchors(path):
  """The names that GitHub gives the headings of a page."""
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
          for heading in re.findall(r'^#+ (.+)$', path.read_text(), re.MULTILINE)}


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize('name', PAGES)
def test_links_lead_somewhere(name):
  for target in re.findall(r'\]\(([^)\s]+)\)', PAGES[name].read_text()):
    if '://' not in target:
      file, _, anchor = target.partition('#')
      path = PAGES[name].parent / file if file else PAGES[name]
      assert path.exists(), f'{name}: no file {file}'
      assert not anchor or anchor in anchors(path), f'{name}: no heading #{anchor} in {path.name}'


@pytest.mark.parametrize('name', sorted(set(PAGES) - {'README.md'}))
def test_the_readme_links_every_page_and_each_says_first_what_it_is_for(name):
  assert f']({name})' in (ROOT / 'README.md').read_text()
  assert re.match(r'# [^\n]+\n\n(After|With) this page you (can|know) ', PAGES[name].read_text())


@pytest.mark.parametrize('name', WRITTEN)
def test_blocks_are_shell(name):
  for block in blocks(name):
    done = subprocess.run(['bash', '-n'], input=block, capture_output=True, text=True)
    assert not done.stderr, f'{name}: {done.stderr}{block}'


@pytest.mark.parametrize('name', WRITTEN)
def test_programs_and_their_flags_exist(name):
  shared = ''.join((ROOT / file).read_text() for file in ('tools/weights_flags.py', 'mixer/run/config_flags.py', 'mixer/run/run_flags.py'))
  for file, arguments, line in programs(name):
    if '-m pytest' in line or '-m venv' in line:
      continue
    assert file, f'{name}: no such program: {line}'
    source = file.read_text() + shared
    for flag in re.findall(r'--(\w+)(?=[=\s]|$)', ' '.join(arguments)):
      assert re.search(rf"['-]{flag}['=]", source) or flag == 'help', f'{name}: {file.name} has no --{flag}: {line}'


@pytest.mark.parametrize('name', WRITTEN)
def test_make_has_the_targets(name):
  makefile = (ROOT / 'Makefile').read_text()
  for target in re.findall(r'(?:^|`)make ([a-z-]+)', WRITTEN[name].read_text(), re.MULTILINE):
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), f'{name}: no target {target}'


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """What a reader has: {as the pages call it: a folder of images, and the config of docs/own_images.md}."""
  folder = tmp_path_factory.mktemp('own')
  root = own_images.photos(folder / 'root', 'train', 'test')
  return {own_images.PLACE: str(root), 'configs/photos.py': str(own_images.configs(folder, root)[0])}


@pytest.mark.parametrize('name', WRITTEN)
def test_configs_load_with_their_flags(name, monkeypatch, own):
  monkeypatch.chdir(ROOT)
  for _, arguments, line in programs(name):
    arguments = [argument for argument in arguments if re.match(r'--config(\.[\w.]+)?=', argument)]
    if any(argument.startswith('--config=configs/') and '=FILE' not in argument for argument in arguments):
      values = flags.FlagValues()
      chosen, fields = config_flags.define(values)
      for place, path in own.items():
        arguments = [argument.replace(place, path) for argument in arguments]
      config_flags.parse(['train.py', *arguments], values)
      config = config_flags.load(chosen.value)
      configuration.set_fields(config, fields.value)
      if 'model' in config:
        config_fields.check(config)
