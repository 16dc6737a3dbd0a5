"""MLP-Mixer in JAX and Flax.

`load`, `create` and `save` are for use from Python (docs/python.md); they are imported at their first use, JAX and Flax with them.
"""

import os

# TensorFlow reads these when it is imported, which must come after this. oneDNN rounds as the CPU at hand does, and says so
# at every level; images of a seed are to be the same on all. JAX sets the level 1, at which warnings are still printed;
# other levels are somebody's own.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
  os.environ.setdefault('NPROC', '32')  # read when JAX starts: threads enough for simulated devices to meet

__all__ = ['Prediction', 'Weights', 'create', 'load', 'save']  # noqa: F822  by __getattr__


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from mixer import api
  return getattr(api, name)


def __dir__():
  return sorted({*globals(), *__all__})
