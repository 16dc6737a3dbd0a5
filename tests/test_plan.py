"""What a run will take: by arithmetic for every pre-training config, and by compiling for TPUs that are not here."""

import csv
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from configs import appendix_a
from configs import bit_finetune
from configs import evaluate_imagenet
from configs import finetuning
from configs import halonet
from configs import mixer_b16_i1k
from configs import mixer_cifar10_transfer
from configs import mixer_digits
from configs import mixer_finetune
from configs import mixer_gsam
from configs import mixer_jft_subset
from configs import mixer_sam
from configs import resmlp
from configs import vtab
from conftest import ROOT
import golden
from mixer import configuration
from mixer.data import sources
from mixer.run import accelerators
from mixer.run import config_flags
from tools.planning import arithmetic
from tools.planning import compiler
from tools.planning import page

PARAMS = {row['model'].removeprefix('Mixer-'): int(row['exact_params_without_head'])
          for row in csv.DictReader((golden.FOLDER / 'table1_specs.csv').open())}

# (variant, steps, the paper's TPUv3 core-days): steps are epochs of the published numbers of images by batches of 4,096.
EXPECTED = {
    'mixer_b16_i1k': ('B/16', 92_898, 10), 'mixer_l16_i1k': ('L/16', 92_898, 40),
    'mixer_b16_i21k': ('B/16', 1_039_829, 150), 'mixer_l16_i21k': ('L/16', 1_039_829, 410),
    'mixer_s32_jft': ('S/32', 369_874, 10), 'mixer_s16_jft': ('S/16', 369_874, 30),
    'mixer_b32_jft': ('B/32', 517_823, 50), 'mixer_b16_jft': ('B/16', 517_823, 80),
    'mixer_l32_jft': ('L/32', 517_823, 120), 'mixer_l16_jft': ('L/16', 1_035_645, 450),
    'mixer_h14_jft': ('H/14', 1_035_645, 1010), 'mixer_jft_subset': ('B/32', 517_083, 50),
}
BASELINES = {  # the paper's core-days, of Tables 2 and 3
    'vit.py:b16_i1k': 20, 'vit.py:l16_i1k': 50, 'vit.py:b16_i21k': 180, 'vit.py:l16_i21k': 550,
    'vit.py:l16_i21k_90': 180, 'vit.py:b32_jft': None, 'vit.py:l32_jft': None, 'vit.py:l16_jft': 650,
    'vit.py:h14_jft': 2300, 'bit.py:r152x4_i21k': 940, 'bit.py:r152x4_jft': 9900, 'bit.py:r50x1_jft': 80,
    'bit.py:r50x2_jft': 140, 'bit.py:r152x1_jft': 140, 'bit.py:r152x2_jft': 580, 'bit.py:r200x3_jft': 1780,
    **{f'resmlp.py:{name}': None for name in resmlp.PLANNED},
    **{f'halonet.py:{name}': None for name in halonet.PLANNED},
    'mixer_b16_i1k_lion.py': None, 'mixer_b16_i1k_strong.py': None,
    **{f'mixer_gsam.py:{name}': None for name in mixer_gsam.PLANNED},
    **{f'mixer_sam.py:{name}': None for name in mixer_sam.PLANNED},
}
STUDIES = {  # the same, of Table 3
    'data_scale.py:mixer_b32,jft,1': 50, 'data_scale.py:mixer_l32,jft,1': 120, 'data_scale.py:mixer_l16,jft,1': 230,
    'data_scale.py:vit_b32,jft,1': None, 'data_scale.py:vit_l32,jft,1': None, 'data_scale.py:vit_l16,jft,1': None,
    'data_scale.py:bit_r152x2,jft,1': None, 'permutations.py:mixer,jft,original': 80,
    'permutations.py:vit,jft,original': None, 'permutations.py:bit,jft,original': 80, 'appendix_a.py:plain,jft': 10,
    **{f'appendix_a.py:{model},imagenet': None for model in appendix_a.MODELS},
    **{f'appendix_a.py:{model},jft': None for model in appendix_a.MODELS if model != 'plain'},
}
OTHERS = {**BASELINES, **STUDIES}
PLANS = [*(f'{name}.py' for name in EXPECTED), *OTHERS]
SLICES = {'v3:4x4': ('v3-32', 128), 'v3:8x8': ('v3-128', 32), 'v3:16x16': ('v3-512', 8)}  # name, images a core

