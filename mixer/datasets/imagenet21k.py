"""The name that mixer/data/builders/imagenet21k.py had before, for command lines with --imports=mixer.datasets.imagenet21k."""

from mixer.data.builders.imagenet21k import *  # noqa: F403
