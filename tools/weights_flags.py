"""The flags of weights, for the commands that take them."""

import argparse

from absl import flags as absl_flags
from etils import epy

from mixer.data import crop_sizes

with epy.lazy_imports():  # JAX with it, which --help and a wrong flag need not wait for
  from mixer import weights


class NotNumbers(argparse.ArgumentTypeError, ValueError):
  """Argparse shows the text of the first base, absl that of the second."""


class Numbers(absl_flags.ArgumentParser):
  """Of a flag of numbers: 'R,G,B' or one for all channels. `weights.load` checks how many they are, and their range."""

  def parse(self, argument: str) -> list[float]:
    try:
      return [float(number) for number in argument.split(',')]
    except ValueError:
      raise NotNumbers(f'{argument!r} must be one number, or three with commas between them') from None


PIXELS = {  # the flags' help
    'mean': 'of the pixels in [0, 1] that a file of timm takes, one number or three with commas, if it has no '
            'config.json',
    'std': 'the same of their deviation'}
AVERAGE = "the average of a run's weights, which it has by config.step.ema"


def add(parser: argparse.ArgumentParser, name: str = '--weights'):
  """Adds the weights, a flag or the name of a positional argument, --mean, --std and --average to a command line."""
  parser.add_argument(name, **({'required': True} if name.startswith('-') else {}),
                      help='a published name, .npz, .safetensors, hf-hub:OWNER/NAME, folder of Hugging Face, or work '
                      'directory')
  for field, text in PIXELS.items():
    parser.add_argument(f'--{field}', type=Numbers().parse, metavar='R,G,B', help=text)
  parser.add_argument('--average', action='store_true', help=AVERAGE)


def positive(text: str) -> int:
  """The type of a flag for an integer of at least 1."""
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f'{text!r} must be an integer of at least 1')
  return int(text)


CROPS = ("paper_resize and paper_crop are (i) and (ii) of the paper's App. C, antialiased is for models of small images, "
         'timm is that of its Mixers')
SIDES = '8/7 of what the model takes, as in 256 for 224, and of antialiased what it takes'


def add_crop(parser: argparse.ArgumentParser):
  """Adds --preprocessing and --resize, for `weights.Weights.with_crop`."""
  parser.add_argument('--preprocessing', choices=crop_sizes.NAMES,
                      help=f"{CROPS}; default: that of the weights' run; of files without it paper_resize at 224, 384 "
                      'and 448 pixels, else antialiased')
  parser.add_argument('--resize', type=positive, metavar='PIXELS',
                      help=f"the side before the crop; default: that of the weights' run; if unknown, {SIDES}")


def load(flags: argparse.Namespace) -> 'weights.Weights':
  """The weights of the flags. Raises what `weights.load` does."""
  return weights.load(flags.weights, average=flags.average, **{field: getattr(flags, field) for field in PIXELS})
