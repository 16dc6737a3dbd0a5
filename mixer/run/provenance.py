"""Provenance of a measurement: commit, package versions, machine and time."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
            'tensorflow-cpu', 'tensorflow', 'tensorflow-datasets', 'opencv-python-headless')
GIT_TIMEOUT_S = 20.


def versions(packages=PACKAGES) -> dict[str, str]:
  """Versions of Python and of the packages that are installed."""
  installed = {'python': platform.python_version()}
  for package in packages:
    try:
      installed[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass
  return installed


def machine() -> str:
  """'2 x AMD EPYC ..., 24 GiB'."""
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
  return f'{os.cpu_count()} x {names[0] if names else platform.machine()}, {memory:.0f} GiB'


def commit() -> str:
  """The commit of this checkout, with '+' if files differ from it; 'unknown' without git."""
  git = lambda *arguments: subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=True,
                                          timeout=GIT_TIMEOUT_S).stdout.strip()
  try:
    return git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '--porcelain') else '')
  except (OSError, subprocess.SubprocessError):
    return 'unknown'


def now() -> str:
  """The time, in UTC and whole seconds: '2025-01-31T12:00:00+00:00'."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def digest(fields: dict) -> str:
  """12 hex digits of a SHA-256 of plain values, whatever their order."""
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
