"""Makes a small file of records, to be committed, of work directories.

  python -m paper.collect RUNS... --out=paper/ours/NAME.jsonl

RUNS are work directories of train.py, folders of them, and files of records. The file is replaced.
"""

import json

from mixer import storage
from paper import command_line
from paper import reading
from paper import records


def main(arguments: list[str] | None = None):
  takes = command_line.parser(__doc__)
  takes.add_argument('--out', required=True, type=storage.path_of, help='the file, NAME.jsonl')
  flags = takes.parse_args(arguments)
  if not flags.runs:
    takes.error('name at least one of RUNS')
  if flags.out.suffix != '.jsonl' or not flags.out.parent.is_dir():
    takes.error(f'--out is {flags.out}; it must end in .jsonl and lie in a folder that is there')
  found = reading.read(flags.runs)
  command_line.tell(found.warnings)
  unfinished = [run for run in found.runs if not run.finished]
  for run in unfinished:
    print(f'{run.source}: {run.steps:,} of {run.config["total_steps"]:,} steps, not finished; left out')
  kept = [*(run for run in found.runs if run.finished), *found.throughputs, *found.counts]
  if not kept:
    raise records.Unreadable(f'nothing to write: there is no finished run among the {len(found.runs)} that were found')
  storage.write(flags.out, ''.join(json.dumps(records.to_object(one)) + '\n' for one in kept))
  print(f'{flags.out}: {len(kept)} records')


if __name__ == '__main__':
  command_line.run(main)
