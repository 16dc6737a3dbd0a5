"""The rules of configs, and the errors of those that break them."""

import collections.abc
import os
import re
import typing

import ml_collections
import pytest

from mixer import configuration


def section(a, b=2, *, parent=None, keywords=None):
  return a, b, parent, keywords


def a_config(**fields):
  sections = {**dict.fromkeys(('data', 'step', 'optimizer', 'checkpoint', 'evals'), {}), 'model': dict(num_classes=10)}
  durations = dict(total_steps=10, log_every_steps=1, eval_every_epochs=0.5)
  return ml_collections.ConfigDict({'seed': 0, **durations, **sections, **fields})


# A section is a callable's keywords


def test_instantiate():
  fields = ml_collections.ConfigDict(dict(a=1))
  assert configuration.instantiate(section, 'data', fields, keywords=4) == (1, 2, None, 4)
  assert configuration.instantiate(section, 'data', dict(a=1, b=3)) == (1, 3, None, None)


@pytest.mark.parametrize('fields, keywords, message', [
    (dict(a=1, bb=3), {}, r'unknown field config\.data\.bb\. Did you mean config\.data\.b\? Valid fields: a, b, k'),
    (dict(a=1, unlike=3), {}, r'unknown field config\.data\.unlike\. Valid fields: a, b, keywords$'),
    (dict(a=1, parent=3), {}, r'unknown field config\.data\.parent\.'),
    (dict(a=1, keywords=3), dict(keywords=4), r'unknown field config\.data\.keywords\. Valid fields: a, b$'),
    (dict(b=1), {}, r'config\.data\.a is missing; set it in the config or by --config\.data\.a=$'),
])
def test_instantiate_with_wrong_fields(fields, keywords, message):
  with pytest.raises(ValueError, match=message):
    configuration.instantiate(section, 'data', fields, hidden=('parent',), **keywords)


def typed(rate: float = 0., number: int | None = None, name: str = '', flag: bool = False, anything=None):
  return rate, number, name, flag, anything


@pytest.mark.parametrize('fields', [
    dict(rate=1), dict(rate=0.5), dict(number=None), dict(number=3), dict(flag=True), dict(anything='x'),
    dict(anything=3)])
def test_instantiate_with_types(fields):
  assert configuration.instantiate(typed, 'data', fields) == typed(**fields)


@pytest.mark.parametrize('fields, message', [
    (dict(rate='0.1'), r"^config\.data\.rate is '0\.1', of type str; it must be float$"),
    (dict(number=1.5), r'^config\.data\.number is 1\.5, of type float; it must be int or None$'),
    (dict(number=True), r'^config\.data\.number is True, of type bool; it must be int or None$'),
    (dict(name=3), r'^config\.data\.name is 3, of type int; it must be str$'),
    (dict(flag=0), r'^config\.data\.flag is 0, of type int; it must be bool$'),
])
def test_instantiate_with_wrong_types(fields, message):
  with pytest.raises(ValueError, match=message):
    configuration.instantiate(typed, 'data', fields)


def test_instantiate_of_a_function_that_passes_fields_on():
  """It names what it lacks, and leaves the rest to whatever it passes them on to."""
  def passes_on(*, name, **fields):
    return name, fields
  assert configuration.instantiate(passes_on, 'model', dict(name='x', other=1)) == ('x', {'other': 1})
  with pytest.raises(ValueError, match=r'config\.model\.name is missing'):
    configuration.instantiate(passes_on, 'model', dict(other=1))


def test_lookup():
  assert configuration.lookup('step', 'loss', 'x', {'x': 1, 'y': 2}) == 1
  with pytest.raises(ValueError, match=r"^config\.step\.loss is 'z'; it must be one of 'x', 'y'$"):
    configuration.lookup('step', 'loss', 'z', {'x': 1, 'y': 2})


# The fields of a config itself


def test_check():
  configuration.check(a_config())


def test_check_finds_a_wrong_field():
  with pytest.raises(ValueError, match=r'unknown field config\.modle\. Did you mean config\.model\?'):
    configuration.check(a_config(modle={}))


@pytest.mark.parametrize('field, message', [
    ('model', r'config\.model is missing$'),
    ('seed', r'config\.seed is missing$'),
    ('total_steps', r'config\.total_steps \(or config\.total_epochs\) is missing$'),
    ('eval_every_epochs', r'config\.eval_every_steps \(or config\.eval_every_epochs\) is missing$'),
])
def test_check_finds_a_missing_field(field, message):
  config = a_config()
  del config[field]
  with pytest.raises(ValueError, match=message):
    configuration.check(config)


