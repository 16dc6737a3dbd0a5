"""The paper's tables and figures: what is published, how our runs are matched to it, and what is skipped."""

import html.parser
import json
import pathlib
import re
import statistics
import subprocess
import sys

import pytest

from configs import bit
from configs import bit_finetune
from configs import bit_vtab
from configs import finetuning
from configs import halonet
from configs import mixer_vtab
from configs import vit
from configs import vit_finetune
from configs import vit_vtab
from configs import vtab
import example_runs
import golden
from mixer import storage
from paper import __main__ as page
from paper import collect
from paper import command_line
from paper import count
from paper import entries
from paper import figures
from paper import matching
from paper import reading
from paper import records
from paper import studies
from paper import tables

ROOT = pathlib.Path(__file__).parent.parent


def write_final(folder, config, metrics, **more):
  """A finished run with one evaluation."""
  return example_runs.write(folder, config, [(config['total_steps'], metrics)], **more)


def row(table, *names):
  """{column: cell} of the one row that begins with some names."""
  rows = [row for row in table.rows if tuple(row[:len(names)]) == names]
  assert len(rows) == 1, (names, [row[:table.heads] for row in table.rows])
  return dict(zip(table.columns, rows[0]))


def ours(cell):
  return [value.text for value in cell.ours]


def all_ours(table):
  return [value.text for line in table.rows for cell in line if not isinstance(cell, str) for value in cell.ours]


def table3_row(collection, epochs='300', model='Mixer-B/16', data='ImageNet', pixels='224'):
  return row(tables.table3(collection), model, data, pixels, epochs)


# What is published.


@pytest.mark.parametrize('name, table, columns', [
    ('table2_transfer', tables.table2, {'imagenet_top1': 'ImageNet', 'real_top1': 'ReaL', 'avg5_top1': 'Avg. 5',
                                        'vtab1k': 'VTAB-1k', 'images_per_sec_per_core': 'img/s/core',
                                        'tpuv3_core_days': 'core-days'}),
    ('table3_scales', tables.table3, {'imagenet_top1': 'ImageNet', 'real_top1': 'ReaL', 'avg5_top1': 'Avg. 5',
                                      'images_per_sec_per_core': 'img/s/core', 'tpuv3_core_days': 'core-days'})])
def test_without_runs_a_cell_is_what_was_published_or_empty(name, table, columns):
  made = table(reading.Collection())
  for published, line in zip(tables.published(name), made.rows, strict=True):
    shown = dict(zip(made.columns, line))
    assert shown['model'] == published['model']
    assert {column: shown[column].published for column in columns.values()} == {
        columns[field]: published[field] for field in columns}
  assert not made.ids


def test_values_of_the_paper():
  """Table 3 and, in Table 2, a mean of five tasks and its empty cells."""
  empty = reading.Collection()
  assert table3_row(empty)['ImageNet'].published == '76.44'
  assert table3_row(empty, '14', 'Mixer-H/14', 'JFT-300M')['core-days'].published == '1010'
  assert row(tables.table2(empty), 'BiT-R152x4', 'JFT-300M')['Avg. 5'].published == '95.33'
  assert row(tables.table2(empty), 'HaloNet-H4')['ReaL'].published == ''


def test_table_1_is_the_golden_one():
  assert (tables.PUBLISHED / 'table1_specs.csv').read_text() == (golden.FOLDER / 'table1_specs.csv').read_text()


def test_configs_have_the_hyperparameters_of_table_4():
  """All but 7 or 14 epochs for L on JFT-300M, of which two configs have one each."""
  made = tables.table4(reading.Collection())
  for line in made.rows:
    for column, cell in list(zip(made.columns, line))[2:]:
      if cell.published:
        expected = [float(number) for number in cell.published.split(' or ')]
        assert [float(value.text) for value in cell.ours] == expected, (line[:2], column)
      else:
        assert ours(cell) in (['none'], ['0']), (line[:2], column)


# Counts.


def test_the_committed_counts_equal_table_1():
  collection = reading.read([str(reading.OURS / 'table1.jsonl')])
  made = tables.table1(collection)
  for line in made.rows:
    cells = dict(zip(made.columns, line))
    for column, cell in list(cells.items())[1:]:
      number = float(ours(cell)[0].replace(',', ''))
      assert number == pytest.approx(float(cell.published.replace(',', '')), abs=0.005), (line[0], column)


def test_counting_a_model_gives_what_is_committed():
  committed = reading.read([str(reading.OURS / 'table1.jsonl')]).counts
  for which in (('mlp_mixer', 'S/32', 224, 1), ('vit', 'B/16', 224, 1)):
    counted = count.count(*which)
    # ViT-B/16 with 1,000 classes: the README of google-research/vision_transformer, and timm.
    assert which[0] != 'vit' or counted.params_1000_classes == 86_567_656
    assert counted.id in [one.id for one in committed]
    assert counted.fields in [one.fields for one in committed]


# Which cell a run belongs to.


def test_a_run_fills_its_cell_and_no_other(tmp_path):
  write_final(tmp_path / 'any name', example_runs.imagenet(), {'val/top1': 0.7631, 'val/loss': 1.}, examples=50000,
              history=example_runs.started_and_ended(seconds=7200, devices=128))
  collection = reading.read([str(tmp_path)])
  cells = table3_row(collection)
  assert ours(cells['ImageNet']) == ['76.31']
  assert ours(cells['core-days']) == ['10.7']  # 2 h of 128 cores
  assert all_ours(tables.table3(collection)) == ['76.31', '10.7'] and not tables.table2(collection).ids
  assert collection.runs[0].commit == '0123abc' and collection.runs[0].examples == {'val': 50000}


