"""Stops a run after the current step on SIGTERM, as preemption sends it, or Ctrl-C; a second signal ends it at once."""

from collections.abc import Iterable, Iterator
import contextlib
import ctypes
import itertools
import math
import os
import signal
import sys
import threading
import time

from jax.experimental import multihost_utils

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved; the same command resumes
SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNAL_DEBOUNCE_S = 0.5  # a launcher that forwards a signal which the system sends to every process makes two of one
STDERR_FLUSH_TIMEOUT_S = 3  # how long an exiting process waits for its last message to be read

_jax_sigterm_handler = None  # JAX's own, which notifies the other processes


class Preempted(Exception):
  """The run was asked to stop, and can be resumed."""


class PreemptionHandler:
  """Handles SIGTERM and Ctrl-C. Use it as a context, from the main thread.

  The first signal takes effect at the next `check`, a second one ends the process at once. With several processes, the
  one that gets a signal notifies all.
  """

  def __init__(self):
    self._signalled = threading.Event()
    self._checks = itertools.count(1)

  def __enter__(self):
    # Python's own handlers wait for the main thread, which may be deep in a collective: a thread reads the signals.
    self._read, write = os.pipe()
    os.set_blocking(write, False)
    self._write = write
    self._previous = {number: signal.signal(number, lambda *_: None) for number in SIGNALS
                      if signal.getsignal(number) != signal.SIG_IGN}
    self._previous_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, trace):
    signal.set_wakeup_fd(self._previous_fd)
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    os.close(self._write)  # which ends the thread
    self._thread.join()
    os.close(self._read)

  def _listen(self):
    first = -math.inf  # time of the first signal
    while received := os.read(self._read, 1):
      if received[0] not in SIGNALS:
        continue
      name = signal.Signals(received[0]).name
      if self._signalled.is_set():
        if time.monotonic() < first + SIGNAL_DEBOUNCE_S:
          continue
        exit_immediately(128 + received[0],
                         f'Second {name}: exiting immediately. Training resumes from the latest checkpoint')
      first = time.monotonic()
      self._signalled.set()
      if _jax_sigterm_handler:
        _jax_sigterm_handler(signal.SIGTERM)
      _print_to_stderr(f'{name}: stopping after this step and saving; a second signal exits immediately')

  def check(self):
    """Raises Preempted after a signal. All processes must call it equally often; all raise at the same call."""
    if (multihost_utils.reached_preemption_sync_point(next(self._checks)) if _jax_sigterm_handler
        else self._signalled.is_set()):
      raise Preempted

  def check_before_each(self, batches: Iterable) -> Iterator:
    """The same batches, with a check before each."""
    for batch in batches:
      self.check()
      yield batch


def take_over_sigterm():
  """Takes SIGTERM from JAX, whose handler would swallow it: it ends the process until a PreemptionHandler is entered.

  To be called once, after `jax.distributed.initialize`. The handler keeps JAX's for notifying the other processes.
  """
  global _jax_sigterm_handler
  replace = ctypes.CDLL(None).signal
  replace.restype = ctypes.c_void_p
  _jax_sigterm_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(replace(signal.SIGTERM, signal.SIG_DFL))


def exit_immediately(code: int, message: str):
  """Ends the process from any thread, without waiting for others as an orderly exit of JAX does."""
  _print_to_stderr(message, STDERR_FLUSH_TIMEOUT_S)
  os._exit(code)


def _print_to_stderr(text, timeout_s=0.):
  """Prints, waiting no longer than the timeout: nobody may read it, or it may be closed."""
  def write():
    with contextlib.suppress(AttributeError, OSError, ValueError):
      os.write(sys.stderr.fileno(), f'{text}\n'.encode())  # a buffer has a lock, which the main thread may hold

  writer = threading.Thread(target=write, daemon=True)
  writer.start()
  writer.join(timeout_s)
