"""TensorFlow and TFDS, imported at their first use: they take seconds, which --help and a wrong flag need not wait."""

from collections.abc import Callable
import functools
import sys


class _Lazy:
  """Stands for a module, which a function imports when an attribute of it is used."""

  def __init__(self, module: Callable):
    self._module = module

  def __getattr__(self, attribute: str):
    return getattr(self._module(), attribute)


@functools.cache
def _tensorflow():
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
  return tensorflow


@functools.cache
def _tensorflow_datasets():
  _tensorflow()
  import tensorflow_datasets
  return tensorflow_datasets


tf = _Lazy(_tensorflow)
tfds = _Lazy(_tensorflow_datasets)
