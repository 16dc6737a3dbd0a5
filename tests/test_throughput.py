import json
import re

import jax
import numpy as np
import pytest

from mixer import models
from mixer.run import provenance
from tools import throughput


def speed(median):
  return throughput.Speed(median, 0.9 * median, 1.1 * median, 5)


def swept(speeds, max_batch=4096, error=throughput.NoMemory()):
  """`throughput.sweep` of a model whose speeds for 1, 2, 4, ... are known; after them comes the error."""
  def measure(batch_size):
    if batch_size not in known:
      raise error
    return speed(known[batch_size])
  known = {2**k: median for k, median in enumerate(speeds)}
  speeds, why = throughput.sweep(measure, max_batch)
  assert all(each == speed(each.median) for _, each in speeds)
  return [(size, each.median) for size, each in speeds], why


@pytest.mark.parametrize('speeds, max_batch, ended', [
    ([22.9, 22.8, 84.4, 80], 8, '--max_batch=8'),  # the best is past one that is no faster than the one before
    ([10, 20, 40, 80], 15, '--max_batch=15'),
    ([10, 20], 4096, 'no memory for batch 4'),
    ([], 4096, 'no memory for batch 1'),
])
def test_a_sweep_measures_up_to_the_largest_batch_asked_for_or_until_memory_ends(speeds, max_batch, ended):
  assert swept(speeds, max_batch) == ([(2**k, speed) for k, speed in enumerate(speeds)], ended)


def test_the_best_of_a_sweep_is_recorded_with_its_spread():
  plan = dict(fields=dict(name='vit', variant='B/16'), resolution=224, dtype='bfloat16', gmacs=1.)
  line = throughput.record(plan, [(1, speed(22.9)), (2, speed(22.8)), (4, speed(84.4)), (8, speed(80.))], 'x', {})
  assert (line['batch_size'], line['images_per_s_per_core']) == (4, 84.4)
  assert line['spread'] == [75.96, 92.84] and line['sweep'] == [[1, 22.9], [2, 22.8], [4, 84.4], [8, 80.]]
  line = throughput.table([line], 'device').split('\n')[-1]
  assert line == '| vit B/16 | 224 | bfloat16 | 84.4 | 75.96 to 92.84 | 4 | 1 | 0.0844 | x |'


def test_what_a_sweep_has_found_is_not_lost_with_its_devices():
  error = jax.errors.JaxRuntimeError('INTERNAL: no more device\nat ...')
  assert swept([10, 20], error=error) == ([(1, 10), (2, 20)], 'batch 4: INTERNAL: no more device')


class Sum:
  """A model without parameters that counts the passes that it is asked for while it is compiled."""

  def init(self, key, images):
    return {'params': {'weight': np.ones(())}}

  def apply(self, variables, images):
    return images.sum((1, 2, 3)) * variables['params']['weight']


def timed(monkeypatch, durations):
  """The Speed for batch 8 where readings take these times, after compilation and a pass of 2 s, of 17 s in all."""
  readings = iter([t for duration in (100., 2., *durations) for t in (0., duration)])
  monkeypatch.setattr(throughput.time, 'perf_counter', lambda: next(readings))
  # A fifth of 17 s is 3.4 s: two passes of 2 s.
  measured = throughput.timer(Sum(), 4, seconds=17.)(8)
  assert not list(readings)
  return measured


def test_the_speed_is_images_a_pass_by_the_median_of_repeats_without_the_first(monkeypatch):
  assert timed(monkeypatch, [4., 8., 4., 4.1, 4.]) == throughput.Speed(8 * 2 / 4, 8 * 2 / 8, 8 * 2 / 4, 5)


def test_what_is_noisy_is_repeated_until_it_is_steady_and_not_for_ever(monkeypatch):
  assert timed(monkeypatch, [5., 8., 4., 4., 4., 4., 4., 4., 4.]).repeats == 9
  assert timed(monkeypatch, [4., 8.] * 7 + [8.]) == throughput.Speed(2., 2., 4., 15)


