"""Files from anyone: what is read of them, and what they are refused for before it takes the memory or the time."""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from mixer import safe_io


# Paths


@pytest.mark.parametrize('folder, name, path', [
    ('/a', 'b/c.jpg', '/a/b/c.jpg'), ('/a', './b//c.jpg', '/a/b/c.jpg'), ('/a', '/a/c.jpg', '/a/c.jpg'),
    ('../a', 'c.jpg', '../a/c.jpg'), ('/a', 'b..c/..d', '/a/b..c/..d'), ('gs://a/b', 'c.jpg', 'gs://a/b/c.jpg'),
    ('gs://a/b', 'gs://a/b/c.jpg', 'gs://a/b/c.jpg')])
def test_what_lies_below_a_folder(folder, name, path):
  assert str(safe_io.below(folder, name)) == path


@pytest.mark.parametrize('folder, name', [
    ('/a', '../c.jpg'), ('/a', 'b/../../c.jpg'), ('/a', '/a/../c.jpg'), ('/a', '/c.jpg'), ('/a', '/ab/c.jpg'),
    ('/a', 'gs://a/c.jpg'), ('gs://a/b', '/c.jpg'), ('gs://a/b', 'gs://a/c.jpg'), ('gs://a/b', '../c.jpg'),
    ('/a', 'b/../c.jpg')])
def test_what_does_not_lie_below_a_folder(folder, name):
  with pytest.raises(ValueError, match=f'^{name!r} does not lie below {folder}$'):
    safe_io.below(folder, name)


def test_an_address_that_cannot_be_read_is_named():
  with pytest.raises(ValueError, match=r"^'https://a\.b/c\.jpg' is not supported; expected a local path, gs:// or"):
    safe_io.below('/a', 'https://a.b/c.jpg')


# Text and JSON


def test_text_is_of_utf8_and_not_endless(tmp_path, monkeypatch):
  path = tmp_path / 'classes.txt'
  path.write_bytes('été\n'.encode())
  assert safe_io.text(path) == 'été\n'
  path.write_bytes('été'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'/classes\.txt is not UTF-8 text: invalid continuation byte at byte 0'):
    safe_io.text(path)
  monkeypatch.setattr(safe_io, 'MAX_TEXT', 3)
  path.write_text('abc')
  assert safe_io.text(path) == 'abc'
  path.write_text('abcd')
  with pytest.raises(ValueError, match=r'/classes\.txt has more than 3 bytes'):
    safe_io.text(path)


@pytest.mark.parametrize('text, message', [
    ('{"a": 1', r'c\.json: not JSON, Expecting'),
    ('[' * 100_000, r'c\.json: lists and objects are nested more than 100 deep'),
    ('{"a": ' * 101 + '1' + '}' * 101, r'c\.json: lists and objects are nested more than 100 deep'),
    ('{"a": ' + '1' * 5_000 + '}', r'c\.json: not JSON, Exceeds the limit'),
    ('[' + '0,' * 1_000_001 + '0]', r'c\.json has more than 1,000,000 values'),
    ('[{}]', r'c\.json: \[\{\}\] is not an object, \{\.\.\.\}'),
    ('"' + 'a' * 1_000 + '"', r"c\.json: 'a+\.\.\.a+' is not an object"),
])
def test_json_that_is_not_read(tmp_path, text, message):
  (tmp_path / 'c.json').write_text(text)
  with pytest.raises(ValueError, match=message):
    safe_io.read_json_object(tmp_path / 'c.json')


def test_json_that_is_read(tmp_path):
  for value in ({}, {'a': [1, {'b': None}]}, json.loads('{"a": ' * 100 + '1' + '}' * 100)):
    (tmp_path / 'c.json').write_text(json.dumps(value))
    assert safe_io.read_json_object(tmp_path / 'c.json') == value


# Arrays


