"""What --help and docs/config.md say of a config's fields: as much as the signatures and docstrings do, and in time."""

import ast
import importlib
import pathlib
import re

import pytest

from configs import mixer_b16_jft
from configs import mixer_digits
from configs import mixer_digits_transfer
from conftest import ROOT
from mixer import config_fields
from mixer import configuration
from mixer import models
from mixer.training import optim
from mixer.training import schedules
from tools import config_page


def lines(path, config):
  """{'config.seed': (value, rest of its line)} of the present fields, and of those that can be added."""
  present, addable = config_fields.describe(path, config).split('Fields that can be added, with their defaults:')
  row = lambda text: {name: (value, rest) for name, value, rest in
                      re.findall(r'^  --(config\.[\w.]+)=(.*?)  +(.*)$', text, re.M)}
  return row(present), row(addable)


def test_every_field_has_its_value_type_and_a_meaning():
  config = mixer_digits.get_config()
  present, _ = lines('configs/mixer_digits.py', config)
  assert set(present) == {f'config.{path}' for path in configuration.flat(config)}
  assert {name.removeprefix('config.'): value for name, (value, _) in present.items()} == {
      path: str(value) for path, value in configuration.flat(config).items()}
  assert all(len(rest.split()) > 3 for _, rest in present.values())
  assert re.search(r'^float +the peak; above 0\.$', present['config.optimizer.learning_rate'][1])
  assert re.search(r'^float +at least 0, and fewer than the run has\.$', present['config.optimizer.schedule.warmup_epochs'][1])


def test_what_may_be_added_has_its_default_and_is_not_there_already():
  present, addable = lines('configs/mixer_digits.py', mixer_digits.get_config())
  assert not set(present) & set(addable)
  assert addable['config.optimizer.b2'][0] == '0.999' and 'config.optimizer.momentum' not in addable
  assert addable['config.start_from.weights'][0] == 'required'
  assert not any(name.endswith('total_steps') or 'warmup_steps' in name for name in addable)  # they are in epochs
  transfer, addable = lines('configs/mixer_digits_transfer.py', mixer_digits_transfer.get_config())
  assert transfer['config.start_from.head'][0] == 'fresh' and [name for name in addable if 'start_from' in name] == [
      'config.start_from.mean', 'config.start_from.std', 'config.start_from.average']
  _, addable = lines('configs/mixer_b16_jft.py', mixer_b16_jft.get_config())
  assert 'config.model.hidden_dim' not in addable  # the variant has it
  assert addable['config.probes.imagenet.l2'][0] == '1024.0' and 'config.probes.imagenet.train.label' in addable


def test_the_docstring_comes_first():
  text = config_fields.describe('configs/mixer_digits.py', mixer_digits.get_config())
  assert text.startswith(ast.get_docstring(ast.parse((ROOT / 'configs/mixer_digits.py').read_text())))


@pytest.mark.parametrize('stem', [pathlib.Path(path).stem for path, _ in configuration.describe_all(str(ROOT / 'configs'))])
def test_every_config_is_described(stem):
  config = importlib.import_module(f'configs.{stem}').get_config()
  text = config_fields.describe(f'{ROOT}/configs/{stem}.py', config)
  if set(config) - {'evals', 'probes'}:
    config_fields.check(config)
  assert 'unknown field' not in text and 'config.evals' in text


def test_a_field_that_no_section_has_is_marked():
  config = mixer_digits.get_config()
  config.data.reslution = 8
  assert re.search(r'--config\.data\.reslution=8 .* unknown field$', config_fields.describe('configs/mixer_digits.py', config),
                   re.M)


def test_every_field_of_the_table_is_explained():
  """The tables of each model, optimizer and schedule, too."""
  tables = [config_fields.RUN, config_fields.DATA, config_fields.EVALUATION, config_fields.STEP, config_fields.CHECKPOINT,
            config_fields.PROBE, config_fields.START, *map(config_fields.of_model, models.FAMILIES),
            *map(config_fields.of_optimizer, optim.ALGORITHMS), *map(config_fields.of_schedule, schedules.SCHEDULES)]
  assert not [field for table in tables for field in table.values() if len(field.meaning) < 10 or not field.type]
  assert not [field.meaning for table in tables for field in table.values() if field.meaning.endswith(' App.')]


