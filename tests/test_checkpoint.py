import contextlib
import errno
import functools
import json
import os
import re
import resource
import shutil

import jax
import numpy as np
import pytest

from mixer import models
from mixer.run import checkpoint
from mixer.run import checkpoint_integrity
from mixer.run import devices
from mixer import storage
from mixer.training import optim
from mixer.training import train_step


CONFIG = {'seed': 0, 'total_steps': 10, 'log_every_steps': 1, 'data': {'batch_size': 8, 'data_dir': None},
          'model': {'name': 'mlp_mixer'}}


@functools.cache
def first_state(num_classes=10):
  model = models.build(name='mlp_mixer', num_classes=num_classes, patch_size=4, num_blocks=1, hidden_dim=8,
                       tokens_mlp_dim=4, channels_mlp_dim=16)
  optimizer, _ = optim.build(name='adamw', learning_rate=0.1, schedule=dict(name='linear'), total_steps=10,
                             weight_decay=0.1, clip_norm=1.)
  init = functools.partial(train_step.init, model, optimizer, (8, 8, 3), seed=0)
  return jax.device_get(devices.init_replicated(init))


def at(step, state=None):
  """A state of values that depend on its step, on all devices."""
  state = first_state() if state is None else state
  return jax.device_put(jax.tree.map(lambda x: x + step, state).replace(step=np.int32(step)), devices.replicated())


def open_run(workdir, **fields):
  return checkpoint.Checkpoints(workdir=workdir, run=CONFIG, metrics=['test/top1'], every_steps=1, **fields)


def save(workdir, steps, metrics=lambda step: None, **fields):
  with open_run(workdir, **fields) as checkpoints:
    for step in steps:
      checkpoints.save(step, at(step), metrics(step))


def restore(workdir, state=None):
  with open_run(workdir) as checkpoints:
    return checkpoints.restore(first_state() if state is None else state)[0]


def kept(workdir):
  return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdecimal())


def equal(one, other):
  return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
      jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), one, other))


def test_what_is_restored_is_what_was_saved(tmp_path):
  save(tmp_path, [1, 2])
  assert equal(restore(tmp_path), jax.device_get(at(2)))


def test_a_checkpoint_is_on_the_disk_before_those_before_it_are_deleted(tmp_path, monkeypatch):
  names = lambda path: {str(part.relative_to(path)) for part in path.rglob('*')}
  synced = []

  def sync(folder, original=storage.sync):
    original(folder)
    synced.append((folder.name, kept(tmp_path), names(tmp_path / 'checkpoints' / folder.name)))
  monkeypatch.setattr(storage, 'sync', sync)
  save(tmp_path, [1, 2], keep_latest=1)
  assert synced[1] == ('2', [1, 2], names(tmp_path / 'checkpoints/2'))
  assert kept(tmp_path) == [2]


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
  with open_run(tmp_path) as checkpoints:
    assert checkpoints.restore(first_state()) == (None, False)


def test_kept_are_the_latest_the_regular_and_the_best(tmp_path):
  # Only the even steps were evaluated; the best of them is the second.
  scores = lambda step: {'test/top1': 1. if step == 2 else 0.5} if step % 2 == 0 else {}
  save(tmp_path, range(1, 13), scores, keep_latest=2, keep_every_steps=5, best='test/top1')
  assert kept(tmp_path) == [2, 5, 10, 11, 12]


def test_a_run_that_goes_on_knows_the_best_of_the_lives_before(tmp_path):
  scores = lambda step: {'test/top1': 1. if step == 2 else 0.5} if step % 2 == 0 else {}
  for steps in ([1, 2, 3], [4, 5], [6, 7, 8]):
    save(tmp_path, steps, scores, best='test/top1')
  assert kept(tmp_path) == [2, 7, 8]


def test_of_checkpoints_without_metrics_none_is_the_best(tmp_path):
  save(tmp_path, [1, 2])  # as nothing asked for a best one
  save(tmp_path, [3, 4, 5, 6], lambda step: {'test/top1': 1 / step}, best='test/top1')
  assert kept(tmp_path) == [3, 5, 6]


def test_saving_does_not_wait_for_the_disk_nor_see_later_changes(tmp_path):
  state = at(1)
  bump = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    for _ in range(5):
      state = bump(state)
  assert equal(restore(tmp_path), jax.device_get(at(1)))


