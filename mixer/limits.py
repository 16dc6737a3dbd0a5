"""Which numbers the fields of a config's `data`, `evals` and `probes` may have."""

from mixer import arguments

INT64 = 2**63
MAX_SIDE = 8192  # pixels; an image of MAX_SIDE x MAX_SIDE has nearly as many as preprocess.MAX_PIXELS
MAX_THREADS = 1024  # each of them holds an image

# field: (the least, the most, both of which it may be)
LIMITS = {'seed': (-INT64, INT64 - 1), 'resolution': (1, MAX_SIDE), 'resize': (1, MAX_SIDE), 'pad': (0, MAX_SIDE),
          'randaugment_magnitude': (0, 100), 'randaugment_layers': (0, 100), 'randaugment_translate': (0, MAX_SIDE),
          'randaugment_cutout': (0, MAX_SIDE), 'cutout': (1, MAX_SIDE), 'random_erasing': (0, 1), 'max_labels': (1, 100_000),
          'permutation_patch': (1, MAX_SIDE), 'permutation_seed': (0, INT64 - 1), 'threads': (1, MAX_THREADS)}


def check(**fields):
  """Raises an ArgumentError that names the field unless each number is within its limits; None always is.

  The side before a crop, `resize`, must also be at least that of the crop, `resolution`, and `pad` be below it.
  """
  for name, value in fields.items():
    least, most = LIMITS[name]
    arguments.check({name: value}, at_least=least, at_most=most)
  if (resize := fields.get('resize')) is not None and resize < fields['resolution']:
    raise arguments.ArgumentError(f'resize is {resize}, smaller than the crop: resolution is {fields["resolution"]}')
  if resize is not None and (pad := fields.get('pad') or 0) >= fields['resolution']:
    raise arguments.ArgumentError(f'pad is {pad}, and crops of {fields["resolution"]} pixels, the resolution, could lie in '
                                  'the padding alone; pad fewer')


def check_crop(*, resize: int | None, min_area: float | None):
  """Raises an ArgumentError unless the fields of a training crop go together: `input_pipeline.train_batches`."""
  if resize is not None and min_area is not None:
    raise arguments.ArgumentError(f'resize is {resize}, and min_area is {min_area}, which Inception crops alone have; '
                                  'set one of them to None')
  arguments.check(dict(min_area=min_area), above=0, at_most=1)


def check_augmentation(*, autoaugment: str | None, randaugment_magnitude: float | None):
  """Raises an ArgumentError if both are set."""
  if autoaugment is not None and randaugment_magnitude is not None:
    raise arguments.ArgumentError(f'autoaugment is {autoaugment!r}, and randaugment_magnitude is {randaugment_magnitude}; '
                                  'set one of them to None')