@pytest.mark.parametrize('fields', [
    dict(total_steps=18579),  # 60 epochs
    dict(data__fraction=0.1), dict(data__permutation='pixels'), dict(data__classes=('a', 'b')),
    dict(evals__val__classes=('a', 'b')), dict(evals__val__permutation='pixels'),
    dict(evals__val__crop='paper_resize'), dict(evals__val__split='train[99%:]'), dict(data__resolution=256),
    dict(model__variant='B/32'), dict(start_from={'weights': 'sam/Mixer-B_16'}), dict(data__dataset='imagenet_v2'),
    dict(contents='a folder'), dict(step__sam={'rho_max': 0.5}), dict(step__label_smoothing=0.1),
    dict(step__cutmix=1.), dict(data__pad=4), dict(data__autoaugment='cifar10'), dict(data__cutout=16),
    dict(data__randaugment_magnitude=5., data__randaugment_translate=10.), dict(data__random_erasing=0.25),
    dict(data__randaugment_magnitude=5., data__randaugment_cutout=10.),
    dict(optimizer__name='lion'), dict(optimizer__name='lamb'), dict(optimizer__layer_decay=0.75),
    dict(contents='imagenet2012/5.1.0, 1281167 examples, resized: shorter side at most 384, JPEG quality 95'),
    dict(contents='imagenet2012/5.1.0, 128116 examples', total_steps=9384)])
def test_another_run_fills_no_cell(tmp_path, fields):
  write_final(tmp_path / 'run', example_runs.imagenet(**fields), {'val/top1': 0.7})
  collection = reading.read([str(tmp_path)])
  assert not tables.table2(collection).ids and not tables.table3(collection).ids
  shown = {table.key: all_ours(table) for table in tables.all_tables(collection) if table.key not in ('table4', 'table1')}
  place = 'figure4_table' if 'data__permutation' in fields else 'other_runs'
  assert shown.pop(place) == ['70.00'] and not any(shown.values())


def test_the_sizes_of_randaugment_count_only_with_randaugment():
  config = example_runs.imagenet(data__randaugment_translate=10., data__randaugment_magnitude=None)
  assert not matching.beyond(config)


def test_an_evaluation_that_does_not_say_what_was_scored_is_named_and_skipped(tmp_path):
  (tmp_path / 'scores.json').write_text(json.dumps({
      'format': 1, 'kind': 'evaluation', 'name': 'x', 'val/top1': 0.8, 'val/examples': 50000,
      'config': {'model': {'name': 'mlp_mixer', 'num_blocks': 24}, 'evals': {'val': {'resolution': 224}}}}))
  collection = reading.read([str(tmp_path / 'scores.json')])
  assert not collection.runs and 'the config has no start_from' in collection.warnings[0]


def test_a_run_that_is_not_finished_fills_no_cell(tmp_path):
  example_runs.write(tmp_path / 'run', example_runs.imagenet(), [(50_000, {'val/top1': 0.7})])
  collection = reading.read([str(tmp_path)])
  assert not tables.table3(collection).ids
  assert tables.all_tables(collection)[-1].rows[0][2] == '50,000 of 92,897 steps, not finished'


def test_two_runs_for_a_cell_are_both_shown_newest_first(tmp_path):
  for k, (seed, score) in enumerate([(0, 0.7631), (1, 0.7655), (2, 0.7649)]):
    write_final(tmp_path / f'{9 - k}', example_runs.imagenet(seed=seed), {'val/top1': score},
                history=example_runs.started_and_ended(time=f'2025-0{k + 1}-01T00:00:00+00:00'))
  cell = table3_row(reading.read([str(tmp_path)]))['ImageNet']
  assert ours(cell) == ['76.49', '76.55', '76.31', '76.45']
  assert cell.ours[-1].note == 'mean of 3 seeds' and len(cell.ours[-1].records) == 3


def test_runs_of_other_recipes_have_no_mean(tmp_path):
  for k in range(2):
    config = example_runs.imagenet(seed=k, optimizer__learning_rate=0.1 * k)
    write_final(tmp_path / f'{k}', config, {'val/top1': 0.7 + k / 100})
  assert sorted(ours(table3_row(reading.read([str(tmp_path)]))['ImageNet'])) == ['70.00', '71.00']


def jft(images=303_000_000, epochs=14, **fields):
  return example_runs.imagenet(
      'L/16', images, epochs, contents=f'multilabel/1.0.0, {images} examples', data__dataset='multilabel',
      data__split='train', evals={'val': {'dataset': 'multilabel', 'split': 'validation', 'resolution': 224}}, **fields)


def test_a_fine_tuned_run_stands_by_what_its_weights_saw(tmp_path):
  for epochs in (7, 14):
    write_final(tmp_path / f'{epochs}', jft(epochs=epochs), {'val/precision_at_1': 0.5})
    write_final(tmp_path / f'tuned {epochs}', example_runs.finetuned(tmp_path / f'{epochs}', variant='L/16'),
                {'test/top1': 0.84 + epochs / 1000})
  collection = reading.read([str(tmp_path)])
  assert ours(table3_row(collection, '7', 'Mixer-L/16', 'JFT-300M')['ImageNet']) == ['84.70']
  assert ours(table3_row(collection, '14', 'Mixer-L/16', 'JFT-300M')['ImageNet']) == ['85.40']