@pytest.mark.parametrize('field, message', [
    ('start_from', r"^config\.start_from is 'x'; it must be a section: config\.start_from\.FIELD=VALUE$"),
    ('probes', r"^config\.probes is 'x'; it must be a section"),
    ('model', r"^config\.model is 'x'; it must be a section"),
    ('evals.val', r"^config\.evals\.val is 'x'; it must be a section"),
])
def test_check_finds_a_value_in_place_of_a_section(field, message):
  config = a_config()
  with config.ignore_type():
    if '.' in field:
      config.evals.val = 'x'
    else:
      config[field] = 'x'
  with pytest.raises(ValueError, match=message):
    configuration.check(config)


def test_instantiate_with_a_value_in_place_of_a_section():
  with pytest.raises(ValueError, match=r"^config\.probes\.x\.train is 3; it must be a section"):
    configuration.instantiate(section, 'probes.x.train', 3)


# Durations


@pytest.mark.parametrize('epochs, steps_per_epoch, steps', [
    (3, 100, 300), (0.5, 11, 6), (2, 10.01, 21), (0.1, 1000, 100), (0.07, 100, 7),
    (300, 1_281_167 / 4096, 93_836)])
def test_epochs_become_steps_rounded_up(epochs, steps_per_epoch, steps):
  config = ml_collections.ConfigDict(dict(total_epochs=epochs))
  assert configuration.epochs_to_steps(config, steps_per_epoch).to_dict() == dict(total_steps=steps)


def test_durations_in_sections():
  config = a_config(total_epochs=2, checkpoint=dict(every_epochs=0.5), optimizer=dict(
      learning_rate=0.1, schedule=dict(warmup_epochs=1.5, name='linear')), evals=dict(test=dict(every_steps=7)))
  del config['total_steps']
  before = config.to_dict()
  resolved = configuration.epochs_to_steps(config, 10).to_dict()
  assert resolved['total_steps'] == 20 and resolved['eval_every_steps'] == 5 and resolved['log_every_steps'] == 1
  assert resolved['checkpoint'] == dict(every_steps=5)
  assert resolved['optimizer'] == dict(learning_rate=0.1, schedule=dict(warmup_steps=15, name='linear'))
  assert resolved['evals'] == dict(test=dict(every_steps=7))
  assert not any(name.endswith('_epochs') for name in configuration.flat(resolved))
  assert config.to_dict() == before


@pytest.mark.parametrize('fields, message', [
    (dict(total_epochs=2), r'^config has both total_epochs = 2 and total_steps = 10; remove one of them$'),
    (dict(checkpoint=dict(every_epochs=2, every_steps=3)), r'^config\.checkpoint has both every_epochs = 2 and ev'),
    (dict(checkpoint=dict(every_steps=0)), r'^config\.checkpoint\.every_steps is 0; it must be at least 1 and below'),
    (dict(checkpoint=dict(every_epochs=-3)),
     r'^config\.checkpoint\.every_epochs is -3, which is -30 steps; it must be at least 1 step and below 2\*\*31$'),
    (dict(checkpoint=dict(every_epochs=1e-9)), r'every_epochs is 1e-09, which is 0 steps; it must be at least 1 step and '),
    (dict(checkpoint=dict(every_epochs=1e300)), r'every_epochs is 1e\+300, which is .* steps; it must be at least 1 step '),
    (dict(checkpoint=dict(every_steps=2**31)), r'every_steps is 2147483648; it must be at least 1 and below 2\*\*31$'),
    (dict(optimizer=dict(schedule=dict(warmup_epochs=-1e-9))), r'warmup_epochs is -1e-09, .*; it must be at least 0 step'),
    (dict(optimizer=dict(schedule=dict(warmup_steps=-1))), r'schedule\.warmup_steps is -1; it must be at least 0 and below 2'),
])
def test_wrong_durations(fields, message):
  with pytest.raises(ValueError, match=message):
    configuration.epochs_to_steps(a_config(**fields), 10)


