"""The flags --config, --config.FIELD=VALUE, --compilation_cache and --debug, as train.py and the tools take them."""

import collections
import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import sys
import types

from absl import app
from absl import flags
from absl import logging
from etils import epath
from etils import epy
import ml_collections

from mixer import configuration
from mixer import safe_io
from mixer import user_errors

with epy.lazy_imports():  # JAX with it
  from mixer.run import distributed

HELP = ('--help', '-help', '-h', '-?', '--helpshort', '--helpfull')
FIELD = re.compile(r'--?(?P<no>no)?config\.(?P<field>[^=]+)(?:=(?P<value>.*))?', re.DOTALL)


def define(values: flags.FlagValues = flags.FLAGS) -> tuple[flags.FlagHolder, flags.FlagHolder]:
  """Defines the flags of a config: --config, and for --config.FIELD=VALUE --config_field."""
  return (flags.DEFINE_string('config', None, "The experiment: a file of configs/, or a run's config.json. "
                              '--config.FIELD=VALUE sets a field of it, and --config=FILE --help lists them.', values),
          flags.DEFINE_multi_string('config_field', [], '--config_field=FIELD=VALUE is --config.FIELD=VALUE.', values))


CONFIG, FIELDS = define()
CACHE = flags.DEFINE_bool('compilation_cache', True, 'Keep compiled programs for the next start: in ~/.cache/mixer/xla or '
                          'JAX_COMPILATION_CACHE_DIR; of a run in a bucket, or of several processes, in its work directory.')
flags.DEFINE_bool('debug', False, "Show the traceback of an error of the user's, too.")


def run(main, describe=None, prepare=lambda arguments: arguments, config: bool = True):
  """Runs a program as absl's app.run does. An error of the user's exits with one line and the code 1.

  Args:
    main: takes the remaining arguments.
    describe: (path of a config, config) -> text for --help.
    prepare: command line -> the command line to parse.
    config: whether the program takes a config.
  """
  def guarded(function, exit_with_error):
    def call(arguments):
      try:
        return function(arguments)
      except Exception as error:
        if (line := user_errors.line_of(error)) is None:
          raise
        exit_with_error(line)
    return call

  def parse_or_help(arguments):
    left = parse([argument for argument in prepare(arguments) if argument not in HELP])
    if len(asked := set(HELP).intersection(arguments)):
      print(_help(describe, config, '--helpfull' in asked))
      sys.exit()
    return left

  app.run(guarded(main, lambda line: distributed.exit_with_error(line)), flags_parser=guarded(parse_or_help, sys.exit))