def test_other_images_are_not_jft(tmp_path):
  write_final(tmp_path / 'ours', jft(images=3_000_000), {'val/precision_at_1': 0.5})
  write_final(tmp_path / 'tuned', example_runs.finetuned(tmp_path / 'ours', variant='L/16'), {'test/top1': 0.8})
  assert not tables.table3(reading.read([str(tmp_path)])).ids


def test_published_weights_stand_by_their_name_and_the_crop_says_which_table(tmp_path):
  for crop, score in (('paper_resize', 0.841), ('paper_crop', 0.839)):
    config = example_runs.finetuned('imagenet21k/Mixer-L_16', resolution=448, variant='L/16', crop=crop)
    write_final(tmp_path / crop, config, {'test/top1': score})
  collection = reading.read([str(tmp_path)])
  assert ours(row(tables.table2(collection), 'Mixer-L/16', 'ImageNet-21k')['ImageNet']) == ['84.10']
  assert ours(table3_row(collection, '300', 'Mixer-L/16', 'ImageNet-21k', '448')['ImageNet']) == ['83.90']


def test_the_average_of_five_wants_all_five(tmp_path):
  scores = dict(imagenet2012=0.8064, cifar10=0.97, cifar100=0.86, oxford_iiit_pet=0.91, oxford_flowers102=0.98)
  for task, score in scores.items():
    collection = reading.read([str(tmp_path)]) if any(tmp_path.iterdir()) else reading.Collection()
    assert not table3_row(collection, data='ImageNet-21k')['Avg. 5'].ours
    write_final(tmp_path / task, example_runs.finetuned('imagenet21k/Mixer-B_16', task), {'test/top1': score})
    of_table_2 = example_runs.finetuned('imagenet21k/Mixer-B_16', task, crop='paper_resize')
    write_final(tmp_path / f'{task} of table 2', of_table_2, {'test/top1': 0.1},
                history=example_runs.started_and_ended(time='2099-01-01T00:00:00+00:00', step=500))
  value, = table3_row(reading.read([str(tmp_path)]), data='ImageNet-21k')['Avg. 5'].ours
  assert value.text == f'{100 * statistics.mean(scores.values()):.2f}' == '90.53' and len(value.records) == 5


def pretrained(folder, name):
  """A run of a baseline's pre-training config on all of ImageNet-21k or JFT."""
  config = (bit if name.startswith('r') else vit).get_config(name).to_dict()
  images = 303_000_000 if name.endswith('jft') else 14_000_000
  config.update(total_steps=round(config.pop('total_epochs') * images / 4096), contents=f'x, {images} examples')
  return write_final(folder, config, {'val/precision_at_1': 0.5})


@pytest.mark.parametrize('load, model, name, row_of', [
    (mixer_vtab.get_config, 'l16_i21k', None, ('Mixer-L/16', 'ImageNet-21k')),
    (vit_vtab.get_config, 'l16', 'l16_i21k_90', ('ViT-L/16', 'ImageNet-21k')),
    (bit_vtab.get_config, 'r152x4', 'r152x4_jft', ('BiT-R152x4', 'JFT-300M'))])
def test_vtab_is_the_mean_of_its_tasks(tmp_path, load, model, name, row_of):
  for k, task in enumerate(vtab.TASKS):
    config = load(f'{model},{task}').to_dict()
    if name:
      config['start_from']['weights'] = str(pretrained(tmp_path / 'before', name) if k == 0 else tmp_path / 'before')
    write_final(tmp_path / task, {**config, 'contents': 'x, 1000 examples'}, {'test/top1': 0.5 + 0.02 * k})
    if k == 17:
      assert not row(tables.table2(reading.read([str(tmp_path)])), *row_of)['VTAB-1k'].ours
  value, = row(tables.table2(reading.read([str(tmp_path)])), *row_of)['VTAB-1k'].ours
  assert value.text == '68.00' and value.note == 'mean of 19 tasks'


def test_fine_tuned_bits_have_their_cells(tmp_path):
  before = {name: pretrained(tmp_path / name, name) for name in ('r152x4_i21k', 'r50x1_jft')}
  for which, name, score in [*((f'r152x4,{task}', 'r152x4_i21k', 0.8) for task in finetuning.TASKS),
                             ('r50x1,imagenet2012,224', 'r50x1_jft', 0.7)]:
    config = bit_finetune.get_config(which).to_dict()
    config['start_from']['weights'] = str(before[name])
    write_final(tmp_path / which.replace(',', '-'), {**config, 'contents': 'x, 1000 examples'}, {'test/top1': score})
  collection = reading.read([str(tmp_path)])
  in_table_2 = row(tables.table2(collection), 'BiT-R152x4', 'ImageNet-21k')
  assert (ours(in_table_2['ImageNet']), ours(in_table_2['Avg. 5'])) == (['80.00'], ['80.00'])
  assert in_table_2['ImageNet'].ours[0].note == 'at 480'
  assert ours(table3_row(collection, '7', 'BiT-R50x1', 'JFT-300M')['ImageNet']) == ['70.00']


