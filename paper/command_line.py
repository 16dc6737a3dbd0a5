"""What the commands of this package take, and how their errors are told."""

import argparse
import pathlib
import sys

from mixer import storage
from paper import reading
from paper import records


def parser(description: str) -> argparse.ArgumentParser:
  found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  found.add_argument('runs', nargs='*', metavar='RUNS', help='work directories, folders of them, files of records')
  return found


def parse(description: str, arguments: list[str] | None, weights: bool = False):
  """(flags, the records they name and those of paper/ours). What is passed over is told."""
  takes = parser(description)
  takes.add_argument('--out', type=storage.path_of, default=storage.path_of('runs/paper'),
                     help='a folder; default: runs/paper')
  if weights:
    takes.add_argument('--weights-pictures', type=pathlib.Path, help='the folder that tools.show_weights has written; '
                       'default: weights in that of --out')
  flags = takes.parse_args(arguments)
  found = reading.read([*flags.runs, *sorted(map(str, reading.OURS.glob('*.jsonl')))])
  tell(found.warnings)
  return flags, found


def tell(warnings: list[str]):
  for warning in warnings:
    print(f'warning: {warning}', file=sys.stderr)
  if warnings:
    print(f'{len(warnings)} {"warning" if len(warnings) == 1 else "warnings"}', file=sys.stderr)


def run(main):
  """Runs a program; what its user can mend is told in a line."""
  try:
    main()
  except (OSError, records.Unreadable, ModuleNotFoundError) as error:
    sys.exit(f'error: {error}')
