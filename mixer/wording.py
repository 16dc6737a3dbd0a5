"""Wording of messages."""

RESIZED = ', resized: '  # begins what the contents of a resized copy say of that


def counted(number: int, noun: str) -> str:
  """'1 image', '1,234 images'."""
  return f'{number:,} {noun}' + 's' * (number != 1)


def resized(contents: str) -> str:
  """What the `contents` of images say if these are a resized copy (mixer/data/resized_copy.py): ', resized: ...'; or ''."""
  return ''.join(contents.partition(RESIZED)[1:])


def duration(seconds: float) -> str:
  """'2 h 3 min', '4 min 5 s' or '6 s'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes} min' if hours else f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