def test_the_halonet_of_table_2_is_not_the_h4_of_its_own_paper(tmp_path):
  for variant, score in (('H4-base128-conv12', 0.85), ('H4', 0.6)):
    config = halonet.get_config('h4_i21k').to_dict()
    config.update(total_steps=311_949, contents='x, 14197122 examples')
    config['model']['variant'] = variant
    before = write_final(tmp_path / f'{variant}-before', config, {'val/precision_at_1': 0.5})
    config = halonet.get_config('h4_i1k_512').to_dict()
    config['start_from']['weights'] = str(before)
    config['model']['variant'] = variant
    write_final(tmp_path / variant, {**config, 'contents': 'x, 1000 examples'}, {'test/top1': score})
  made, = row(tables.table2(reading.read([str(tmp_path)])), 'HaloNet-H4')['ImageNet'].ours
  assert (made.text, made.note) == ('85.00', 'at 512')


def test_a_vit_that_averages_its_weights_stands_by_the_average_and_a_mixer_by_the_last(tmp_path):
  weights = str(pretrained(tmp_path / 'before', 'l16_i21k_90'))
  config = vit_finetune.get_config('l16,imagenet2012,512').to_dict()
  assert config['step']['ema'] == 0.9999 and 'ema' not in vit_finetune.get_config('l16,imagenet2012').step
  config['start_from']['weights'] = weights
  scores = {'test/top1': 0.7, 'test_ema/top1': 0.85}
  run = write_final(tmp_path / 'vit', {**config, 'contents': 'x, 1000 examples'}, scores)
  config = example_runs.finetuned('imagenet21k/Mixer-L_16', resolution=448, variant='L/16', crop='paper_resize')
  config['step']['ema'] = 0.9999
  mixer_run = write_final(tmp_path / 'mixer', config, scores)
  of = lambda path, model: ours(row(tables.table2(reading.read([str(path)])), model, 'ImageNet-21k')['ImageNet'])
  assert of(tmp_path / 'vit', 'ViT-L/16') == ['85.00'] and of(tmp_path / 'mixer', 'Mixer-L/16') == ['70.00']
  section = dict(split='validation', crop='paper_resize', dataset='imagenet2012')
  for average in (True, False):
    for path, model, name, side in ((run, 'vit', 'ViT-L/16', 512), (mixer_run, 'mlp_mixer', 'Mixer-L/16', 448)):
      (tmp_path / 'scores.json').write_text(json.dumps({
          'format': 1, 'kind': 'evaluation', 'name': str(path), 'val/top1': 0.8, 'val/examples': 50000,
          'config': {'model': {'name': model, 'num_blocks': 24}, 'start_from': {'weights': str(path), 'average': average},
                     'evals': {'val': {**section, 'resolution': side}}}}))
      assert bool(of(tmp_path / 'scores.json', name)) == (average == (model == 'vit')), (average, model)


def test_an_evaluation_of_published_weights_has_its_cell(tmp_path):
  """As tools.evaluate writes it for configs/evaluate_imagenet.py."""
  section = dict(split='validation', resolution=224, crop='paper_crop')
  (tmp_path / 'scores.json').write_text(json.dumps({
      'format': 1, 'kind': 'evaluation', 'name': 'imagenet1k/Mixer-B_16', 'weights': 'Mixer-B/16, ...',
      'config': {'model': {'name': 'mlp_mixer', 'variant': 'B/16'}, 'start_from': {'weights': 'imagenet1k/Mixer-B_16'},
                 'evals': {'val': {**section, 'dataset': 'imagenet2012'},
                           'real': {**section, 'dataset': 'imagenet2012_real'}}},
      'val/top1': 0.7644, 'val/examples': 50000, 'real/precision_at_1': 0.8236, 'real/examples': 46837}))
  collection = reading.read([str(tmp_path / 'scores.json')])
  cells = table3_row(collection)
  assert (ours(cells['ImageNet']), ours(cells['ReaL'])) == (['76.44'], ['82.36'])
  assert collection.runs[0].examples == {'val': 50000, 'real': 46837}


def test_an_evaluation_of_a_run_stands_where_the_run_would(tmp_path):
  config = example_runs.finetuned('imagenet21k/Mixer-L_16', resolution=448, variant='L/16', model__tiles=2)
  run = write_final(tmp_path / 'run', config, {'test/top1': 0.8})
  section = dict(split='validation', resolution=448, crop='paper_crop', dataset='imagenet2012_real')
  (tmp_path / 'scores.json').write_text(json.dumps({
      'format': 1, 'kind': 'evaluation', 'name': str(run), 'val/precision_at_1': 0.8775, 'val/examples': 46837,
      'config': {'model': {'name': 'mlp_mixer', 'num_blocks': 24}, 'start_from': {'weights': str(run)},
                 'evals': {'val': section}}}))
  cells = table3_row(reading.read([str(tmp_path / 'scores.json')]), '300', 'Mixer-L/16', 'ImageNet-21k', '448')
  assert ours(cells['ReaL']) == ['87.75']


def test_a_run_that_was_fine_tuned_twice_has_no_row(tmp_path):
  write_final(tmp_path / 'once', example_runs.finetuned('imagenet21k/Mixer-B_16'), {'test/top1': 0.8})
  write_final(tmp_path / 'twice', example_runs.finetuned(tmp_path / 'once'), {'test/top1': 0.81})
  assert all_ours(tables.table3(reading.read([str(tmp_path)]))) == ['80.00']


