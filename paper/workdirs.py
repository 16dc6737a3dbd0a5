"""Work directories of train.py as records: config.json, records.jsonl and, of newer runs, history.jsonl."""

import time

from mixer import safe_io
from mixer import storage
from paper import records


def of_workdir(folder, warnings: list[str]) -> records.Run:
  """The run in a work directory.

  Raises:
    records.Unreadable: if it has no evaluation yet, or its config cannot be read.
  """
  folder = storage.path_of(folder)
  try:
    config = safe_io.read_json_object(folder / 'config.json')
  except ValueError as error:
    raise records.Unreadable(str(error)) from error
  records.check_config(config, str(folder / 'config.json'), whole=True)
  path = folder / 'records.jsonl'
  lines = [value for _, value in records.lines(path, warnings) if type(value.get('step')) is int]
  curve = [(line['step'], scores) for line in lines if (scores := _evaluations(line))]
  if not curve:
    raise records.Unreadable(f'{folder}: no evaluation yet')
  metrics = {name: value for name, value in curve[-1][1].items() if not name.endswith('/examples')}
  examples = {name.removesuffix('/examples'): value for name, value in curve[-1][1].items()
              if name.endswith('/examples')}
  curve = [(step, {name: value for name, value in scores.items() if not name.endswith('/examples')})
           for step, scores in curve]
  when = time.strftime('%Y-%m-%dT%H:%M:%S+00:00', time.gmtime(path.stat().mtime))
  return records.Run(name=folder.name, config=config, steps=curve[-1][0], examples=examples, metrics=metrics,
                     curve=curve, origin=records.origin_of(config), source=str(folder),
                     **{'time': when, **_history(folder, warnings)})


def _evaluations(line) -> dict:
  return {name: value for name, value in line.items() if '/' in name and not name.startswith('train/')
          and isinstance(value, int | float)}


def _history(folder, warnings) -> dict:
  """The fields of a Run that come from history.jsonl."""
  events = []
  for number, event in records.lines(folder / 'history.jsonl', warnings):
    try:
      records.check_format(event, f'{folder / "history.jsonl"}:{number}')
      events.append(event)
    except records.Unreadable as error:
      warnings.append(f'{error}; skipped')
  if not events:
    return {}
  last = events[-1]
  ends = [event for event in events if event.get('event') == 'end'
          and all(isinstance(event.get(name), int | float) for name in ('seconds', 'devices'))]
  kinds = {'commit': str, 'device': str, 'devices': int, 'versions': dict, 'time': str}
  fields = {name: last[name] for name, kind in kinds.items() if isinstance(last.get(name), kind)}
  devices = list(dict.fromkeys(str(event['device']) for event in events if 'device' in event))
  if len(devices) > 1:
    fields['device'] = ', then '.join(devices)
  if ends:
    fields['core_seconds'] = sum(event['seconds'] * event['devices'] for event in ends)
    fields['core_seconds_whole'] = len(ends) * 2 == len(events) and events[0].get('step') == 0
  return fields
