"""Writes the IDX files of Fashion-MNIST or MNIST as an image folder: OUT/train/CLASS/00001.png and OUT/test/CLASS.

  python -m tools.idx_folder /usr/share/datasets/fashion-mnist OUT --classes=fashion_mnist
  python -m tools.idx_folder FOLDER_OF_MNIST OUT
"""

import gzip
import math
import pathlib
import shlex
import shutil
import zlib

import numpy as np
import PIL.Image
import tqdm

from mixer import safe_io
from mixer import user_errors

FILES = {'train': 'train', 'test': 't10k'}  # {split: how the names of its files begin}
# In the order of the labels: https://github.com/zalandoresearch/fashion-mnist#labels, without its slash.
CLASSES = {'fashion_mnist': ('T-shirt or top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
                             'Ankle boot'),
           'digits': tuple('0123456789')}


def read_idx(folder: pathlib.Path, name: str, rank: int) -> np.ndarray:
  """Reads FOLDER/NAME.gz, or else FOLDER/NAME: an array of bytes in the format of http://yann.lecun.com/exdb/mnist.

  -> uint8 of `rank` dimensions.

  Raises:
    ValueError: naming the file, if it is missing, truncated, damaged, of another kind, or takes more memory than
      `safe_io.check_unpacked` allows.
  """
  path = next((path for path in (folder / f'{name}.gz', folder / name) if path.is_file()), None)
  if path is None:
    raise ValueError(f'{folder} has neither {name}.gz nor {name}; pass the folder with the four IDX files')
  magic = 0x0800 + rank  # bytes, and how many dimensions
  try:
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
      header = file.read(4 + 4 * rank).ljust(4 + 4 * rank, b'\0')
      first, *shape = np.frombuffer(header, '>u4').tolist()
      size = math.prod(shape) if first == magic else 0
      safe_io.check_unpacked(path, path.stat().st_size, size)
      data = file.read(size + 1)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(f'{path} is truncated or damaged ({error}); download it again') from error
  if first != magic:
    raise ValueError(f'{path} begins with the number {first}, but an IDX file of bytes in {rank} dimensions begins with '
                     f'{magic}; pass the folder with the files of MNIST or Fashion-MNIST')
  if len(data) != size:
    raise ValueError(f'{path} has {"more" if len(data) > size else f"{len(data):,}"} bytes after its header, which '
                     f'states {" x ".join(map(str, shape))}: {size:,}; download it again')
  return np.frombuffer(data, np.uint8).reshape(shape)


def read_split(folder: pathlib.Path, start: str, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Images and their labels, which index `classes`. -> [N, height, width] uint8, [N] uint8.

  Raises:
    ValueError: as of `read_idx`, and if the two do not fit each other or the classes.
  """
  images, labels = read_idx(folder, f'{start}-images-idx3-ubyte', 3), read_idx(folder, f'{start}-labels-idx1-ubyte', 1)
  if len(images) != len(labels):
    raise ValueError(f'{folder}: {start}-images-idx3-ubyte has {len(images):,} images, but {start}-labels-idx1-ubyte '
                     f'{len(labels):,} labels; download both again')
  if not images.size:
    raise ValueError(f'{folder}: {start}-images-idx3-ubyte states {" x ".join(map(str, images.shape))}, which is no '
                     'image; download it again')
  if labels.max() >= len(classes):
    raise ValueError(f'{folder}: {start}-labels-idx1-ubyte has the label {labels.max()}, but the classes are '
                     f'{len(classes)}, from 0 on; pass the files of MNIST or Fashion-MNIST')
  return images, labels


def write(folder: pathlib.Path, out: pathlib.Path, classes: tuple[str, ...]):
  """Writes the image folder. A file's number is its place in the IDX file, from 1 on.

  An interrupted run leaves `out` absent, and starts over.

  Raises:
    ValueError: as of `read_split`, or if `out` exists.
  """
  if out.exists():
    raise ValueError(f'{out} already exists; remove it or choose another OUT')
  splits = {split: read_split(folder, start, classes) for split, start in FILES.items()}  # all, before a file is written
  partial = out.with_name(f'{out.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  for split, (images, labels) in splits.items():
    for label in np.unique(labels):
      (partial / split / classes[label]).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(tqdm.tqdm(images, unit='image', desc=split), labels), 1):
      PIL.Image.fromarray(image).save(partial / split / classes[label] / f'{number:05}.png')
  partial.rename(out)


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('folder', type=pathlib.Path,
                      help='with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k, each with .gz or without')
  parser.add_argument('out', help='the image folder to write; a new directory', type=pathlib.Path)
  parser.add_argument('--classes', help='how the class folders are named; default: %(default)s, 0 to 9', choices=CLASSES,
                      default='digits')
  flags = parser.parse_args(arguments)
  if ',' in str(flags.out):
    parser.error(f'OUT is {flags.out}; configs/image_folder.py takes paths without a comma')
  write(flags.folder.expanduser(), flags.out.expanduser(), CLASSES[flags.classes])
  config = shlex.quote(f'--config=configs/image_folder.py:{flags.out}')
  print(f'written: {flags.out}. Train on it: python train.py {config} --workdir=WORKDIR')


if __name__ == '__main__':
  main()
