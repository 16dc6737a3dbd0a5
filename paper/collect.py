"""Collects work directories in a small file of records, to be committed.

  python -m paper.collect RUNS... --out=paper/ours/NAME.jsonl

RUNS are work directories of train.py, folders of them, and files of records. The file is replaced.
"""

import json

from mixer import storage
from paper import command_line
from paper import reading
from paper import records


def main(arguments: list[str] | None = None):
  command = command_line.parser(__doc__)
  command.add_argument('--out', required=True, type=storage.path_of, help='the file, NAME.jsonl')
  flags = command.parse_args(arguments)
  if not flags.runs:
    command.error('pass at least one of RUNS')
  if flags.out.suffix != '.jsonl' or not flags.out.parent.is_dir():
    command.error(f'--out is {flags.out}; it must end in .jsonl and be in an existing folder')
  collection = reading.read(flags.runs)
  command_line.print_warnings(collection.warnings)
  unfinished = [run for run in collection.runs if not run.finished]
  for run in unfinished:
    print(f'{run.source}: {run.steps:,} of {run.config["total_steps"]:,} steps, not finished; skipped')
  kept = [*(run for run in collection.runs if run.finished), *collection.throughputs, *collection.counts]
  if not kept:
    raise records.Unreadable(f'nothing to write: none of the {len(collection.runs)} runs is finished')
  storage.write(flags.out, ''.join(json.dumps(records.to_object(one)) + '\n' for one in kept))
  print(f'{flags.out}: {len(kept)} records')


if __name__ == '__main__':
  command_line.run(main)
