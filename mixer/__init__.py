"""MLP-Mixer in JAX and Flax.

`load` and `create` are for use from Python (docs/python.md); they are imported at their first use, JAX and Flax with them.
"""

import importlib
import os

# TensorFlow reads it when it is imported, which must come after this. JAX sets 1, at which warnings are still printed;
# other levels are somebody's own.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
  os.environ.setdefault('NPROC', '32')  # read when JAX starts: threads enough for simulated devices to meet

_API = {'create': 'mixer.api', 'load': 'mixer.api', 'Weights': 'mixer.weights', 'Prediction': 'mixer.weights'}
__all__ = ['Prediction', 'Weights', 'create', 'load']  # noqa: F822  by __getattr__


def __getattr__(name: str):
  if name not in _API:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_API[name]), name)


def __dir__():
  return sorted({*globals(), *_API})
