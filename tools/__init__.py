"""Commands for people: python -m tools.NAME --help."""

import pathlib

# python -m tools.experiment names a command, not the folder that it is in.
__path__.append(str(pathlib.Path(__file__).parent / 'experiments'))
