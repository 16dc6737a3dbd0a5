"""Classifies images: the best classes of each, with their probabilities.

  python -m tools.predict --weights=imagenet21k/Mixer-B_16 photo.jpg folder_of_photos
  python -m tools.predict --weights=runs/digits --format=csv photos > predictions.csv
  find photos -name '*.png' | python -m tools.predict --weights=model.npz --draw=predictions.png

Predictions go to stdout, in the order of the images; all else goes to stderr. A file that cannot be decoded is
named on stderr and skipped, and the exit code is then 1, as for weights that cannot be read; 2 for wrong flags.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import sys

from etils import epy
import numpy as np
import tqdm

from mixer.data import class_names
from mixer import safe_io
from mixer import storage
from mixer import user_errors
from tools import weights_flags

with epy.lazy_imports():  # JAX and Matplotlib, which --help and a wrong flag need not wait for
  from mixer.data import folder_source
  from mixer.run import devices
  from mixer.run import plots
  from mixer.weights import inference

DRAWN = 96  # the most images in the picture


def find(arguments: list[str], stdin) -> list[str]:
  """The paths of images: files themselves, of folders all images below them, sorted, and for '-' the lines of stdin.

  Raises:
    ValueError: if the list or one of the folders is empty, if a path is a URL, or if stdin is not a list of paths.
  """
  if not arguments and stdin.isatty():
    raise ValueError('no images: pass files, folders, or - for a list of paths on stdin')
  paths = []
  for argument in arguments or ['-']:
    if argument == '-':
      paths += _listed(stdin)
    elif pathlib.Path(argument).is_dir():
      images = [str(path) for path in sorted(pathlib.Path(argument).rglob('*'))
                if path.suffix.lower() in folder_source.IMAGE_SUFFIXES and path.name[0] != '.' and path.is_file()]
      if not images:
        raise ValueError(f'{argument} holds no images: no file below it ends in {", ".join(folder_source.IMAGE_SUFFIXES)}')
      paths += images
    elif os.path.exists(argument) and not os.path.isfile(argument):
      raise ValueError(f'{argument} is a device or a pipe, which is not read; pass files, or folders of them')
    else:
      paths.append(argument)
  if not paths:
    raise ValueError('no images: stdin lists none; pass files, folders, or their paths on stdin, one per line')
  for path in paths:
    storage.check_no_url(path)
  return paths


def _listed(stdin):
  """The paths that stdin lists."""
  try:
    text = stdin.read()
  except UnicodeDecodeError:
    text = '\0'
  if '\0' in text:  # in no path, and in every image
    raise ValueError('stdin must list paths, one per line, and these bytes are none: pass the path of an image, not its '
                     'content (and for find -print0 use -print)')
  return [line for line in text.split('\n') if line.strip()]


def read_class_names(path: str, num_classes: int) -> list[str]:
  """The lines of a file, or a ValueError if they are not as many as the model has classes."""
  names = safe_io.text(path).removesuffix('\n').split('\n')
  if len(names) != num_classes:
    raise ValueError(f'--class_names={path} has {len(names):,} lines, and the model has {num_classes:,} classes; it '
                     'must name each class in its own line, in the order of their numbers')
  return names


class Table:
  """Aligned columns: a line for each class, the path on the first."""

  def __init__(self, paths, names):
    self._path = max(map(len, ('image', *paths)))
    self._name = max(map(len, ('class', *class_names.labels(names))))

  def header(self):
    return f'{"image":<{self._path}}  {"class":<{self._name}}  probability\n'

  def lines(self, path, best):
    return ''.join(f'{path if place == 0 else "":<{self._path}}  {class_names.label(each.id):<{self._name}}  '
                   f'{each.probability:>11.2%}\n' for place, each in enumerate(best))


class Csv:
  """A row per class; `class` is its number, `id` its name in the model, and `name` the same in words."""

  def __init__(self, paths, names):
    pass

  def header(self):
    return 'image,rank,class,id,name,probability\n'

  def lines(self, path, best):
    rows = io.StringIO()
    csv.writer(rows, lineterminator='\n').writerows(
        (path, rank, each.index, each.id, each.name, f'{each.probability:.6g}') for rank, each in enumerate(best, 1))
    return rows.getvalue()


class Jsonl:
  """A JSON object per image, whose predictions have the fields of Csv."""

  def __init__(self, paths, names):
    pass

  def header(self):
    return ''

  def lines(self, path, best):
    predictions = [{'class': each.index, 'id': each.id, 'name': each.name, 'probability': each.probability} for each in best]
    return json.dumps({'image': path, 'predictions': predictions}) + '\n'


FORMATS = {'table': Table, 'csv': Csv, 'jsonl': Jsonl}


def write(predicted, paths, names, kind: str, top: int, out) -> list[tuple]:
  """Writes the best classes of each of the `predictions`; returns (image, text) of the first DRAWN."""
  layout = FORMATS[kind](paths, names)
  out.write(layout.header())
  drawn = []
  for index, image, probabilities in predicted:
    best = inference.best(probabilities, names, top)
    with tqdm.tqdm.external_write_mode(file=out):  # a progress bar on the same terminal makes room
      out.write(layout.lines(paths[index], best))
    if len(drawn) < DRAWN:
      drawn.append((image, '\n'.join(f'{each.probability:.0%} {each.name}' for each in best[:2])))
  return drawn


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('images', nargs='*', help='files, folders (all images below them), or - for paths on stdin, one '
                      'per line; default: stdin')
  weights_flags.add(parser)
  parser.add_argument('--top', type=weights_flags.positive, default=5, help='how many classes of each image; default: %(default)s')
  parser.add_argument('--format', choices=FORMATS, default='table', help='default: %(default)s')
  weights_flags.add_crop(parser)
  parser.add_argument('--class_names', metavar='FILE', help='one name or WordNet id per line, in the order of classes')
  parser.add_argument('--draw', metavar='OUT.png', help=f'draw the first {DRAWN} images with their best classes')
  parser.add_argument('--batch_size', type=weights_flags.positive, default=32, help='at a time; default: %(default)s')
  return parser.parse_args(arguments)


@user_errors.in_one_line
def main(arguments: list[str] | None = None) -> int:
  flags = parse(arguments)
  devices.initialize()
  paths = find(flags.images, sys.stdin)
  weights = weights_flags.load(flags).with_crop(flags.preprocessing, flags.resize)
  weights.check_head(flags.weights)
  weights.check_images(flags.weights)
  num_classes = weights.model['num_classes']
  if flags.draw:
    plots.check_path('--draw', flags.draw)
  names = read_class_names(flags.class_names, num_classes) if flags.class_names else weights.class_names
  print(weights.describe(), file=sys.stderr)

  failures = []
  with tqdm.tqdm(total=len(paths), unit='image', disable=None) as bar:
    def failed(index, reason):
      failures.append(index)
      bar.update()
      with tqdm.tqdm.external_write_mode(file=sys.stderr):
        print(f'cannot decode {paths[index]}: {reason}', file=sys.stderr)

    def counted():
      for prediction in weights.inference.predict_paths(paths, batch_size=flags.batch_size, failed=failed):
        bar.update()
        yield prediction

    drawn = write(counted(), paths, names or range(num_classes), flags.format, flags.top, sys.stdout)

  if flags.draw and drawn:
    images, texts = zip(*drawn)
    plots.grid(np.stack(images), texts, f'{len(images)} of {len(paths):,} images: {flags.weights}', flags.draw)
  if failures:
    print(f'{len(failures):,} of {len(paths):,} images could not be decoded', file=sys.stderr)
  return 1 if failures else 0


if __name__ == '__main__':
  for stream in (sys.stdin, sys.stdout):
    stream.reconfigure(errors='surrogateescape')  # paths need not be UTF-8
  try:
    sys.exit(main())
  except BrokenPipeError:  # of | head
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
