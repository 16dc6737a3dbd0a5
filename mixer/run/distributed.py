"""The processes of a run: how they join, and how they leave when they are told to.

A run on several machines, or on the GPUs of one machine with a process each, has one process on each. They take every
step together, so that all must begin with the same config and stop after the same step.
"""

from collections.abc import Iterable, Iterator
import contextlib
import ctypes
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
import traceback

import jax
from jax.experimental import multihost_utils
import numpy as np

# Exit codes, from sysexits.h; after both the same command goes on.
INTERRUPTED = 75  # told to stop, and saved
LOST = 76  # another process is gone, or has never come
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE_NOTICE_S = 0.5  # a launcher that passes a signal on, beside a system that tells every process, makes two of one
LAST_WORDS_S = 3  # how long a process that leaves waits until they are taken from it

_announce = None  # JAX's own handler of SIGTERM, which tells the other processes


def told_by_environment() -> str | None:
  """The environment variable that says that this is one of several processes, None if none does."""
  several = lambda name: os.environ.get(name, '1') not in ('', '1')
  names = ['SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'JAX_NUM_PROCESSES']
  said = [name for name in names if several(name)]
  said += [name for name in ('TPU_WORKER_HOSTNAMES',) if ',' in os.environ.get(name, '')]
  said += [name for name in ('JAX_COORDINATOR_ADDRESS', 'MEGASCALE_COORDINATOR_ADDRESS') if os.environ.get(name)]
  return said[0] if said else None


def tell(text: str):
  """Prints a line, once for all processes."""
  if jax.process_index() == 0:
    print(text)


def join(distributed: bool, coordinator: str | None = None, num_processes: int | None = None,
         process_id: int | None = None, *, join_timeout: int = 300, lost_timeout: int = 60):
  """Joins the other processes of the run, if a flag or the environment says that there are any. Before any use of JAX.

  Without coordinator, JAX finds the processes: on a TPU slice, and under SLURM, Open MPI and GKE. From here on, a
  process that fails ends at once. One that loses another ends with the code LOST when a collective fails, and else by
  JAX, with SIGABRT, after `lost_timeout`.

  Args:
    distributed: whether there are others, whatever the environment says.
    coordinator: HOST:PORT of process 0; by default, and so for the next two, JAX_COORDINATOR_ADDRESS,
      JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    num_processes, process_id: how many there are, and which of them this is, from 0.
    join_timeout: how long to wait for the others, in seconds.
    lost_timeout: how long another process may be silent before it is taken for lost, in seconds.

  Raises:
    ValueError: if only some of coordinator, num_processes and process_id are given, or anything has no sense.
    SystemExit: if the others do not join in time.
  """
  for name, seconds in {'--join_timeout': join_timeout, '--lost_timeout': lost_timeout}.items():
    if seconds < 1:
      raise ValueError(f'{name} is {seconds}; it must be at least 1, in seconds')
  given = lambda value, variable: os.environ.get(variable) or None if value is None else value
  flags = {'--coordinator': given(coordinator, 'JAX_COORDINATOR_ADDRESS'),
           '--num_processes': given(num_processes, 'JAX_NUM_PROCESSES'),
           '--process_id': given(process_id, 'JAX_PROCESS_ID')}
  named = [name for name, value in flags.items() if value is not None]
  if named and len(named) < len(flags):
    missing = next(name for name in flags if name not in named)
    raise ValueError(f'{" and ".join(named)} without {missing}: give all three, or --distributed alone where JAX finds '
                     'the processes by itself')
  if not (distributed or named or told_by_environment()):
    return
  if named:
    address, number, index = _checked(*flags.values())
  late = threading.Timer(join_timeout, _not_joined, [flags, join_timeout])
  late.daemon = True
  late.start()
  where = dict(coordinator_address=address, num_processes=number, process_id=index) if named else {}
  try:
    jax.distributed.initialize(**where, initialization_timeout=join_timeout + 60,
                               heartbeat_timeout_seconds=lost_timeout)
  except ValueError as error:
    raise ValueError(f'{told_by_environment() or "--distributed"} says that there are several processes, and JAX cannot '
                     f'find them here ({error}). Give --coordinator=HOST:PORT, --num_processes and --process_id; for one '
                     'process alone, give none of them') from error
  finally:
    late.cancel()
  _take_over_signals()
  sys.excepthook = _leave_alone


def _checked(address, number, index) -> tuple[str, int, int]:
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
  return address, number, index


def _not_joined(flags, seconds):
  told = ', '.join(f'{name}={value}' for name, value in flags.items() if value is not None)
  _leave(LOST, f'not all processes of the run joined within {seconds} s ({told or "found by JAX"}). Start the same command '
               'on every one of them: on a TPU slice by `gcloud compute tpus tpu-vm ssh NAME --worker=all --command=...`. '
               'Are the address and the port of process 0 to be reached from here? For one process alone, drop '
               '--distributed; for slow machines, raise --join_timeout')


def _leave_alone(kind, error, trace):
  # At its orderly end a process waits for the others, which wait for it in the next step.
  told = ''.join(traceback.format_exception(kind, error, trace))
  this = f'process {jax.process_index()} of {jax.process_count()}'
  if issubclass(kind, KeyboardInterrupt):
    _leave(128 + signal.SIGINT, f'{told}{this} was told to stop before the first step')
  if issubclass(kind, jax.errors.JaxRuntimeError) and not _no_memory(error):
    _leave(LOST, f'{told}{this} has lost another one, unless the error above says that its own devices failed. Start all '
                 'of them again: the run goes on from its latest checkpoint')
  _leave(1, f'{told}{this} ends by this error, and the others will miss it')


def fail(message: str):
  """Ends the program by an error, told in a line: at once, where the others would else wait for this process."""
  if jax.distributed.is_initialized():
    _leave(1, f'{message}\nprocess {jax.process_index()} of {jax.process_count()} ends by this error, and the others will '
           'miss it')
  sys.exit(message)


def _no_memory(error):
  return 'RESOURCE_EXHAUSTED' in str(error)


def advise(error: jax.errors.JaxRuntimeError):
  """Adds what to do to an error that says that the devices' memory is too small."""
  if _no_memory(error):
    error.add_note('The batch does not fit into the memory of the devices. Raise config.step.accumulate, which takes the '
                   'same steps in smaller parts, take more devices, or lower config.data.batch_size')


def _leave(code, message):
  _say(message, LAST_WORDS_S)
  os._exit(code)


def _say(text, seconds=0.):
  """Prints to stderr, and waits for that no longer than told: nobody may read it, or it may be closed."""
  def write():
    with contextlib.suppress(AttributeError, OSError, ValueError):
      os.write(sys.stderr.fileno(), f'{text}\n'.encode())  # a buffer has a lock, which the main thread may hold

  telling = threading.Thread(target=write, daemon=True)
  telling.start()
  telling.join(seconds)


def _take_over_signals():
  """Until there are `Notices`, SIGTERM ends the process; JAX's handler, which would swallow it, is kept for them."""
  global _announce
  replace = ctypes.CDLL(None).signal
  replace.restype = ctypes.c_void_p
  _announce = ctypes.CFUNCTYPE(None, ctypes.c_int)(replace(signal.SIGTERM, signal.SIG_DFL))


def check_same(run: dict):
  """Raises a ValueError that shows the differences unless `run`, nested dicts, is the same in all processes."""
  if jax.process_count() == 1:
    return
  if not jax.distributed.is_initialized():
    raise ValueError(f'this is one of {jax.process_count()} processes of a slice, and they have not joined: start all of '
                     'them by `gcloud compute tpus tpu-vm ssh NAME --worker=all --command=...` with --distributed')
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


class Interrupted(Exception):
  """The run was told to stop, and can go on later."""


class Notices:
  """Notices to stop: SIGTERM, as preemption sends it, and Ctrl-C. Use it as a context, from the main thread.

  The first is heeded at the next `check`, a second one ends the process at once. Of several processes, one that is
  told tells all.
  """

  def __init__(self):
    self._told = threading.Event()
    self._checks = itertools.count(1)

  def __enter__(self):
    # Python's own handlers wait for the main thread, which may be deep in a collective: a thread reads the signals.
    self._read, write = os.pipe()
    os.set_blocking(write, False)
    self._write = write
    self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS
                    if signal.getsignal(number) != signal.SIG_IGN}
    self._fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, trace):
    signal.set_wakeup_fd(self._fd_before)
    for number, handler in self._before.items():
      signal.signal(number, handler)
    os.close(self._write)  # which ends the thread
    self._thread.join()
    os.close(self._read)

  def _listen(self):
    first = -math.inf  # when the first notice came
    while received := os.read(self._read, 1):
      if received[0] not in SIGNALS:
        continue
      name = signal.Signals(received[0]).name
      if self._told.is_set():
        if time.monotonic() < first + ONE_NOTICE_S:
          continue
        _leave(128 + received[0], f'{name}, the second one: leaves at once. The run goes on from its latest checkpoint')
      first = time.monotonic()
      self._told.set()
      if _announce:
        _announce(signal.SIGTERM)
      _say(f'{name}: stops after this step and saves; a second one leaves at once')

  def check(self):
    """Raises Interrupted if there was a notice. All processes must call it equally often; all raise at one call."""
    told = multihost_utils.reached_preemption_sync_point(next(self._checks)) if _announce else self._told.is_set()
    if told:
      raise Interrupted

  def between(self, batches: Iterable) -> Iterator:
    """The same batches, with a check before each."""
    for batch in batches:
      self.check()
      yield batch
