"""The benchmarks run, take turns, and count rightly; how fast anything is, no test asks."""

import json
import os
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import sklearn.datasets

from benchmarks import __main__ as bench
from benchmarks import jpegs
from benchmarks import listing
from benchmarks import loop
from benchmarks import summary
from benchmarks import timm
from benchmarks import traffic
from benchmarks import turns
from benchmarks import workloads
from conftest import ROOT
from mixer.data import sources
from mixer import models
from mixer import trees

SIZE = ('--model=demo', '--batch=8', '--seconds=0.05')
FAKE_TURNS = '''
import sys
for turn, _ in enumerate(sys.stdin):
  if turn:
    print('{"contender": "fake", "value": 1}')
  print(flush=True)
'''


def contend(module, *arguments, number=2):
  """The samples of some turns of a contender, run as people run it."""
  environment = dict(os.environ, XLA_FLAGS='')  # on one device
  done = subprocess.run([sys.executable, '-m', f'benchmarks.{module}', *arguments], cwd=ROOT, env=environment,
                        input='\n' * number, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  samples = [json.loads(line) for line in done.stdout.splitlines() if line]
  assert done.stdout.count('\n') == number + len(samples)  # an empty line ends each turn
  assert done.stdout.startswith('\n')  # the first has no samples
  return samples


# each contender, as a process


@pytest.mark.slow
@pytest.mark.parametrize('module, kind, more, quantity', [
    ('ours', 'training', (), 'training'),
    ('ours', 'training', ('--dtype=bfloat16',), 'training'),
    ('ours', 'inference', (), 'inference'),
    ('listing', 'training', (), 'training'),
    ('listing', 'inference', (), 'inference'),
    ('matmul', 'jax', ('--side=64',), 'matmul'),
    ('matmul', 'jax', ('--side=64', '--dtype=bfloat16'), 'matmul'),
    ('matmul', 'numpy', ('--side=64',), 'matmul'),
])
def test_contenders_give_a_sample_a_turn(module, kind, more, quantity):
  first, second = contend(module, kind, *SIZE, *more, number=3)
  assert first['quantity'] == second['quantity'] == quantity
  assert first['value'] > 0 and first['unit'] == ('GFLOP/s' if module == 'matmul' else 'images/s')
  assert first['dtype'] == ('bfloat16' if '--dtype=bfloat16' in more else 'float32')
  assert set(summary.IDENTITY) < set(first)


@pytest.mark.slow
def test_the_loop_and_its_step_are_measured_in_one_process():
  samples = contend('loop', 'both', *SIZE, '--every=2', '--logs=3', number=3)
  assert [(sample['quantity'], sample['contender']) for sample in samples] == [
      ('loop on fake', 'train'), ('loop on fake', 'step')] * 2
  assert all(sample['value'] > 0 and set(summary.IDENTITY) < set(sample) for sample in samples)


@pytest.mark.slow
@pytest.mark.parametrize('module', ['ours', 'listing'])
def test_contenders_tell_what_compiling_takes(module):
  time, memory = contend(module, 'compiling', *SIZE)
  assert (time['quantity'], time['unit'], memory['quantity'], memory['unit']) == (
      'compile time', 's', 'temporary memory', 'MiB')
  assert time['value'] > 0 and memory['value'] > 0


@pytest.mark.slow
@pytest.mark.parametrize('kind, more', [('training', ('--dtype=bfloat16',)), ('inference', ())])
def test_timm_contends(kind, more):
  pytest.importorskip('torch', reason='torch is not installed: the extra timm')
  sample, = contend('timm', kind, *SIZE, *more)
  assert sample['contender'] == 'timm' and sample['value'] > 0
  assert sample['dtype'] == ('bfloat16' if more else 'float32')


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
  """The JPEGs of the benchmarks, as an image folder with few of them."""
  root, images = tmp_path_factory.mktemp('jpegs'), sklearn.datasets.load_sample_images().images
  for split, number in (('train', workloads.CLASSES), ('test', 12)):  # a class is a folder that holds images
    for k in range(number):
      path = root / split / f'{k:03}' / 'image.jpg'
      path.parent.mkdir(parents=True)
      if k < 12:
        path.write_bytes(jpegs.encoded(images[k % 2], np.random.default_rng(k)))
      else:
        path.hardlink_to(root / split / f'{k % 12:03}' / 'image.jpg')
  return root


@pytest.mark.slow
@pytest.mark.parametrize('module, kind, more', [
    ('pipeline', 'augmented', ()), ('pipeline', 'decode', ()), ('evaluation', 'split', ()), ('evaluation', 'forward', ()),
    ('loop', 'both', ('--data=jpegs', '--every=1', '--logs=2'))])
def test_contenders_read_jpegs(module, kind, more, photographs):
  samples = contend(module, kind, *SIZE, f'--dataset={photographs}', *more)
  assert [sample['contender'] for sample in samples] == (['train', 'step'] if kind == 'both' else [kind])
  assert all(sample['value'] > 0 and sample['quantity'].endswith(', photographs') for sample in samples)


def test_jpegs_are_the_same_again_and_as_large_as_was_said():
  photographs = sklearn.datasets.load_sample_images().images
  make = lambda seed: jpegs.encoded(photographs[seed % 2], np.random.default_rng(seed))
  assert make(1) == make(1) != make(3)
  assert 48e3 < np.mean([len(make(seed)) for seed in range(100)]) < 54e3
  assert cv2.imdecode(np.frombuffer(make(1), np.uint8), cv2.IMREAD_COLOR).shape == (375, 500, 3)


def test_a_folder_of_photographs_is_packed_byte_for_byte(tmp_path):
  folder, images = tmp_path / 'photographs', sklearn.datasets.load_sample_images().images
  files = {folder / f'{k % 3}' / f'{k:03}.JPEG': jpegs.encoded(images[k % 2], np.random.default_rng(k)) for k in range(3)}
  for path, data in files.items():
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
  with pytest.raises(ValueError, match=f'{folder} has 3 JPEGs; at least 128 are needed'):
    jpegs.prepare(str(folder), tmp_path)
  for k in range(3, 130):
    (folder / f'0/{k}.jpg').hardlink_to(folder / '0/000.JPEG')
  (folder / 'notes.txt').write_text('no image')
  packed = jpegs.prepare(str(folder), tmp_path)
  assert jpegs.prepare(str(folder), tmp_path) == packed
  for split in ('train', 'test'):
    source = sources.open_split(packed, split)
    assert source.num_examples == 130
    assert {source.parse(source.example(k), k)[0].numpy() for k in range(130)} == set(files.values())
  (folder / '2/002.JPEG').write_bytes(files[folder / '1' / '001.JPEG'])  # of another size
  assert jpegs.prepare(str(folder), tmp_path) != packed


def test_photographs_are_measured_beside_the_generated_images(monkeypatch, tmp_path, capsys):
  measured = []
  monkeypatch.setattr(jpegs, 'prepare', lambda folder=None: f'packed {folder}')
  monkeypatch.setattr(bench, 'measure', lambda groups, *_: measured.extend(groups) or [])
  monkeypatch.setattr(bench.picture, 'draw', lambda *_: None)
  bench.main(['--parts=pipeline,sam,loop', '--photographs=mine', f'--out={tmp_path}'])
  assert [group.name for group in measured] == ['input pipeline', 'GSAM S/16', 'loop on JPEGs', 'loop on fake images',
                                                'input pipeline, photographs', 'loop on JPEGs, photographs']
  for group in measured:
    for contender in group.contenders:
      assert ('--dataset=packed mine' in contender) == group.name.endswith('photographs')
  with pytest.raises(SystemExit):
    bench.main(['--parts=sam', '--photographs=mine', f'--out={tmp_path}'])
  assert '--photographs is mine, and none of the parts sam reads images; add one of pipeline, loop' in capsys.readouterr().err


# the listing


def test_the_listing_is_our_model():
  net, shapes, images = listing.shapes('demo', batch=3)
  ours = models.build(**workloads.config('demo', 3).model)
  assert trees.shapes(shapes) == trees.shapes(jax.eval_shape(ours.init, jax.random.key(0), images)['params'])
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
  x = rng.uniform(-1, 1, images.shape).astype(np.float32)
  expected = net.apply({'params': params}, x)
  np.testing.assert_allclose(ours.apply({'params': params}, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# turns


def take(monkeypatch, tmp_path, contenders, rounds=2, timeout=60.):
  """The samples of contenders that run the programs of these names, and the reports."""
  (tmp_path / 'benchmarks').mkdir()
  (tmp_path / 'benchmarks' / '__init__.py').touch()
  for name, program in contenders.items():
    (tmp_path / 'benchmarks' / f'{name}.py').write_text(program)
  monkeypatch.setattr(turns, 'ROOT', tmp_path)
  group, reports = turns.Group('group', tuple((name,) for name in contenders), rounds), []
  return list(turns.take_turns(group, timeout, reports.append)), reports


def test_contenders_take_turns(monkeypatch, tmp_path):
  samples, reports = take(monkeypatch, tmp_path, {name: FAKE_TURNS.replace('fake', name) for name in 'abc'})
  assert [(sample['contender'], sample['round'], sample['group']) for sample in samples] == [
      (name, number, 'group') for number in (1, 2) for name in 'abc']
  assert reports == [*(f'group: prepare {name}' for name in 'abc'),
                  *(f'group, round {number}: {name}' for number in (1, 2) for name in 'abc')]


def test_the_others_go_on_when_one_fails(monkeypatch, tmp_path):
  samples, _ = take(monkeypatch, tmp_path, {
      'absent': 'import nothing_of_this_name',
      'well': FAKE_TURNS,
      'breaks': FAKE_TURNS.replace('  if turn:', '  if turn == 2:\n    raise ValueError("has had enough")\n  if turn:'),
  })
  failed = {sample['failed']: (sample['round'], sample['why']) for sample in samples if 'failed' in sample}
  assert failed == {'absent': (0, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
                    'breaks': (2, 'ValueError: has had enough')}
  assert [sample['round'] for sample in samples if 'value' in sample] == [1, 1, 2]


def test_a_turn_that_takes_too_long_is_ended(monkeypatch, tmp_path):
  sample, = take(monkeypatch, tmp_path, {'late': 'import time\ninput()\ntime.sleep(600)'}, timeout=2.)[0]
  assert (sample['failed'], sample['why']) == ('late', 'took longer than 2 s')


@pytest.mark.parametrize('errors, why', [
    ('Traceback\n  File\nValueError: no\n\nSet this to see more\n', 'ValueError: no'),
    ('a.b.CompileError: no compiler\nhint', 'a.b.CompileError: no compiler'),
    ('torch is not installed: pip\n', 'torch is not installed: pip'), ('', '')])
def test_the_reason_of_an_end_is_the_exception(errors, why):
  assert turns.reason(errors) == why


def test_without_torch_the_command_that_installs_it_is_named(monkeypatch):
  monkeypatch.setattr(timm.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit, match=r"torch and timm are not installed: pip install -e '\.\[timm\]'"):
    timm.load()


# the summary


def sample(contender, value, number=1, quantity='training', model='B/16', batch=8, dtype='float32', group='g'):
  return dict(contender=contender, quantity=quantity, model=model, batch=batch, dtype=dtype, unit='images/s',
              value=value, group=group, round=number)


OURS, LISTING = ('training', 'B/16', 8, 'ours'), ('training', 'B/16', 8, 'listing')


def test_ratios_are_taken_round_by_round():
  samples = [sample('ours', 4., 1), sample('listing', 2., 1), sample('ours', 30., 2), sample('listing', 10., 2),
             sample('ours', 9., 3), sample('listing', 9., 3), sample('ours', 100., 4)]  # which the listing did not reach
  samples += [sample('listing', 1., 1, dtype='bfloat16'), sample('listing', 1., 1, batch=16),
              sample('listing', 1., 4, group='another')]
  assert summary.ratio(samples, OURS, LISTING) == summary.Spread(2., 1., 3., 3)
  assert summary.ratio(samples[:1], OURS, LISTING) is None


def test_the_limit_is_the_better_library_of_each_round():
  matmul = lambda who, value, number, **more: sample(who, value, number, quantity='matmul', model=None, batch=None, **more)
  samples = [matmul('jax', 100., 1), matmul('numpy', 300., 1), matmul('jax', 500., 2), matmul('numpy', 200., 2),
             matmul('jax', 900., 1, dtype='bfloat16')]
  assert (summary.limit(samples), summary.limit(samples, 'bfloat16')) == (400., 900.)
  flops = 3 * workloads.forward_gflops('B/16')
  samples += [sample('ours', 150 / flops, 1), sample('ours', 400 / flops, 2)]
  reached = summary.ratio(samples, ('training FLOPs', 'B/16', 8, 'ours'), summary.LIMIT)
  assert (reached.least, reached.greatest) == (pytest.approx(0.5), pytest.approx(0.8))
  samples.append(sample('ours', 810 / flops, 1, dtype='bfloat16'))
  reached = summary.ratio(samples, ('training FLOPs', 'B/16', 8, 'ours'), summary.LIMIT, 'bfloat16')
  assert reached == summary.Spread(pytest.approx(0.9), pytest.approx(0.9), pytest.approx(0.9), 1)


def test_an_image_costs_what_table_1_says():
  assert workloads.forward_gflops('B/16') == pytest.approx(25.2, abs=0.1)
  assert workloads.forward_gflops('S/16') == pytest.approx(7.55, abs=0.05)


def test_the_table_tells_medians_targets_and_failures():
  samples = [sample('ours', value, number) for number, value in enumerate((4., 9., 5.), 1)]
  samples += [sample('listing', value, number) for number, value in enumerate((2., 2., 2.), 1)]
  samples += [{'failed': name, 'why': 'not installed: pip', 'group': 'g', 'round': 0} for name in ('timm a', 'timm b')]
  table = summary.table(samples, 'this machine')
  assert '| step of B/16, ours to the listing | 2.500 | 2.000 to 4.500 | at least 1.15 | met |' in table
  assert '| step of S/16, ours to the listing | not measured | | at least 1.35 | |' in table
  assert '| training | B/16 | 8 | float32 | ours | 5 images/s | 4 to 9, 3 |  |' in table
  assert '- not installed: pip\n  - `timm a` (g, round 0)\n  - `timm b` (g, round 0)' in table


@pytest.mark.parametrize('at_least, value, met', [(True, 0.9, True), (True, 0.8, False), (False, 0.9, False),
                                                  (False, 0.8, True)])
def test_a_target_is_met_by_the_median(at_least, value, met):
  target = summary.Target('', OURS, LISTING, 0.85, at_least)
  assert target.met(summary.Spread(value, 0., 1., 3)) == met


def test_every_target_is_of_something_that_is_measured():
  """By name: the arguments of some contender give its model and batch."""
  measured = {' '.join(arguments) for groups in bench.PARTS.values() for group in groups for arguments in group.contenders}
  for target in summary.TARGETS:
    for quantity, model, batch, contender in (target.over, target.under):
      if model is not None:
        who = {'ours, remat': 'ours', 'ours, GSAM': 'ours', 'train': 'loop both', 'step': 'loop both',
             'timm, compiled': 'timm'}.get(contender, contender)
        assert any(who in arguments and f'--model={model}' in arguments and f'--batch={batch}' in arguments
                   for arguments in measured), target.text


def test_the_speed_of_a_run_is_that_of_its_steady_part():
  rows = [{'images_per_s_per_core': value} for value in (1., 10., 40.)] + [{'step': 3, 'test/top1': 0.5}]
  assert loop.steady_speed(rows) == pytest.approx(jax.device_count() * 2 / (1 / 10 + 1 / 40))


@pytest.mark.slow
def test_the_whole_command(monkeypatch, tmp_path, capsys):
  group = turns.Group('small', (('listing', 'training', *SIZE), ('ours', 'training', '--no_such_flag')), 2)
  monkeypatch.setattr(bench, 'PARTS', {'training': (group,)})
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'samples.jsonl').write_text('{"group": "small", "round": 1}\n')  # gives way
  bench.main(['--parts=training', f'--out={tmp_path / "out"}', '--rounds=1'])
  output = capsys.readouterr().out
  taken, failed = sorted(map(json.loads, (tmp_path / 'out' / 'samples.jsonl').read_text().splitlines()),
                         key=lambda line: 'failed' in line)
  assert taken['contender'] == 'listing' and taken['round'] == 1 and failed['failed'].endswith('--no_such_flag')
  assert set(taken) == {*summary.IDENTITY, 'unit', 'value', 'group', 'round', 'versions', 'commit', 'machine'}
  assert (tmp_path / 'out' / 'table.md').read_text() in output
  assert (tmp_path / 'out' / 'bench.png').read_bytes().startswith(b'\x89PNG')
  assert 'unrecognized arguments: --no_such_flag' in output


@pytest.mark.slow
def test_parts_are_measured_one_by_one(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(bench, 'PARTS', {part: (turns.Group(part, (('listing', 'training', *SIZE), ('timm', 'none')), 1),)
                                       for part in ('training', 'loop')})
  monkeypatch.setattr(bench.jpegs, 'prepare', lambda: None)
  for part in ('training', 'loop'):
    bench.main([f'--parts={part}', f'--out={tmp_path}', '--without=timm'])
  samples = list(map(json.loads, (tmp_path / 'samples.jsonl').read_text().splitlines()))
  assert [(sample['group'], sample.get('contender')) for sample in samples] == [('training', 'listing'), ('loop', 'listing')]
  assert 'listing | ' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    bench.main(['--parts=loop', '--without=torch'])
  assert "--without has 'torch', which is not a contender in these parts" in capsys.readouterr().err


def test_a_part_that_is_not_there_is_refused(capsys):
  with pytest.raises(SystemExit):
    bench.main(['--parts=training,speed'])
  assert "--parts has 'speed'; it must be one of training, sam, inference, compiling" in capsys.readouterr().err


# what a compiled step moves

STEP = '''HloModule step

%fused_computation.1 (a: bf16[4,8], b: f32[8,16]) -> bf16[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %c = bf16[4,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%fused_computation.2 (c: bf16[4,16]) -> (f32[16], bf16[4,16]) {
  %c.1 = bf16[4,16]{1,0} parameter(0)
  ROOT %d = bf16[4,16]{1,0} negate(%c.1)
}

ENTRY %main (x: bf16[4,8], w: f32[8,16]) -> f32[8,16] {
  %x = bf16[4,8]{1,0:T(8,128)} parameter(0)
  %w = f32[8,16]{1,0:T(8,128)} parameter(1)
  %start = (f32[8,16]{1,0}, f32[8,16]{1,0:S(1)}) copy-start(%w)
  %y = bf16[4,16]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%fused_computation.1, metadata={op_name="step/Block_0/dot_general"}
  %z = (f32[16]{0}, bf16[4,16]{1,0}) fusion(%y), kind=kLoop, calls=%fused_computation.2, metadata={op_name="step/MixerBlock_0/neg"}
  %part = f32[16]{0} get-tuple-element(%z), index=0
  ROOT %new = f32[8,16]{1,0} fusion(%w, %part), kind=kLoop, calls=%fused_computation.3, metadata={op_name="step/add"}
}
'''


def test_what_a_step_moves_is_counted_by_what_it_does():
  assert traffic.by_kind(STEP) == {traffic.PRODUCTS: 2 * 32 + 4 * 128 + 2 * 64, traffic.ACTIVATIONS: 2 * 64 + 4 * 16 + 2 * 64,
                                   traffic.REST: 4 * 128 + 4 * 16 + 4 * 128}
