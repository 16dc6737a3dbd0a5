"""What all contenders share: a process that takes a turn for each line on its stdin.

  seq 4 | python -m benchmarks.listing training --model=S/16 --batch=16

A turn prints its samples, a line of JSON each, and then an empty line. The first turn prepares: it imports, compiles
and warms up, and has no samples. `turns.py` is what lets several take turns.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import sys
import time

from benchmarks import workloads

SECONDS = 2.  # of a turn, where one call is not longer


def parser(description: str, kinds: Iterable[str]) -> argparse.ArgumentParser:
  """The arguments that contenders share: what they do, and how large it is."""
  shared = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  shared.add_argument('kind', choices=list(kinds))
  shared.add_argument('--model', choices=workloads.MODELS, default='S/16', help='default: %(default)s')
  shared.add_argument('--batch', type=int, default=16, help='images at a time; default: %(default)s')
  shared.add_argument('--seconds', type=float, default=SECONDS, help='of a turn; default: %(default)s')
  return shared


def add_dtype(parser: argparse.ArgumentParser):
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32',
                      help='of the computation, not of the parameters; default: %(default)s')


def add_dataset(parser: argparse.ArgumentParser):
  parser.add_argument('--dataset', help='photographs; default: the JPEGs of benchmarks.jpegs')


def of_dataset(quantity: str, flags: argparse.Namespace) -> str:
  return f'{quantity}, photographs' if flags.dataset else quantity


def rates(run: Callable[[int], object], images: int, seconds: float) -> Iterator[float]:
  """Yields images/s, of stretches of about `seconds`.

  `run(n)` computes n batches of `images`, and blocks until they are computed.
  """
  run(1)  # compiles
  began = time.monotonic()
  run(1)
  number = max(1, round(seconds / (time.monotonic() - began)))

  def forever():
    while True:
      began = time.monotonic()
      run(number)
      yield number * images / (time.monotonic() - began)
  return forever()


def serve(turns: Iterator[list[dict]], **common):
  """Takes a turn for each line on stdin; `common` is added to all samples. What else is printed goes to stderr."""
  out = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):
    for _ in sys.stdin:
      for sample in next(turns):
        print(json.dumps({**common, **sample}), file=out)
      print(file=out, flush=True)


def speed(prepare: Callable[[], Iterator[float]], unit: str = 'images/s') -> Iterator[list[dict]]:
  """The turns of a contender that only has a speed; `prepare` returns `rates`."""
  values = prepare()
  yield []
  for value in values:
    yield [dict(unit=unit, value=value)]
