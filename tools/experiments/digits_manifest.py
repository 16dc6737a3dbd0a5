"""Writes a manifest for the dataset `multilabel`: scikit-learn's digits, each with its name and what else it is.

  python -m tools.digits_manifest OUT_DIR
  python -m tools.prepare multilabel --manual_dir=OUT_DIR
"""

import base64
import io
import json
import pathlib

import numpy as np
import PIL.Image
import sklearn.datasets

from mixer.data.builders import digits
from mixer import user_errors

NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
# {attribute: (its digits, its weight)}. In many hands a line is not quite straight, hence the half.
ATTRIBUTES = {
    'even': ((0, 2, 4, 6, 8), 1.),
    'odd': ((1, 3, 5, 7, 9), 1.),
    'prime': ((2, 3, 5, 7), 1.),
    'has a loop': ((0, 6, 8, 9), 1.),
    'straight lines only': ((1, 4, 7), 0.5),
}


def labels_of(digit: int) -> dict[str, float]:
  """{label: weight} of a digit."""
  return {NAMES[digit]: 1.} | {name: weight for name, (those, weight) in ATTRIBUTES.items() if digit in those}


def write(folder: pathlib.Path, embed: bool):
  """Writes classes.txt, a manifest of each split, and the images in PNG files or, if `embed`, in the manifests."""
  (folder if embed else folder / 'images').mkdir(parents=True, exist_ok=True)
  (folder / 'classes.txt').write_text('\n'.join([*NAMES, *ATTRIBUTES]) + '\n')
  images, labels = sklearn.datasets.load_digits(return_X_y=True)
  pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  for split, indices in zip(('train', 'validation'), digits.split_indices()):
    with (folder / f'{split}.jsonl').open('w') as manifest:
      for index in indices:
        png = io.BytesIO()
        PIL.Image.fromarray(pixels[index]).save(png, 'PNG')
        name = f'images/{index:04}.png'
        if not embed:
          (folder / name).write_bytes(png.getvalue())
        image = {'bytes': base64.b64encode(png.getvalue()).decode()} if embed else {'image': name}
        weights = labels_of(labels[index])
        # Where all weights are 1 they are left out.
        rest = {'weights': list(weights.values())} if min(weights.values()) < 1 else {}
        manifest.write(json.dumps({**image, 'labels': list(weights), **rest}) + '\n')


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('out_dir', help='where to write; then the --manual_dir of tools.prepare', type=pathlib.Path)
  parser.add_argument('--embed', help='images as base64 inside the manifests, instead of files', action='store_true')
  flags = parser.parse_args(arguments)
  write(flags.out_dir, flags.embed)
  print(f'written: {flags.out_dir}')


if __name__ == '__main__':
  main()
