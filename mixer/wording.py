"""Numbers with their nouns, for people."""


def counted(number: int, noun: str) -> str:
  """'1 image', '1,234 images'."""
  return f'{number:,} {noun}' + 's' * (number != 1)
