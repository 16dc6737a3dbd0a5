"""Wording of messages."""


def counted(number: int, noun: str) -> str:
  """'1 image', '1,234 images'."""
  return f'{number:,} {noun}' + 's' * (number != 1)
