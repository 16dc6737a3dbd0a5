"""The arguments of this package's commands, and how their errors are printed."""

import argparse
import pathlib
import sys

from mixer import storage
from paper import reading
from paper import records


def parser(description: str) -> argparse.ArgumentParser:
  result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  result.add_argument('runs', nargs='*', metavar='RUNS', help='work directories, folders of them, files of records')
  return result


def parse(description: str, arguments: list[str] | None, weights: bool = False):
  """(flags, the records of the arguments and of paper/ours). Prints what is skipped."""
  command = parser(description)
  command.add_argument('--out', type=storage.path_of, default=storage.path_of('runs/paper'),
                       help='a folder; default: runs/paper')
  if weights:
    command.add_argument('--weights-pictures', type=pathlib.Path, help='the folder written by tools.show_weights; '
                         'default: weights in --out')
  flags = command.parse_args(arguments)
  collection = reading.read([*flags.runs, *sorted(map(str, reading.OURS.glob('*.jsonl')))])
  print_warnings(collection.warnings)
  return flags, collection


def print_warnings(warnings: list[str]):
  for warning in warnings:
    print(f'warning: {warning}', file=sys.stderr)
  if warnings:
    print(f'{len(warnings)} {"warning" if len(warnings) == 1 else "warnings"}', file=sys.stderr)


def run(main):
  """Runs a program; an error that the user can fix is printed in one line."""
  try:
    main()
  except (OSError, records.Unreadable, ModuleNotFoundError) as error:
    sys.exit(f'error: {error}')