@pytest.mark.parametrize('error', [jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'), MemoryError()])
def test_memory_that_ends_is_told_from_other_errors(monkeypatch, error):
  def fail(results):
    raise error
  monkeypatch.setattr(throughput.devices, 'block_on_simulated_devices', fail)
  with pytest.raises(throughput.NoMemory):
    throughput.timer(Sum(), 4, seconds=1.)(8)
  error = jax.errors.JaxRuntimeError('INTERNAL: something else')
  with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
    throughput.timer(Sum(), 4, seconds=1.)(8)


def test_mixers_at_a_multiple_of_224_are_widened_and_no_others():
  tiles = lambda *what: throughput.planned(*what, 'float32')['model'].tiles
  assert (tiles('mlp_mixer:B/16', 224), tiles('mlp_mixer:B/16', 448), tiles('mlp_mixer:S/32', 64)) == (1, 2, 1)


def test_gmacs_are_those_of_the_models():
  gmacs = lambda *what: throughput.planned(*what)['gmacs']
  # Table 1's sizes by hand: stem, 12 blocks and head, at 224 x 224 with 1,000 classes.
  tokens, width = 196, 768
  block = 2 * tokens * width * 384 + 2 * tokens * width * 3072
  assert gmacs('mlp_mixer:B/16', 224, 'bfloat16') == (tokens * width * 768 + 12 * block + width * 1000) / 1e9
  # Four times the tokens, and token-mixing MLPs four times as wide.
  block = 2 * 4 * tokens * width * 4 * 384 + 2 * 4 * tokens * width * 3072
  assert gmacs('mlp_mixer:B/16', 448, 'bfloat16') == (4 * tokens * width * 768 + 12 * block + width * 1000) / 1e9


@pytest.mark.slow
def test_a_tiny_sweep_adds_a_line_for_each_model(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(provenance, 'commit', lambda: '0123abc')  # that of the checkout may change meanwhile
  out = tmp_path / 'speeds.jsonl'
  out.write_text('{"kind": "older"}\n')
  assert throughput.main(['--models=mlp_mixer:S/32', '--resolutions=32', '--dtypes=float32', f'--out={out}',
                          '--seconds=0.01', '--max_batch=2']) == 0
  older, first = map(json.loads, out.read_text().splitlines())
  assert older == {'kind': 'older'} and [size for size, _ in first['sweep']] == [1, 2]
  best = max(speed for _, speed in first['sweep'])
  fields = dict(name='mlp_mixer', variant='S/32', num_classes=1000, dtype='float32')
  assert {name: value for name, value in first.items() if name not in ('sweep', 'time', 'ended', 'spread', 'repeats')} == dict(
      format=1, kind='throughput', model='mlp_mixer', variant='S/32', resolution=32, dtype='float32',
      batch_size=dict((speed, size) for size, speed in first['sweep'])[best], images_per_s_per_core=best,
      gmacs=round(throughput.planned('mlp_mixer:S/32', 32, 'float32')['gmacs'], 4), device='cpu', devices=8,
      machine=provenance.machine(), versions=provenance.versions(), commit='0123abc',
      config_hash=provenance.digest({**fields, 'resolution': 32}))
  output = capsys.readouterr()
  assert '| mlp_mixer S/32 | 32 | float32 | ' in output.out
  assert re.search(r'mlp_mixer:S/32 at 32 in float32: batch 2, \S+ images/s/device \(\S+ to \S+ in \d+ repeats\)', output.err)


def test_a_model_whose_first_batch_does_not_fit_has_no_line_and_the_others_have(tmp_path, monkeypatch, capsys):
  def timer(model, resolution, seconds):
    return lambda size: speed({1: 10., 2: 30., 4: 20.}[size]) if resolution == 64 else fail(size)
  def fail(batch_size):
    raise throughput.NoMemory
  monkeypatch.setattr(throughput, 'timer', timer)
  out = tmp_path / 'speeds.jsonl'
  assert throughput.main(['--models=mlp_mixer:S/32', '--resolutions=96,64', f'--out={out}', '--max_batch=4']) == 1
  line, = map(json.loads, out.read_text().splitlines())
  assert line['resolution'] == 64 and line['ended'] == '--max_batch=4'
  assert line['batch_size'] == 2 and line['images_per_s_per_core'] == 30
  assert ('S/32 at 96 in bfloat16: nothing was measured, and no line written: no memory for batch 1'
          in capsys.readouterr().err)


@pytest.mark.parametrize('name', models.FAMILIES)
def test_a_wrong_variant_of_any_model_is_named(name):
  with pytest.raises(ValueError, match=f"{name}:huge at 64: config.model.variant is 'huge'"):
    throughput.planned(f'{name}:huge', 64, 'float32')


@pytest.mark.parametrize('flag, text', [
    ('--models=mixer:B/16', "--models has 'mixer:B/16'; it must be NAME:VARIANT, as in mlp_mixer:B/16, and NAME one of"),
    ('--models=mlp_mixer', "--models has 'mlp_mixer'; it must be NAME:VARIANT"),
    ('--resolutions=224,x', "--resolutions has 'x'; it must be a number of pixels, or several: 224,448"),
    ('--resolutions=0', "--resolutions has '0'"),
    ('--resolutions=100', 'mlp_mixer:S/32 at 100: patch_size is 32; patches of 32 x 32 pixels must tile'),
    ('--dtypes=float16', "--dtypes has 'float16'; it must be one of bfloat16, float32"),
    ('--max_batch=0', '--max_batch is 0; it must be at least 1'),
    ('--seconds=nan', '--seconds is nan; it must be at least 0.001'),
    ('--out=nowhere/x.jsonl', '--out is nowhere/x.jsonl; it must be a file in an existing folder'),
])
def test_a_wrong_flag_is_named_before_anything_is_measured(tmp_path, capsys, flag, text):
  with pytest.raises(SystemExit):
    throughput.main(['--models=mlp_mixer:S/32', f'--out={tmp_path / "x.jsonl"}', flag])
  assert text in capsys.readouterr().err.replace('\n', ' ')
  assert not (tmp_path / 'x.jsonl').exists()