def parse(arguments: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Parses a command line. Returns the remaining arguments: its first word, and those that are not flags."""
  arguments = values.read_flags_from_files(arguments, force_gnu=False)
  end = arguments.index('--') if '--' in arguments else len(arguments)
  words, after, parsed = collections.deque(arguments[:end]), arguments[end:], []
  while words:
    word = words.popleft()
    if match := FIELD.fullmatch(word):
      value = match['value']
      if value is None and match['no']:
        value = 'False'
      elif value is None:  # --config.FIELD VALUE, or --config.FIELD, which is True
        value = words.popleft() if words and not words[0].startswith('--') else 'True'
      word = f'--config_field={match["field"]}={value}'
    parsed.append(word)
  return values(parsed + after)


def _help(describe, takes_config, full) -> str:
  if takes_config and CONFIG.value and describe:
    return describe(CONFIG.value, chosen())
  lines = [sys.modules['__main__'].__doc__ or '', 'flags:\n']
  for name in ('config', 'compilation_cache', 'debug') if takes_config else ('debug',):
    lines.append(flags.text_wrap(f'--{name}: {flags.FLAGS[name].help}', indent='    ', firstline_indent='  '))
  return '\n'.join([*lines, flags.FLAGS.get_help() if full else flags.FLAGS.main_module_help()])


def config(arguments: list[str]) -> ml_collections.ConfigDict:
  """The config of --config with the fields that the flags set. Of the log, warnings and errors are shown.

  Raises:
    app.UsageError: if --config is missing, or `arguments`, which remain of the command line, are more than its name.
    OSError, ValueError: as of `load` and `configuration.set_fields`, or for an unknown field of the config.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  if arguments[1:]:
    raise app.UsageError(f'unexpected argument {" ".join(arguments[1:])}; a field of the config is set by '
                         '--config.FIELD=VALUE')
  return chosen()


def chosen() -> ml_collections.ConfigDict:
  """The config of --config with the fields that the flags set."""
  if CONFIG.value is None:
    raise app.UsageError('--config is missing: --config=configs/mixer_digits.py; python train.py --list names them all')
  loaded = load(CONFIG.value)
  configuration.set_fields(loaded, FIELDS.value)
  configuration.check_fields(loaded)
  return loaded


def load(path: str) -> ml_collections.ConfigDict:
  """The config in a file: what get_config() of FILE.py or get_config(NAME) of FILE.py:NAME returns, or a run's own.

  A run's own is its config.json: all durations are in steps, and its lists become tuples.

  Raises:
    OSError: if the file cannot be read; the text suggests the nearest of configs/ if it is missing.
    ValueError: if it does not define a config.
  """
  if path.endswith('.json'):
    saved = safe_io.read_json_object(path)
    try:
      return ml_collections.ConfigDict({name: _with_tuples(value) for name, value in saved.items()
                                        if name not in configuration.NOT_FIELDS})
    except (TypeError, ValueError) as error:  # a name with a dot, for example
      raise ValueError(f'{path} is not the config of a run: {error}') from error
  file, names = _split(path)
  module = import_config(path)
  try:
    inspect.signature(module.get_config).bind(*names)
  except TypeError:
    raise ValueError(f'--config={path}: {file} has get_config{inspect.signature(module.get_config)}, which takes '
                     + ('no name after a colon' if names else 'a name after a colon')) from None
  result = module.get_config(*names)
  if not isinstance(result, ml_collections.ConfigDict):
    raise ValueError(f'get_config of {file} returns a {type(result).__name__}; it must return an ml_collections.ConfigDict')
  return result


def import_config(path: str) -> types.ModuleType:
  """The module of FILE.py or FILE.py:NAME, with its constants. Raises what `load` raises."""
  file, _ = _split(path)
  if not pathlib.Path(file).is_file():
    raise FileNotFoundError(f'--config={path}: {_why_no_file(file)} python train.py --list names all configs')
  spec = importlib.util.spec_from_file_location('__config__', file, loader=importlib.machinery.SourceFileLoader(
      '__config__', file))
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ValueError(f'{error.filename}, line {error.lineno}: {error.msg}') from error
  if not hasattr(module, 'get_config'):
    raise ValueError(f'{file} has no function get_config')
  return module


def _split(path) -> tuple[str, list[str]]:
  """(file, arguments of get_config) of FILE.py or FILE.py:NAME."""
  file, colon, name = path.partition('.py:')
  return (f'{file}.py', [name]) if colon else (file, [])


def _why_no_file(file):
  if (epath.Path(file) / 'config.json').exists():
    return f'{file} is a folder; the config of its run is {file}/config.json.'
  stems = {pathlib.Path(path).stem: path for path, _ in configuration.describe_all('configs')}
  near = difflib.get_close_matches(pathlib.Path(file).stem, stems, n=1)
  return f'no such file {file}.' + (f' Did you mean {stems[near[0]]}?' if near else '')


def _with_tuples(value):
  if isinstance(value, dict):
    return {name: _with_tuples(part) for name, part in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def default_workdir(path: str | None = None) -> str:
  """runs/NAME_OF_CONFIG for a config's path, by default --config; for a run's config.json, its folder."""
  path = pathlib.Path(path or CONFIG.value)
  return str(path.parent) if path.suffix == '.json' else f'runs/{path.stem}'
