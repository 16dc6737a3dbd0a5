"""The flags that name weights, for the commands that take them."""

import argparse

from mixer import weights


def add(parser: argparse.ArgumentParser, name: str = '--weights'):
  """Adds the weights, a flag or the name of a positional argument, --mean and --std to a command line."""
  parser.add_argument(name, **({'required': True} if name.startswith('-') else {}),
                      help='a published name, .npz, .safetensors, folder of Hugging Face, or work directory')
  of_pixels = ('of the pixels in [0, 1] that a file of timm takes, one number or three with commas, where no config.json '
               'beside it says so')
  parser.add_argument('--mean', type=_numbers, metavar='R,G,B', help=of_pixels)
  parser.add_argument('--std', type=_numbers, metavar='R,G,B', help='the same of their deviation')


def _numbers(text):
  try:
    return [float(number) for number in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} must be one number, or three with commas between them') from None


def load(flags: argparse.Namespace) -> weights.Weights:
  """The weights that the flags name. Errors are those of `weights.load`."""
  pixels = {field: value for field in ('mean', 'std') if (value := getattr(flags, field)) is not None}
  return weights.load(flags.weights, **pixels)
