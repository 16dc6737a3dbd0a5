"""A stand-in for Google Cloud Storage on loopback, in memory.

  python tests/bucket_server.py python train.py --config=configs/mixer_digits.py --workdir=gs://bucket/run

One port speaks HTTP, to TensorStore and google-cloud-storage, and TLS behind a CONNECT, to TensorFlow, which has
Google's addresses compiled in but uses a proxy. Requests for other hosts are refused, so that nothing leaves the
machine. TensorFlow may hold Python's lock during a request: its process must be another one than the server's.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import email
import http.server
import itertools
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse

import trustme

HOSTS = ('www.googleapis.com', 'storage.googleapis.com')


class Refused(Exception):
  """A request is answered with an HTTP status other than success."""

  def __init__(self, status: int, message: str = ''):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass
class Blob:
  data: bytes
  generation: int


class Bucket:
  """The objects of one bucket, by their names, each with a generation that a write may require."""

  def __init__(self, name: str):
    self.name, self.blobs, self._lock = name, {}, threading.Lock()
    self._generations, self._uploads = itertools.count(1_700_000_000_000_000), []

  def read(self, name: str, query: dict) -> Blob:
    blob = self.blobs.get(name)
    if blob is None:
      raise Refused(404, f'{name} does not exist')
    self._check(blob, query)
    return blob

  def write(self, name: str, data: bytes, query: dict) -> dict:
    with self._lock:
      self._check(self.blobs.get(name), query)
      self.blobs[name] = Blob(bytes(data), next(self._generations))
      return self.resource(name)

  def delete(self, name: str, query: dict):
    with self._lock:
      self.read(name, query)
      del self.blobs[name]

  def _check(self, blob, query):
    generation = str(blob.generation if blob else 0)
    if query.get('ifGenerationMatch', generation) != generation:
      raise Refused(412, f'the generation is {generation}')
    if query.get('ifGenerationNotMatch') == generation:
      raise Refused(304)

  def resource(self, name: str) -> dict:
    blob = self.blobs[name]
    return {'kind': 'storage#object', 'bucket': self.name, 'name': name, 'size': str(len(blob.data)),
            'generation': str(blob.generation), 'metageneration': '1', 'updated': '2026-01-01T00:00:00.000Z'}

  def list(self, query: dict) -> dict:
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    items, folders = {}, {}
    with self._lock:
      for name in sorted(self.blobs):
        if not name.startswith(prefix) or name < query.get('startOffset', ''):
          continue
        if 'endOffset' in query and name >= query['endOffset']:
          continue
        inside, deeper, _ = name[len(prefix):].partition(delimiter) if delimiter else (name, '', '')
        folder = f'{prefix}{inside}{delimiter}'
        if deeper:
          folders[folder] = None
        if not deeper or (name == folder and query.get('includeTrailingDelimiter') == 'true'):
          items[name] = self.resource(name)
      entries = [*folders, *items]
      begin = int(query.get('pageToken', 0))
      end = begin + int(query.get('maxResults', 1000))
      page = entries[begin:end]
      more = {'nextPageToken': str(end)} if end < len(entries) else {}
      return {'kind': 'storage#objects', 'items': [items[name] for name in page if name in items],
              'prefixes': [name for name in page if name in folders], **more}

  def begin_upload(self, name: str, query: dict) -> int:
    self._check(self.blobs.get(name), query)
    self._uploads.append((name, bytearray(), query))
    return len(self._uploads) - 1

  def continue_upload(self, number: int, content_range: str | None, data: bytes) -> tuple[dict | None, int]:
    """The object if it is complete now, and the number of bytes received."""
    name, received, query = self._uploads[number]
    begin, total = 0, len(data)
    if content_range:
      begin, total = re.fullmatch(r'bytes (?:(\d+)-\d+|\*)/(\d+|\*)', content_range).groups()
    if begin is not None:
      received[int(begin):] = data
    complete = total != '*' and len(received) == int(total)
    return self.write(name, received, query) if complete else None, len(received)


class Handler(http.server.BaseHTTPRequestHandler):
  """The requests of the JSON API that the three clients make, and the reads of the XML API."""
  protocol_version = 'HTTP/1.1'
  wbufsize = 1 << 16
  disable_nagle_algorithm = True

  def log_message(self, *args):
    pass

  def handle_expect_100(self):
    result = super().handle_expect_100()
    self.wfile.flush()
    return result

  def do_CONNECT(self):
    if self.path.rpartition(':')[0] not in HOSTS:
      self.send_error(403, f'{self.path} is not served')
      return
    self.wfile.write(b'HTTP/1.1 200 Connection established\r\n\r\n')
    self.wfile.flush()
    self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
    self.rfile, self.wfile = self.connection.makefile('rb'), self.connection.makefile('wb')
    self.close_connection = False

  def _any(self):
    url = urllib.parse.urlsplit(self.path)
    query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
    body = self._body()
    try:
      if status := self.server.refuse(self.command, urllib.parse.unquote(self.path)):
        raise Refused(status, 'as the test asks')
      self._serve([urllib.parse.unquote(part) for part in url.path.strip('/').split('/')], query, body)
    except Refused as refused:
      self._answer({'error': {'code': refused.status, 'message': str(refused)}}, refused.status)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

  def _body(self):
    if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def _answer(self, body: bytes | dict = b'', status: int = 200, **headers):
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    self.send_response(status)
    for name, value in {**headers, 'Content-Length': len(body)}.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)
    self.wfile.flush()

  def _serve(self, path, query, body):
    bucket = self.server.bucket
    if path[0] != bucket.name and (name := path[path.index('b') + 1]) != bucket.name:
      raise Refused(404, f'bucket {name} does not exist')
    match path:
      case ['storage', 'v1', 'b', name]:
        self._answer({'kind': 'storage#bucket', 'name': name, 'location': 'EU'})
      case ['storage', 'v1', 'b', name, 'storageLayout']:
        self._answer({'kind': 'storage#storageLayout', 'bucket': name, 'location': 'EU',
                      'hierarchicalNamespace': {'enabled': False}})
      case ['storage', 'v1', 'b', _, 'o']:
        self._answer(bucket.list(query))
      case ['upload', 'storage', 'v1', 'b', _, 'o'] | ['resumable', 'upload', 'storage', 'v1', 'b', _, 'o']:
        self._upload(query, body)
      case ['storage', 'v1', 'b', _, 'o', name, 'rewriteTo', 'b', _, 'o', new]:
        resource = bucket.write(new, bucket.read(name, {}).data, query)
        self._answer({'kind': 'storage#rewriteResponse', 'done': True, 'resource': resource,
                      'objectSize': resource['size'], 'totalBytesRewritten': resource['size']})
      case ['storage', 'v1', 'b', _, 'o', name] if self.command == 'DELETE':
        bucket.delete(name, query)
        self._answer(status=204)
      case ['storage', 'v1', 'b', _, 'o', name] if query.get('alt') != 'media':
        bucket.read(name, query)
        self._answer(bucket.resource(name))
      case ['storage' | 'download', *_, 'o', name]:
        self._read(bucket.read(name, query))
      case [bucket.name, *rest] if self.command in ('GET', 'HEAD'):
        self._read(bucket.read('/'.join(rest), query))
      case _:
        raise Refused(501, f'{self.command} {self.path} is not implemented')

  def _read(self, blob):
    size, status, headers = len(blob.data), 200, {'x_goog_generation': blob.generation}
    begin, end = 0, size
    if byte_range := re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', '')):
      first, last = byte_range.groups()
      begin, end = (int(first), min(int(last or size) + 1, size)) if first else (max(size - int(last), 0), size)
      status, headers['Content_Range'] = 206, f'bytes {begin}-{end - 1}/{size}'
      if begin >= size:
        raise Refused(416)
    self._answer(blob.data[begin:end], status, **headers)

  def _upload(self, query, body):
    bucket = self.server.bucket
    match query:
      case {'upload_id': number}:
        resource, size = bucket.continue_upload(int(number), self.headers['Content-Range'], body)
        if resource:
          self._answer(resource)
        else:
          self._answer(status=308, **({'Range': f'bytes=0-{size - 1}'} if size else {}))
      case {'uploadType': 'media'}:
        self._answer(bucket.write(query['name'], body, query))
      case {'uploadType': 'multipart'}:
        message = email.message_from_bytes(b'Content-Type: ' + self.headers['Content-Type'].encode() + b'\n\n' + body)
        boundary = b'--' + message.get_boundary().encode()  # Python's parser would alter the content's ends of lines
        content = re.split(rb'\r?\n\r?\n', re.sub(rb'\r?\n$', b'', body.split(boundary)[2]), maxsplit=1)[1]
        name = query.get('name') or json.loads(message.get_payload()[0].get_payload())['name']
        self._answer(bucket.write(name, content, query))
      case {'uploadType': 'resumable'}:
        number = bucket.begin_upload(query.get('name') or json.loads(body)['name'], query)
        scheme = 'https' if isinstance(self.connection, ssl.SSLSocket) else 'http'
        self._answer(Location=f'{scheme}://{self.headers["Host"]}{self.path.partition("?")[0]}?upload_id={number}')
      case _:
        raise Refused(501, f'{self.path} is not implemented')


class Server(http.server.ThreadingHTTPServer):
  """Serves gs://bucket.

  Attributes:
    bucket: its objects.
    refuse: (method, path) -> the status that a request is refused with, or None. A test sets it.
    environment: environment variables that the clients need before they are imported.
  """
  daemon_threads = True
  request_queue_size = 128

  def __init__(self, folder: pathlib.Path):
    super().__init__(('127.0.0.1', 0), Handler)
    self.bucket, self.refuse = Bucket('bucket'), lambda method, path: None
    authority = trustme.CA()
    self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(self.tls)
    authority.cert_pem.write_to_path(folder / 'authority.pem')
    address = f'http://127.0.0.1:{self.server_port}'
    self.environment = {
        # TensorFlow
        'https_proxy': address, 'no_proxy': '127.0.0.1,localhost', 'CURL_CA_BUNDLE': str(folder / 'authority.pem'),
        'CLOUDSDK_CONFIG': str(folder), 'NO_GCE_CHECK': 'true', 'GCS_RETRY_CONFIG_INIT_DELAY_TIME_US': '1000',
        # TensorFlow and TensorStore
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'nobody',
        # TensorStore
        'TENSORSTORE_GCS_HTTP_URL': address,
        # google-cloud-storage
        'STORAGE_EMULATOR_HOST': address, 'GOOGLE_CLOUD_PROJECT': 'nothing'}

  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):  # of a client that was killed
      super().handle_error(request, client_address)


@contextlib.contextmanager
def serve() -> Iterator[Server]:
  with tempfile.TemporaryDirectory() as folder, Server(pathlib.Path(folder)) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


if __name__ == '__main__':
  with serve() as running:
    code = subprocess.run(sys.argv[1:], env={**os.environ, **running.environment}).returncode
    for name, blob in sorted(running.bucket.blobs.items()):
      print(f'{len(blob.data):>12,} gs://bucket/{name}')
  sys.exit(code)
