"""The demo's accuracy over three seeds, and that of scikit-learn's SVC on the same split.

  python -m tools.digits_table
"""

import statistics
import subprocess
import sys

import numpy as np
import sklearn.datasets
import sklearn.svm

from mixer.data.builders import digits
from mixer.run import records
from mixer import user_errors


def mixer(seed: int) -> float:
  """Test top-1 of the demo's config; a finished run is not repeated."""
  workdir = f'runs/digits_seed{seed}'
  subprocess.run([sys.executable, 'train.py', '--config=configs/mixer_digits.py', f'--workdir={workdir}',
                  f'--config.seed={seed}'], check=True)
  return list(records.read(f'{workdir}/records.jsonl'))[-1]['test/top1']


def svc() -> float:
  """Test top-1 of an RBF support vector machine (gamma 0.001, as in scikit-learn's own example)."""
  images, labels = sklearn.datasets.load_digits(return_X_y=True)
  train, test = digits.split_indices()
  return float(np.mean(sklearn.svm.SVC(gamma=0.001).fit(images[train], labels[train]).predict(images[test])
                       == labels[test]))


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  user_errors.ArgumentParser(__doc__).parse_args(arguments)  # --help alone
  scores = [mixer(seed) for seed in range(3)]
  print(f'Mixer, seeds 0 to 2: {", ".join(f"{x:.2%}" for x in scores)}; mean {statistics.mean(scores):.2%}')
  print(f'SVC: {svc():.2%}')


if __name__ == '__main__':
  main()
