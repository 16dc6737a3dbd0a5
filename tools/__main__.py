"""Lists the tools: python -m tools."""

import ast
import difflib
import pathlib
import sys

import tools


def commands() -> dict[str, str]:
  """{name: first line of its docstring} of the modules that are commands, without importing them."""
  lines = {}
  for path in sorted((path for folder in tools.__path__ for path in pathlib.Path(folder).glob('*.py')),
                     key=lambda path: path.name):
    text = path.read_text()
    if "__name__ == '__main__'" in text and path.name != '__main__.py':
      lines[path.stem] = ast.get_docstring(ast.parse(text)).split('\n')[0]
  return lines


def main(arguments: list[str]) -> int:
  lines = commands()
  width = max(map(len, lines))
  page = ''.join(f'  {name:<{width}}  {line}\n' for name, line in lines.items())
  if not arguments or arguments[0] in ('-h', '--help'):
    print(f'Usage: python -m tools.NAME --help, where NAME is one of:\n{page}', end='')
    return 0
  name = arguments[0].removeprefix('tools.')
  near = difflib.get_close_matches(name, lines, n=1)
  start = f'python -m tools.{near[0]} --help' if near else 'python -m tools.NAME --help'
  print(f'{name!r} is {"started as" if name in lines else "not a tool;"} {start}\n{page}', end='', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
