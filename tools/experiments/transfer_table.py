"""What pre-training on five classes of CIFAR-10 gains on the other five at twice the resolution, with few images.

  python -m tools.transfer_table
  python -m tools.transfer_table --dataset=FOLDER    # train/CLASS/*.png and test/CLASS/*.png

configs/mixer_cifar10_transfer.py has the models. Each seed has its own pre-training. The learning rate of each way,
fine-tuning and training from scratch, is chosen on the dev split with seed 0, of the same values; then all seeds are
trained on the whole split and scored on the test images. Finished runs are skipped, so the same command resumes, and
--seeds=5 after --seeds=3 trains two more of each. table.md and results.json are in the work directory.
"""

import argparse
import csv
import json
import pathlib

from mixer import storage
from mixer import user_errors
from tools.experiments import experiment
from tools import sweep

CONFIG = 'configs/mixer_cifar10_transfer.py'
RATES = '0.01,0.03,0.1,0.3'
WAYS = {'weights': 'fine-tuned', 'nothing': 'from scratch'}


def pretrained(seed: int, dataset: str, root: pathlib.Path) -> pathlib.Path:
  """The work directory of a seed's pre-training, which is finished."""
  workdir = root / f'pretrain,seed{seed}'
  sweep.train(f'{CONFIG}:pretrain', workdir, {'seed': str(seed), 'data.dataset': dataset})
  return workdir


def fields_of(way: str, seed: int, dataset: str, root: pathlib.Path) -> dict[str, str]:
  """The fields of a run, but for its learning rate."""
  start = {'start_from.weights': str(pretrained(seed, dataset, root))} if way == 'weights' else {}
  return {'seed': str(seed), 'data.dataset': dataset, **start}


def learning_rate(way: str, dataset: str, root: pathlib.Path) -> str:
  """The best of RATES on the dev split with seed 0, as in the table of the sweep."""
  always = [f'--config.{name}={value}' for name, value in fields_of(way, 0, dataset, root).items()]
  sweep.sweep(sweep.parse([f'--config={CONFIG}:{way}', f'--over=optimizer.learning_rate={RATES}', f'--workdir={root / way}',
                           *always]))
  with (root / way / 'sweep.csv').open(newline='') as file:
    return next(row['optimizer.learning_rate'] for row in csv.DictReader(file) if row['run'].startswith('best,'))


def score(way: str, rate: str, seed: int, dataset: str, root: pathlib.Path) -> float:
  """Test top-1 of one seed; the sweep has trained seed 0."""
  workdir = root / way / (f'seed{seed}' if seed else f'best,learning_rate={rate}')
  return sweep.train(f'{CONFIG}:{way}', workdir, {**fields_of(way, seed, dataset, root), 'optimizer.learning_rate': rate}
                     )['test/top1']


def table(dataset: str, ways: dict, gain: dict) -> str:
  """In Markdown: each way's learning rate, scores and mean, and the gain."""
  percent = lambda x: f'{x * 100:.1f}'
  lines = [f'# Fine-tuning against training from scratch, on {dataset}', '',
           '| way | learning rate | top-1 on the test images, % | mean | standard deviation |', '| --- ' * 5 + '|']
  for way, row in ways.items():
    std = '' if row['std'] is None else percent(row['std'])
    lines.append(f'| {WAYS[way]} | {row["learning_rate"]} | {", ".join(map(percent, row["scores"]))} | '
                 f'{percent(row["mean"])} | {std} |')
  error = gain['standard_error']
  known = f', standard error {percent(error)}: {gain["standard_errors"]:.1f} standard errors' if error else ''
  return '\n'.join([*lines, '', f'gain: {percent(gain["mean"])} points{known}']) + '\n'


def run_all(dataset: str, seeds: int, root: pathlib.Path):
  """Trains what is not yet trained, writes and prints the table. Raises as `sweep.train` does; what is finished is kept."""
  rates = {way: learning_rate(way, dataset, root) for way in WAYS}
  scores = {way: [] for way in WAYS}
  for seed in range(seeds):
    for way, rate in rates.items():
      scores[way].append(score(way, rate, seed, dataset, root))
  ways = {way: {'learning_rate': rates[way], **experiment.spread(scores[way])} for way in WAYS}
  gain, name = experiment.difference(*ways.values()), pathlib.Path(dataset).name
  text = table(name, ways, gain)
  storage.write(root / 'results.json', json.dumps({'format': 1, 'dataset': name, 'ways': ways, 'gain': gain}, indent=2))
  storage.write(root / 'table.md', text)
  print(f'{text}\ntable and numbers: {root}')


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--dataset', default='cifar10', help='cifar10, which TFDS downloads, or a folder with its images, '
                      'train/CLASS and test/CLASS; default: cifar10')
  parser.add_argument('--seeds', type=int, default=5, help='the number of runs of each way; default: 5')
  parser.add_argument('--workdir', type=pathlib.Path, help='the parent of the folders of the runs; default: '
                      'runs/transfer_DATASET')
  flags = parser.parse_args(arguments)
  if flags.dataset != 'cifar10' and not pathlib.Path(flags.dataset).is_dir():
    parser.error(f'--dataset is {flags.dataset}; it must be cifar10, or a folder with its images')
  flags.dataset = experiment.resolved(flags.dataset, ('cifar10',))
  if flags.seeds < 1:
    parser.error(f'--seeds is {flags.seeds}; it must be at least 1')
  flags.workdir = (flags.workdir or pathlib.Path(f'runs/transfer_{pathlib.Path(flags.dataset).name}')).expanduser().absolute()
  return flags


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  flags = parse(arguments)
  with sweep.exit_if_stopped():
    run_all(flags.dataset, flags.seeds, flags.workdir)


if __name__ == '__main__':
  main()