def test_time_of_killed_starts_is_not_known(tmp_path):
  start, end = example_runs.started_and_ended(seconds=7200, devices=128)
  write_final(tmp_path / 'run', example_runs.imagenet(), {'val/top1': 0.76}, history=[start, start, end])
  assert ours(table3_row(reading.read([str(tmp_path)]))['core-days']) == ['at least 10.7']


# Speed.


def speed(variant, speed_, model='mlp_mixer', resolution=224, dtype='bfloat16', device='TPU v3'):
  return dict(format=1, kind='throughput', model=model, variant=variant, resolution=resolution, dtype=dtype,
              batch_size=64, images_per_s_per_core=speed_, device=device, sweep=[[1, 2.]], ended='slower')


def test_speeds_are_compared_on_the_same_device_and_dtype(tmp_path):
  lines = [speed('B/16', 3000.), speed('B/16', 2000., 'vit'), speed('B/16', 500., 'vit', dtype='float32'),
           speed('B/16', 700., 'vit', device='cpu')]
  (tmp_path / 'speed.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  collection = reading.read([str(tmp_path / 'speed.jsonl'), str(reading.OURS / 'table1.jsonl')])
  cells = row(tables.throughput(collection), 'Mixer-B/16 at 224 over ViT-B/16 at 224')
  assert cells['published'].published == '1.61 (1,384 to 861)'  # Table 3
  assert ours(cells['measured']) == ['1.50'] and ours(cells['by multiply-adds']) == ['1.39']
  # App. C: a dense token MLP at 448 has 237.38 GMACs, to 44.55 at 224.
  doubled = row(tables.throughput(collection), 'Mixer-L/16 at 224 over Mixer-L/16 at 448')
  assert doubled['published'].published == '3.99 (419 to 105)' and ours(doubled['by multiply-adds']) == ['5.33']
  assert ours(table3_row(collection)['img/s/core']) == ['3,000']


def test_speeds_of_other_hardware_stand_apart_and_each_says_its_own():
  lines = [speed('B/16', 9., device='cpu'), speed('B/16', 3000.), speed('B/16', 2000., device='NVIDIA H100'),
           speed('B/16', 9000., device='TPU v5 lite'), {**speed('B/16', 7.), 'device': None}]
  collection = reading.Collection(throughputs=[records.of_object(line, 'speed.jsonl') for line in lines])
  cell = table3_row(collection)['img/s/core']
  assert {(value.text, value.note) for value in cell.ours} == {('3,000', 'bfloat16, TPU v3'),
                                                               ('9,000', 'bfloat16, TPU v5 lite')}
  assert [(device, ours(cell)) for device, *_, cell in tables.speeds(collection).rows] == [
      ('NVIDIA H100', ['2,000.0']), ('TPU v3', ['3,000.0']), ('TPU v5 lite', ['9,000.0']), ('cpu', ['9.0']),
      ('unknown', ['7.0'])]
  shown = entries.of([one.id for one in collection.throughputs], collection, {})
  units = [re.search(r'images/s/(\w+),', dict(entry.facts)['results'])[1] for entry in shown]
  assert units == ['device', 'core', 'GPU', 'device', 'device']


@pytest.mark.parametrize('number, text', [(1, 'Mixer, 1 block, 64 wide, patch 4'), (2, 'Mixer, 2 blocks, 64 wide, patch 4')])
def test_one_block_is_no_blocks(number, text):
  assert matching.label(dict(name='mlp_mixer', num_blocks=number, hidden_dim=64, patch_size=4)) == text


# Experiments.


def permuted(tmp_path, **scores):
  """Runs of three seeds each, of permutations by their names."""
  for name, values in scores.items():
    for seed, score in enumerate(values):
      config = example_runs.changed(example_runs.DIGITS, seed=seed)
      if name != 'original':
        for section in (config['data'], *config['evals'].values()):
          section |= {'permutation': name, 'permutation_seed': 7}
      curve = [(50, {'test/top1': score / 2}), (100, {'test/top1': score})]
      example_runs.write(tmp_path / f'{name} {seed}', config, curve)


def test_permutations_are_one_study_over_seeds(tmp_path):
  permuted(tmp_path, original=[0.98, 0.96, 0.97], patches=[0.97, 0.96, 0.98], pixels=[0.7, 0.8, 0.6])
  # Of another recipe, and so no seed of these.
  other = example_runs.changed(example_runs.DIGITS, optimizer__learning_rate=1.)
  write_final(tmp_path / 'other', other, {'test/top1': 0.1})
  collection = reading.read([str(tmp_path)])
  cells = row(tables.study_table('figure4', collection), 'Mixer, 2 blocks, 64 wide, patch 4', 'digits at 8 x 8 pixels')
  assert {name: ours(cells[name]) for name in ('original', 'patches', 'pixels')} == {
      'original': ['97.00'], 'patches': ['97.00'], 'pixels': ['70.00']}
  assert cells['pixels'].ours[0].note == '60.00 to 80.00, 3 seeds' and len(cells['pixels'].ours[0].records) == 3
  figure, = figures.figure4(collection)
  assert figure.title == 'Figure 4 on digits at 8 x 8 pixels' and len(figure.ids) == 9
  assert all_ours(tables.all_tables(collection)[-1]) == ['10.00']


def test_runs_without_permutations_are_no_study(tmp_path):
  permuted(tmp_path, original=[0.98, 0.96])
  figure, = figures.figure4(reading.read([str(tmp_path)]))
  assert not figure.panels and 'tools.experiment permutations' in figure.missing


def test_a_seed_that_was_run_twice_counts_once_and_is_shown_twice(tmp_path):
  permuted(tmp_path, original=[0.9, 0.8], pixels=[0.5])
  for folder, month, score in (('original 0', 1, 0.9), ('original again', 2, 0.94)):
    if folder.endswith('again'):
      write_final(tmp_path / folder, example_runs.DIGITS, {'test/top1': score})
    events = example_runs.started_and_ended(time=f'2090-0{month}-01T00:00:00+00:00')
    (tmp_path / folder / 'history.jsonl').write_text(''.join(json.dumps(event) + '\n' for event in events))
  collection = reading.read([str(tmp_path)])
  cell = row(tables.study_table('figure4', collection), 'Mixer, 2 blocks, 64 wide, patch 4')['original']
  assert ours(cell) == ['87.00', '90.00'] and cell.ours[1].note == 'seed 0, older'


def test_the_data_scale_stops_early(tmp_path):
  """At the step that is best by what the config keeps, whatever the probe says."""
  for fraction in (0.1, 1.):
    config = example_runs.changed(example_runs.DIGITS, data__fraction=fraction, checkpoint__best='test/top1')
    example_runs.write(tmp_path / f'{fraction}', config, [
        (10, {'test/top1': 0.5, 'other/5shot': 0.9}), (50, {'test/top1': 0.8, 'other/5shot': 0.6 + fraction / 10}),
        (100, {'test/top1': 0.7, 'other/5shot': 0.3})])
  # Trained alike, but not stopped early, and so no seed of these.
  write_final(tmp_path / 'other', example_runs.DIGITS, {'test/top1': 0.7, 'other/5shot': 0.3})
  cells = row(tables.study_table('figure2_right', reading.read([str(tmp_path)])), 'Mixer, 2 blocks, 64 wide, patch 4',
              'digits at 8 x 8 pixels', 'other/5shot')
  assert (ours(cells['10% of the data']), ours(cells['100% of the data'])) == (['61.00'], ['70.00'])


def test_appendix_a_is_compared_with_the_plain_mixer_of_the_same_size(tmp_path):
  for name, score in (('mlp_mixer', 0.9), ('untied_mixer', 0.8)):
    write_final(tmp_path / name, example_runs.changed(example_runs.DIGITS, model__name=name), {'test/top1': score})
  larger = example_runs.changed(example_runs.DIGITS, model__hidden_dim=128)
  write_final(tmp_path / 'larger', larger, {'test/top1': 0.99})
  assert sorted(all_ours(tables.appendix_a(reading.read([str(tmp_path)])))) == ['80.00', '90.00']


# Records.


def test_collected_records_make_the_same_tables(tmp_path):
  runs = tmp_path / 'runs'
  permuted(runs, original=[0.98, 0.96, 0.97], pixels=[0.7, 0.8, 0.6])
  pretrained = write_final(runs / 'i1k', example_runs.imagenet(), {'val/top1': 0.7631}, examples=50000,
                           history=example_runs.started_and_ended())
  write_final(runs / 'tuned', example_runs.finetuned(pretrained, 'cifar10'), {'test/top1': 0.9})
  example_runs.write(runs / 'unfinished', example_runs.imagenet(seed=5), [(10, {'val/top1': 0.1})])
  collect.main([str(runs), f'--out={tmp_path / "ours.jsonl"}'])
  lines = [json.loads(line) for line in (tmp_path / 'ours.jsonl').read_text().splitlines()]
  assert len(lines) == 8 and all(line['format'] == 1 and line['curve'] for line in lines)
  from_runs, collected = reading.read([str(runs)]), reading.read([str(tmp_path / 'ours.jsonl')])
  from_runs.runs = [run for run in from_runs.runs if run.finished]
  assert tables.all_tables(from_runs) == tables.all_tables(collected)
  # What is passed both ways counts once.
  assert len(reading.read([str(runs), str(tmp_path / 'ours.jsonl')]).runs) == 9


def test_cut_lines_are_counted_and_named(tmp_path, capsys):
  folder = write_final(tmp_path / 'run', example_runs.DIGITS, {'test/top1': 0.9})
  with (folder / 'records.jsonl').open('a') as file:
    file.write('[1]\n{"step": 110, "test/to')
  collection = reading.read([str(folder)])
  assert collection.warnings == [f'{folder}/records.jsonl: 2 lines are cut off or damaged (lines 2, 3); skipped']
  assert collection.runs[0].metrics == {'test/top1': 0.9}
  command_line.print_warnings(collection.warnings)
  assert capsys.readouterr().err.endswith('skipped\n1 warning\n')


@pytest.mark.parametrize('fields, message', [
    (dict(format=2), 'the record is of format 2, and this code reads format 1. Write it again with this code'),
    (dict(format=None), 'has no "format", and this code reads format 1'),
    (dict(kind='dream'), "'kind' is 'dream'; it must be one of run, evaluation, throughput, count"),
    (dict(metrics=None), "'metrics' is missing"), (dict(steps='100'), "'steps' is '100'; it must be int"),
    (dict(metrics={'test/top1': 'high'}), "'test/top1' of 'metrics' is 'high'; it must be a number"),
    (dict(config={'model': {}}), 'model.name of the config is None; train.py does not write such a config'),
    (dict(curve=[3]), "'curve' holds 3; each must be [step, {metric: value}]")])
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, fields, message):
  write_final(tmp_path / 'run', example_runs.DIGITS, {'test/top1': 0.9})
  good = records.to_object(reading.read([str(tmp_path / 'run')]).runs[0])
  bad = {name: value for name, value in {**good, **fields}.items() if value is not None}
  (tmp_path / 'ours.jsonl').write_text(f'{json.dumps(bad)}\n{json.dumps(good)}\n')
  collection = reading.read([str(tmp_path / 'ours.jsonl')])
  assert len(collection.runs) == 1 and len(collection.warnings) == 1
  assert collection.warnings[0].startswith(f'{tmp_path}/ours.jsonl:1: ') and message in collection.warnings[0]


