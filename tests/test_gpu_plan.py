"""Plans for GPUs, which are not here either: by arithmetic, and as XLA compiles for them."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest

from configs import mixer_b16_i1k
from conftest import ROOT
from mixer.run import accelerators
from tools.planning import arithmetic
from tools.planning import compiler
from tools.planning import gpu_page
from tools.planning import gpu_target
from tools.planning import page

GIB = 2**30


def small_plan(topology='h100:8', **fields):
  config = mixer_b16_i1k.get_config()
  del config.model.variant
  config.model.update(patch_size=8, num_blocks=2, hidden_dim=128, tokens_mlp_dim=64, channels_mlp_dim=256)
  config.data.update(resolution=32, batch_size=64)
  config.update_from_flattened_dict(fields)
  return arithmetic.Plan.of('small', config, accelerators.slice_of(topology), num_examples=1_000_000)


@pytest.mark.parametrize('topology, name, number, machines', [
    ('h100:1', '1 x H100', 1, 1), ('a100-40:4', '4 x A100 40 GB', 4, 1), ('b200:8', '8 x B200', 8, 1),
    ('a100-80:4x8', '32 x A100 80 GB', 32, 4), ('h200:16x1', '16 x H200', 16, 16)])
def test_a_topology_of_gpus(topology, name, number, machines):
  slice_ = accelerators.slice_of(topology)
  assert (slice_.name, slice_.devices, slice_.machines) == (name, number, machines)
  assert str(slice_) == f'{name} ({topology})'


@pytest.mark.parametrize('topology', ['h100', 'h100:3', 'h100:16', 'h100:0x8', 'h100:2x2x2', 'h300:8', 'h100:8x', 'a100:8'])
def test_an_unknown_topology_names_the_cards(topology):
  with pytest.raises(ValueError, match=rf"unknown topology '{topology}'(.|\n)*or a card of a100-40, a100-80, h100, h200, b200, "
                                       'a colon and 1, 2, 4 or 8, or of several machines such as 4x8'):
    accelerators.slice_of(topology)


def test_a_plan_for_gpus_is_in_their_words():
  plan = small_plan()
  text = plan.describe(0.4)
  assert plan.model.platform == 'gpu'
  assert 'slice     8 x H100 (h100:8): 8 GPUs; a GPU has 79.11 GiB, 71.2 of them for a program, and a peak of 989.4 ' in text
  assert 'batch     64, 8 a GPU' in text and 'GPU-days' in text and ' core' not in text.partition('paper')[0]
  with pytest.raises(ValueError, match=r'batch_size is 12; it must be a multiple of the 8 GPUs of 8 x H100 \(h100:8\) \(8 or 16\)'):
    small_plan(**{'data.batch_size': 12})
  assert '1 GPU; a GPU has' in small_plan('h100:1').describe(0.4)


@pytest.mark.parametrize('gib, fits, needs', [(59, True, False), (60, True, True), (71, True, True), (72, False, True)])
def test_what_jax_does_not_allocate_by_default_needs_a_setting(monkeypatch, gib, fits, needs):
  # 79.11 GiB: three quarters are 59.33, nine tenths 71.20.
  monkeypatch.setattr(arithmetic.Plan, 'activation_bytes', gib * GIB - small_plan().state_bytes - small_plan().gradient_bytes)
  plan = small_plan()
  assert plan.bytes == gib * GIB and plan.fits == fits
  text = plan.describe(0.4)
  setting = 'setting   XLA_CLIENT_MEM_FRACTION=0.9 is needed: by default JAX takes 75% of a GPU, 59.33 GiB'
  assert (setting in text) == (fits and needs) and ('DOES NOT FIT' in text) == (not fits)


def fake_step(gib):
  memory = types.SimpleNamespace(argument_size_in_bytes=2 * GIB, output_size_in_bytes=3 * GIB, alias_size_in_bytes=2 * GIB,
                                 temp_size_in_bytes=(gib - 3) * GIB)
  text = '''
%fused (p: f32[8]) -> f32[8] {
  ROOT %add.1 = f32[8]{0} add(%p, %p)
}
ENTRY %main {
  %gemm_fusion_dot.1 = bf16[8,8]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused
  %c.1 = (f32[8]{0}, u8[16]{0}) custom-call(%gemm_fusion_dot.1), custom_call_target="__cudnn$convForward"
  %all-reduce-start = f32[256]{0} all-reduce-start(%c.1), channel_id=1
  %all-reduce-done = f32[256]{0} all-reduce-done(%all-reduce-start)
  ROOT %r = f32[8]{0} fusion(%all-reduce-done), kind=kLoop, calls=%fused
}
'''
  compiled = types.SimpleNamespace(memory_analysis=lambda: memory, cost_analysis=lambda: None, as_text=lambda: text)
  return types.SimpleNamespace(compile=lambda options: compiled)


@pytest.mark.parametrize('gib, expected', [
    (5, 'it fits: at most 5 of 71.2 GiB a GPU'), (60, 'it fits: at most 60 of 71.2 GiB a GPU'),
    (72, 'it DOES NOT FIT: at most 72 of 71.2 GiB a GPU')])
def test_a_compiled_step_is_compared_with_the_memory_of_the_card(gib, expected):
  plan = small_plan()
  result = compiler.compiled(fake_step(gib), plan.slice.device, counted_once=False)
  assert (result['peak_bytes'], result['kernels'], result['all_reduce_bytes']) == (gib * GIB, 4, 1024)
  text = compiler.describe_compiled(plan, result, 8)
  assert expected in text and 'kernels   4' in text
  assert ('XLA_CLIENT_MEM_FRACTION=0.9 is needed' in text) == (gib == 60)


def test_a_product_that_xla_cannot_tile_without_a_card_is_the_librarys():
  tried = []
  def compile_with(options):
    tried.append(options)
    if len(tried) == 1:
      raise jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot.476")
    return 'compiled'
  assert gpu_target.compile_step(types.SimpleNamespace(compile=compile_with)) == 'compiled'
  assert [options.get('xla_gpu_enable_triton_gemm') for options in tried] == [None, False]
  def fail(options):
    raise jax.errors.JaxRuntimeError('INTERNAL: another')
  with pytest.raises(jax.errors.JaxRuntimeError, match='another'):
    gpu_target.compile_step(types.SimpleNamespace(compile=fail))


def test_without_the_compiler_the_command_that_installs_it_is_named(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None if 'cuda' in name else find(name))
  with pytest.raises(ValueError, match=r"--compile for GPUs needs(.|\n)*pip install -e '\.\[cuda\]' -c requirements\.lock"):
    compiler.lower(small_plan(), 8)


def test_every_card_has_what_its_compiler_asks_for():
  for card, gpu in accelerators.GPUS.items():
    text = gpu_target.target_config(card)
    assert f'device_memory_size: {round(gpu.memory * GIB)} ' in text and f'"{gpu.device_kinds[0]}"' in text
    assert text.count('{') == text.count('}')


def test_the_page_says_what_fits_and_with_which_setting(tmp_path):
  plans = [small_plan(), small_plan('a100-80:8')]
  kept = page.Kept(tmp_path / 'plans.jsonl')
  row = dict(config='small', images_per_core=8, jax='0.10.2', all_reduce_bytes=2**21, kernels=1234, compile_seconds=3.)
  kept.put(dict(row, topology='h100:8', fits=True, peak_bytes=60 * GIB))
  text = gpu_page.page(plans, kept, 'h100:8,a100-80:8', 'x.md')
  assert '| 60.0 | with the setting | 84% | 2 | 1,234 | 3 |' in text and text.count('not yet compiled |') == 1
  assert 'Nothing here was measured on a GPU. 1 of the 2 are not yet compiled, and have the estimate alone.' in text
  kept.put(dict(row, topology='a100-80:8', fits=False, peak_bytes=100 * GIB))
  complete = gpu_page.page(plans, kept, 'h100:8,a100-80:8', 'x.md')
  assert '| 100.0 | NO | 140% |' in complete and 'not yet compiled' not in complete
  assert 'fit the memory of 8 x H100 and 8 x A100 80 GB' in text and 'python -m tools.plan --all --topology=h100:8,a100-80:8' in text


def test_the_page_has_every_config_of_the_list():
  text = (ROOT / 'docs' / 'gpu_plans.md').read_text()
  for path in (ROOT / 'configs').glob('*.py'):
    if 'def get_config' in path.read_text() and path.stem != 'evaluate_imagenet':
      assert len(re.findall(rf'^\| `{path.stem}[:`].*h100:8', text, re.M)) >= 1, path


@pytest.mark.slow
def test_the_page_is_up_to_date():
  topologies = re.search(r'--topology=(\S+) --compile', (ROOT / 'docs' / 'gpu_plans.md').read_text())[1]
  plans = [plan for topology in topologies.split(',') for plan in gpu_page.plan_all(topology)]
  made = gpu_page.page(plans, page.Kept(ROOT / 'docs' / 'gpu_plans.jsonl'), topologies, 'docs/gpu_plans.md')
  assert (ROOT / 'docs' / 'gpu_plans.md').read_text() == made, (
      f'python -m tools.plan --all --topology={topologies} --out=docs/gpu_plans.md makes it anew')


# `make test-all EXTRAS=1` installs the extra cuda there, where no other test's processes load it.
CUDA = pathlib.Path(sys.prefix) / 'cuda'


@pytest.mark.slow
@pytest.mark.skipif(not CUDA.exists() and importlib.util.find_spec('jax_cuda13_plugin') is None, reason='the extra cuda is not installed')
@pytest.mark.parametrize('card', ['a100-40', 'h100', 'b200'])
def test_the_training_step_is_compiled_for_a_gpu(card):
  done = subprocess.run([sys.executable, '-m', 'tools.plan', '--config=configs/mixer_digits.py', f'--topology={card}:2x4',
                         '--num_examples=1437', '--compile'], cwd=ROOT, capture_output=True, text=True,
                        env=dict(os.environ, PYTHONPATH=str(CUDA)))
  assert done.returncode == 0, done.stdout + done.stderr
  params = int(re.search(r'MlpMixer, ([\d,]+) parameters', done.stdout)[1].replace(',', ''))
  number = lambda pattern: float(re.search(pattern, done.stdout)[1].replace(',', ''))
  assert 0 < number(r'it fits: at most ([\d.e-]+) of ') < 0.2
  assert number(r'([\d.]+) MiB all-reduced') == pytest.approx(4 * (params + 1) / 2**20, abs=6e-4)
  assert number(r'kernels +([\d,]+)') > 50