def damage(folder, how):
  files = [path for path in folder.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  if how == 'truncated':
    os.truncate(largest, 30)
  elif how == 'empty directory':
    shutil.rmtree(folder)
    folder.mkdir()
  else:
    shutil.rmtree(folder / 'default')


@pytest.mark.slow
def test_a_flipped_bit_anywhere_costs_that_checkpoint_at_most(tmp_path):
  save(tmp_path, [1, 2])
  whole, run = tmp_path / 'checkpoints', tmp_path / 'run'
  rng, fell_back = np.random.default_rng(0), 0
  names = [path.relative_to(whole) for path in (whole / '2').rglob('*') if path.is_file() and path.stat().st_size]
  for name in sorted(names):
    size = (whole / name).stat().st_size
    for place in {0, size - 1, *rng.integers(size, size=6).tolist()}:
      shutil.rmtree(run, ignore_errors=True)
      shutil.copytree(whole, run / 'checkpoints')
      shutil.copy(tmp_path / 'config.json', run)
      data = bytearray((run / 'checkpoints' / name).read_bytes())
      data[place] ^= 1 << rng.integers(8)
      (run / 'checkpoints' / name).write_bytes(data)
      restored = restore(run)
      step = int(restored.step)
      assert equal(restored, jax.device_get(at(step))), (name, place)
      assert step == 2 or (run / 'damaged/checkpoints-2').exists()
      fell_back += step == 1
  assert fell_back > len(names)


def test_a_bit_of_what_orbax_reads_first_costs_that_checkpoint_at_most(tmp_path, caplog):
  scores = lambda step: {'test/top1': 1 / step}
  save(tmp_path, [1, 2, 3], scores, best='test/top1')
  metadata = tmp_path / 'checkpoints/3/_CHECKPOINT_METADATA'
  metadata.write_text(metadata.read_text().replace('performance_metrics', 'performancE_metrics'))
  assert int(restore(tmp_path).step) == 2
  assert (tmp_path / 'damaged/checkpoints-3').exists()
  metrics = tmp_path / 'checkpoints/2/metrics/metrics'
  metrics.write_text(metrics.read_text().replace('"', '!'))
  save(tmp_path, [3, 4, 5], scores, best='test/top1')
  assert kept(tmp_path) == [1, 4, 5]
  assert re.search(r'the metrics of the checkpoint .*checkpoints/2 cannot be read \(.*\)', caplog.text)


@pytest.mark.parametrize('name, target, said', [
    ('_METADATA', '/proc/self/mem', r'\[Errno 5\] Input/output error'),
    ('manifest.ocdbt', 'manifest.ocdbt', r'\[Errno 40\] Too many levels of symbolic links'),  # raised by TensorStore
])
def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path, name, target, said):
  save(tmp_path, [1, 2])
  path = tmp_path / 'checkpoints/2/default' / name
  content = path.read_bytes()
  path.unlink()
  path.symlink_to(target)
  said = f'checkpoints/2 cannot be read: {said}. No checkpoint was touched; the same command resumes'
  with pytest.raises(OSError, match=said):
    restore(tmp_path)
  with pytest.raises(OSError, match=said):
    checkpoint_integrity.read_params(tmp_path)
  assert kept(tmp_path) == [1, 2] and not (tmp_path / 'damaged').exists()
  path.unlink()
  path.write_bytes(content)
  assert int(restore(tmp_path).step) == 2


def test_what_is_not_what_was_saved_is_damaged(tmp_path, monkeypatch, caplog):
  with monkeypatch.context() as patched:
    save(tmp_path, [1])
    patched.setattr(checkpoint_integrity, 'checksums', lambda state: {'params/stem/kernel': 7})
    save(tmp_path, [2])
  assert int(restore(tmp_path).step) == 1
  assert 'array step differs from what was saved: its checksum is' in caplog.text


def test_checkpoints_without_checksums_are_taken_with_a_warning(tmp_path, caplog):
  save(tmp_path, [1])
  metadata = tmp_path / 'checkpoints/1/_CHECKPOINT_METADATA'
  metadata.write_text(json.dumps({**json.loads(metadata.read_text()), 'custom_metadata': {}}))
  assert int(restore(tmp_path).step) == 1
  assert 'was saved by an earlier version, without checksums' in caplog.text
  metadata.unlink()
  assert checkpoint_integrity.read_params(tmp_path)[1].name == '1'
  assert '_CHECKPOINT_METADATA is missing' in caplog.text


