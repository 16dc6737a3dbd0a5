"""What pre-training on the digits 0 to 4 gains on all ten at twice the resolution, with 43 training images.

  python -m tools.transfer_table

For each way the learning rate is chosen on the dev split (tools.sweep), and then three seeds are trained. Finished runs
in runs/ are not repeated.
"""

import csv
import statistics
import subprocess
import sys

from mixer.run import records
from mixer import user_errors

CONFIG = 'configs/mixer_digits_transfer.py'
RATES = '0.03,0.1,0.3'
WAYS = {'weights': 'from the digits 0 to 4', 'nothing': 'from scratch'}


def run(*arguments):
  subprocess.run([sys.executable, *arguments], check=True)


def learning_rate(way: str) -> str:
  """The best of RATES on the dev split, as in the table of the sweep."""
  workdir = f'runs/digits_transfer_{way}'
  run('-m', 'tools.sweep', f'--config={CONFIG}:{way}', f'--over=optimizer.learning_rate={RATES}',
      f'--workdir={workdir}')
  with open(f'{workdir}/sweep.csv', newline='') as file:
    return next(row['optimizer.learning_rate'] for row in csv.DictReader(file) if row['run'].startswith('best,'))


def score(way: str, rate: str, seed: int) -> float:
  """Test top-1 of one seed; the sweep has trained seed 0."""
  workdir = f'runs/digits_transfer_{way}/' + (f'seed{seed}' if seed else f'best,learning_rate={rate}')
  run('train.py', f'--config={CONFIG}:{way}', f'--workdir={workdir}', f'--config.seed={seed}',
      f'--config.optimizer.learning_rate={rate}')
  return list(records.read(f'{workdir}/records.jsonl'))[-1]['test/top1']


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  user_errors.ArgumentParser(__doc__).parse_args(arguments)  # --help alone
  run('train.py', '--config=configs/mixer_digits_pretrain.py')
  lines = []
  for way, words in WAYS.items():
    rate = learning_rate(way)
    scores = [score(way, rate, seed) for seed in range(3)]
    lines.append(f'{words}, learning rate {rate}: {", ".join(f"{x:.2%}" for x in scores)}; '
                 f'mean {statistics.mean(scores):.2%}')
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
