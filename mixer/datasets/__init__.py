"""Where images come from: a prepared TFDS dataset, an image folder, or none (`fake`)."""
