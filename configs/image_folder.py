"""A Mixer from scratch on an image folder of yours: image_folder.py:PATH[,VARIANT[,RESOLUTION]][,dev].

PATH, without a comma: root/train/CLASS/*.jpg, scored on each of root/val, root/validation and root/test; without these,
or as root/CLASS/*.jpg, scored on 10 % of the images, chosen by content and not trained on, as `dev`. With a last option
`dev` it is always scored so, to choose fields on (tools.sweep does). VARIANT: nano (by default), S, or B; RESOLUTION: a
multiple of 8, in pixels, by default 32, 64 or 224, the largest that half of a sample of JPEG and PNG files reach (32 if
none do).

  images below   epochs   mixup   weight decay   batch      parameters, 10 classes    32     64    224 pixels
  2,000          200      0.5     0.3            64         nano, millions            1.1    1.2    1.4
  20,000         100      0.3     0.1            256        S                        17.1   17.2   18.0
  any            50       0.1     0.1            512        B                        57.3   57.5   59.1

The recipes are starting points, not tuned. Batches hold at most half of the images. nano has the fields with which
omihub777/MLP-Mixer-CIFAR trains Mixer-nano; the 0.67 M parameters that it publishes are those with D_S and D_C swapped.
Run: python train.py --config=configs/image_folder.py:PATH --workdir=WORKDIR
"""

import pathlib
import struct

import ml_collections
from ml_collections.config_dict import placeholder

VARIANTS = {'nano': dict(num_blocks=8, hidden_dim=128, tokens_mlp_dim=64, channels_mlp_dim=512),
            'S': dict(num_blocks=8, hidden_dim=512, tokens_mlp_dim=256, channels_mlp_dim=2048),
            'B': dict(num_blocks=12, hidden_dim=768, tokens_mlp_dim=384, channels_mlp_dim=3072)}
RECIPES = ((2_000, 200., 0.5, 0.3, 64), (20_000, 100., 0.3, 0.1, 256), (float('inf'), 50., 0.1, 0.1, 512))
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.jfif')  # of mixer.data.folder_source
SCORED = ('val', 'validation', 'test')
UNNAMED = 'PATH of --config=configs/image_folder.py:PATH'


def get_config(which: str | None = None):
  """The config; without `which`, that of 1,000 images of 32 pixels in a folder yet to be named."""
  path, variant, side, dev = _parse(which) if which else (UNNAMED, 'nano', 32, False)
  root = pathlib.Path(path).expanduser()
  files, scored = _read(root, path) if which else (range(1_000), ())
  scored = () if dev else scored
  side = side or _resolution(files)
  _, epochs, mixup, decay, batch = next(row for row in RECIPES if len(files) < row[0])

  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_epochs = epochs
  config.log_every_steps = 20
  config.eval_every_epochs = epochs / 20
  config.model = dict(name='mlp_mixer', num_classes=placeholder(int), **VARIANTS[variant],
                      patch_size=4 if side < 64 else 8 if side < 128 or side % 16 else 16)
  config.data = dict(dataset=str(root), split='train' if scored else 'train[:90%]', resolution=side,
                     batch_size=min(batch, max(1, len(files) // 2)), min_area=0.25, antialias=True)
  config.step = dict(loss='softmax_xent', mixup=mixup)
  config.optimizer = dict(name='adamw', learning_rate=1e-3, weight_decay=decay, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_epochs=5.))
  config.checkpoint = dict(every_epochs=epochs / 20, keep_latest=2)
  evaluation = dict(dataset=str(root), batch_size=256, resolution=side, crop='antialiased', resize=side)
  splits = {name: name for name in scored} or {'dev': 'train[90%:]'}
  config.evals = {name: dict(evaluation, split=split) for name, split in splits.items()}
  return config


def _parse(which) -> tuple[str, str, int | None, bool]:
  """PATH, VARIANT, RESOLUTION, and whether the last option is `dev`."""
  parts = which.split(',')
  if dev := len(parts) > 1 and parts[-1] == 'dev':
    parts.pop()
  with_comma = [','.join(parts[:k]) for k in range(2, len(parts) + 1)]
  if path := next((path for path in with_comma if pathlib.Path(path).expanduser().is_dir()), None):
    raise ValueError(f"image_folder.py:{which}: the folder {path} has a comma in its name, and here a comma ends PATH; "
                     f"rename the folder, or link to it: ln -s '{path}' photos")
  path, variant, side = (*parts[:3], *('nano', '')[len(parts) - 1:])
  form = f'image_folder.py:{which} is not PATH[,VARIANT[,RESOLUTION]][,dev]'
  if len(parts) > 3 or variant not in VARIANTS:
    raise ValueError(f'{form}: PATH has no comma, VARIANT is one of {", ".join(VARIANTS)}')
  if side and not (side.isdecimal() and int(side) and int(side) % 8 == 0):
    raise ValueError(f'{form}: RESOLUTION is a multiple of 8, in pixels')
  return path, variant, int(side) if side else None, dev


def _read(root, path):
  """The training images, sorted, and the names of the folders to score."""
  layout = f'lay the images out as {path}/train/CLASS/*.jpg, or as {path}/CLASS/*.jpg'
  if not root.is_dir():
    raise ValueError(f'image_folder.py:{path}: {path} is no folder on this machine; {layout}')
  flat = not (root / 'train').is_dir()
  files = [file for file in root.glob('*/*' if flat else 'train/*/*')
           if file.suffix.lower() in SUFFIXES and not file.name.startswith('.')]
  # A work directory has pictures, too.
  classes = {folder for folder in {file.parent for file in files} if not (folder / 'checkpoints').is_dir()}
  if len(classes) < 2:
    names = ', '.join(folder.name for folder in classes) or f'no file in its folders ends in {", ".join(SUFFIXES)}'
    raise ValueError(f'{path}{"" if flat else "/train"} has {len(classes)} folders of images ({names}), and training takes '
                     f'at least 2, one a class; {layout}')
  scored = () if flat else tuple(name for name in SCORED if any((root / name).glob('*/*')))
  return sorted(file for file in files if file.parent in classes), scored


def _resolution(files):
  sides = sorted(filter(None, (_short_side(path) for path in files[::-(-len(files) // 64)])))
  median = sides[len(sides) // 2] if sides else 224
  return max((side for side in (32, 64, 224) if side <= median), default=32)


def _short_side(path):
  """In pixels, of a JPEG or PNG file; None of others and of what is cut off."""
  with path.open('rb') as file:
    data = file.read(2**16)
  try:
    if data.startswith(b'\x89PNG'):
      return min(struct.unpack_from('>II', data, 16))
    place = 2
    while data.startswith(b'\xff\xd8'):
      marker, length = struct.unpack_from('>HH', data, place)
      if 0xffc0 <= marker <= 0xffcf and marker not in (0xffc4, 0xffc8, 0xffcc):
        return min(struct.unpack_from('>HH', data, place + 5))
      place += 2 + length
  except struct.error:
    pass
  return None
