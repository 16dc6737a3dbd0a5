"""Writes docs/config.md, the page of all fields of a config.

  python -m tools.config_page --out=docs/config.md
"""

import pathlib

from mixer import config_fields
from mixer import user_errors

COMMAND = 'python -m tools.config_page --out=docs/config.md'


@user_errors.in_one_line
def main(arguments: list[str]):
  parser = user_errors.ArgumentParser(__doc__)
  parser.add_argument('--out', required=True, type=pathlib.Path, help='the page to write')
  flags = parser.parse_args(arguments)
  flags.out.write_text(config_fields.page(COMMAND))
  print(f'written: {flags.out}')


if __name__ == '__main__':
  main()