# In a process of its own, where TensorFlow cannot be imported and compilations are counted.
QUICK = '''
import json, sys
for name in ('tensorflow', 'tensorflow_datasets', 'input_pipeline', 'libtpu'): sys.modules[name] = None
import jax
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(event) if 'backend_compile' in event else None)
from tools.planning import page
plans = page.plan_all()
kept = page.Kept(page.ROOT / 'docs' / 'tpu_plans.jsonl')
print(json.dumps({'page': page.page(plans, kept, 0.4, 'docs/tpu_plans.md'), 'plans': {p.name: dict(
    params=p.params_without_head, steps=p.config.total_steps, core_days=p.device_days(0.4), paper=p.paper_core_days,
    fits=p.fits, state=p.state_bytes, all=p.params, images_per_device=p.images_per_device, slice=str(p.slice)) for p in plans},
    'compilations': len(compilations)}))
jax.jit(lambda x: x + 1)(1)
assert compilations, 'compilations are not heard of'
'''


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
  environment = dict(os.environ, TFDS_DATA_DIR=str(tmp_path_factory.mktemp('none')), JAX_COMPILATION_CACHE_DIR='')
  done = subprocess.run([sys.executable, '-c', QUICK], cwd=ROOT, capture_output=True, text=True, env=environment)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.slow
