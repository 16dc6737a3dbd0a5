"""Damaged files, and what they do to those who read them.

  python tests/fuzz.py --minutes=10

Each input is a good file with bits flipped, parts lost, doubled, mixed with those of another, or huge numbers put in,
or it is no file at all. It must be read, or be refused by a ValueError or an OSError that names it. All else is a
finding: another exception, one without the name, the end of the process, more memory than MEMORY or more time than
SECONDS. What an input is depends on the seed, the reader and its number alone: --reader=npz --first=123 --inputs=1
shows it again. tests/test_fuzz.py runs a few.
"""

import argparse
import collections
import dataclasses
import faulthandler
import io
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from typing import Any, ClassVar
import zipfile
import zlib

sys.path[:0] = [str(pathlib.Path(__file__).parent.parent), str(pathlib.Path(__file__).parent)]
os.environ.update(TQDM_DISABLE='1', TF_CPP_MIN_LOG_LEVEL='3', JAX_PLATFORMS='cpu')

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import example_images
import example_weights
import input_pipeline
from mixer import configuration
from mixer.data.builders import imagenet21k
from mixer.data.builders import imagenet_tar
from mixer.data.builders import manifests
from mixer.data import image_files
from mixer.data import image_paths
from mixer.data import preprocess
from mixer.data.process_shard import ProcessShard
from mixer import models
from mixer.run import checkpoint
from mixer.run import config_flags
from mixer.run import records
from mixer.training import optim
from mixer.training import train_step
from mixer import trees
from mixer import weights
import test_imagenet21k
import test_multilabel
import test_weights

SECONDS = 60  # for an input; most take milliseconds
MEMORY = 2 * 2**30  # bytes of address space beyond what good files of every kind take


# Damage


