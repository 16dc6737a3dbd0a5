"""The processes of a run: how they connect, agree on a config, and exit when one of them fails.

A run on several machines, or on the GPUs of one machine with a process each, has one process on each. They take every
step together, so all must start with the same config and stop after the same step (`preemption`).
"""

import json
import os
import signal
import sys
import threading
import traceback

import jax
from jax.experimental import multihost_utils
import numpy as np

from mixer.run import preemption

EXIT_PEER_LOST = 76  # another process died or never connected; the same command resumes


def detect_distributed_env() -> str | None:
  """The environment variable that says that this is one of several processes, None if none does."""
  several = lambda name: os.environ.get(name, '1') not in ('', '1')
  names = ['SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'JAX_NUM_PROCESSES']
  detected = [name for name in names if several(name)]
  detected += [name for name in ('TPU_WORKER_HOSTNAMES',) if ',' in os.environ.get(name, '')]
  detected += [name for name in ('JAX_COORDINATOR_ADDRESS', 'MEGASCALE_COORDINATOR_ADDRESS') if os.environ.get(name)]
  return detected[0] if detected else None


def print_on_main_process(text: str):
  """Prints a line, once for all processes."""
  if jax.process_index() == 0:
    print(text)


def initialize_distributed(distributed: bool, coordinator: str | None = None, num_processes: int | None = None,
                           process_id: int | None = None, *, join_timeout: int = 300, lost_timeout: int = 60):
  """Connects to the other processes of the run, if a flag or the environment asks for it. Call it before JAX is used.

  Without coordinator, JAX detects the processes: on a TPU slice, and under SLURM, Open MPI and GKE. From here on, a
  process that fails exits at once. One that loses another exits with EXIT_PEER_LOST when a collective fails, or else is
  aborted by JAX (SIGABRT) after `lost_timeout`.

  Args:
    distributed: whether to connect, whatever the environment says.
    coordinator: HOST:PORT of process 0; defaults to JAX_COORDINATOR_ADDRESS, as the next two to JAX_NUM_PROCESSES and
      JAX_PROCESS_ID.
    num_processes: of the run.
    process_id: of this process, from 0.
    join_timeout: how long to wait for the others, in seconds.
    lost_timeout: how long another process may be silent before it counts as lost, in seconds.

  Raises:
    ValueError: if only some of coordinator, num_processes and process_id are set, or a value is invalid.
    SystemExit: if the others do not connect in time.
  """
  for name, seconds in {'--join_timeout': join_timeout, '--lost_timeout': lost_timeout}.items():
    if seconds < 1:
      raise ValueError(f'{name} is {seconds}; it must be at least 1, in seconds')
  or_env = lambda value, variable: os.environ.get(variable) or None if value is None else value
  flags = {'--coordinator': or_env(coordinator, 'JAX_COORDINATOR_ADDRESS'),
           '--num_processes': or_env(num_processes, 'JAX_NUM_PROCESSES'),
           '--process_id': or_env(process_id, 'JAX_PROCESS_ID')}
  present = [name for name, value in flags.items() if value is not None]
  if present and len(present) < len(flags):
    missing = next(name for name in flags if name not in present)
    raise ValueError(f'{" and ".join(present)} without {missing}: set all three, or --distributed alone where JAX '
                     'detects the processes automatically')
  if not (distributed or present or detect_distributed_env()):
    return
  address = _parse_address(*flags.values()) if present else {}
  timer = threading.Timer(join_timeout, _exit_on_timeout, [flags, join_timeout])
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(**address, initialization_timeout=join_timeout + 60,
                               heartbeat_timeout_seconds=lost_timeout)
  except ValueError as error:
    raise ValueError(f'{detect_distributed_env() or "--distributed"} asks for several processes, and JAX cannot '
                     f'detect them here ({error}). Set --coordinator=HOST:PORT, --num_processes and --process_id; for a '
                     'single process, set none of them') from error
  finally:
    timer.cancel()
  preemption.take_over_sigterm()
  sys.excepthook = _excepthook


def _parse_address(address, number, index) -> dict:
  """Arguments of `jax.distributed.initialize`."""
  host, _, port = address.rpartition(':')
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise ValueError(f'--coordinator, or JAX_COORDINATOR_ADDRESS, is {address!r}; it must be HOST:PORT of process 0, for '
                     'example 10.0.0.2:1234')
  for name, variable, value, least in (('--num_processes', 'JAX_NUM_PROCESSES', number, 1),
                                       ('--process_id', 'JAX_PROCESS_ID', index, 0)):
    if not str(value).isdecimal() or int(value) < least:
      raise ValueError(f'{name}, or {variable}, is {value!r}; it must be a whole number, at least {least}')
  number, index = int(number), int(index)
  if index >= number:
    raise ValueError(f'--process_id is {index}, of --num_processes={number}; it must be from 0 to {number - 1}')
  return dict(coordinator_address=address, num_processes=number, process_id=index)


def _exit_on_timeout(flags, seconds):
  address = ', '.join(f'{name}={value}' for name, value in flags.items() if value is not None)
  preemption.exit_immediately(EXIT_PEER_LOST, (
      f'not all processes of the run connected within {seconds} s ({address or "detected by JAX"}). Start the same '
      'command on every one of them: on a TPU slice by `gcloud compute tpus tpu-vm ssh NAME --worker=all '
      '--command=...`. Can the address and the port of process 0 be reached from here? For a single process, drop --distributed; for slow '
      'machines, raise --join_timeout'))


def _this_process():
  return f'process {jax.process_index()} of {jax.process_count()}'


def _excepthook(kind, error, trace):
  # At an orderly exit a process waits for the others, which wait for it in the next step.
  text = ''.join(traceback.format_exception(kind, error, trace)) + _this_process()
  if issubclass(kind, KeyboardInterrupt):
    preemption.exit_immediately(128 + signal.SIGINT, f'{text} was interrupted before the first step')
  if issubclass(kind, jax.errors.JaxRuntimeError) and not _is_out_of_memory(error):
    preemption.exit_immediately(EXIT_PEER_LOST, (
        f'{text} has lost another one, unless the error above says that its own devices failed. Restart all of them: '
        'training resumes from the latest checkpoint'))
  preemption.exit_immediately(1, f'{text} exits because of this error; the others will lose it')


def exit_with_error(message: str):
  """Exits with an error in one line: immediately, where the other processes would otherwise wait for this one."""
  if jax.distributed.is_initialized():
    preemption.exit_immediately(1, f'{message}\n{_this_process()} exits because of this error; the others will lose it')
  sys.exit(message)


def _is_out_of_memory(error):
  return 'RESOURCE_EXHAUSTED' in str(error)


def add_oom_hint(error: jax.errors.JaxRuntimeError):
  """Adds what to do to an error that says that the devices are out of memory."""
  if _is_out_of_memory(error):
    error.add_note('The batch does not fit into the memory of the devices. Raise config.step.accumulate, which takes the '
                   'same steps in smaller parts, use more devices, or lower config.data.batch_size')


def assert_equal_across_processes(run: dict):
  """Raises a ValueError that shows the differences unless `run`, nested dicts, is the same in all processes."""
  if jax.process_count() == 1:
    return
  if not jax.distributed.is_initialized():
    raise ValueError(f'this is one of {jax.process_count()} processes of a slice, and they are not connected: start all '
                     'of them by `gcloud compute tpus tpu-vm ssh NAME --worker=all --command=...` with --distributed')
  flat = {jax.tree_util.keystr(path, simple=True, separator='.'): value for path, value in
          jax.tree_util.tree_leaves_with_path(run, is_leaf=lambda x: not isinstance(x, dict))}
  text = np.frombuffer(json.dumps(flat).encode(), np.uint8)
  size = int(multihost_utils.process_allgather(np.array(text.size)).max())
  texts = multihost_utils.process_allgather(np.pad(text, (0, size - text.size), constant_values=ord(' ')))
  first, *others = (json.loads(bytes(x)) for x in texts)
  lines = [f'\n  {path}: {first.get(path)!r} in process 0, {other.get(path)!r} in process {number}'
           for number, other in enumerate(others, 1) for path in sorted(first.keys() | other.keys())
           if first.get(path) != other.get(path)]
  if lines:
    raise ValueError(f'the processes were started with different configs:{"".join(lines)}\n'
                     'Start all of them with the same command')
