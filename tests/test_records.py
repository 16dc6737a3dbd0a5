"""The records of a run survive interruptions."""

import json
import os
import resource

import pytest

from mixer.run import records


def write(path, last_step, steps):
  writer = records.Writer(path, last_step)
  for step in steps:
    writer.write(step, {'loss': step / 10})
  writer.close()


def steps_in(path):
  return [record['step'] for record in records.read(path)]


def test_what_is_written_is_read(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1, 2])
  assert list(records.read(path)) == [{'step': 1, 'loss': 0.1}, {'step': 2, 'loss': 0.2}]
  assert path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n'


def test_no_file_no_records(tmp_path):
  assert list(records.read(tmp_path / 'records.jsonl')) == []


def test_each_record_is_on_disk_at_once(tmp_path):
  """A killed run loses no record."""
  writer = records.Writer(tmp_path / 'records.jsonl', 0)
  writer.write(1, {})
  assert steps_in(tmp_path / 'records.jsonl') == [1]
  writer.close()


def test_what_was_flushed_outlasts_a_power_cut(tmp_path, monkeypatch):
  synced = []
  writer = records.Writer(tmp_path / 'records.jsonl', 0)
  writer.write(1, {})
  monkeypatch.setattr(records.os, 'fsync', lambda descriptor: synced.append(os.readlink(f'/proc/self/fd/{descriptor}')))
  writer.flush()
  writer.close()
  assert synced == [str(tmp_path / 'records.jsonl')]


def test_a_half_written_line_is_skipped(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1, 2])
  path.write_text(path.read_text() + '{"step": 3, "lo')
  assert steps_in(path) == [1, 2]
  write(path, 2, [3, 4])
  assert steps_in(path) == [1, 2, 3, 4]
  assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_what_is_no_record_is_skipped(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1, 2])
  damage = [b'\xff\xfe', b'[' * 100_000, b'[1]', b'7', b'{"loss": 1}', b'{"step": "3"}', b'{"step": null}']
  path.write_bytes(b'\n'.join([*damage, path.read_bytes()]))
  assert steps_in(path) == [1, 2]
  write(path, 2, [3])
  assert steps_in(path) == [1, 2, 3]


def test_resuming_from_a_checkpoint_leaves_each_step_once(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, range(1, 8))  # killed after step 7; the last checkpoint was that of step 4
  write(path, 4, range(5, 10))
  assert steps_in(path) == list(range(1, 10))
  write(path, 9, [])
  assert steps_in(path) == list(range(1, 10))
  write(path, 0, [1])  # without a checkpoint the run begins anew
  assert steps_in(path) == [1]
  assert [file.name for file in tmp_path.iterdir()] == ['records.jsonl']


def test_values_of_the_step_it_resumes_after_are_added_to_its_record(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1, 2])
  writer = records.Writer(path, 2)
  writer.write(2, {'test/top1': 0.5})
  writer.write(3, {'loss': 0.3})
  writer.close()
  assert list(records.read(path)) == [{'step': 1, 'loss': 0.1}, {'step': 2, 'loss': 0.2, 'test/top1': 0.5},
                                      {'step': 3, 'loss': 0.3}]


def test_a_process_without_a_path_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write(None, 0, [1])
  assert not list(tmp_path.iterdir())


def test_cut_anywhere_the_whole_lines_are_read_and_the_run_resumes(tmp_path):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1, 2, 3])
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    steps = steps_in(path)
    assert steps == [1, 2, 3][:len(steps)] and len(steps) >= whole[:size].count(b'\n')
    write(path, steps[-1] if steps else 0, [4])
    assert steps_in(path) == [*steps, 4]


@pytest.mark.parametrize('line', [b'12', b'[]', b'{"loss": 1}', b'{"step": "2"}', b'\xff\xfe', b'null'])
def test_a_line_that_is_no_record_is_skipped(tmp_path, line):
  path = tmp_path / 'records.jsonl'
  write(path, 0, [1])
  path.write_bytes(path.read_bytes() + line + b'\n{"step": 3}\n')
  assert steps_in(path) == [1, 3]


def test_a_full_disk_is_named_and_costs_no_record(tmp_path):
  path, limits = tmp_path / 'records.jsonl', resource.getrlimit(resource.RLIMIT_FSIZE)
  writer = records.Writer(path, 0)
  writer.write(1, {'loss': 1})
  resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
  try:
    with pytest.raises(OSError, match='cannot write to .*records.jsonl: .*training resumes from the latest checkpoint'):
      writer.write(2, {'loss': 2})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert steps_in(path) == [1]


def test_the_results_of_an_average_are_told_from_those_of_the_weights():
  results = {'test/top1': 0.7, 'test/examples': 9, 'test_ema/top1': 0.8, 'test_ema/examples': 9}
  assert records.of_weights(results, average=False) == {'test/top1': 0.7, 'test/examples': 9}
  assert records.of_weights(results, average=True) == {'test/top1': 0.8, 'test/examples': 9}
  alone = {'the_ema/top1': 0.7}  # an evaluation of this name, of a run without an average
  assert records.of_weights(alone, average=False) == alone and records.of_weights(alone, average=True) == {}