def test_a_duration_of_no_step_mentions_the_batch_size():
  message = r'every_epochs is 2, which is 0 steps; .* below 2\*\*31; with config\.data\.batch_size, an epoch has 1e-07 steps$'
  with pytest.raises(ValueError, match=message):
    configuration.epochs_to_steps(a_config(checkpoint=dict(every_epochs=2)), 1e-7)


@pytest.mark.parametrize('fields, message', [
    (dict(total_epochs=float('inf')), r'^config\.total_epochs is inf; it must be a finite number$'),
    (dict(checkpoint=dict(every_epochs=float('nan'))), r'^config\.checkpoint\.every_epochs is nan; it must be a fin'),
    (dict(checkpoint=dict(every_epochs='x')), r"^config\.checkpoint\.every_epochs is 'x', of type str; it must be flo"),
    (dict(checkpoint=dict(every_steps='x')), r"^config\.checkpoint\.every_steps is 'x', of type str; it must be int"),
])
def test_durations_that_are_no_numbers(fields, message):
  config = a_config(**fields)
  if 'total_epochs' in fields:
    del config['total_steps']
  with pytest.raises(ValueError, match=message):
    configuration.epochs_to_steps(config, 10)


def test_a_duration_of_the_command_line_replaces_the_other_unit():
  config = a_config(checkpoint=dict(every_epochs=2.))
  configuration.set_fields(config, ['total_epochs=2', 'checkpoint.every_steps=3', 'model.depth=1'])
  assert 'total_steps' not in config and config.total_epochs == 2
  assert config.checkpoint.to_dict() == {'every_steps': 3}
  both = a_config()
  configuration.set_fields(both, ['total_epochs=2', 'total_steps=3'])
  with pytest.raises(ValueError, match='^config has both total_epochs = 2 and total_steps = 3; remove one of them$'):
    configuration.epochs_to_steps(both, 10)


@pytest.mark.parametrize('before, value, steps', [(6, '0.5', 5), (0.5, '6', 60), (6., '6', 60), (6, '6.0', 60)])
def test_a_duration_may_be_an_int_or_a_float(before, value, steps):
  config = a_config(total_epochs=before)
  del config['total_steps']
  configuration.set_fields(config, [f'total_epochs={value}'])
  configuration.check(config)
  assert configuration.epochs_to_steps(config, 10).total_steps == steps


@pytest.mark.parametrize('before, value', [(6, '7.0'), (6., '7')])
def test_steps_may_be_a_float_that_is_a_whole_number(before, value):
  config = a_config(total_steps=before)
  configuration.set_fields(config, [f'total_steps={value}'])
  configuration.check(config)
  assert configuration.epochs_to_steps(config, 10).total_steps == 7


# (fields of the config, what the command line sets, the warmup in steps, at 10 steps an epoch)
@pytest.mark.parametrize('total, warmup, assignments, steps', [
    (dict(total_epochs=50.), dict(warmup_epochs=5.), ['total_steps=100'], 10),
    (dict(total_epochs=50.), dict(warmup_epochs=5.), ['total_epochs=1'], 1),
    (dict(total_epochs=50.), dict(warmup_steps=50), ['total_steps=100'], 10),  # 500 steps
    (dict(total_steps=500), dict(warmup_epochs=5.), ['total_steps=100'], 10),
    (dict(total_steps=500), dict(warmup_steps=50), ['total_epochs=10'], 10),
    (dict(total_steps=500), dict(warmup_steps=50), ['total_steps=3'], 0),
    (dict(total_steps=500), dict(warmup_steps=50), ['total_steps=1000'], 50),  # a longer run keeps it
    (dict(total_steps=500), dict(warmup_steps=50), ['total_steps=100', 'optimizer.schedule.warmup_steps=50'], 50),
    (dict(total_steps=500), dict(warmup_steps=50), ['total_steps=100', 'optimizer.schedule.warmup_epochs=3'], 30),
    (dict(total_steps=500), dict(warmup_steps=50), ['seed=1'], 50),
])
def test_a_shorter_run_has_a_shorter_warmup(capsys, total, warmup, assignments, steps):
  config = a_config(**total, optimizer=dict(schedule=dict(warmup)))
  if 'total_epochs' in total:
    del config['total_steps']
  configuration.set_fields(config, assignments)
  configuration.check(config)
  resolved = configuration.epochs_to_steps(config, 10)
  assert resolved.optimizer.schedule.to_dict() == dict(warmup_steps=steps)
  assert 'shortened_from' not in resolved
  output = capsys.readouterr().out
  assert bool(output) == (steps < 30)
  if output:
    assert re.fullmatch(rf'warmup shortened to {steps} of 50 steps, as the run was to {resolved.total_steps} of 500; '
                        r'--config\.optimizer\.schedule\.warmup_steps=50 keeps it\n', output)


