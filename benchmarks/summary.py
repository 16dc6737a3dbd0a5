"""Medians, ratios and targets of the samples of a run, as a table in Markdown."""

import dataclasses
import statistics

from benchmarks import workloads

IDENTITY = ('quantity', 'model', 'batch', 'dtype', 'contender')


@dataclasses.dataclass(frozen=True)
class Spread:
  """The median, the least and the greatest of some values, and their number."""
  median: float
  least: float
  greatest: float
  number: int

  @classmethod
  def of(cls, values):
    return cls(statistics.median(values), min(values), max(values), len(values))


@dataclasses.dataclass(frozen=True)
class Target:
  """What a ratio of two quantities of the same round should be.

  Attributes:
    over, under: (quantity, model, batch, contender).
    dtype: of both.
    at_least: whether it should be `bound` or more, rather than `bound` or less.
  """
  text: str
  over: tuple
  under: tuple
  bound: float
  at_least: bool = True
  dtype: str = 'float32'

  def met(self, reached: Spread) -> bool:
    return reached.median >= self.bound if self.at_least else reached.median <= self.bound


def _targets():
  step = lambda model, batch, contender: ('training', model, batch, contender)
  infer = lambda model, batch, contender: ('inference', model, batch, contender)
  memory = lambda model, batch, contender: ('temporary memory', model, batch, contender)
  yield Target('step of B/16, ours to the listing', step('B/16', 8, 'ours'), step('B/16', 8, 'listing'), 1.15)
  yield Target('step of B/16, ours to timm, eager', step('B/16', 8, 'ours'), step('B/16', 8, 'timm'), 1.9)
  yield Target('step of B/16, ours to the matmul limit', ('training FLOPs', 'B/16', 8, 'ours'), LIMIT, 0.8)
  yield Target('step of S/16, ours to the listing', step('S/16', 16, 'ours'), step('S/16', 16, 'listing'), 1.35)
  yield Target('step of S/16, by GSAM to the plain one', step('S/16', 16, 'ours, GSAM'), step('S/16', 16, 'ours'), 0.45)
  for model in ('B/16', 'S/16'):
    for batch, bound in ((16, 1.03), (32, 1.25)):
      yield Target(f'inference of {model}, batch {batch}, ours to the listing', infer(model, batch, 'ours'),
                   infer(model, batch, 'listing'), bound)
  for model, batch in (('B/16', 8), ('S/16', 16)):
    theirs = memory(model, batch, 'listing')
    yield Target(f'memory of a step of {model}, ours to the listing', memory(model, batch, 'ours'), theirs, 0.75, False)
    yield Target(f'memory of a step of {model}, ours with remat to the listing', memory(model, batch, 'ours, remat'), theirs, 0.45, False)
  for model, batch in (('B/16', 8), ('S/16', 16)):
    yield Target(f'step of {model}, bfloat16, ours to the matmul limit', ('training FLOPs', model, batch, 'ours'), LIMIT, 0.9,
                 dtype='bfloat16')
    yield Target(f'step of {model}, bfloat16, ours to timm, compiled', step(model, batch, 'ours'),
                 step(model, batch, 'timm, compiled'), 1.05, dtype='bfloat16')
    yield Target(f'inference of {model}, bfloat16, batch 16, ours to timm, compiled', infer(model, 16, 'ours'),
                 infer(model, 16, 'timm, compiled'), 1.05, dtype='bfloat16')
  yield Target('step of ViT-B/16, bfloat16, ours to timm, compiled', step('ViT-B/16', 8, 'ours'),
               step('ViT-B/16', 8, 'timm, compiled'), 1., dtype='bfloat16')
  for images, pipeline in (('', 1.1), (', photographs', 1.15)):
    of = lambda contender, quantity=f'input pipeline{images}': (quantity, None, 128, contender)
    yield Target(f'input pipeline to decoding alone{images}', of('ours'), of('decode'), pipeline)
    yield Target(f'the same with RandAugment{images}', of('augmented'), of('decode'), 0.95)
    of = lambda contender, quantity=f'loop on jpegs{images}': (quantity, 'S/16', 8, contender)
    yield Target(f'train.py on JPEGs to the step alone, S/16{images}', of('train'), of('step'), 0.95)
  yield Target("train.py to the step alone, the demo's model", ('loop on fake', 'demo', 128, 'train'),
               ('loop on fake', 'demo', 128, 'step'), 1 / 1.1)
  for images in ('', ', photographs'):
    of = lambda contender, quantity=f'evaluation{images}': (quantity, 'S/16', 32, contender)
    yield Target(f'evaluation of a split to the forward pass alone, S/16{images}', of('split'), of('forward'), 0.9)


LIMIT = ('matmul limit', None, None, None)
TARGETS = tuple(_targets())


