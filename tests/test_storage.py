"""Files on a disk that fails, and after a power cut; test_bucket.py has those in a bucket."""

import errno
import os

from etils import epath
import pytest

from mixer import storage


@pytest.fixture
def synced(monkeypatch):
  """What was synced and renamed, in order: ('fsync', path) and ('replace', new path)."""
  calls = []

  def fsync(descriptor, original=os.fsync):
    calls.append(('fsync', os.readlink(f'/proc/self/fd/{descriptor}')))
    original(descriptor)

  def replace(one, other, original=os.replace):
    calls.append(('replace', os.fspath(other)))
    original(one, other)
  monkeypatch.setattr(storage.os, 'fsync', fsync)
  monkeypatch.setattr(os, 'replace', replace)
  return calls


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_after_that(synced, tmp_path):
  path = epath.Path(tmp_path) / 'file'
  storage.write(path, 'whole')
  assert path.read_text() == 'whole'
  assert synced == [('fsync', f'{path}.partial'), ('replace', str(path)), ('fsync', str(tmp_path))]


def test_the_names_of_new_folders_are_on_the_disk(synced, tmp_path):
  storage.make_folder(epath.Path(tmp_path) / 'a/b')
  assert {path for _, path in synced} == {str(tmp_path), str(tmp_path / 'a')}


def test_a_folder_is_synced_with_all_that_is_in_it_and_its_name(synced, tmp_path):
  (tmp_path / 'a/b').mkdir(parents=True)
  (tmp_path / 'a/b/file').write_text('here')
  storage.sync(epath.Path(tmp_path / 'a'))
  assert {path for _, path in synced} == {str(tmp_path / name) for name in ('.', 'a', 'a/b', 'a/b/file')}


@pytest.mark.parametrize('number, refused', [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_is_let_be_and_a_disk_that_fails_is_not(tmp_path, monkeypatch, number, refused):
  def fail(descriptor):
    raise OSError(number, os.strerror(number))
  monkeypatch.setattr(storage.os, 'fsync', fail)
  if refused:
    with pytest.raises(OSError, match='Input/output error'):
      storage.sync(epath.Path(tmp_path))
  else:
    storage.sync(epath.Path(tmp_path))


def chain(*errors):
  """The last of some errors, of which each led to the next."""
  for cause, error in zip(errors, errors[1:]):
    error.__context__ = cause
  return errors[-1]


@pytest.mark.parametrize('error, said', [
    (OSError(errno.ESTALE, 'Stale file handle'), r'\[Errno 116\] Stale file handle'),
    (PermissionError(errno.EACCES, 'Permission denied', 'x'), r'\[Errno 13\] Permission denied'),
    (chain(OSError(errno.EIO, 'io'), KeyError('a'), ValueError('no metadata')), r'\[Errno 5\] Input/output error'),
    (ValueError("UNKNOWN: Error reading \"step/.zarray\": Failed to read from file [os_error_code='5'] [spec]"),
     r'\[Errno 5\] Input/output error'),
    (chain(ValueError("NOT_FOUND [os_error_code='13']"), RuntimeError('no')), r'\[Errno 13\] Permission denied'),
])
def test_an_error_of_the_disk_is_distinguished_from_what_was_read(error, said):
  with pytest.raises(storage.Unreachable, match=f'^/run/7 cannot be read: {said}. No checkpoint was touched; the same'):
    with storage.translate_read_errors('/run/7'):
      raise error


@pytest.mark.parametrize('error', [
    ValueError('DATA_LOSS: Error decoding'), FileNotFoundError(errno.ENOENT, 'gone'), OSError('of no number'),
    NotADirectoryError(errno.ENOTDIR, 'a file'), ValueError("NOT_FOUND [os_error_code='2']"),
    chain(FileNotFoundError(errno.ENOENT, 'gone'), ValueError('no metadata')),
])
def test_what_is_missing_or_wrong_is_left_as_it_is(error):
  with pytest.raises(type(error)) as raised:
    with storage.translate_read_errors('/run/7'):
      raise error
  assert raised.value is error


def test_paths_are_those_that_the_system_means(tmp_path, monkeypatch):
  (tmp_path / 'far/off').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'far/off')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  for name, path in {'run/': 'run', './run//x': 'run/x', '~/run': 'home/run', './~/run': '~/run', 'link/run': 'link/run',
                     'far/../run': 'run', 'link/../run': 'far/run', 'a://b': None, 'a/b://c': 'a/b:/c'}.items():
    if path:
      assert os.fspath(storage.path_of(name)) == str(tmp_path / path), name
    else:
      with pytest.raises(ValueError, match=f'{name} is neither on a disk nor in a bucket; expected a path, or an address'):
        storage.path_of(name)


def test_a_glob_takes_the_folders_own_name_as_it_is(tmp_path):
  for name in ('[ab]', 'a', 'c*', 'cd'):
    (tmp_path / name / 'in*').mkdir(parents=True)
    (tmp_path / name / 'inner').mkdir()
  matches = lambda folder, pattern: sorted(os.fspath(path) for path in storage.path_of(tmp_path / folder).glob(pattern))
  assert matches('[ab]', 'in*') == [str(tmp_path / '[ab]/in*'), str(tmp_path / '[ab]/inner')]
  assert matches('c*', 'inn*') == [str(tmp_path / 'c*/inner')]
  child, = (storage.path_of(tmp_path / '[ab]') / 'in*').parent.glob('inner')
  assert isinstance(child, storage.Path) and not list(child.glob('*'))
