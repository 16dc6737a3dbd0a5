"""Where a number comes from: the code, the packages, the machine and the time."""

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
LATE = 20.  # seconds, of git


def versions(packages=PACKAGES) -> dict[str, str]:
  """Of Python and of packages, as far as they are installed."""
  found = {'python': platform.python_version()}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass
  return found


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
                                          timeout=LATE).stdout.strip()
  try:
    return git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '--porcelain') else '')
  except (OSError, subprocess.SubprocessError):
    return 'unknown'


def now() -> str:
  """The time, in UTC and whole seconds: '2025-01-31T12:00:00+00:00'."""
  return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


def digest(fields: dict) -> str:
  """A short name for plain values: equal fields in any order have one, 12 hex digits of a SHA-256."""
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
