"""A Mixer from scratch on an image folder of yours: image_folder.py:PATH[,VARIANT[,RESOLUTION]].

PATH: root/train/CLASS/*.jpg, scored on root/test, root/val or root/validation, or without these on 10 % of the training
images, chosen by content. It has no comma. VARIANT: nano (by default), S, or B; RESOLUTION: a multiple of 8, in pixels,
by default 32, 64 or 224, the largest that half of a sample of JPEG and PNG files reach (32 if none do).

  images below   epochs   mixup   weight decay   batch
  2,000          200      0.5     0.3            64
  20,000         100      0.3     0.1            256
  any            50       0.1     0.1            512

The rows are starting points, not tuned. Batches hold at most half of the images.
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


def get_config(which: str | None = None):
  """The config; without `which`, that of 1,000 images of 32 pixels in a folder yet to be named."""
  path, *options = (which or 'PATH').split(',')
  variant, side = (*options, *('nano', '')[len(options):])[:2]
  form = f'image_folder.py:{which} is not PATH[,VARIANT[,RESOLUTION]]'
  if len(options) > 2 or variant not in VARIANTS:
    raise ValueError(f'{form}: PATH has no comma, VARIANT is one of {", ".join(VARIANTS)}')
  if side and not (side.isdecimal() and int(side) and int(side) % 8 == 0):
    raise ValueError(f'{form}: RESOLUTION is a multiple of 8, in pixels')
  root = pathlib.Path(path).expanduser()
  files, held_out = _read(root) if which else (range(1_000), None)
  side = int(side) if side else _resolution(files) if which else 32
  _, epochs, mixup, decay, batch = next(row for row in RECIPES if len(files) < row[0])

  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_epochs = epochs
  config.log_every_epochs = 1.
  config.eval_every_epochs = 5.
  config.model = dict(name='mlp_mixer', num_classes=placeholder(int), **VARIANTS[variant],
                      patch_size=4 if side < 64 else 8 if side < 128 or side % 16 else 16)
  config.data = dict(dataset=str(root), split='train' if held_out else 'train[:90%]', resolution=side,
                     batch_size=min(batch, max(1, len(files) // 2)), min_area=0.25, antialias=True)
  config.step = dict(loss='softmax_xent', mixup=mixup)
  config.optimizer = dict(name='adamw', learning_rate=1e-3, weight_decay=decay, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_epochs=5.))
  config.checkpoint = dict(every_epochs=5., keep_latest=2)
  config.evals = dict(test=dict(dataset=str(root), split=held_out or 'train[90%:]', batch_size=256, resolution=side,
                                crop='antialiased', resize=side))
  return config


def _read(root):
  """The training images, sorted, and the name of the folder to score, if any."""
  if not (root / 'train').is_dir():
    raise ValueError(f'{root}/train is no folder; lay the images out as {root}/train/CLASS/*.jpg')
  files = sorted(path for path in root.glob('train/*/*') if path.suffix.lower() in SUFFIXES and path.name[0] != '.')
  classes = {path.parent.name for path in files}
  if len(classes) < 2:
    raise ValueError(f'{root}/train has images of {len(classes)} classes, and training takes at least 2; lay them out as '
                     f'{root}/train/CLASS/*.jpg')
  return files, next((name for name in ('test', 'val', 'validation') if (root / name).is_dir()), None)


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
