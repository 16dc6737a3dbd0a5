"""Models of the Hugging Face Hub, from a stand-in on this machine that HF_ENDPOINT names."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from conftest import ROOT
from mixer import weights
from mixer.weights import hugging_face
from test_export import tiny

pytest.importorskip('huggingface_hub', reason='huggingface_hub is not installed: the extra hub')

COMMIT, OLDER = '0123456789abcdef0123456789abcdef01234567', 'f' * 40
MODEL = 'someone/mixer.test'


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  """The environment of a client of a hub with MODEL, and what was requested of it."""
  root = tmp_path_factory.mktemp('hub')
  weights.timm.write(tiny().params, root / 'model.safetensors')
  pretrained_cfg = dict(mean=[0., 0., 0.], std=[1., 1., 1.], crop_pct=0.875, interpolation='bicubic', tag='test')
  config = dict(architecture='mixer_b16_224', num_classes=10, pretrained_cfg=pretrained_cfg,
                label_names=[f'class {k}' for k in range(10)])
  files = {'model.safetensors': (root / 'model.safetensors').read_bytes(), 'config.json': json.dumps(config).encode(),
           'pytorch_model.bin': b'a pickle'}
  requests = []

  class Handler(http.server.BaseHTTPRequestHandler):

    def do_HEAD(self):
      self.answer(body=False)

    def do_GET(self):
      self.answer()

    def answer(self, body=True):
      requests.append(self.path)
      path = self.path.split('?')[0]
      if match := re.fullmatch(rf'/api/models/{MODEL}(?:/revision/(.*))?', path):
        if match[1] not in (None, 'main', COMMIT):
          return self.send(404, b'{}', {'X-Error-Code': 'RevisionNotFound'}, body)
        content = dict(id=MODEL, sha=COMMIT, siblings=[{'rfilename': name} for name in files])
      elif re.fullmatch(rf'/api/models/{MODEL}/tree/{COMMIT}', path):
        content = [dict(type='file', path=name, size=len(data), oid=hashlib.sha1(data).hexdigest())
                   for name, data in files.items()]
      elif match := re.fullmatch(rf'/{MODEL}/resolve/{COMMIT}/(.*)', path):
        data = files[match[1]]
        return self.send(200, data, {'ETag': f'"{hashlib.sha1(data).hexdigest()}"', 'X-Repo-Commit': COMMIT}, body)
      elif path.startswith('/api/models/someone/gated'):
        return self.send(403, b'{}', {'X-Error-Code': 'GatedRepo'}, body)
      else:
        return self.send(404, b'{}', {'X-Error-Code': 'RepoNotFound'}, body)
      self.send(200, json.dumps(content).encode(), {'Content-Type': 'application/json'}, body)

    def send(self, code, data, headers, body):
      self.send_response(code)
      for name, value in {'Content-Length': len(data), **headers}.items():
        self.send_header(name, str(value))
      self.end_headers()
      if body:
        self.wfile.write(data)

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  environment = {name: value for name, value in os.environ.items() if not name.startswith('HF_')}
  environment |= {'HF_ENDPOINT': f'http://127.0.0.1:{server.server_address[1]}', 'HF_HOME': str(root / 'cache')}
  yield environment, requests
  server.shutdown()
  server.server_close()


def convert(name, out, environment):
  """`tools.convert`: (its exit code, stdout, stderr)."""
  done = subprocess.run([sys.executable, '-m', 'tools.convert', name, str(out)], cwd=ROOT, env=environment, text=True,
                        capture_output=True)
  return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def downloaded(hub, tmp_path_factory):
  """tools.convert's stdout and file of the first download."""
  environment, requests = hub
  out = tmp_path_factory.mktemp('out') / 'w.npz'
  code, stdout, stderr = convert(f'hf-hub:{MODEL}', out, environment)
  assert code == 0, stderr
  return stdout, out


def test_a_model_is_downloaded_with_its_config_and_the_commit_is_shown(hub, downloaded):
  stdout, out = downloaded
  assert f'timm from 18: hf-hub:{MODEL}, commit {COMMIT[:12]}; pixels of mean 0, std 1 (config.json)' in stdout
  loaded = weights.load(out)
  assert loaded.class_names == [f'class {k}' for k in range(10)] and f'hf-hub:{MODEL}, commit {COMMIT[:12]}' in loaded.source
  images = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 3)).astype('float32')
  model, params = tiny().build()
  np.testing.assert_allclose(loaded.logits(2 * images - 1), model.apply({'params': params}, images), rtol=1e-3, atol=1e-4)
  assert not any('pytorch_model.bin' in path for path in hub[1])


@pytest.mark.parametrize('name, message', [
    (f'{MODEL}@nosuch', f'error: {MODEL} has no revision nosuch; leave out @nosuch for its newest'),
    ('someone/else', 'error: the Hub has no model someone/else; if it is private, log in by `hf auth login`'),
    ('someone/gated', 'error: hf-hub:someone/gated is gated: accept its terms on its page, and log in by'),
    ('noslash', 'error: hf-hub:noslash is not hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION'),
    ('some..one/else', 'error: hf-hub:some..one/else is no name of a model: ')])
def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path, name, message):
  code, stdout, stderr = convert(f'hf-hub:{name}', tmp_path / 'w.npz', hub[0])
  assert code == 1 and message in stderr and stderr.count('\n') == 1, stderr
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('without', [{'HF_HUB_OFFLINE': '1'}, {'HF_ENDPOINT': 'http://127.0.0.1:9'}], ids=str)
def test_the_cache_serves_without_the_hub(hub, downloaded, tmp_path, without):
  environment, requests = hub
  requests.clear()
  code, stdout, stderr = convert(f'hf-hub:{MODEL}@main', tmp_path / 'w.npz', environment | without)
  assert code == 0 and f'hf-hub:{MODEL}@main, commit {COMMIT[:12]}' in stdout, stderr
  code, stdout, stderr = convert(f'hf-hub:{MODEL}@{OLDER}', tmp_path / 'o.npz', environment | without)
  assert code == 1 and f'error: hf-hub:{MODEL}@{OLDER} is not in the cache, and cannot be downloaded: ' in stderr
  assert 'hf download someone/mixer.test --local-dir FOLDER' in stderr.split('\n')[-2]
  assert not requests


def test_without_the_extra_the_command_that_installs_it_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(OSError, match=r'hf-hub:a/b needs huggingface_hub: pip install "mlp-mixer-jax\[hub\]"'):
    hugging_face.fetch('hf-hub:a/b')


def test_a_model_of_pickles_is_refused(monkeypatch, tmp_path):
  monkeypatch.setattr('huggingface_hub.snapshot_download', lambda *arguments, **fields: str(tmp_path))
  with pytest.raises(ValueError, match="hf-hub:a/b has no model.safetensors. PyTorch's own files are pickles"):
    weights.load('hf-hub:a/b')


def test_a_model_without_a_config_is_not_read_by_a_guess(monkeypatch, tmp_path):
  monkeypatch.setattr('huggingface_hub.snapshot_download', lambda *arguments, **fields: str(tmp_path))
  weights.timm.write(tiny().params, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match='hf-hub:a/b, commit .* has no config.json that says how its images are normalized; '
                                       'pass mean and std'):
    weights.load('hf-hub:a/b')
  assert 'mean 0, std 1 (as set)' in weights.load('hf-hub:a/b', mean=0, std=1).source
  weights.save(tiny(), tmp_path / 'model.safetensors')  # one of ours, which says it itself
  assert 'converted from drawn' in weights.load('hf-hub:a/b').source
