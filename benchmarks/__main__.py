"""Compares this repository with the paper's listing, timm on PyTorch and the machine's limits, on its CPU.

  make bench, or
  python -m benchmarks --parts=training,inference --out=runs/bench

Contenders take turns, each in its own process. The folder gets samples.jsonl (every sample), table.md and bench.png;
its samples of other parts are kept, so that parts can be measured one by one. Ratios hold on other machines, too; the
figures do not. Keep the machine otherwise idle.
"""

import argparse
import datetime
import importlib.util
import json
import pathlib
import sys
import time

import jax
import tqdm

from benchmarks import jpegs
from benchmarks import picture
from benchmarks import summary
from benchmarks import turns
from benchmarks import workloads
from mixer import jsonl
from mixer.run import provenance

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow-cpu', 'tensorflow', 'opencv-python-headless', 'torch',
            'timm')
LIMITS = (('matmul', 'jax'), ('matmul', 'numpy'), ('matmul', 'jax', '--dtype=bfloat16'),
          *([('matmul', 'torch', '--dtype=bfloat16')] if importlib.util.find_spec('torch') else []))
LATE = 300.  # seconds, of a turn: torch.compile takes its time


def _against(kind: str, model: str, batch: int, compiled: bool = True):
  """Ours, the listing, which is a Mixer in float32, and timm in all its ways, at one task."""
  size = (kind, f'--model={model}', f'--batch={batch}')
  dtypes = (), ('--dtype=bfloat16',)
  of_timm = [(*dtype, *more) for more in ((), ('--compile',)) if compiled or not more for dtype in dtypes]
  listing = [('listing', *size)] if workloads.is_mixer(model) else []
  return (*(('ours', *size, *dtype) for dtype in dtypes), *listing,
          *(('timm', *size, *way) for way in of_timm))


def _training(model, batch):
  stock = 'ours', 'training', f'--model={model}', f'--batch={batch}', '--stock_malloc'
  return turns.Group(f'training {model}', (*LIMITS, *_against('training', model, batch), stock), rounds=3)


def _inference(model, batch):
  # torch.compile starts anew for each batch: once is enough.
  return turns.Group(f'inference {model}, batch {batch}',
                     (*LIMITS, *_against('inference', model, batch, compiled=batch == 16)), rounds=3)


def _compiling(model, batch):
  size = ('compiling', f'--model={model}', f'--batch={batch}')
  return turns.Group(f'compiling {model}', (('ours', *size), ('ours', *size, '--remat'), ('listing', *size)), rounds=3)


def _sam(model, batch):
  size = ('training', f'--model={model}', f'--batch={batch}')
  return turns.Group(f'GSAM {model}', (('ours', *size), ('ours', *size, '--sam')), rounds=3)


def _side_by_side(name, module, kinds, *arguments, rounds):
  return turns.Group(name, tuple((module, kind, *arguments) for kind in kinds), rounds)


PARTS = {
    'training': (_training('B/16', 8), _training('S/16', 16)),
    'sam': (_sam('S/16', 16),),
    'inference': tuple(_inference(model, batch) for model in ('B/16', 'S/16') for batch in (16, 32)),
    'compiling': (_compiling('B/16', 8), _compiling('S/16', 16)),
    'pipeline': (_side_by_side('input pipeline', 'pipeline', ('ours', 'augmented', 'decode'), '--seconds=4', rounds=9),),
    'loop': (_side_by_side('loop on JPEGs', 'loop', ('both',), '--model=S/16', '--batch=8', '--data=jpegs', '--every=4',
                           '--logs=6', '--seconds=8', rounds=3),
             _side_by_side('loop on fake images', 'loop', ('both',), '--model=demo', '--batch=128', '--every=50',
                           '--logs=40', '--seconds=4', rounds=5)),
    'evaluation': (_side_by_side('evaluation', 'evaluation', ('split', 'forward'), '--model=S/16', '--batch=32',
                                 rounds=3),),
    'vit': (_training('ViT-B/16', 8),),
}
WITH_JPEGS = ('pipeline', 'loop', 'evaluation')


def _on_photographs(group: turns.Group, dataset: str) -> turns.Group:
  return turns.Group(f'{group.name}, photographs',
                     tuple((*contender, f'--dataset={dataset}') for contender in group.contenders), group.rounds)