@pytest.mark.parametrize('fields, message', [
    (dict(total_epochs=5., optimizer=dict(schedule=dict(warmup_epochs=5.))),
     r'^config\.optimizer\.schedule\.warmup_epochs is 5\.0 \(50 steps\), and config\.total_epochs is 5\.0 \(50 steps\); the'),
    (dict(total_steps=20, optimizer=dict(schedule=dict(warmup_epochs=5.))),
     r'schedule\.warmup_epochs is 5\.0 \(50 steps\), and config\.total_steps is 20; the warmup must be shorter than the run'),
    (dict(total_steps=20, optimizer=dict(schedule=dict(warmup_steps=20))),
     r'schedule\.warmup_steps is 20, and config\.total_steps is 20; the warmup must be shorter than the run'),
])
def test_a_warmup_as_long_as_the_run_is_refused_by_the_field_that_is_set(fields, message):
  config = a_config(**fields)
  if 'total_epochs' in fields:
    del config['total_steps']
  with pytest.raises(ValueError, match=message):
    configuration.epochs_to_steps(config, 10)


def test_durations_that_may_be_nothing():
  config = ml_collections.ConfigDict(dict(keep_every_steps=None, schedule=dict(warmup_epochs=0.)))
  resolved = configuration.epochs_to_steps(config, 10).to_dict()
  assert resolved == dict(keep_every_steps=None, schedule=dict(warmup_steps=0))


# Which runs are the same


def test_flat():
  config = ml_collections.ConfigDict(dict(seed=0, model=dict(name='x', sizes=(1, 2))))
  assert configuration.flat(config) == {'seed': 0, 'model.name': 'x', 'model.sizes': [1, 2]}


def test_differences_show_both_sides():
  old = dict(seed=0, model=dict(name='x', sizes=[1, 2], rate=None))
  new = ml_collections.ConfigDict(dict(seed=1, model=dict(name='x', sizes=(1, 2), dtype='bfloat16')))
  assert configuration.differences(old, new) == [
      "model.dtype: not set before, 'bfloat16' now", 'model.rate: None before, not set now', 'seed: 0 before, 1 now']
  assert configuration.differences(new, new) == []


@pytest.mark.parametrize('path, free', [
    ('log_every_steps', True), ('eval_every_steps', True), ('checkpoint.keep_latest', True), ('evals.test.split', True),
    ('data.data_dir', True), ('data.threads', True), ('data.split', False), ('data.batch_size', False), ('seed', False),
    ('total_steps', False), ('optimizer.learning_rate', False), ('step.loss', False), ('model.checkpoint', False),
    ('data.data_dirs', False)])
def test_fields_that_may_change_when_a_run_goes_on(path, free):
  old, new = {}, {}
  for side, value in ((old, 1), (new, 2)):
    *sections, name = path.split('.')
    for part in sections:
      side = side.setdefault(part, {})
    side[name] = value
  assert configuration.differences(old, new) == ([] if free else [f'{path}: 1 before, 2 now'])


FILES = '2 files, sha256 of their names a'
OTHER_IMAGES = ("contents_sample: 'other' before, 'abc' now; the images differ, or how they are stored: pass the copy that "
                'the run began on')


def with_data(dataset, contents=FILES, data_dir=None, **fields):
  return dict(data=dict(dataset=dataset, data_dir=data_dir), contents=contents, **fields)


def test_the_same_images_may_lie_elsewhere():
  run = with_data
  here = run('root', contents_sample='abc')
  for same in (run('root/'), run('./root'), run(f'{os.getcwd()}/root', contents_sample='other'),
                run('/moved', contents_sample='abc')):
    assert configuration.differences(same, here) == configuration.differences(here, same) == []
  assert configuration.differences(run('/moved'), here) == ["data.dataset: '/moved' before, 'root' now"]
  assert configuration.differences(run('/moved', contents_sample='other'), here) == [
      OTHER_IMAGES, "data.dataset: '/moved' before, 'root' now"]
  assert configuration.differences(run('root', '3 files', contents_sample='abc'), here) == [
      f"contents: '3 files' before, '{FILES}' now; restore the same file names, with a good image under the name of a bad one"]