def test_what_is_wrong_in_many_lines_is_told_once(tmp_path):
  (tmp_path / 'ours.jsonl').write_text('{"format": 7}\n' * 9)
  warning, = reading.read([str(tmp_path / 'ours.jsonl')]).warnings
  assert 'ours.jsonl:1: the record is of format 7' in warning
  assert warning.endswith('skipped; the same for 8 more, up to line 9')


def test_another_format_of_a_history_is_named(tmp_path):
  start, end = example_runs.started_and_ended()
  folder = write_final(tmp_path / 'run', example_runs.DIGITS, {'test/top1': 0.9}, history=[start, {**end, 'format': 3}])
  collection = reading.read([str(folder)])
  assert f'{folder}/history.jsonl:2: the record is of format 3' in collection.warnings[0]


def test_a_run_without_history_has_an_unknown_commit(tmp_path):
  write_final(tmp_path / 'run', example_runs.DIGITS, {'test/top1': 0.9})
  run, = reading.read([str(tmp_path)]).runs
  assert (run.commit, run.device, run.core_seconds) == ('unknown', None, None) and run.time


def test_runs_that_cannot_be_read_are_passed_over(tmp_path):
  write_final(tmp_path / 'good', example_runs.DIGITS, {'test/top1': 0.9})
  for name, content in (('empty', '{}'), ('damaged', '{"model": '), ('begun', json.dumps(example_runs.DIGITS))):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text(content)
  collection = reading.read([str(tmp_path)])
  assert [run.name for run in collection.runs] == ['good']
  assert [warning.split(':')[0].removeprefix(f'{tmp_path}/') for warning in collection.warnings] == [
      'begun', 'damaged/config.json', 'empty/config.json']


