"""The Mixers that the paper's authors published, and their download.

They are the .npz files of gs://mixer_models, 3.25 GiB in all: float32 parameters without optimizer state, for images
of 224 x 224 pixels. Weights of JFT-300M, of the size H, at 448 pixels or fine-tuned from ImageNet-21k to ImageNet were
never published; what timm calls `goog_in21k_ft_in1k` is imagenet1k/ here.
"""

import dataclasses
import http.client
import os
import pathlib
import re
import urllib.request
import uuid

import tqdm

from mixer.weights import npz

ADDRESS = 'https://storage.googleapis.com/mixer_models'
CACHE = '~/.cache/mixer'
READ_TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True)
class Published:
  """A published file: its size, number of classes and training, and its published accuracies.

  Attributes:
    top1: in percent, of SCORED_ON in their order; None where none is published.
  """
  mib: float
  num_classes: int
  what: str
  top1: tuple[float | None, ...] = ()

  def published_top1(self, dataset: str) -> float | None:
    """In percent, on the test images of a dataset by its TFDS name, if there is one."""
    name, *variant = re.split('[/:]', dataset)
    if name == 'imagenet_v2' and 'matched-frequency' not in (variant or ['matched-frequency']):
      return None
    return dict(zip(SCORED_ON, self.top1)).get(name)


SCORED_ON = ('imagenet2012', 'imagenet2012_real', 'imagenet_v2')
_SCRATCH = 'trained from scratch on ImageNet-1k'
_I21K = 'pre-trained on ImageNet-21k'
_SAM = f'{_SCRATCH} with sharpness-aware minimization (SAM)'
_GSAM = f'{_SCRATCH} with GSAM'

# The accuracies are of the paper's Table 3, and of SAM and GSAM those of Table 1 of GSAM's paper (arXiv 2203.08065).
TABLE = {
    'imagenet1k/Mixer-B_16': Published(228.47, 1000, _SCRATCH, (76.44, 82.36)),
    'imagenet1k/Mixer-L_16': Published(794.29, 1000, _SCRATCH, (71.76, 77.08)),
    'imagenet21k/Mixer-B_16': Published(289.61, 21843, _I21K),
    'imagenet21k/Mixer-L_16': Published(875.78, 21843, _I21K),
    'sam/Mixer-B_16': Published(228.47, 1000, _SAM, (77.4, 83.5, 63.9)),
    'sam/Mixer-B_32': Published(230.04, 1000, _SAM, (72.4, 79.0, 58.0)),
    'gsam/Mixer-B_16': Published(228.47, 1000, _GSAM, (77.8, 84.0, 64.9)),
    'gsam/Mixer-B_32': Published(230.04, 1000, _GSAM, (73.6, 80.2, 59.9)),
    'gsam/Mixer-S_16': Published(70.71, 1000, _GSAM, (75.0, 81.7, 61.9)),
    'gsam/Mixer-S_32': Published(72.91, 1000, _GSAM, (68.6, 75.8, 55.0)),
    'gsam/Mixer-S_8': Published(78.79, 1000, _GSAM, (76.8, 83.4, 64.0)),
}


def name_of(path) -> str | None:
  """The published name of a file at such a path: /data/imagenet21k/Mixer-B_16.npz; None for others."""
  name = '/'.join(pathlib.PurePosixPath(str(path)).with_suffix('').parts[-2:])
  return name if name in TABLE else None


def fetch(name: str) -> pathlib.Path:
  """The file of a published name, downloaded on first use. It appears in the cache only when whole and readable.

  Raises:
    OSError: naming the address, if it cannot be downloaded.
    ValueError: if the download is not of the published size, or no .npz file of finite numbers.
  """
  address = f'{ADDRESS}/{name}.npz'
  try:
    path = pathlib.Path(CACHE).expanduser() / f'{name}.npz'
  except RuntimeError as error:
    raise OSError(f'{address} cannot be cached in {CACHE}: this user has no home directory. Set HOME to a writable '
                  f'directory, or download the file by other means, and pass its path instead of {name!r}') from error
  if path.exists():
    return path
  partial = path.with_name(f'{path.name}.{uuid.uuid4().hex}.partial')  # other processes may download it, too
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    _download(address, partial)
    mib = partial.stat().st_size / 2**20
    if abs(mib - TABLE[name].mib) > 0.01:
      raise ValueError(f'{address} is {mib:.2f} MiB, expected {TABLE[name].mib:.2f} MiB')
    try:
      npz.read(partial)
    except ValueError as error:
      raise ValueError(f'{address} is not the published file: {error}') from error
    os.replace(partial, path)
  except (OSError, http.client.HTTPException) as error:
    raise OSError(f'{address} cannot be downloaded: {error!r}. Download it by other means, and save it as {path}') from error
  finally:
    partial.unlink(missing_ok=True)
  return path


def _download(address, path):
  with urllib.request.urlopen(address, timeout=READ_TIMEOUT_S) as response, path.open('wb') as file:
    length = int(response.headers['Content-Length'] or 0) or None
    with tqdm.tqdm(total=length, unit='B', unit_scale=True, desc=address) as bar:
      while part := response.read(2**20):
        file.write(part)
        bar.update(len(part))
  if length and path.stat().st_size != length:
    raise OSError(f'the connection ended after {path.stat().st_size:,} of {length:,} bytes')