@pytest.mark.parametrize('how', ['truncated', 'empty directory', 'arrays gone'])
def test_a_damaged_latest_checkpoint_falls_back_and_says_so(tmp_path, how, caplog):
  save(tmp_path, [1, 2, 3], keep_latest=3)
  damage(tmp_path / 'checkpoints' / '3', how)
  assert int(restore(tmp_path).step) == 2
  assert 'the checkpoint of step 3 cannot be read' in caplog.text
  assert 'damaged/checkpoints-3, and training resumes from step 2' in caplog.text
  assert (tmp_path / 'damaged' / 'checkpoints-3').exists()
  save(tmp_path, [3])  # the run takes the step again
  assert int(restore(tmp_path).step) == 3


def test_a_step_is_taken_and_saved_again_in_place_of_a_damaged_one_and_may_be_damaged_again(tmp_path):
  save(tmp_path, [1, 2, 3], keep_latest=3)
  damage(tmp_path / 'checkpoints/3', 'truncated')
  with open_run(tmp_path) as checkpoints:
    assert int(checkpoints.restore(first_state())[0].step) == 2
    checkpoints.save(3, at(3))
  assert kept(tmp_path) == [2, 3]
  (tmp_path / 'damaged/checkpoints-3/of the first time').touch()
  damage(tmp_path / 'checkpoints/3', 'arrays gone')
  assert int(restore(tmp_path).step) == 2
  assert kept(tmp_path) == [2]
  assert not (tmp_path / 'damaged/checkpoints-3/of the first time').exists()


def test_when_none_can_be_read_nothing_is_started_anew(tmp_path):
  save(tmp_path, [1])
  damage(tmp_path / 'checkpoints' / '1', 'truncated')
  with pytest.raises(ValueError, match=r'none of the checkpoints in .* can be read \(steps 1\)'):
    restore(tmp_path)
  assert kept(tmp_path) == [1]


def test_another_shape_is_an_error_that_shows_both_sides(tmp_path):
  save(tmp_path, [1])
  with pytest.raises(ValueError, match=r'params/head/bias +\(10,\) +\(11,\)\n'):
    restore(tmp_path, first_state(num_classes=11))
  assert kept(tmp_path) == [1]


def test_leftovers_of_a_killed_save_are_no_checkpoint(tmp_path):
  save(tmp_path, [1])
  leftover = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'checkpoints' / '1', leftover)
  assert int(restore(tmp_path).step) == 1
  save(tmp_path, [2])
  assert int(restore(tmp_path).step) == 2


def test_what_a_killed_run_was_deleting_is_deleted_when_it_goes_on(tmp_path):
  save(tmp_path, [2, 3])
  shutil.copytree(tmp_path / 'checkpoints' / '3', tmp_path / 'checkpoints' / '1')
  shutil.rmtree(tmp_path / 'checkpoints' / '1' / 'default')
  assert int(restore(tmp_path).step) == 3
  assert kept(tmp_path) == [2, 3]


def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path, monkeypatch):
  save(tmp_path, [1])
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 10, 0))
  with pytest.raises(OSError, match=r'no room for the checkpoint of step 2: it takes .* MiB, and .* has 0 MiB left'):
    save(tmp_path, [2])
  monkeypatch.undo()
  assert int(restore(tmp_path).step) == 1