def by_identity(samples: list[dict]) -> dict[tuple, list[dict]]:
  """The samples by (quantity, model, batch, dtype, contender), in the order of first appearance."""
  groups = {}
  for sample in samples:
    if 'failed' not in sample:
      groups.setdefault(tuple(sample[name] for name in IDENTITY), []).append(sample)
  return groups


def by_round(samples: list[dict], target: tuple, dtype: str = 'float32') -> dict[tuple, float]:
  """{(group, round): value} of `target`, one of the quantities of a `Target`."""
  quantity, *rest = target
  if quantity == LIMIT[0]:  # the better of the libraries
    values = {}
    for sample in (sample for sample in samples if (sample.get('quantity'), sample.get('dtype')) == ('matmul', dtype)):
      place = sample['group'], sample['round']
      values[place] = max(sample['value'], values.get(place, 0.))
    return values
  if quantity == 'training FLOPs':
    model = target[1]
    return {place: value * 3 * workloads.forward_gflops(model)
            for place, value in by_round(samples, ('training', *rest), dtype).items()}
  return {(sample['group'], sample['round']): sample['value'] for sample in samples if 'failed' not in sample
          and (sample['quantity'], sample['model'], sample['batch'], sample['contender']) == target
          and sample['dtype'] in (dtype, 'uint8')}


def ratio(samples: list[dict], over: tuple, under: tuple, dtype: str = 'float32') -> Spread | None:
  """The Spread of the ratios in the rounds that have both; None if none has."""
  over, under = by_round(samples, over, dtype), by_round(samples, under, dtype)
  ratios = [over[place] / under[place] for place in over if place in under]
  return Spread.of(ratios) if ratios else None


def limit(samples: list[dict], dtype: str = 'float32') -> float | None:
  """The median over the rounds of the matmul limit, GFLOP/s."""
  values = by_round(samples, LIMIT, dtype).values()
  return statistics.median(values) if values else None


def of_limit(identity: tuple, speed: float, matmul: float | None) -> float | None:
  """The share of the matmul limit of its type that a speed in images/s reaches, for training and inference."""
  quantity, model, _, _, contender = identity
  times = {'training': 6 if 'GSAM' in contender else 3, 'inference': 1}.get(quantity)
  if times is None or matmul is None:
    return None
  return speed * times * workloads.forward_gflops(model) / matmul


def table(samples: list[dict], about: str) -> str:
  """The page in Markdown; `about` describes what was measured, where and when."""
  failures = {}
  for sample in samples:
    if 'failed' in sample:
      failures.setdefault(sample['why'], []).append(f'`{sample["failed"]}` ({sample["group"]}, round {sample["round"]})')
  parts = [f'{about}\n', '## Targets\n', _targets_table(samples), '\n## All medians\n', _medians_table(samples)]
  if failures:
    parts += ['\n## What failed\n', *(f'- {why}\n' + '\n'.join(f'  - {who}' for who in all_of)
                                      for why, all_of in failures.items())]
  return '\n'.join(parts) + '\n'


def _targets_table(samples) -> str:
  rows = ['| ratio in one round, float32 where not said | median | over the rounds | target | |', '| --- | --- | --- | --- | --- |']
  for target in TARGETS:
    bound = f'at {"least" if target.at_least else "most"} {target.bound:.2f}'
    reached = ratio(samples, target.over, target.under, target.dtype)
    if reached is None:
      rows.append(f'| {target.text} | not measured | | {bound} | |')
    else:
      rows.append(f'| {target.text} | {reached.median:.3f} | {reached.least:.3f} to {reached.greatest:.3f} | {bound} | '
                  f'{"met" if target.met(reached) else "missed"} |')
  return '\n'.join(rows)


def _medians_table(samples) -> str:
  matmul = {dtype: limit(samples, dtype) for dtype in ('float32', 'bfloat16')}
  rows = ['| quantity | model | batch | type | contender | median | over the rounds | of the matmul limit |',
          '| --- | --- | --- | --- | --- | --- | --- | --- |']
  for identity, taken in by_identity(samples).items():
    spread, unit = Spread.of([sample['value'] for sample in taken]), taken[0]['unit']
    quantity, model, batch, dtype, contender = ('' if part is None else part for part in identity)
    part = of_limit(identity, spread.median, matmul.get(dtype))
    rows.append(f'| {quantity} | {model} | {batch} | {dtype} | {contender} | {figures(spread.median)} {unit} | '
                f'{figures(spread.least)} to {figures(spread.greatest)}, {spread.number} | '
                f'{"" if part is None else f"{part:.0%}"} |')
  return '\n'.join(rows)


def figures(value: float) -> str:
  """A number with three figures, or all before the point."""
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
