import pytest

from mixer import jsonl


def test_rows_have_the_numbers_of_their_lines(tmp_path):
  (tmp_path / 'x.jsonl').write_text('{"a": 1}\n\n{"b": [2]}\n')
  assert jsonl.read(tmp_path / 'x.jsonl') == [(1, {'a': 1}), (3, {'b': [2]})]


def test_a_missing_file_has_no_rows(tmp_path):
  assert jsonl.read(tmp_path / 'x.jsonl') == []


@pytest.mark.parametrize('line', [b'{"a": 1', b'[1]', b'3', b'\xff\xfe', b'null', b'{"a": ' * 10**5])
def test_a_damaged_line_is_skipped_and_named(line, tmp_path):
  (tmp_path / 'x.jsonl').write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n' + line)
  damaged = []
  assert jsonl.read(tmp_path / 'x.jsonl', damaged) == [(1, {'a': 1}), (3, {'a': 2})]
  assert damaged == [2, 4]
  assert len(jsonl.read(tmp_path / 'x.jsonl')) == 2