@contextlib.contextmanager
def full_disk(room):
  """No file may grow beyond `room` bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_while_a_checkpoint_is_written_costs_that_one_alone(tmp_path):
  save(tmp_path, [1])
  with pytest.raises(OSError, match=r'cannot write a checkpoint to .*(.|\n)* Then restart; training resumes from '
                                      'step 1$'):
    with open_run(tmp_path) as checkpoints, full_disk(room=600):
      checkpoints.save(2, at(2))
      checkpoints.save(3, at(3))
  assert kept(tmp_path) == [1]
  assert int(restore(tmp_path).step) == 1
  save(tmp_path, [2])
  assert int(restore(tmp_path).step) == 2


def test_an_error_of_the_last_save_is_not_lost(tmp_path):
  with full_disk(room=600), pytest.raises(OSError, match='training resumes from step 0$'):
    with open_run(tmp_path) as checkpoints:
      checkpoints.save(1, at(1))


def test_a_work_directory_that_vanishes_is_named(tmp_path):
  with pytest.raises(OSError, match='the work directory .*/run is gone, and with it'):
    with open_run(tmp_path / 'run') as checkpoints:
      checkpoints.save(1, at(1))
      checkpoints._scheduled.wait_until_finished()
      shutil.rmtree(tmp_path / 'run')
      checkpoints.save(2, at(2))


def test_an_interrupted_run_goes_on_with_what_was_due(tmp_path):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(1, at(1))
    checkpoints.save_interrupted(2, at(2))
  assert kept(tmp_path) == [1]
  with open_run(tmp_path) as checkpoints:
    state, unfinished = checkpoints.restore(first_state())
    assert int(state.step) == 2 and unfinished
    assert checkpoint_integrity.read_params(tmp_path)[1].name == '2'
    checkpoints.save(2, at(2))
  assert not list((tmp_path / 'interrupted').iterdir())
  with open_run(tmp_path) as checkpoints:
    state, unfinished = checkpoints.restore(first_state())
    assert int(state.step) == 2 and not unfinished


def test_what_was_interrupted_is_kept_until_a_later_checkpoint_is_complete(tmp_path):
  save(tmp_path, [1])
  with open_run(tmp_path) as checkpoints:
    checkpoints.save_interrupted(2, at(2))
  with pytest.raises(OSError), full_disk(room=600), open_run(tmp_path) as checkpoints:
    checkpoints.save(3, at(3))
  with open_run(tmp_path) as checkpoints:
    assert int(checkpoints.restore(first_state())[0].step) == 2
    checkpoints.save(3, at(3))
    assert [path.name for path in (tmp_path / 'interrupted').iterdir()] == ['2']
    checkpoints.save(4, at(4))
    assert not list((tmp_path / 'interrupted').iterdir())


def test_two_runs_at_once_are_refused_and_the_lock_ends_with_its_run(tmp_path):
  with open_run(tmp_path):
    with pytest.raises(OSError, match='cannot write to the work directory .*: another run is active in it'):
      open_run(tmp_path)
  with open_run(tmp_path):
    pass


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path):
  save(tmp_path, [1])
  (tmp_path / 'config.json').unlink()
  with pytest.raises(ValueError, match='holds checkpoints and no config.json'):
    checkpoint.initialize_workdir(tmp_path, CONFIG)


@pytest.mark.parametrize('content', ['', '{"seed": 0, "total_st', '[]'])
def test_a_config_that_was_cut_off_is_told_with_the_way_out(tmp_path, content):
  save(tmp_path, [1])
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(ValueError, match=f'config.json: .* It has {len(content)} bytes, and identifies the run (.|\n)*'
                     'Restore its content, .*, or choose another --workdir'):
    checkpoint.initialize_workdir(tmp_path, CONFIG)
  assert kept(tmp_path) == [1] and (tmp_path / 'config.json').read_text() == content


def test_a_work_directory_that_not_all_processes_share_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint.jax, 'process_index', lambda: 1)
  with pytest.raises(OSError, match='process 1 does not see the files that process 0 wrote; it must be on storage'):
    checkpoint.initialize_workdir(tmp_path, CONFIG)
  monkeypatch.undo()
  checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'seed': 1})  # of an earlier run, on this machine alone
  monkeypatch.setattr(checkpoint.jax, 'process_index', lambda: 1)
  with pytest.raises(OSError, match='process 1 does not see the files that process 0 wrote'):
    checkpoint.initialize_workdir(tmp_path, CONFIG)


def test_a_disk_that_is_read_only_is_named(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
  monkeypatch.setattr(storage, 'write', refuse)
  with pytest.raises(OSError, match='cannot write to the work directory .*Read-only file system. Choose another'):
    checkpoint.initialize_workdir(tmp_path, CONFIG)


def test_a_directory_of_another_run_is_refused_with_both_sides(tmp_path):
  checkpoint.initialize_workdir(tmp_path, CONFIG)
  save(tmp_path, [1])
  other = {**CONFIG, 'seed': 1, 'data': {'batch_size': 16, 'data_dir': None}}
  with pytest.raises(ValueError, match=r'data.batch_size: 8 before, 16 now\n  seed: 0 before, 1 now\nChoose another'):
    checkpoint.initialize_workdir(tmp_path, other)
  assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG


def test_a_changed_batch_size_is_refused_with_the_way_out(tmp_path):
  checkpoint.initialize_workdir(tmp_path, CONFIG)
  save(tmp_path, [1])
  with pytest.raises(ValueError, match='8 before, 16 now(.|\n)*raise config.step.accumulate'):
    checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'data': {'batch_size': 16, 'data_dir': None}})


def test_a_run_of_an_earlier_version_goes_on_and_says_what_changed(tmp_path, capsys):
  save(tmp_path, [1])
  checkpoint.initialize_workdir(tmp_path, CONFIG)
  assert not capsys.readouterr().out
  checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'contents_sample': 'y'})
  assert 'was started by an earlier version: from now on, RandAugment' in capsys.readouterr().out


def test_a_longer_run_is_refused_with_what_trains_its_weights_on(tmp_path):
  checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'total_steps': 10})
  save(tmp_path, [1])
  advice = f'--config.start_from.weights={tmp_path} --config.start_from.head=given --workdir=NEW'
  with pytest.raises(ValueError, match=rf'(?s)total_steps: 10 before, 20 now.*{re.escape(advice)}$'):
    checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'total_steps': 20})
  with pytest.raises(ValueError, match='total_steps: 10 before, 5 now') as shorter:
    checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'total_steps': 5})
  assert 'start_from' not in str(shorter.value)


def test_fields_that_change_no_step_may_change(tmp_path):
  checkpoint.initialize_workdir(tmp_path, CONFIG)
  save(tmp_path, [1])
  later = {**CONFIG, 'log_every_steps': 7, 'data': {'batch_size': 8, 'data_dir': '/elsewhere'}}
  checkpoint.initialize_workdir(tmp_path, later)
  assert json.loads((tmp_path / 'config.json').read_text()) == later


def test_before_the_first_checkpoint_the_config_may_change(tmp_path):
  checkpoint.initialize_workdir(tmp_path, CONFIG)
  checkpoint.initialize_workdir(tmp_path, {**CONFIG, 'seed': 1})
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 1


def test_a_work_directory_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(OSError, match=r'cannot write to the work directory .*/file/run: .* Choose another'):
    checkpoint.initialize_workdir(tmp_path / 'file' / 'run', CONFIG)


@pytest.mark.parametrize('name', ['lr[0.1]', '[', 'a*b?#%20 {c}', "日本 ü '\"\n$HOME", 'run~'])
def test_a_work_directory_may_have_any_name(tmp_path, name):
  save(tmp_path / name, [1])
  save(tmp_path / name, [2])
  assert int(restore(tmp_path / name).step) == 2
  assert checkpoint_integrity.read_params(tmp_path / name)[1].name == '2' and kept(tmp_path / name) == [1, 2]


@pytest.mark.parametrize('name, reason', [
    ('a\\b', 'a backslash'), ('gs:', "a part 'gs:'"), ('caf\udce9', 'bytes that are not UTF-8')])
def test_a_name_that_the_arrays_cannot_be_written_to_is_refused_before_the_first_step(tmp_path, name, reason):
  with pytest.raises(OSError, match=f'cannot write to the work directory .*: its name has {reason}, which TensorStore, '
                     'the writer of checkpoints, does not support. Choose another --workdir'):
    open_run(tmp_path / name)
  assert not list(tmp_path.iterdir())


def test_arrays_that_orbax_has_not_merged_are_an_error_at_once(tmp_path, monkeypatch):
  save(tmp_path, [1])
  monkeypatch.setattr(storage.Path, 'glob', lambda self, pattern: iter(()))
  with pytest.raises(OSError, match='Orbax has not merged the arrays of step 2: .*manifest.ocdbt is missing(.|\n)*'
                     'training resumes from step 1$'):
    save(tmp_path, [2, 3])
  monkeypatch.undo()
  assert kept(tmp_path) == [1] and int(restore(tmp_path).step) == 1
