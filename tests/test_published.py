"""Getting published files, from a server on this machine."""

import http.server
import math
import threading

import jax
import jax.numpy as jnp
import pytest

import example_weights
from mixer import models
from mixer import trees
from mixer import weights
from mixer.weights import npz
from mixer.weights import published

NAME = 'imagenet1k/Mixer-B_16'


@pytest.fixture
def served(tmp_path, monkeypatch):
  """(the content at the address of a published name, which tests may change; the requests that came)."""
  npz.write(example_weights.params(), tmp_path / 'published.npz')
  content = {'body': (tmp_path / 'published.npz').read_bytes(), 'length': None}
  requests = []

  class Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self):
      requests.append(self.path)
      if self.path != f'/mixer_models/{NAME}.npz':
        self.send_error(404)
        return
      self.send_response(200)
      self.send_header('Content-Length', str(content['length'] or len(content['body'])))
      self.end_headers()
      self.wfile.write(content['body'])

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setattr(published, 'ADDRESS', f'http://127.0.0.1:{server.server_address[1]}/mixer_models')
  monkeypatch.setattr(published, 'CACHE', str(tmp_path / 'cache'))
  monkeypatch.setitem(published.TABLE, NAME, published.Published(len(content['body']) / 2**20, 5, 'a small one'))
  yield content, requests
  server.shutdown()
  server.server_close()


def kept(tmp_path):
  return [path.name for path in (tmp_path / 'cache').rglob('*') if path.is_file()]


def test_a_published_name_is_downloaded_once_and_then_kept(served, tmp_path):
  loaded = weights.load(NAME)
  assert example_weights.equal(loaded.params, example_weights.params())
  assert loaded.source == f'{NAME}, a small one' and loaded.resolution == 8
  assert published.fetch(NAME) == tmp_path / 'cache' / 'imagenet1k' / 'Mixer-B_16.npz'
  assert len(served[1]) == 1 and kept(tmp_path) == ['Mixer-B_16.npz']


def test_a_download_that_ends_early_leaves_nothing(served, tmp_path):
  content, requests = served
  content['length'] = len(content['body']) + 1000
  with pytest.raises(OSError, match=r'http://127\.0\.0\.1:\d+/mixer_models/imagenet1k/Mixer-B_16\.npz cannot be '
                                    r'downloaded: .*the connection ended after [\d,]+ of [\d,]+ bytes.* Download '
                                    r'it by other means, and save it as \S+/imagenet1k/Mixer-B_16\.npz'):
    published.fetch(NAME)
  assert kept(tmp_path) == []
  content['length'] = None
  assert published.fetch(NAME).exists()


def test_another_size_than_published_is_refused(served, tmp_path):
  served[0]['body'] = b'<html>log in first</html>' * 2000
  with pytest.raises(ValueError, match=r'Mixer-B_16\.npz is 0\.05 MiB, expected 0\.02 MiB'):
    published.fetch(NAME)
  assert kept(tmp_path) == []


def test_damaged_content_of_the_right_size_is_refused(served, tmp_path):
  body = bytearray(served[0]['body'])
  body[500] ^= 255
  served[0]['body'] = bytes(body)
  with pytest.raises(ValueError, match=r'http://.*/Mixer-B_16\.npz is not the published file: .* is damaged'):
    published.fetch(NAME)
  assert kept(tmp_path) == []


def test_an_address_that_cannot_be_reached_is_named_with_the_way_out(served, tmp_path, monkeypatch):
  with pytest.raises(OSError, match=r'/sam/Mixer-B_32\.npz cannot be downloaded: .*404.* save it as \S+/sam/Mixer-B_32\.npz'):
    published.fetch('sam/Mixer-B_32')
  monkeypatch.setattr(published, 'ADDRESS', 'http://127.0.0.1:9/mixer_models')
  with pytest.raises(OSError, match=r'http://127\.0\.0\.1:9/mixer_models/.*refused.* save it as '):
    published.fetch(NAME)
  assert kept(tmp_path) == []


@pytest.mark.parametrize('name', published.TABLE)
def test_published_sizes_are_four_bytes_a_parameter(name):
  """With up to 1 KiB for each of the arrays' headers; the counts are those that Table 1's sizes give."""
  entry = published.TABLE[name]
  model = models.build(name='mlp_mixer', variant=name.split('-')[1].replace('_', '/'), num_classes=entry.num_classes)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0), image)['params'])
  spare = entry.mib * 2**20 - 4 * sum(math.prod(shape) for shape in shapes.values())
  assert -0.005 * 2**20 < spare < 1024 * len(shapes)


def test_without_a_home_folder_the_way_to_the_weights_is_told(monkeypatch):
  monkeypatch.setattr(published, 'CACHE', '~nobody_of_that_name/cache')
  with pytest.raises(OSError, match='Mixer-B_16.npz cannot be cached in .*: this user has no home directory. Set HOME to a '
                     "writable directory, or download the file .*, and pass its path instead of 'gsam/Mixer-B_16'"):
    published.fetch('gsam/Mixer-B_16')
