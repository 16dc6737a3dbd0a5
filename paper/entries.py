"""The records that cells link to: config, commit, seed, hardware and the number of scored examples of each."""

from collections.abc import Iterable
import dataclasses
import html
import json
import os

from mixer.run.accelerators import noun
from mixer.wording import counted
from paper import matching
from paper import reading
from paper import records


@dataclasses.dataclass(frozen=True)
class Entry:
  """A record for the page: its id, a title, (name, text) of its facts, and its config as JSON."""
  id: str
  title: str
  facts: tuple[tuple[str, str], ...]
  config: str = ''


def of(ids: Iterable[str], collection: reading.Collection, configs: dict[str, dict]) -> list[Entry]:
  """The entries of ids, each once, in their order. `configs` are those of configs/, by id."""
  known = {run.id: _run(run) for run in collection.runs} | {one.id: _throughput(one) for one in collection.throughputs}
  known |= {one.id: _count(one) for one in collection.counts}
  known |= {id: Entry(id, f'configs/{id.removeprefix("config-")}.py', (), _json(config))
            for id, config in configs.items()}
  return [known[id] for id in dict.fromkeys(ids)]


def _run(run: records.Run) -> Entry:
  title = f'{matching.label(run.config["model"])}, {run.name}'
  took = None
  if run.core_seconds is not None:
    least = '' if run.core_seconds_whole else 'at least '
    took = f'{least}{run.core_seconds / 3600:,.3g}'
  scored = ', '.join(f'{name}: {counted(number, "image")}' for name, number in run.examples.items())
  results = ', '.join(f'{name} {value:.4g}' for name, value in run.metrics.items())
  started = run.config.get('start_from', {}).get('weights')
  return Entry(run.id, title, _facts({
      'results': results, 'examples scored': scored, 'commit': run.commit, 'seed': run.seed,
      'hardware': _hardware(run.device, run.devices), f'{noun(run.device or "")}-hours': took,
      'steps': None if run.kind == 'evaluation' else f'{run.steps:,} of {run.config["total_steps"]:,}',
      'weights from': started, 'time': run.time, 'versions': _versions(run.versions), 'read from': _place(run.source)}),
      _json(run.config))


def _throughput(one: records.Throughput) -> Entry:
  return Entry(one.id, f'speed of {matching.named(one)} at {one.resolution}', _facts({
      'results': f'{one.images_per_s_per_core:,.1f} images/s/{noun(one.device or "")}, {one.dtype}, '
                 f'batch {one.batch_size}',
      'GMACs': one.gmacs and f'{one.gmacs:,.2f}', 'commit': one.commit, 'config hash': one.config_hash,
      'hardware': _hardware(one.device, one.devices), 'time': one.time, 'versions': _versions(one.versions),
      'read from': _place(one.source)}))


def _count(one: records.Count) -> Entry:
  return Entry(one.id, f'sizes of {matching.named(one)} at {one.resolution}', _facts({
      'results': f'{one.params_without_head:,} parameters without the head, {one.params_1000_classes:,} with 1,000 '
                 f'classes, {one.gmacs:,.2f} GMACs', 'commit': one.commit, 'time': one.time,
      'versions': _versions(one.versions), 'read from': _place(one.source)}), _json(one.fields))


def _facts(facts) -> tuple[tuple[str, str], ...]:
  return tuple((name, str(text)) for name, text in facts.items() if text not in (None, ''))


def _place(source: str) -> str:
  here = os.path.join(os.getcwd(), '')
  return source.removeprefix(here)


def _hardware(device, devices) -> str:
  return f'{devices} x {device}' if device else 'unknown'


def _versions(versions) -> str:
  return ', '.join(f'{name} {version}' for name, version in versions.items())


def _json(config) -> str:
  return json.dumps(config, indent=1, sort_keys=True)


def markdown(entries: list[Entry]) -> str:
  parts = ['## Records\n']
  for entry in entries:
    facts = ''.join(f'- {name}: {html.escape(text, quote=False)}\n' for name, text in entry.facts)
    config = f'\n<details><summary>config</summary>\n\n```json\n{entry.config}\n```\n</details>\n' * bool(entry.config)
    parts.append(f'<a id="r-{entry.id}"></a>\n### {html.escape(entry.title, quote=False)}\n\n{facts}{config}')
  return '\n'.join(parts)


def web(entries: list[Entry]) -> str:
  parts = []
  for entry in entries:
    facts = ''.join(f'<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>' for name, text in entry.facts)
    config = f'<details><summary>config</summary><pre>{html.escape(entry.config)}</pre></details>' * bool(entry.config)
    parts.append(f'<article id="r-{entry.id}"><h3>{html.escape(entry.title)}</h3><dl>{facts}</dl>{config}</article>\n')
  return f'<section id="records"><h2>Records</h2>\n{"".join(parts)}</section>\n'