@pytest.mark.parametrize('dataset, other', [('imagenet2012', 'imagenet2012'), ('/a/foods/1.0.0', '/a/foods/1.0.0'),
                                            ('foods', '/b/foods/1.0.0')])
@pytest.mark.parametrize('data_dirs', [('/a', '/b'), (None, None), ('/a', '/a')])
def test_the_name_of_a_tfds_dataset_is_no_place(dataset, other, data_dirs):
  run = lambda name, data_dir, **fields: with_data(name, 'foods/1.0.0, 9 examples', data_dir, **fields)
  here = run(dataset, data_dirs[0], contents_sample='abc')
  assert configuration.differences(run(other, data_dirs[1], contents_sample='abc'), here) == []
  assert configuration.differences(run(other, data_dirs[1], contents_sample='other'), here)[0] == OTHER_IMAGES
  for before in {}, {'contents_sample': None}:
    renamed = [] if dataset == other else [f"data.dataset: '{other}' before, '{dataset}' now"]
    assert configuration.differences(run(other, data_dirs[1], **before), here) == renamed

  copy = dict(contents_sample='other', contents_features='f')  # the same images, in records of another order of features
  assert configuration.differences(run(other, data_dirs[1], **copy), {**here, 'contents_features': 'f'}) == []
  assert configuration.differences(run(other, data_dirs[1], **copy), {**here, 'contents_features': 'g'})[0] == OTHER_IMAGES


# The list of configs


def test_describe_all(tmp_path):
  """None is imported: these would raise."""
  (tmp_path / 'b.py').write_text('"""B on digits.\n\nMore."""\nraise SystemExit\ndef get_config(): pass\n')
  (tmp_path / 'a.py').write_text('raise SystemExit\ndef get_config(): pass\n')
  (tmp_path / 'recipes.py').write_text('"""Shared."""\ndef imagenet(): pass\n')
  (tmp_path / 'notes.txt').write_text('def get_config(): pass\n')
  assert configuration.describe_all(str(tmp_path)) == [
      ((tmp_path / 'a.py').as_posix(), ''), ((tmp_path / 'b.py').as_posix(), 'B on digits.')]


def test_classes_that_are_none_become_those_of_the_data():
  config = ml_collections.ConfigDict(dict(model=dict(num_classes=None)))
  assert configuration.with_classes(config, ['cat', 'dog']).model.num_classes == 2
  assert config.model.num_classes is None
  config.model.num_classes = 7
  assert configuration.with_classes(config, ['cat', 'dog']).model.num_classes == 7
  config = ml_collections.ConfigDict(dict(model=dict(num_classes=None)))
  with pytest.raises(ValueError, match='num_classes is None, and the training data have no classes of their own'):
    configuration.with_classes(config, None)


def test_a_field_may_be_a_sequence_or_one_of_several_words():
  def function(*, shots: collections.abc.Sequence[int] = (5,), head: typing.Literal['fresh', None] = None):
    return shots, head
  assert configuration.instantiate(function, 'probes.x', dict(shots=(1, 5), head='fresh')) == ((1, 5), 'fresh')
  with pytest.raises(ValueError, match="config.probes.x.head is 'frsh'; it must be one of 'fresh', None"):
    configuration.instantiate(function, 'probes.x', dict(head='frsh'))


@pytest.mark.parametrize('name', ['/val', 'a/b', '', 'a b', 'a\0b'])
def test_an_evaluations_name_is_one_for_a_file(name):
  for section in ('evals', 'probes'):
    with pytest.raises(ValueError, match=f'config.{section}.{re.escape(name)}: results and pictures are named after'):
      configuration.check(a_config(**{section: {name: {}}}))
  configuration.check(a_config(evals={'val_2-x': {}, 'été': {}}))


def test_results_of_evaluations_and_probes_have_names_of_their_own():
  with pytest.raises(ValueError, match='config.evals.val and config.probes.val have the same name, and so would their results'):
    configuration.check(a_config(evals=dict(val={}), probes=dict(val={})))
  with pytest.raises(ValueError, match="config.probes.train: 'train' is the name of the steps' own metrics; choose another$"):
    configuration.check(a_config(probes=dict(train={})))
