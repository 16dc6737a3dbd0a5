"""MLP-Mixer in JAX and Flax: models, data, training step, checkpoints."""

import os

# TensorFlow reads it when it is imported, which must come after this. JAX sets 1, at which warnings are still printed;
# other levels are somebody's own.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
  os.environ.setdefault('NPROC', '32')  # read when JAX starts: threads enough for simulated devices to meet
