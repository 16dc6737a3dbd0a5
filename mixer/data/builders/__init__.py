"""TFDS builders of datasets that TFDS has not."""