# The commands.


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(SystemExit, match=rf'error: {tmp_path}/gone does not exist\. Pass the work directory of a run'):
    command_line.run(lambda: tables.main([str(tmp_path / 'gone')]))


def test_table_4_reads_the_fields_that_models_have(monkeypatch):
  load = tables.load_config
  monkeypatch.setattr(tables, 'load_config', lambda name: example_runs.changed(
      load(name), model__dropout_rate=0.3, model__stochastic_depth=0.4))
  shown = str(tables.table4(reading.Collection()))
  assert '0.3' in shown and '0.4' in shown


def test_the_data_scale_is_one_at_equal_steps(tmp_path):
  for fraction, steps in ((0.1, 101), (1., 100), (0.3, 60)):  # of which 101 is a rounding away
    config = example_runs.changed(example_runs.DIGITS, data__fraction=fraction, total_steps=steps)
    example_runs.write(tmp_path / f'{fraction}', config, [(steps, {'test/top1': 0.5})])
  collection = reading.read([tmp_path])
  assert [sorted(study.arms) for study in studies.data_scale(collection.runs)] == [[0.1, 1.0]]


def test_folders_may_hold_evaluations_and_files_of_other_kinds(tmp_path):
  (tmp_path / 'other.jsonl').write_bytes(b'\xff\xfe')
  (tmp_path / 'other.json').write_text('{"format": 1}')
  evaluation = {'format': 1, 'kind': 'evaluation', 'config': {'model': {'name': 'vit'}}, 'name': 'w'}
  (tmp_path / 'e.json').write_text(json.dumps(evaluation))
  collection = reading.read([tmp_path])
  assert any('e.json' in warning for warning in collection.warnings)  # it was read, and says too little


def test_a_history_of_other_types_is_left(tmp_path):
  event = {**example_runs.started_and_ended()[1], 'time': 5, 'versions': [1]}
  example_runs.write(tmp_path / 'run', example_runs.DIGITS, [(100, {'test/top1': 0.5})], history=[event])
  example_runs.write(tmp_path / 'two', example_runs.changed(example_runs.DIGITS, seed=1), [(100, {'test/top1': 0.5})])
  assert len(reading.read([tmp_path]).runs) == 2


def test_a_fraction_must_be_a_number(tmp_path):
  config = example_runs.changed(example_runs.DIGITS, data__fraction='x')
  example_runs.write(tmp_path / 'run', config, [(100, {'test/top1': 0.5})])
  example_runs.write(tmp_path / 'two', example_runs.DIGITS, [(100, {'test/top1': 0.5})])
  assert any('data.fraction of the config is' in warning for warning in reading.read([tmp_path]).warnings)


def test_a_folder_without_runs_is_named(tmp_path):
  with pytest.raises(SystemExit, match=rf'error: {tmp_path} holds no records: neither a work directory'):
    command_line.run(lambda: tables.main([str(tmp_path)]))


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(SystemExit, match=r'error: matplotlib is not installed.*pip install -r .*paper\.tables'):
    command_line.run(lambda: figures.main([f'--out={tmp_path}']))


