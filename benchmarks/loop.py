"""train.py's whole loop, with its records, beside the bare training step on one batch again and again.

  seq 4 | python -m benchmarks.loop both --model=demo --batch=128
  seq 4 | python -m benchmarks.loop both --model=S/16 --batch=8 --data=jpegs --every=4 --logs=6

Both are measured in one process: the small model's step differs between processes by more than the loop takes.
"""

import pathlib
import statistics
import tempfile

import jax

from benchmarks import contender
from benchmarks import jpegs
from benchmarks import ours
from benchmarks import workloads
from mixer.run import devices
from mixer.run import records


def config_of(flags):
  """With JPEGs the paper's augmentation for ImageNet, too."""
  config = workloads.config(flags.model, flags.batch)
  config.update(log_every_steps=flags.every, total_steps=flags.every * flags.logs)
  if flags.data == 'jpegs':
    config.data.update(dataset=flags.dataset or jpegs.prepare(), randaugment_magnitude=15.)
    config.step.mixup = 0.5
  return config


def steady_speed(rows: list[dict]) -> float:
  """Images/s over a run's records but the first, which follows the start. Each tells of equally many steps."""
  speeds = [record['images_per_s_per_core'] * jax.device_count() for record in rows
            if 'images_per_s_per_core' in record]
  return statistics.harmonic_mean(speeds[1:])


def turns(config, seconds: float):
  """Turns that each are a run of train.py's `train` from its start to its end, and `seconds` of its step.

  Half of the seconds are before the run and half after it, since the machine's own speed drifts.
  """
  import train  # which defines train.py's flags
  step = ours.step_rates(config, seconds / 2)
  yield []
  while True:
    before = next(step)
    with tempfile.TemporaryDirectory() as workdir:
      train.train(config, workdir)
      rows = list(records.read(pathlib.Path(workdir) / 'records.jsonl'))
    yield [dict(contender='train', unit='images/s', value=steady_speed(rows)),
           dict(contender='step', unit='images/s', value=statistics.harmonic_mean([before, next(step)]))]


def main():
  parser = contender.parser(__doc__, ('both',))
  parser.add_argument('--data', choices=('fake', 'jpegs'), default='fake', help='default: %(default)s')
  contender.add_dataset(parser)
  parser.add_argument('--every', type=int, default=50, help='steps between two records; default: %(default)s')
  parser.add_argument('--logs', type=int, default=10, help='records of a run, the first of which is skipped; default: '
                      '%(default)s')
  flags = parser.parse_args()
  devices.tune_glibc_malloc()  # as train.py does
  config = config_of(flags)
  contender.serve(turns(config, flags.seconds), quantity=contender.of_dataset(f'loop on {flags.data}', flags),
                  model=flags.model, batch=flags.batch, dtype='float32')


if __name__ == '__main__':
  main()
