"""Around the training loop: checkpoints, metrics, artifacts, processes and devices."""