def test_the_first_sentence_on_each_of_several_arguments():
  def function(a, b, c):
    """Something.

    Args:
      a, b: of both, as in
        App. C of the paper. More of it.
      c: 'x' or 'y': one of them.
    """
  assert {name: field.meaning for name, field in config_fields.fields_of(function).items()} == {
      'a': 'of both, as in App. C of the paper.', 'b': 'of both, as in App. C of the paper.', 'c': "'x' or 'y': one of them."}


def test_the_page_is_up_to_date(tmp_path):
  config_page.main([f'--out={tmp_path / "config.md"}'])
  assert (ROOT / 'docs/config.md').read_text() == (tmp_path / 'config.md').read_text(), (
      f'{config_page.COMMAND} makes it anew')


@pytest.mark.parametrize('path, value, text', [
    ('model.dept', 8, r'unknown field config\.model\.dept\. Valid fields: channels_mlp_dim, .*variant$'),
    ('model.name', 'mixer', r"config\.model\.name is 'mixer'; it must be one of 'mlp_mixer'"),
    ('model.variant', 'B', r"config\.model\.variant is 'B'; it must be one of the sizes S"),
    ('model.patch_size', 'x', r"config\.model\.patch_size is 'x', of type str; it must be int"),
    ('data.reslution', 8, r'unknown field config\.data\.reslution\. Did you mean config\.data\.resolution\?'),
    ('data.num_classes', 8, r'unknown field config\.data\.num_classes'),
    ('data.flip', 1, r'config\.data\.flip is 1, of type int; it must be bool'),
    ('evals.test.crops', 'x', r'unknown field config\.evals\.test\.crops\. Did you mean config\.evals\.test\.crop\?'),
    ('step.mixups', 1, r'unknown field config\.step\.mixups'),
    ('optimizer.momentum', 0.9, r'unknown field config\.optimizer\.momentum'),
    ('optimizer.name', 'adam', r"config\.optimizer\.name is 'adam'; it must be one of 'adamw'"),
    ('optimizer.schedule.peak', 1., r'unknown field config\.optimizer\.schedule\.peak'),
    ('optimizer.schedule.name', 'line', r"config\.optimizer\.schedule\.name is 'line'; it must be one of 'linear'"),
    ('checkpoint.keep', 1, r'unknown field config\.checkpoint\.keep'),
    ('start_from', {'weight': 'x'}, r'unknown field config\.start_from\.weight\. Did you mean config\.start_from\.weights\?'),
    ('probes', {'p': {'shot': 1}}, r'unknown field config\.probes\.p\.shot\. Did you mean config\.probes\.p\.shots\?'),
    ('probes', {'p': {'train': {'x': 1}}}, r'unknown field config\.probes\.p\.train\.x\.'),
    ('seeds', 1, r'unknown field config\.seeds\. Did you mean config\.seed\?'),
])
def test_unknown_fields_and_types_are_refused_without_data(path, value, text):
  config = mixer_digits.get_config()
  with config.unlocked(), config.ignore_type():
    holder, *names = [config, *path.split('.')]
    for name in names[:-1]:
      holder = holder[name]
    holder[names[-1]] = value
  with pytest.raises(ValueError, match=f'^{text}'):
    config_fields.check(config)


@pytest.mark.parametrize('path, value', [('optimizer.schedule.warmup_steps', 10.), ('checkpoint.every_epochs', 0.5),
                                         ('model.variant', 'B/16'),  # models.build says which of its sizes to drop
                                         ('model.num_classes', None), ('data.min_area', 1), ('data.threads', None)])
def test_other_fields_pass_without_data(path, value):
  config = mixer_digits.get_config()
  configuration.set_fields(config, [f'{path}={value}'])
  config_fields.check(config)


@pytest.mark.parametrize('section', ['model', 'optimizer', 'optimizer.schedule'])
def test_a_section_without_its_name_is_checked_where_it_is_used(section):
  config = mixer_digits.get_config()
  del (config.optimizer.schedule if section.endswith('schedule') else config[section])['name']
  config_fields.check(config)