def test_a_missing_folder_of_pictures_is_named_with_the_command(tmp_path):
  with pytest.raises(SystemExit, match=r'which does not exist; make it with python -m tools\.show_weights'):
    command_line.run(lambda: page.main([f'--out={tmp_path}', f'--weights-pictures={tmp_path / "gone"}']))


BLOCKED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'clu', 'tensorflow', 'tensorflow_datasets', 'sklearn')


@pytest.mark.parametrize('module, also', [
    ('paper.tables', ('matplotlib',)), pytest.param('paper', (), marks=pytest.mark.slow)])
def test_reading_records_needs_no_jax(tmp_path, module, also):
  write_final(tmp_path / 'run', example_runs.imagenet(), {'val/top1': 0.7631})
  block = f'import runpy, sys; sys.modules.update(dict.fromkeys({(*BLOCKED, *also)!r})); '
  subprocess.run([sys.executable, '-c', f'{block}runpy.run_module({module!r}, run_name="__main__", alter_sys=True)',
                  str(tmp_path / 'run'), f'--out={tmp_path / "out"}'], check=True, cwd=ROOT)
  assert 'ours [76.31](#r-' in (tmp_path / 'out' / 'tables.md').read_text()


class Page(html.parser.HTMLParser):
  """What a page has and points at."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.links, self.files, self.tags = [], [], [], set()
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.add(tag)
    self.ids += [attributes['id']] if 'id' in attributes else []
    for name in ('href', 'src', 'srcset'):
      if name in attributes:
        (self.links if attributes[name].startswith('#') else self.files).append(attributes[name])


@pytest.mark.slow
def test_the_page_is_whole(tmp_path):
  runs, out, pictures = tmp_path / 'runs', tmp_path / 'out', tmp_path / 'pictures'
  permuted(runs, original=[0.98, 0.96, 0.97], pixels=[0.7, 0.8, 0.6])
  write_final(runs / '<script>alert(1)</script>'.replace('/', '_'), example_runs.imagenet(), {'val/top1': 0.7631},
              history=[{**event, 'commit': '<b>0123'} for event in example_runs.started_and_ended()])
  pictures.mkdir()
  (pictures / 'stem.png').write_bytes(b'a picture')
  page.main([str(runs), f'--out={out}', f'--weights-pictures={pictures}'])
  text = (out / 'index.html').read_text()
  collection = Page(text)
  assert len(set(collection.ids)) == len(collection.ids)
  assert {link[1:] for link in collection.links} <= set(collection.ids)
  outside = {file for file in collection.files if '://' in file}
  assert outside == {'https://arxiv.org/abs/2105.01601'}
  assert all((out / file).is_file() for file in set(collection.files) - outside)
  assert 'weights/stem.png' in collection.files
  assert not collection.tags & {'script', 'link', 'b'}
  for key in ('table1', 'table2', 'table3', 'table4', 'figure2_left', 'figure2_right', 'figure3', 'throughput',
              'figure4_digits_at_8_x_8_pixels_test_top1', 'weights', 'records'):
    assert any(id_.startswith(key) for id_ in collection.ids)  # Figure 2 right is of the committed records, or an empty one


def test_the_same_runs_make_the_same_figure(tmp_path):
  permuted(tmp_path / 'runs', original=[0.98], pixels=[0.7])
  for name in ('one', 'other'):
    figures.write(figures.figure4(reading.read([str(tmp_path / 'runs')])), storage.path_of(tmp_path / name))
  files = {path.name: path.read_bytes() for path in (tmp_path / 'one').iterdir()}
  assert files == {name: (tmp_path / 'other' / name).read_bytes() for name in files}
  assert sorted(files) == [f'figure4_digits_at_8_x_8_pixels_test_top1{end}' for end in ('.png', '.svg', '_narrow.svg')]


def test_figures_have_all_published_points():
  assert len(tables.published('table3_scales')) == 26
  captured = {figure.key: figure for figure in figures.all_figures(reading.Collection())}
  assert [key for key, figure in captured.items() if figure.panels] == ['figure2_left', 'figure3']
  points, ids = figures._points(tables.published('table2_transfer'), 'tpuv3_core_days', reading.Collection(), 'paper_resize')
  assert len(points) == 10 and not ids and figures.Point('Mixer-H/14', 1010., 87.94) in points


def test_models_are_called_by_the_papers_names():
  assert matching.label({'name': 'bit_resnet', 'variant': 'R152x2'}) == 'BiT-R152x2'
  assert matching.label({'name': 'vit', 'variant': 'L/16', 'pool': 'mean'}) == 'ViT-L/16'
  assert matching.label({'name': 'bit_resnet', 'variant': 'R50x1', 'root': 'small'}) == 'BiT-R50x1, root small'
  assert matching.label({'name': 'mlp_mixer', 'variant': 'L/16', 'tiles': 2}) == 'Mixer-L/16'
  named = {row['model'] for name in ('table2_transfer', 'table3_scales') for row in tables.published(name)}
  ours_ = {name for name in named if name.startswith(('Mixer', 'ViT', 'BiT'))}
  assert ours_ == named - {'HaloNet-H4', 'NFNet-F4+', 'MPL', 'ALIGN'}
