"""MLP-Mixer in JAX and Flax: models, data, training step, checkpoints."""
