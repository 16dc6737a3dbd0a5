"""Flags of train.py: several processes, traces, Weights & Biases."""

import importlib.util

from absl import flags
from etils import epy

with epy.lazy_imports():  # JAX with it
  from mixer.run import distributed
  from mixer.run import profiling

DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'This is one of several processes, which JAX detects: on a TPU '
                                'slice, under SLURM, Open MPI or GKE.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, where JAX cannot detect it.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'The number of processes; with --coordinator.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'The index of this process, from 0; with --coordinator.')
JOIN_TIMEOUT = flags.DEFINE_integer('join_timeout', 300, 'Seconds to wait for the other processes to join.')
LOST_TIMEOUT = flags.DEFINE_integer('lost_timeout', 60, 'Seconds after which a silent process counts as lost.')
PROFILE_STEPS = flags.DEFINE_string('profile_steps', None, 'FIRST:END, steps to trace for TensorBoard and Perfetto, END not '
                                    'included.')
flags.register_validator('profile_steps', lambda steps: steps is None or profiling.parse(steps) is not None,
                         'it must be FIRST:END, such as 100:105')
WANDB = flags.DEFINE_string('wandb', None, 'A project of Weights & Biases, which gets the metrics, too; needs the extra wandb. '
                            'With WANDB_MODE=offline in the environment they are kept for `wandb sync`.')
flags.register_validator('wandb', lambda project: project is None or importlib.util.find_spec('wandb') is not None,
                         "needs the extra wandb, which is not installed here: pip install -e '.[wandb]' -c requirements.lock")


def initialize():
  """Joins the other processes, if the flags say that there are such. Raises as `distributed.initialize_distributed` does."""
  distributed.initialize_distributed(DISTRIBUTED.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value,
                                     join_timeout=JOIN_TIMEOUT.value, lost_timeout=LOST_TIMEOUT.value)
