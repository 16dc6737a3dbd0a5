"""Converts weights: published files, timm's or a run of ours, to an .npz or .safetensors file.

  python -m tools.convert imagenet21k/Mixer-B_16 mixer_b16_i21k.safetensors
  python -m tools.convert runs/b16 b16.npz
  python -m tools.convert runs/photos photos_mixer --to=hf
  python -m tools.convert --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 deit.safetensors deit.npz

Class names, what the logits mean and how images are prepared come along: in the metadata of a .safetensors file, and
next to OUT.npz in OUT.npz.json. Named model.safetensors, the file gets a config.json next to it, with which
timm.create_model('local-dir:FOLDER') loads it. --to=hf writes a folder for the Hugging Face Hub: these two, and a model
card with the results of the run; `hf upload OWNER/NAME FOLDER` publishes it. timm has no name for models of sizes of
one's own: their folder has no config.json, and mixer.load reads it all the same.

All of them take pixels in [-1, 1], mean 0.5 and std 0.5.

Exit code 1 for files that cannot be read or written, 2 for wrong flags.
"""

import os
import pathlib
import sys

from etils import epy

from mixer import user_errors
from tools import weights_flags

with epy.lazy_imports():  # JAX with them, which --help and a wrong flag need not wait for
  from mixer.run import finished
  from mixer.run import records
  from mixer import weights


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  parser = user_errors.ArgumentParser(__doc__)
  weights_flags.add(parser, 'weights')
  parser.add_argument('out', type=pathlib.Path, help='the file: NAME.npz or NAME.safetensors; of --to=hf the folder')
  parser.add_argument('--to', choices=('file', 'hf'), default='file', help='default: %(default)s')
  parser.add_argument('--overwrite', action='store_true', help='write the file though it exists already')
  flags = parser.parse_args(arguments)
  out = flags.out.expanduser()
  to_hub = flags.to == 'hf'
  if to_hub and (not out.parent.is_dir() or out.suffix in ('.npz', '.safetensors')):
    raise ValueError(f'{out}: --to=hf writes a folder, whose parent must exist; pass NAME, without .npz or .safetensors')
  if to_hub and os.path.lexists(out) and not out.is_dir():
    raise ValueError(f'{out} is a file, and --to=hf writes a folder; pass another name')
  if not to_hub or out.is_dir():
    weights.check_can_save(out / 'model.safetensors' if to_hub else out)
  for path in [*weights.files_of(out / 'model.safetensors'), out / 'README.md'] if to_hub else weights.files_of(out):
    if path.exists() and not flags.overwrite:
      raise FileExistsError(f'{path} exists already; pass --overwrite, or another name')
  loaded = weights_flags.load(flags)
  print(loaded.describe())
  if to_hub:
    results = records.of_weights(finished.results(flags.weights), flags.average)
    written = weights.save_for_hub(loaded, out, results)
  else:
    written = weights.save(loaded, out)
  print(f'written: {" and ".join(map(str, written))}')


if __name__ == '__main__':
  sys.exit(main())
