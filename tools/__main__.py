"""Lists the tools: python -m tools."""

import ast
import difflib
import pathlib
import sys


def tools() -> dict[str, str]:
  """{name: first line of its docstring} of the modules that are commands, without importing them."""
  found = {}
  for path in sorted(pathlib.Path(__file__).parent.glob('*.py')):
    text = path.read_text()
    if "__name__ == '__main__'" in text and path.name != '__main__.py':
      found[path.stem] = ast.get_docstring(ast.parse(text)).split('\n')[0]
  return found


def main(arguments: list[str]) -> int:
  found = tools()
  width = max(map(len, found))
  page = ''.join(f'  {name:<{width}}  {line}\n' for name, line in found.items())
  if not arguments or arguments[0] in ('-h', '--help'):
    print(f'python -m tools.NAME --help says more of each:\n{page}', end='')
    return 0
  name = arguments[0].removeprefix('tools.')
  near = difflib.get_close_matches(name, found, n=1)
  start = f'python -m tools.{near[0]} --help' if near else 'python -m tools.NAME --help'
  print(f'{name!r} is {"started as" if name in found else "not a tool;"} {start}\n{page}', end='', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