def test_a_plan_needs_neither_data_nor_compilation_and_every_pre_training_config_has_one(quick):
  assert set(quick['plans']) == {f'configs/{name}' for name in PLANS}
  assert quick['compilations'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', EXPECTED)
def test_quick_plan(quick, name):
  result, (variant, steps, core_days) = quick['plans'][f'configs/{name}.py'], EXPECTED[name]
  assert result['params'] == PARAMS[variant]
  assert (result['steps'], result['paper']) == (steps, core_days)
  assert result['state'] == 4 * 3 * result['all'] + 3 * 4  # float32; AdamW's two moments; three counters of steps
  assert result['fits']


@pytest.mark.slow
@pytest.mark.parametrize('name', OTHERS)
def test_quick_plan_of_a_baseline_or_of_a_study(quick, name):
  result = quick['plans'][f'configs/{name}']
  assert result['paper'] == OTHERS[name] and result['fits']


@pytest.mark.slow
@pytest.mark.parametrize('name', PLANS)
def test_the_slice_of_a_config_exists_and_is_what_it_is_planned_for(quick, name):
  topology = config_flags.import_config(str(ROOT / 'configs' / name)).SLICE
  slice_name, images_per_device = SLICES[topology]
  images_per_device //= 2 if name.startswith(('resmlp', 'mixer_b16_i1k_strong')) else 1  # with batches of 2,048
  assert accelerators.slice_of(topology).name == slice_name
  planned = quick['plans'][f'configs/{name}']
  assert (planned['slice'], planned['images_per_device']) == (f'{slice_name} ({topology})', images_per_device)


@pytest.mark.slow
def test_the_paper_took_a_sensible_part_of_the_peak(quick):
  # 12 to 57 %, the least of BiT-R50x1; its figures have one or two digits.
  for result in quick['plans'].values():
    assert result['paper'] is None or 0.12 < 0.4 * result['core_days'] / result['paper'] < 0.6


def small(**fields):
  """Small images and a small model, in the recipe of ImageNet-1k with mixup; 8 images a core of v3:2x2."""
  config = mixer_b16_i1k.get_config()
  del config.model.variant
  config.model.update(patch_size=8, num_blocks=2, hidden_dim=128, tokens_mlp_dim=64, channels_mlp_dim=256)
  config.data.update(resolution=32, batch_size=64)
  config.update_from_flattened_dict(fields)
  return config


def small_plan(topology='v3:2x2', **fields):
  return arithmetic.Plan.of('small', small(**fields), accelerators.slice_of(topology), num_examples=1_000_000)


@pytest.mark.parametrize('topology', ['v3:3x3', 'v9:2x2', 'v3', '4x4', 'v3-32'])
def test_an_unknown_topology_names_the_known_ones(topology):
  with pytest.raises(ValueError, match=rf"unknown topology '{topology}'(.|\n)*v3:2x2, v3:4x4(.|\n)*v6e:2x2"):
    accelerators.slice_of(topology)


@pytest.mark.parametrize('topology, name, cores', [
    ('v2:4x4', 'v2-32', 32), ('v3:8x8', 'v3-128', 128), ('v4:2x2x4', 'v4-32', 16), ('v5e:4x4', 'v5litepod-16', 16),
    ('v5p:2x2x1', 'v5p-8', 4), ('v6e:2x4', 'v6e-8', 8)])
def test_slices_have_the_names_of_cloud_tpu(topology, name, cores):
  result = accelerators.slice_of(topology)
  assert (result.name, result.devices) == (name, cores)


@pytest.mark.parametrize('fields, message', [
    ({'data.batch_size': 100}, r'batch_size is 100; it must be a multiple of the 8 cores of v3-8 \(v3:2x2\) \(96 or 104\)'),
    ({'data.batch_size': 4}, r'batch_size is 4; it must be a multiple of the 8 cores .* \(8 or 16\)'),
    ({'step.accumulate': 3}, 'accumulate is 3; it must divide the 8 images a core'),
])
def test_what_does_not_divide_is_told(fields, message):
  with pytest.raises(ValueError, match=message):
    small_plan(**fields)


def configs_of_all_names():
  """(path, names to plan beside the default one) of every config that trains. The quick plan has PLANNED ones whole."""
  for path, _ in configuration.describe_all(str(ROOT / 'configs')):
    stem = pathlib.Path(path).stem
    names = {'mixer_finetune': [*(f'{model},cifar10' for model in mixer_finetune.MODELS),
                                *(f'b16_i21k,{task}{more}' for task in finetuning.TASKS for more in ('', ',448', ',dev'))],
             'vit_finetune': [f'b16,{task}' for task in finetuning.TASKS],
             'mixer_vtab': [f'b16_i21k,{task}{dev}' for task in vtab.TASKS for dev in ('', ',dev')],
             'bit_finetune': [*(f'{model},cifar10' for model in bit_finetune.MODELS),
                              *(f'r50x1,{task}{more}' for task in finetuning.TASKS for more in ('', ',224'))],
             'vit': ['digits'], 'bit': ['digits'], 'resmlp': ['digits'],
             'halonet': ['digits', 'cifar10', *halonet.FINETUNED]}.get(stem, [])
    if stem != 'evaluate_imagenet':
      yield stem, names


def a_plan(stem, *name, **fields):
  """Of a config on a small slice, as without its data; a number of images stands for one that nobody has published."""
  config = importlib.import_module(f'configs.{stem}').get_config(*name)
  config.data.data_dir = '/no/such/folder'
  config.update_from_flattened_dict(fields)
  known = config.data.dataset in arithmetic.PUBLISHED or '%' not in config.data.split and ':' in config.data.split
  return arithmetic.Plan.of(stem, config, accelerators.slice_of('v5p:2x2x1'), None if known else 2_000)


@pytest.mark.slow
@pytest.mark.parametrize('stem, names', list(configs_of_all_names()))
def test_every_config_is_planned(stem, names):
  plan = a_plan(stem)
  if f'{stem}.py' not in PLANS and stem not in ('vit', 'bit', 'resmlp', 'halonet'):  # those are traced by the quick plan
    assert re.search(r'^model .* [\d,]+ parameters, ([\d,]+ without the head|without a head, .*); .* GFLOPs', plan.describe(0.4))
  for name in names:
    assert a_plan(stem, name).model.num_classes


@pytest.mark.parametrize('task, number, num_classes', [
    ('cifar10', 50_000, 10), ('cifar100', 50_000, 100), ('oxford_iiit_pet', 3_680, 37), ('oxford_flowers102', 2_040, 102),
    ('imagenet2012', 1_281_167, 1000), ('cifar10,dev', 49_000, 10), ('oxford_flowers102,dev', 1_836, 102)])
def test_the_images_and_classes_of_a_task_of_fine_tuning_are_known(task, number, num_classes):
  plan = a_plan('mixer_finetune', f'b16_i21k,{task}')
  assert (plan.images.number, plan.model.num_classes) == (number, num_classes)


def test_a_config_that_leaves_the_folder_of_the_data_open_is_planned(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  config = mixer_finetune.get_config('b16_i21k,cifar10')
  assert config.data.data_dir is None
  assert arithmetic.Plan.of('x', config, accelerators.slice_of('v3:4x4')).images.number == 50_000


def test_without_its_data_a_model_without_classes_is_planned_without_a_head():
  plan = a_plan('mixer_finetune', 'b16_i21k,/own/images')
  assert plan.params == plan.params_without_head == PARAMS['B/16']
  assert f'{PARAMS["B/16"]:,} parameters, without a head, since config.model.num_classes is None; 25' in plan.describe(0.4)
  with pytest.raises(ValueError, match='config.model.num_classes is None, and the data .* are not here; set it to compile'):
    compiler.lower(plan, 8)
  assert a_plan('mixer_finetune', 'b16_i21k,/own/images', **{'model.num_classes': 5}).params > plan.params


def test_a_config_of_evaluations_alone_is_not_one_that_trains():
  with pytest.raises(ValueError, match='the config has nothing to train, only config.evals; use it with .*tools.evaluate'):
    configuration.check(evaluate_imagenet.get_config())


@pytest.mark.parametrize('split, number', [
    ('train[:800]+validation[:200]', 1000), ('train[65931:66131]', 200), ('train[5:]', None), ('train[:10%]', None),
    ('train', None), ('train[:', None), ('train[3:3]', None)])
def test_a_part_of_a_split_counts_itself(split, number):
  parts = [arithmetic._number_of(part, {}) for part in split.split('+')]
  assert (None if None in parts else sum(parts)) == number


@pytest.mark.parametrize('split, number', [
    ('train', 1_281_167), ('train[:1000]', 1000), ('train[50%:]+validation', 690_583), ('train[:99%]', 1_268_355), ('train[99%:]', 12_812), ('train[10%:20%]', 128_116)])
def test_parts_of_a_published_split(data_dir, split, number):
  config = mixer_b16_i1k.get_config()
  config.data.update(split=split, data_dir=data_dir)
  assert arithmetic.images_of(config).number == number


def test_a_fraction_of_the_data(data_dir):
  config = mixer_jft_subset.get_config('l16,0.1')
  config.data.data_dir = data_dir
  assert arithmetic.images_of(config).number == 30_300_000


def test_some_classes_of_the_data(data_dir):
  config = mixer_cifar10_transfer.get_config('weights')
  config.data.data_dir = data_dir
  images = arithmetic.images_of(config)
  assert (images.number, images.num_classes) == (250, 5)


@pytest.mark.parametrize('dataset, split', [('neverheard', 'train'), ('imagenet2012', 'test'),
                                            ('neverheard', 'train[:10%]')])
def test_unknown_images_are_reported_and_may_be_counted_by_hand(data_dir, dataset, split):
  config = mixer_b16_i1k.get_config()
  config.data.update(dataset=dataset, split=split, data_dir=data_dir)
  with pytest.raises(ValueError, match=r'is not available, and its number .* published .*imagenet21k train.*--num_examples='):
    arithmetic.images_of(config)
  assert arithmetic.images_of(config, num_examples=1234).number == 1234


def test_data_that_are_here_are_counted(tmp_path):
  config = mixer_digits.get_config()
  config.data.data_dir = str(tmp_path)
  with pytest.raises(ValueError, match='is not available'):
    arithmetic.images_of(config)
  sources.open_split('digits', 'train', str(tmp_path))
  assert arithmetic.images_of(config).number == 1437


def test_the_estimate_of_memory_has_all_its_parts():
  plan, parted = small_plan(), small_plan(**{'step.accumulate': 4})
  # 16 patches by 128 channels; hidden layers of 64 x 128 and 16 x 256; two blocks, 8 images of bfloat16.
  assert plan.activation_bytes == 2 * 8 * 2 * (2 * 16 * 128 + 64 * 128 + 16 * 256)
  assert plan.gradient_bytes == 4 * plan.params
  assert plan.bytes == plan.state_bytes + plan.gradient_bytes + plan.activation_bytes
  assert (parted.activation_bytes, parted.gradient_bytes) == (plan.activation_bytes / 4, 2 * plan.gradient_bytes)
  rematerialised = small_plan(**{'model.remat': 'block'})
  assert rematerialised.activation_bytes == plan.activation_bytes / 2 + 2 * 8 * 2 * 16 * 128
  tiled = small_plan(**{'model.tiles': 2})
  assert tiled.activation_bytes == plan.activation_bytes + 2 * 8 * 2 * 3 * 64 * 128
  assert not small_plan(**{'data.batch_size': 2**23, 'optimizer.schedule.warmup_steps': 1}).fits


def test_the_model_is_the_form_for_tpus_whatever_runs_here():
  assert small_plan().model.platform == 'tpu' and jax.default_backend() == 'cpu'


@pytest.mark.parametrize('fields, estimated', [({}, True), ({'step.accumulate': 2}, False), ({'model.scan': True}, False)])
def test_the_time_of_a_loop_that_is_counted_once_is_not_reported(fields, estimated):
  step = types.SimpleNamespace(
      memory_analysis=lambda: types.SimpleNamespace(peak_memory_in_bytes=1), as_text=lambda: '',
      cost_analysis=lambda: {'optimal_seconds': 0.5, 'bytes accessed': 7e9})
  plan = small_plan(**fields)
  result = compiler.compiled(types.SimpleNamespace(compile=lambda: step), plan.slice.device, compiler.counted_once(plan))
  assert (result['step_seconds'], result['accessed_bytes']) == ((0.5, 7e9) if estimated else (None, None))
  assert ('images/s a core: an upper bound' in compiler.describe_compiled(plan, result, 8)) == estimated


def test_a_negative_estimate_of_xla_is_no_time():
  step = types.SimpleNamespace(
      memory_analysis=lambda: types.SimpleNamespace(peak_memory_in_bytes=1), as_text=lambda: '',
      cost_analysis=lambda: {'optimal_seconds': -0.5, 'bytes accessed': 7e9})
  result = compiler.compiled(types.SimpleNamespace(compile=lambda: step), small_plan().slice.device, counted_once=False)
  assert result['step_seconds'] is None
  assert "XLA's estimate is no time" in compiler.describe_compiled(small_plan(), result, 8)


def test_the_cost_grows_with_the_steps_and_falls_with_the_utilisation():
  plan, longer = small_plan(total_epochs=10.), small_plan(total_epochs=20.)
  assert longer.flops == pytest.approx(2 * plan.flops, rel=1e-3)
  assert plan.device_days(0.2) == pytest.approx(2 * plan.device_days(0.4))
  assert plan.device_days(1.) == pytest.approx(
      10e6 * 3 * plan.flops_per_image / 61.5e12 / 86_400, rel=1e-4)


def test_without_the_compiler_the_command_that_installs_it_is_told(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None if name == 'libtpu' else find(name))
  with pytest.raises(ValueError, match=r"pip install -e '\.\[tpu\]' -c requirements\.lock"):
    compiler.lower(small_plan(), 8)


def test_all_reduces_are_found_and_summed_in_the_text_of_a_module():
  text = '''
  %all-reduce.1 = (f32[128]{0:T(256)}, bf16[8,16]{1,0:T(8,128)}, /*index=2*/f32[]{:T(256)}) all-reduce(%a, %b, %c), to=%add
  %gte = f32[128]{0:T(256)} get-tuple-element(%all-reduce.1), index=0
  ROOT %all-reduce-start.2 = f32[3,5]{1,0:T(8,128)S(1)} all-reduce-start(%d), channel_id=1
  %all-reduce-done.2 = f32[3,5]{1,0:T(8,128)S(1)} all-reduce-done(%all-reduce-start.2)
'''
  assert compiler.all_reduce_bytes(text) == 4 * 128 + 2 * 8 * 16 + 4 + 4 * 15


@pytest.mark.parametrize('limit, first, answer, tried', [
    (64, 64, 8, [8, 16]), (200, 64, 16, [8, 16, 32]), (25, 64, 2, [8, 4, 2]), (0, 64, None, [8, 4, 2, 1])])
def test_the_sweep_finds_the_largest_batch_that_fits(monkeypatch, limit, first, answer, tried):
  seen = []
  result = lambda number: dict(fits=8 * number <= limit, message='too large', peak_bytes=1, step_seconds=1.,
                              accessed_bytes=1, all_reduce_bytes=1, compile_seconds=1.)
  monkeypatch.setattr(compiler, 'lower', lambda plan, number: seen.append(number) or number)
  monkeypatch.setattr(compiler, 'compiled', lambda number, *_: result(number))
  assert compiler.largest(small_plan(**{'data.batch_size': first})) == answer
  assert seen == tried


def test_what_is_compiled_is_kept_until_it_changes(monkeypatch, tmp_path):
  plans, compilations = [small_plan(), small_plan('v5e:2x2')], []
  program = types.SimpleNamespace(as_text=lambda: 'one program')
  result = dict(fits=True, peak_bytes=2**30, step_seconds=0.5, accessed_bytes=7e9, all_reduce_bytes=2**20,
                compile_seconds=3.)

  def compile_one(*_):
    if len(compilations) == 1:
      compilations.append('stopped')
      raise KeyboardInterrupt
    compilations.append('done')
    return result

  monkeypatch.setattr(compiler, 'lower', lambda plan, number: program)
  monkeypatch.setattr(compiler, 'compiled', compile_one)
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: '0.0.42.1')
  path, pages = tmp_path / 'plans.jsonl', []
  write = lambda: pages.append(page.page(plans, page.Kept(path), 0.4, 'plans.md'))
  go_on = lambda: page.compile_all(plans, page.Kept(path), write)
  with pytest.raises(KeyboardInterrupt):
    go_on()
  assert pages[-1].count('not yet compiled') == 1
  go_on()
  assert compilations == ['done', 'stopped', 'done'] and len(path.read_text().splitlines()) == 2
  assert '| 1.00 | 6% | 0.500 | 16 | 7.0 | 1 | 3 | 0.0.42.1 |' in pages[-1] and 'not yet compiled' not in pages[-1]
  go_on()
  assert len(compilations) == 3
  plans.append(dataclasses.replace(plans[1], name='twin'))
  go_on()  # the program of another config for the same slice
  assert len(compilations) == 3 and pages[-1].count('| 1.00 | 6% | 0.500 |') == 3
  del plans[-1]
  program.as_text = lambda: 'another program'
  go_on()
  assert len(compilations) == 5 and len(path.read_text().splitlines()) == 3


def test_the_page_holds_a_row_for_every_config_and_was_made_by_the_command_in_it():
  text = (ROOT / 'docs' / 'tpu_plans.md').read_text()
  tables = text.split('## As compiled')
  for name in (name.replace('.py', '') for name in PLANS):
    assert all(len(re.findall(rf'^\| `{name}` ', table, re.M)) == 1 for table in tables)
  assert 'python -m tools.plan --all --compile --out=docs/tpu_plans.md' in text


@pytest.mark.slow
def test_the_page_is_up_to_date(quick):
  assert (ROOT / 'docs' / 'tpu_plans.md').read_text() == quick['page'], (
      'python -m tools.plan --all --out=docs/tpu_plans.md makes it anew, with --compile what has changed as well')


def run(*arguments, code=0):
  done = subprocess.run([sys.executable, '-m', 'tools.plan', *arguments], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout + done.stderr


def test_the_command_prints_a_plan(data_dir):
  output = run('--config=configs/mixer_b16_i21k.py', f'--config.data.data_dir={data_dir}')
  assert '59,111,472 without the head; 25.2 GFLOPs an image forward, 75.7 in training' in output
  assert 'slice     v3-32 (v3:4x4): 32 cores; a core has 16 GiB' in output
  assert 'batch     4,096, 128 a core' in output and 'steps     1,039,829, 300.0 epochs' in output
  assert 'at 40% of the peak, which is an assumption' in output and '150 TPUv3 core-days (Tables 2, 3)' in output


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/mixer_digits.py'], 'mixer_digits.py has no SLICE, the topology to plan for; pass --topology'),
    (['--config=configs/mixer_b16_i1k.py', '--topology=v3:5x5'], "unknown topology 'v3:5x5'"),
    (['--config=configs/mixer_b16_i1k.py', '--sweep'], 'pass --compile, too'),
    (['--all'], '--out=docs/tpu_plans.md'),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (['--all', '--out=x.md', '--topology=h100:8,v3:4x4'], 'remove v3:4x4 from --topology, or name GPUs'),
        (['--all', '--out=x.md', '--num_examples=5'], 'remove --num_examples'),
        (['--all', '--out=x.jsonl'], '--out is x.jsonl; it must be a page, .md, in an existing folder'),
        (['--all', '--out=no/such/folder/x.md'], 'it must be a page, .md, in an existing folder'),
        (['--config=configs/mixer_b16_i1k.py', '--out=x.md'], '--out is for --all'))),
])
def test_the_command_refuses_what_it_cannot_do(arguments, message):
  assert message in run(*arguments, code=1)


