"""TensorFlow and TFDS, imported at their first use: they take five seconds, which --help and a wrong flag need not wait."""

from etils import epy


def _hide_gpus(_):
  import tensorflow
  tensorflow.config.set_visible_devices([], 'GPU')  # JAX needs all of its memory


with epy.lazy_imports(success_callback=_hide_gpus):
  import tensorflow as tf  # noqa: F401
  import tensorflow_datasets as tfds  # noqa: F401