def npy(shape, dtype='<f4', data=b''):
  """The content of a .npy file that claims a shape and a type, of which `dtype` is the description."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {'descr': dtype, 'fortran_order': False, 'shape': shape})
  return file.getvalue() + data


def archive(path, members, **options):
  with zipfile.ZipFile(path, 'w', **options) as file:
    for name, content in members.items():
      file.writestr(name, content)
  return path


def test_arrays_are_those_of_numpy(tmp_path):
  rng = np.random.default_rng(0)
  expected = {'a/b': rng.normal(size=(3, 4)), 'transposed': rng.normal(size=(3, 4)).T, 'scalar': np.float32(2),
            'empty': np.zeros((0, 5)), 'words': np.array('été')}
  for save in np.savez, np.savez_compressed:
    save(tmp_path / 'w.npz', **expected)
    loaded = safe_io.arrays(tmp_path / 'w.npz')
    assert list(loaded) == list(expected)
    for name, array in loaded.items():
      np.testing.assert_array_equal(array, expected[name])
      assert array.dtype == np.asarray(expected[name]).dtype


@pytest.mark.parametrize('members, message', [
    ({'a.npy': npy((10**12,))}, r"array 'a' claims 4,000,000,000,000 bytes, of shape \(1000000000000,\) and type "
                                'float32, and has 0'),
    ({'a.npy': npy((2**32, 2**32))}, r"array 'a' claims 73,786,976,294,838,206,464 bytes"),
    ({'a.npy': npy((1,), '|V2147483647')}, r"array 'a' claims 2,147,483,647 bytes"),
    ({'a.npy': npy((2,), data=bytes(9))}, r"array 'a' claims 8 bytes, of shape \(2,\) and type float32, and has 9"),
    ({'a.npy': npy((1,), '|O', bytes(8))}, r"array 'a' holds Python objects, which are not read"),
    ({'a.npy': npy((1,), [('x', '|O')], bytes(8))}, r"array 'a' holds Python objects"),
    ({'a.npy': b'no array'}, r"array 'a' is damaged \("),
    ({'a.npy': npy((1,)).replace(b'(1,)', b'(((')}, r"array 'a' is damaged \("),
    ({'a': npy((1,), data=bytes(4))}, r"array 'a' is not an array; the file is not an \.npz of parameters"),
    ({'a.npy': npy((0,)), 'a': b''}, r"two arrays are named 'a'"),
])
def test_arrays_that_are_not_read(tmp_path, members, message):
  archive(tmp_path / 'w.npz', members)
  with pytest.raises(ValueError, match=rf'/w\.npz: {message}'):
    safe_io.arrays(tmp_path / 'w.npz')


def test_what_would_become_a_hundred_times_as_large_is_refused_before_it_does(tmp_path):
  path = archive(tmp_path / 'w.npz', {'a.npy': npy((2**24,), data=bytes(2**26))}, compression=zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 2**17
  tracemalloc.start()
  with pytest.raises(ValueError, match=r'/w\.npz would take 64 MiB in memory; at most 6 MiB are allowed for its 0\.06 MiB: '
                                       '100 times as much'):
    safe_io.arrays(path)
  assert tracemalloc.get_traced_memory()[1] < 2**21
  tracemalloc.stop()
  # Whatever the directory of the archive says: more is not read.
  content = path.read_bytes()
  size, lie = struct.pack('<I', 2**26 + 128), struct.pack('<I', 1_000)
  assert content.count(size) == 2
  path.write_bytes(content.replace(size, lie))
  with pytest.raises(ValueError, match=r"/w\.npz: array 'a' is damaged \(Bad CRC-32 for file 'a\.npy'\)"):
    safe_io.arrays(path)


def test_a_compression_that_claims_its_room_beforehand_is_refused(tmp_path):
  archive(tmp_path / 'w.npz', {'a.npy': npy((1,), data=bytes(4))}, compression=zipfile.ZIP_LZMA)
  with pytest.raises(ValueError, match="array 'a' is compressed in a way that NumPy does not write"):
    safe_io.arrays(tmp_path / 'w.npz')


def test_small_files_may_become_some_more():
  safe_io.check_unpacked('w', 10, 2**20)
  safe_io.check_unpacked('w', 2**20, 100 * 2**20)
  for packed, unpacked in ((10, 2**20 + 1), (2**20, 100 * 2**20 + 1)):
    with pytest.raises(ValueError, match='^w would take'):
      safe_io.check_unpacked('w', packed, unpacked)