HUGE = [*(form(value) for value in (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
          for form in (lambda x: struct.pack('<Q', x), lambda x: struct.pack('>Q', x), lambda x: b'%d' % x)),
        b'\xff' * 4, b'\0' * 4, b'-1', b'1e999', b'NaN', b'-Infinity', b'9' * 5_000, b'[' * 3_000, b'{"a":' * 3_000,
        b'null', b'true', b'""', b'[]', b'{}', b'"\\ud800"', b'"../../x"', b'/', b'\\u0000', b'\r\n', b'\xc3']


def damage(rng, data: bytes, others: list[bytes]) -> bytes:
  """`data` with a change or several; `others` are what parts of may be put in."""
  data = bytearray(data)
  place = lambda: int(rng.integers(len(data) + 1))
  for _ in range(int(rng.geometric(0.5))):
    at, length = place(), int(2**rng.uniform(0, 9))
    other = others[rng.integers(len(others))]
    of_other = int(rng.integers(len(other) + 1))
    match int(rng.integers(10)):
      case 0 | 1 if at < len(data):
        data[at] ^= 1 << int(rng.integers(8))
      case 2 if at < len(data):
        data[at] = int(rng.integers(256))
      case 3:
        del data[at:at + length]
      case 4:
        data[at:at] = data[at:at + length]
      case 5:
        data[at:at] = other[of_other:of_other + length]
      case 6:
        data[at:] = other[of_other:]
      case 7:
        del data[at:]
      case 8:
        huge = HUGE[rng.integers(len(HUGE))]
        data[at:at + int(rng.integers(2)) * len(huge)] = huge
      case 9:
        data[at:at + length] = rng.bytes(length)
  return bytes(data)


def damage_json(rng, text: bytes) -> bytes:
  """JSON in which some numbers, words and lists have become others."""
  parts = re.split(rb'("(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false|null|\[\])', text)
  values = [*parts[1::2], *(value for value in HUGE if b'\xff' not in value and b'\0' not in value)]
  for _ in range(int(rng.geometric(0.5))):
    parts[1 + 2 * int(rng.integers(len(parts) // 2))] = values[rng.integers(len(values))]
  return b''.join(parts)


# Readers


@dataclasses.dataclass
class Reader:
  """Those who read files of a kind, and good files of it."""
  folder: pathlib.Path
  every: ClassVar[int] = 1  # which inputs are taken; few where each takes long

  def __post_init__(self):
    self.folder.mkdir()
    self.good = self.make()

  def make(self) -> list[bytes]:
    """Good files."""
    raise NotImplementedError

  def read(self, data: bytes) -> Any:
    """Reads a file."""
    raise NotImplementedError

  def inputs(self, rng) -> bytes:
    """One more damaged file."""
    return damage(rng, self.good[rng.integers(len(self.good))], self.good)

  def write(self, name, data: bytes) -> pathlib.Path:
    path = self.folder / name
    path.write_bytes(data)
    return path

  def refuses(self, error: Exception) -> bool:
    """Whether it is an error of the kinds that are promised, with the file's name."""
    return isinstance(error, (ValueError, OSError)) and str(self.folder) in str(error)


class Npz(Reader):
  """Weights in .npz files, of which some are damaged within a whole archive."""

  def make(self):
    good = []
    for save in np.savez, np.savez_compressed:
      file = io.BytesIO()
      save(file, **{name: array for name, array in trees.flat(example_weights.params()).items()})
      good.append(file.getvalue())
    return good

  def inputs(self, rng):
    if rng.random() < 0.4:
      return super().inputs(rng)
    with zipfile.ZipFile(io.BytesIO(self.good[0])) as archive:
      members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(int(rng.geometric(0.5))):
      name = list(members)[rng.integers(len(members))]
      if rng.random() < 0.2:
        members[damage(rng, name.encode(), [name.encode()]).decode(errors='replace').replace('\0', '0') or 'x'] = members.pop(name)
      else:
        start = members[name][:128] if rng.random() < 0.7 else b''  # the header
        members[name] = damage(rng, start, [start]) + members[name][128:] if start else damage(
            rng, members[name], [members[name]])
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][rng.integers(2)]) as archive:
      for name, content in members.items():
        archive.writestr(name, content)
    return file.getvalue()

  def read(self, data):
    return weights.load(self.write('w.npz', data))


class Safetensors(Reader):
  """Weights in .safetensors files."""

  def make(self):
    weights.timm.write(example_weights.params(), self.folder / 'w.safetensors')
    return [(self.folder / 'w.safetensors').read_bytes()]

  def inputs(self, rng):
    if rng.random() < 0.4:
      return super().inputs(rng)
    data = self.good[0]
    end = 8 + int.from_bytes(data[:8], 'little')
    header = data[8:end]
    header = damage_json(rng, header) if rng.random() < 0.7 else damage(rng, header, [header])
    return len(header).to_bytes(8, 'little') + header + data[end:]

  def read(self, data):
    return weights.load(self.write('w.safetensors', data))


class Jsonl(Reader):
  """Manifests as JSON lines."""

  def make(self):
    return [''.join(json.dumps(row) + '\n' for row in rows).encode()
            for rows in (test_multilabel.TRAIN, test_multilabel.VALIDATION)]

  def inputs(self, rng):
    return damage_json(rng, self.good[0]) if rng.random() < 0.5 else super().inputs(rng)

  def read(self, data):
    classes = {name: number for number, name in enumerate(test_multilabel.CLASSES)}
    return list(manifests.entries(self.write('train.jsonl', data), self.folder, classes))


class Parquet(Reader):
  """Manifests as Parquet."""

  def make(self):
    path = self.folder / 'train.parquet'
    good = []
    for options in {}, {'row_group_size': 3}, {'compression': 'zstd', 'use_dictionary': False}:
      test_multilabel.write_parquet(path, test_multilabel.TRAIN, **options)
      good.append(path.read_bytes())
    return good

  def read(self, data):
    classes = {name: number for number, name in enumerate(test_multilabel.CLASSES)}
    return list(manifests.entries(self.write('train.parquet', data), self.folder, classes))


class Vocabulary(Reader):
  """classes.txt."""

  def make(self):
    return ['\n'.join(test_multilabel.CLASSES).encode(), b'cat\r\n\ndog\r\n']

  def read(self, data):
    return manifests.class_names(self.write('classes.txt', data))


class Images(Reader):
  """Images of each format: each crop of training and evaluation, and preparation."""

  CROPS = {'padded': lambda data: preprocess.inception_crop(data, 16, 0.1, 1, [0, 1]),
           'inception': lambda data: preprocess.inception_crop(data, 16, 0.1, 0, [0, 1]),
           'random': lambda data: preprocess.random_crop(data, 18, 16, [0, 1]),
           'own': lambda data: preprocess.decode(image_files.normalize(data)),
           **{name: lambda data, crop=crop: crop(preprocess.decode(data), 18, 16)
              for name, crop in preprocess.EVALUATION_CROPS.items()}}

  def make(self):
    self._crops = [tf.function(crop, input_signature=[tf.TensorSpec([], tf.string)]) for crop in self.CROPS.values()]
    side = 16_000
    self._claiming = [example_images.claiming(kind, side, side) for kind in example_images.KINDS]
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    zoo = [data for data, *_ in example_images.zoo().values()]
    return [*zoo, *map(example_images.file, example_images.KINDS), *map(example_images.animated, ('GIF', 'PNG', 'WEBP')),
            *(example_images.file(kind, pixels) for kind in ('jpeg', 'png', 'gif'))]

  def inputs(self, rng):
    data = super().inputs(rng) if rng.random() < 0.95 else self._claiming[rng.integers(len(self._claiming))]
    if data[:4] == b'\x89PNG' and rng.random() < 0.8:  # or else its checksums would be all that is seen
      chunks, place = [data[:8]], 8
      while place + 8 <= len(data):
        length, = struct.unpack_from('>I', data, place)
        chunk = data[place + 4:place + 8 + min(length, 2**20)]
        chunks += [data[place:place + 4], chunk, struct.pack('>I', zlib.crc32(chunk))]
        place += 12 + length
      data = b''.join(chunks)
    return data

  def read(self, data):
    errors = []
    for crop in self._crops:
      try:
        crop(data)
      except tf.errors.OpError as error:  # input_pipeline.py puts the file's name to it: see the next reader
        preprocess.reason(error)
        errors.append(error)
    try:
      image_files.as_jpeg(data)
    except image_files.Unreadable as error:
      errors.append(error)
    if errors:
      raise ValueError(f'{self.folder}: {errors[0]}')


class Folder(Images):
  """The same in a folder of images, as training, evaluation and the prediction read it."""

  every = 100

  def read(self, data):
    path = self.folder / 'train/class/1.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    fields = dict(dataset=str(self.folder), split='train', batch_size=1, resolution=16, shard=ProcessShard(0, 1, 1), threads=1)
    failed = []
    for _ in image_paths.path_batches([str(path)], batch_size=1, resolution=16, resize=18, crop='timm',
                                         failed=lambda index, why: failed.append(why)):
      pass
    next(input_pipeline.train_batches(**fields, seed=0).start(0))
    next(iter(input_pipeline.eval_batches(**fields, crop='paper_crop')))
    if failed:
      raise ValueError(f'{self.folder}: {failed[0]}')


class Tar(Reader):
  """ImageNet-21k, as the builder reads it by one process and by many. Some have headers whose checksums are right."""

  def make(self):
    logging.set_verbosity(logging.ERROR)
    return [test_imagenet21k.tar_of_tars(None), test_imagenet21k.tar_of_tars(None, mode='w:gz'),
            test_imagenet21k.tar_of_folders(None)]

  def inputs(self, rng):
    if rng.random() < 0.4:
      return super().inputs(rng)
    data = bytearray(self.good[2 * int(rng.integers(2))])
    headers = [match.start() - 257 for match in re.finditer(rb'ustar', data)]
    for _ in range(int(rng.geometric(0.5))):
      start = headers[rng.integers(len(headers))]
      whole = bytes(data[start:start + 512])
      header = bytearray(damage(rng, whole, [whole])[:512].ljust(512, b'\0'))
      if rng.random() < 0.5:
        header = bytearray(whole)
        size, kind = int(2**rng.uniform(0, 70)) * int(rng.choice([-1, 1])), rng.choice(list(b'0LKxgSX512\0'))
        header[124:136] = b'%011o\0' % size if 0 <= size < 8**11 else (size % 2**88 + (0x80 << 88)).to_bytes(12, 'big')
        header[156] = kind
      header[148:156] = b'%06o\0 ' % sum(header[:148], 256 + sum(header[156:]))
      data[start:start + 512] = header
    return bytes(data) if rng.random() < 0.8 else zlib.compress(bytes(data), wbits=31)

  def read(self, data):
    path = self.write('small.tar', data)
    layout = imagenet_tar.FOLDERS if b'imagenet21k_train' in data else imagenet_tar.TARS
    config = imagenet21k.Imagenet21kConfig(name='small', file='small.tar', layout=layout)
    contents = imagenet21k.Contents(path, config)
    for split in imagenet21k.SPLITS:
      for get in contents.of(split):
        digest, wnids, name, content = get()
        imagenet21k._example(split, wnids, name, content)
    with path.open('rb') as file:
      if not imagenet_tar.is_compressed(file, path):
        file.seek(0)
        for _, part in list(imagenet_tar.ranges(file, path, layout)):
          list(imagenet21k._read_part(part, path, config))


class Run(Reader):
  """A run's work directory: its config, class names, records and the files of its checkpoint."""

  every = 10

  def make(self):
    test_weights.make_run(self.folder / 'whole', [1], class_names=list('abcde'))
    writer = records.Writer(self.folder / 'whole/records.jsonl', 0)
    for step in range(1, 9):
      writer.write(step, {'train/loss': 1 / step, 'test/top1': 0.5})
    writer.close()
    self._paths = [path.relative_to(self.folder / 'whole') for path in sorted(self.folder.rglob('*')) if path.is_file()]
    self._contents = [(self.folder / 'whole' / path).read_bytes() for path in self._paths]
    return [self._pack(number, content) for number, content in enumerate(self._contents)]

  def _pack(self, number, content):
    return bytes([number]) + content  # which file it stands for, and what is in it

  def inputs(self, rng):
    number = int(rng.integers(len(self._paths)))
    if rng.random() < 0.4:  # of the two that people write and share
      shared = ('config.json', 'records.jsonl')
      number = int(rng.choice([k for k, path in enumerate(self._paths) if path.name in shared]))
    content = self._contents[number]
    if content[:1] == b'{' and rng.random() < 0.6:
      return self._pack(number, damage_json(rng, content))
    return self._pack(number, damage(rng, content, self._contents))

  def read(self, data):
    workdir = self.folder / 'run'
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(self.folder / 'whole', workdir)
    (workdir / self._paths[data[0]]).write_bytes(data[1:])
    kept = list(records.read(workdir / 'records.jsonl'))
    assert all(type(record['step']) is int for record in kept)
    records.Writer(workdir / 'records.jsonl', 4).close()
    if self._paths[data[0]].name == 'records.jsonl':
      return kept
    checkpoint.initialize_workdir(workdir.with_name('claimed'), test_weights.RUN)
    return weights.load(workdir)


class Config(Reader):
  """Fields of a config on the command line: what they make of the data, the model, the optimizer and the step."""

  VALUES = ('0', '-1', '1', '7', '2147483648', '1e400', 'nan', '-inf', '0.5', '1e-30', 'True', 'None', '', 'x', '()',
            '(1,2)', "'3'", '../x', 'digits', 'train[:1%]', 'train[5%:2%]', 'B/16', 'B/0', 'bfloat16', 'adamw',
            'linear', 'é', '9' * 30, '[' * 50, '{}', "{'a': 1}", 'timm', 'fake')

  def make(self):
    # Prepared once; each input opens it.
    self._data_dir = str(self.folder / 'data')
    input_pipeline.train_batches(dataset='digits', split='train', batch_size=8, resolution=8, seed=0,
                                 shard=ProcessShard(0, 1, 1), data_dir=self._data_dir)
    config = self._parse([])
    self._fields = [*(path for path in configuration.flat(config) if not path.endswith('data_dir')), *'''
        data.resize data.randaugment_magnitude data.max_labels data.fraction data.threads data.label model.variant
        model.tiles model.dropout_rate model.dtype model.stochastic_depth step.accumulate optimizer.b1 evals.test.crop
        checkpoint.best checkpoint.keep_every_steps start_from probes no_such model data evals step optimizer.schedule
        evals.other.dataset model.name.x total_steps data.autoaugment
        data.cutout data.randaugment_translate'''.split()]
    return [b'[]']

  def inputs(self, rng):
    field = lambda: self._fields[rng.integers(len(self._fields))]
    value = lambda: self.VALUES[rng.integers(len(self.VALUES))]
    return json.dumps([f'{field()}={value()}' for _ in range(int(rng.geometric(0.6)))]).encode()

  def _parse(self, fields):
    values = flags.FlagValues()
    arguments = ['train.py', f'--config={pathlib.Path(__file__).parent.parent}/configs/mixer_digits.py',
                 f'--config.data.data_dir={self._data_dir}', f'--config.evals.test.data_dir={self._data_dir}',
                 *(f'--config.{field}' for field in fields)]
    chosen, fields = config_flags.define(values)
    config_flags.parse(arguments, values)
    config = config_flags.load(chosen.value)
    configuration.set_fields(config, fields.value)
    return config

  def read(self, data):
    # As train.train does, up to what is computed.
    config = self._parse(json.loads(data))
    configuration.check(config)
    batches, *_ = input_pipeline.build_datasets(config, ProcessShard(0, 1, 1))
    config = configuration.with_classes(config, batches.source.class_names)
    config = configuration.epochs_to_steps(config, batches.source.num_examples / batches.batch_size)
    model = configuration.instantiate(models.build, 'model', config.model)
    optimizer, rate = configuration.instantiate(optim.build, 'optimizer', config.optimizer,
                                                total_steps=config.total_steps)
    configuration.instantiate(train_step.make_train_step, 'step', config.step, model=model, optimizer=optimizer,
                              learning_rate=rate, seed=config.seed)

  def refuses(self, error):
    return isinstance(error, (ValueError, flags.Error)) and bool(re.search(r'config|dataset|split|flag', str(error)))


READERS = {'npz': Npz, 'safetensors': Safetensors, 'jsonl': Jsonl, 'parquet': Parquet, 'vocabulary': Vocabulary,
           'images': Images, 'folder': Folder, 'tar': Tar, 'run': Run, 'config': Config}


# The run


@dataclasses.dataclass
class Counts:
  read: int = 0
  refused: int = 0
  findings: int = 0
  seconds: float = 0.


def run(reader, name: str, seed: int, number: int, counts: Counts, kept: pathlib.Path) -> str | None:
  """Feeds one input. Returns its traceback if it failed, else None."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
  data = reader.inputs(rng)
  (kept / 'last').write_bytes(f'{name} {number}\n'.encode() + data)  # where a process that ends leaves it
  faulthandler.dump_traceback_later(SECONDS, exit=True)
  start = time.monotonic()
  try:
    reader.read(data)
    counts.read += 1
  except Exception as error:
    if reader.refuses(error):
      counts.refused += 1
    else:
      counts.findings += 1
      (kept / f'{name}-{number}').write_bytes(data)
      return f'--reader={name} --first={number} --inputs=1 --seed={seed}\n{traceback.format_exc()[-2_000:]}'
  finally:
    faulthandler.cancel_dump_traceback_later()
    counts.seconds += time.monotonic() - start
  return None


def limit_memory():
  """Limits the address space to MEMORY more than now."""
  size = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmSize')) * 1024
  resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--minutes', type=float, help='how long, the readers taking turns')
  parser.add_argument('--inputs', type=int, help='in place of --minutes, how many for each reader')
  parser.add_argument('--first', type=int, default=0, help='the number of the first input')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--reader', choices=READERS, action='append', help='by default all')
  parser.add_argument('--keep', type=pathlib.Path, help='a folder for the inputs of findings')
  arguments = parser.parse_args()
  if (arguments.minutes is None) == (arguments.inputs is None):
    parser.error('give one of --minutes and --inputs')

  faulthandler.enable()
  folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz-'))
  kept = arguments.keep or folder / 'kept'
  kept.mkdir(parents=True, exist_ok=True)
  readers = {name: READERS[name](folder / name) for name in arguments.reader or READERS}
  for reader in readers.values():
    for data in reader.good:
      try:
        reader.read(data)
      except Exception as error:
        if not reader.refuses(error):
          raise
  limit_memory()
  (folder / 'a/b').mkdir(parents=True)
  os.chdir(folder / 'a/b')  # where a relative path in a config leads

  counts, findings = {name: Counts() for name in readers}, collections.Counter()
  end = time.monotonic() + 60 * (arguments.minutes or 0)
  for number in itertools.count(arguments.first):
    if arguments.inputs is None and time.monotonic() > end or number - arguments.first == arguments.inputs:
      break
    for name, reader in readers.items():
      if number % reader.every:
        continue
      problem = run(reader, name, arguments.seed, number, counts[name], kept)
      if problem:
        kind = name, problem.strip().split('\n')[-1][:60]
        findings[kind] += 1
        if findings[kind] == 1:
          print(problem, flush=True)
  print(f'{"reader":<12} {"read":>8} {"refused":>8} {"findings":>8} {"ms each":>8}')
  for name, count in counts.items():
    number = count.read + count.refused + count.findings
    print(f'{name:<12} {count.read:>8} {count.refused:>8} {count.findings:>8} '
          f'{1e3 * count.seconds / max(number, 1):>8.1f}')
  for kind, number in findings.items():
    print(f'{number} x {": ".join(kind)}')
  if findings:
    print(f'the inputs: {kept}')
  else:
    shutil.rmtree(folder)
  return 1 if findings else 0


if __name__ == '__main__':
  sys.exit(main())
