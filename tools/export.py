"""Exports a model as one file that runs without this repository: images in, probabilities out.

  python -m tools.export --weights=imagenet21k/Mixer-B_16 --out=model.stablehlo
  python -m tools.export --weights=runs/digits --out=model.stablehlo --preprocessing=paper_crop
  python -m tools.export --weights=runs/digits --out=model.onnx

NAME.stablehlo holds the parameters, the preprocessing and the model as StableHLO (jax.export), for CPU, CUDA and TPU.
It takes a batch of images of one size, any size, [b, h, w, 3] uint8, and returns [b, K] probabilities; each new size
is compiled again. NAME.onnx (pip install -e '.[onnx]') holds no preprocessing: it takes [b, R, R, 3]
uint8; before it is written, ONNX Runtime runs it, and its probabilities must be the model's in float32. Class names, if known,
are written to NAME.classes.json: 'tench (n01440764)' for ImageNet's.
"""

import contextlib
import inspect
import json
import pathlib
import sys

from etils import epy
import numpy as np

from mixer.data import class_names as class_names_lib
from mixer.data import image_headers
from mixer import storage
from mixer import user_errors
from tools import weights_flags

with epy.lazy_imports():  # which --help and a wrong flag need not wait for
  import jax
  from jax import export

  from mixer.data import crops
  from mixer.data import image_files
  from mixer.data import normalize
  from mixer import models
  from mixer.training import losses
  from mixer import trees

PLATFORMS = ('cpu', 'cuda', 'tpu')

SCRIPT = """\
import json
import struct
import sys
from jax import export
import numpy as np
import PIL.Image

{functions}
with open({model!r}, 'rb') as file:
  model = export.deserialize(bytearray(file.read()))
image = PIL.Image.open(sys.argv[1])
image.load()
image = np.asarray(rgb(image, orientation(image.info.get('exif', b''))))
probabilities = np.asarray(model.call(image[None]))[0]
names = {names}
for k in probabilities.argsort()[::-1][:5]:
  print(f'{{probabilities[k]:.6f}} {{names[k]}}')
"""


def program(weights, preprocessing: str, resize: int) -> 'export.Exported':
  """Images of one size to probabilities, with the parameters inside. [b, h, w, 3] uint8 -> [b, K] float32."""
  crop = lambda images: crops.CROPS[preprocessing](images, resize, weights.resolution)
  images = jax.ShapeDtypeStruct(export.symbolic_shape('b, h, w, 3'), np.uint8)
  return export.export(jax.jit(_probabilities(weights, crop)), platforms=PLATFORMS)(images)


def onnx_program(weights) -> bytes:
  """The same as an ONNX file, of images as the model takes them, in float32. [b, R, R, 3] uint8 -> [b, K] float32.

  Raises:
    ModuleNotFoundError: without the extra onnx.
    ValueError: if jax2onnx cannot convert the model, or if ONNX Runtime computes other probabilities with the result.
  """
  import jax2onnx  # the extra onnx
  import onnxruntime
  # Not all of bfloat16's operations can be run by ONNX Runtime; the parameters are float32.
  probabilities = _probabilities(weights, lambda images: images, dtype='float32')
  shape = export.symbolic_shape(f'b, {weights.resolution}, {weights.resolution}, 3')
  images = np.random.default_rng(0).integers(0, 256, (2, weights.resolution, weights.resolution, 3), np.uint8)
  try:
    with contextlib.redirect_stdout(sys.stderr):  # it prints as it goes
      converted = jax2onnx.to_onnx(probabilities, [jax.ShapeDtypeStruct(shape, np.uint8)])
    file = converted.SerializeToString()
    session = onnxruntime.InferenceSession(file)
    got, = session.run(None, {session.get_inputs()[0].name: images})
    reason = None if np.allclose(got, probabilities(images), rtol=0.01, atol=1e-12) else 'it gives other probabilities'
  except (ModuleNotFoundError, MemoryError):
    raise
  except Exception as error:  # those of the two libraries have no class in common
    reason = storage.first_line(error)
  if reason:
    raise ValueError(f'jax2onnx makes no correct file of {models.describe(weights.model)}; export .stablehlo instead: {reason}')
  return file


def _probabilities(weights, crop, **fields):
  model = models.build(**{**weights.model, 'platform': 'any', **fields})
  return lambda images: losses.PROBABILITIES[weights.loss](
      model.apply(trees.variables(weights.params), normalize.normalize_images(crop(images))))


def script(model: pathlib.Path, class_names: pathlib.Path | None) -> str:
  """A Python program that prints an image's five best classes, with a model exported as StableHLO."""
  names = f'json.load(open({str(class_names.resolve())!r}))' if class_names else 'range(len(probabilities))'
  functions = '\n'.join(map(inspect.getsource, (image_headers.orientation, image_files.rgb)))  # as tools.predict reads it
  return SCRIPT.format(functions=functions, model=str(model.resolve()), names=names)


@user_errors.in_one_line
def main(arguments: list[str] | None = None):
  parser = user_errors.ArgumentParser(__doc__)
  weights_flags.add(parser)
  parser.add_argument('--out', required=True, type=pathlib.Path, help='the file: NAME.stablehlo or NAME.onnx')
  weights_flags.add_crop(parser)
  flags = parser.parse_args(arguments)
  flags.out = flags.out.expanduser()
  if flags.out.suffix not in ('.stablehlo', '.onnx'):
    parser.error(f'--out is {flags.out}; it must end in .stablehlo or .onnx')
  if not flags.out.parent.is_dir():
    parser.error(f'--out is {flags.out}; the directory {flags.out.parent} does not exist: make it first')
  if flags.out.suffix == '.onnx' and (flags.preprocessing or flags.resize):
    parser.error(f'{flags.out} holds no preprocessing; remove --preprocessing and --resize, or export .stablehlo')
  if flags.out.is_dir():
    parser.error(f'--out is {flags.out}, which is a directory; pass a file')
  weights = weights_flags.load(flags).with_crop(flags.preprocessing, flags.resize)
  weights.check_head(flags.weights)
  weights.check_images(flags.weights)

  if flags.out.suffix == '.onnx':
    try:
      exported = onnx_program(weights)
    except ModuleNotFoundError as error:
      sys.exit(f"{error.name} is not installed, which .onnx needs: pip install -e '.[onnx]' -c requirements.lock")
    takes = f'[b, {weights.resolution}, {weights.resolution}, 3] uint8, cropped beforehand'
  else:
    exported = program(weights, weights.crop, weights.resize).serialize()
    takes = f'[b, h, w, 3] uint8, then {weights.crop} from {weights.resize}'
  storage.write(storage.path_of(flags.out), exported)
  names = None
  if weights.class_names:
    names = flags.out.with_suffix('.classes.json')
    names.write_text(json.dumps(class_names_lib.labels(weights.class_names)))
  print(f'# {weights.describe()}\n# {flags.out}: {len(exported) / 2**20:,.1f} MiB; it takes {takes}')
  if flags.out.suffix == '.stablehlo':
    print(script(flags.out, names), end='')


if __name__ == '__main__':
  main()
