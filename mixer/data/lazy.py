"""TensorFlow and TFDS, imported at their first use: they take seconds, which --help and a wrong flag need not wait."""

import functools
import importlib
import sys


class _Lazy:
  """Stands for a module, and imports it when an attribute of it is used."""

  def __init__(self, name: str):
    self._name = name

  def __getattr__(self, attribute: str):
    return getattr(_import(self._name), attribute)


@functools.cache
def _import(name):
  # TensorFlow tries to import this, and with it Keras, scikit-learn and pandas, which takes as long as TensorFlow itself.
  # None stops that, and nothing here misses it; tf.keras still works for others.
  unused = 'keras.src.optimizers'
  sys.modules.setdefault(unused, None)
  try:
    import tensorflow
  finally:
    if sys.modules.get(unused) is None:
      sys.modules.pop(unused, None)
  tensorflow.config.set_visible_devices([], 'GPU')  # JAX needs all of its memory
  return importlib.import_module(name)


tf = _Lazy('tensorflow')
tfds = _Lazy('tensorflow_datasets')