def measure(groups: list[turns.Group], file, common: dict) -> list[dict]:
  """All samples of the groups, which are also written to a file of JSON lines as they come."""
  samples = []
  began = time.monotonic()
  with tqdm.tqdm(total=sum(group.turns for group in groups), unit='turn', smoothing=0, dynamic_ncols=True,
                 disable=None) as bar:
    def report(text):
      bar.set_description(text)
      bar.update()

    for group in groups:
      for sample in turns.take_turns(group, LATE, report):
        samples.append({**sample, **common})
        file.write(json.dumps(samples[-1]) + '\n')
        file.flush()
        if 'failed' in sample:
          bar.write(f'{sample["failed"]} failed: {sample["why"]}', file=sys.stderr)
      bar.write(f'{(time.monotonic() - began) / 60:4.1f} min: {group.name} is done', file=sys.stderr)
  return samples


def read_samples(path: pathlib.Path) -> list[dict]:
  """The samples of a file, if it exists. Damaged lines are skipped, such as one that a killed run has not finished."""
  damaged = []
  samples = [sample for _, sample in jsonl.read(path, damaged)]
  if damaged:
    print(f'{path}: damaged lines are skipped ({", ".join(map(str, damaged))})', file=sys.stderr)
  return samples


def main(arguments: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--parts', default=','.join(PARTS), help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/bench'), help='default: %(default)s')
  parser.add_argument('--rounds', type=int, help='of each group; by default 3 to 9')
  parser.add_argument('--photographs', metavar='FOLDER', help='a folder of JPEGs, such as ImageNet\'s, on which the parts '
                      f'{", ".join(WITH_JPEGS)} are measured, too')
  parser.add_argument('--without', default='', metavar='timm', help='contenders to skip')
  flags = parser.parse_args(arguments)
  parts = flags.parts.split(',')
  for part in parts:
    if part not in PARTS:
      parser.error(f'--parts has {part!r}; it must be one of {", ".join(PARTS)}')
  groups = [group for part in parts for group in PARTS[part]]
  if flags.photographs:
    if not set(parts) & set(WITH_JPEGS):
      parser.error(f'--photographs is {flags.photographs}, and none of the parts {flags.parts} reads images; add one of '
                   f'{", ".join(WITH_JPEGS)}')
    try:
      dataset = jpegs.prepare(flags.photographs)
    except ValueError as error:
      parser.error(f'--photographs: {error}')
    groups += [_on_photographs(group, dataset) for part in parts if part in WITH_JPEGS for group in PARTS[part]
               if '--data=jpegs' in group.contenders[0] or part != 'loop']
  without = set(filter(None, flags.without.split(',')))
  if unknown := without - {contender[0] for group in groups for contender in group.contenders}:
    parser.error(f'--without has {unknown.pop()!r}, which is not a contender in these parts')
  groups = [turns.Group(group.name, tuple(one for one in group.contenders if one[0] not in without),
                        flags.rounds or group.rounds) for group in groups]
  jax.config.update('jax_platforms', 'cpu')  # as for the contenders: FLOPs are asked of JAX
  flags.out.mkdir(parents=True, exist_ok=True)
  if set(parts) & set(WITH_JPEGS):
    jpegs.prepare()
  common = dict(versions=provenance.versions(PACKAGES), commit=provenance.commit(), machine=provenance.machine())
  path, measured = flags.out / 'samples.jsonl', {group.name for group in groups}
  kept = [sample for sample in read_samples(path) if sample['group'] not in measured]
  with path.open('w') as file:
    file.writelines(json.dumps(sample) + '\n' for sample in kept)
    samples = kept + measure(groups, file, common)
  commits = ', '.join(dict.fromkeys(sample['commit'] for sample in samples))
  about = (f'{common["machine"]}; commits {commits}; {datetime.date.today()}; '
           + ', '.join(f'{name} {version}' for name, version in common['versions'].items()))
  table = summary.table(samples, about)
  (flags.out / 'table.md').write_text(table)
  picture.draw(samples, flags.out / 'bench.png')
  print(f'{table}\n{flags.out}: table.md, samples.jsonl, bench.png')


if __name__ == '__main__':
  main()
