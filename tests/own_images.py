"""docs/own_images.md as a reader follows it: a folder in place of /path/to/photos, and the page's configs as files."""

import re

import numpy as np
import PIL.Image

from conftest import ROOT

PAGE = (ROOT / 'docs/own_images.md').read_text()
PLACE = '/path/to/photos'  # on README.md, too
CONFIGS = re.findall(r'^```python\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)


def photos(root, *splits, count=8, side=70):
  """Writes `count` images of each of two classes that differ in colour into each split."""
  rng = np.random.default_rng(0)
  for split in splits:
    for colour, name in enumerate(('cat', 'dog')):
      (root / split / name).mkdir(parents=True)
      for k in range(count):
        image = rng.integers(0, 128, (side, side, 3), np.uint8)
        image[..., colour] += 127
        PIL.Image.fromarray(image).save(root / split / name / f'{k}.png')
  return root


def configs(folder, root):
  """Writes the page's configs for the images in `root`, the first as its configs/photos.py. Returns their paths."""
  paths = [folder / f'{name}.py' for name in ('photos', 'changed')]
  for path, text in zip(paths, CONFIGS, strict=True):
    path.write_text(text.replace(PLACE, str(root)))
  return paths