needs_compiler = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None,
                                    reason='libtpu is not installed: the extra tpu')


@pytest.mark.slow
@needs_compiler
def test_the_training_step_is_compiled_for_a_tpu():
  # In a process of its own: the tests share a cache of what is compiled, and this cannot come from one.
  output = run('--config=configs/mixer_digits.py', '--topology=v3:2x2', '--num_examples=1437', '--compile')
  params = int(re.search(r'MlpMixer, ([\d,]+) parameters', output)[1].replace(',', ''))
  number = lambda pattern: float(re.search(pattern, output)[1].replace(',', ''))
  assert 0 < number(r'it fits: at most ([\d.e-]+) of 15.48 GiB a core') < 0.1
  # Every gradient and the loss, once.
  assert number(r'([\d.]+) MiB all-reduced') == pytest.approx(4 * (params + 1) / 2**20, abs=6e-4)
  assert number(r'MiB all-reduced a step, ([\d.]+) GB of memory accessed') > 12 * params / 1e9
  assert number(r'([\d.e-]+) s a step as XLA estimates it') > 0
  assert 'images/s a core: an upper bound' in output


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize('generation', accelerators.TPUS)
def test_a_program_may_have_the_memory_that_is_said(generation):
  slice_ = accelerators.slice_of(f'{generation}:{accelerators.TPUS[generation].shapes[0]}')
  product = jax.pmap(lambda x: x @ x, devices=compiler.devices_of(slice_))
  lowered = product.lower(jax.ShapeDtypeStruct((slice_.devices, 2**18, 2**18), jnp.float32))  # 256 GiB a core
  result = compiler.compiled(lowered, slice_.device, counted_once=False)
  available = re.search(r'exceeds available HBM \(([\d.]+)G\)', result['message'])
  # Versions of libtpu differ by 0.01; the smaller is said.
  assert not result['fits'] and 0 <= round(float(available[1]) - slice_.device.usable, 2) <= 0.01
