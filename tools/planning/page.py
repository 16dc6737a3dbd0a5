"""The page of the plans of all pre-training configs, and what has been compiled for it."""

import hashlib
import importlib
import json
import pathlib

import jax

from mixer import jsonl
from mixer.run import accelerators
from mixer import storage
from tools.planning import arithmetic
from tools.planning import compiler

ROOT = pathlib.Path(__file__).parent.parent.parent


def plan_all() -> list[arithmetic.Plan]:
  """Plans of every config that has a SLICE: of its PLANNED arguments, where it has such."""
  return [arithmetic.Plan.of(name, config, accelerators.slice_of(module.SLICE))
          for module in modules() if hasattr(module, 'SLICE') for name, config in configs_of(module).items()]


def modules() -> list:
  """The modules of configs/, in the order of their names."""
  return [importlib.import_module(f'configs.{path.stem}') for path in sorted((ROOT / 'configs').glob('*.py'))]


def configs_of(module) -> dict:
  """{'configs/vit.py:b16_i1k': its config} of a module's PLANNED arguments, or where it has none {'configs/vit.py': ...}."""
  file = f'configs/{module.__name__.removeprefix("configs.")}.py'
  if hasattr(module, 'PLANNED'):
    return {f'{file}:{argument}': module.get_config(argument) for argument in module.PLANNED}
  return {file: module.get_config()}


def name_of(plan: arithmetic.Plan) -> str:
  """As in a table: `vit:b16_i1k`."""
  return f'`{plan.name.removeprefix("configs/").replace(".py", "")}`'


class Kept:
  """What has been compiled, as JSON lines: one for each config, topology and number of images a device."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._rows = {self._key(row): row for _, row in jsonl.read(path)}

  @staticmethod
  def _key(row):
    return row['config'], row['topology'], row['images_per_core']  # of a device: the key dates from plans for TPUs alone

  def get(self, plan: arithmetic.Plan) -> dict | None:
    return self._rows.get((plan.name, plan.slice.topology, plan.images_per_device))

  def same(self, topology: str, made_of: dict) -> dict | None:
    """The row of another config for the same topology, with the same program and compiler."""
    expected = {'topology': topology, **made_of}.items()
    return next((row for row in self._rows.values() if expected <= row.items()), None)

  def put(self, row: dict):
    self._rows[self._key(row)] = row
    storage.write(storage.path_of(self.path), ''.join(json.dumps(row) + '\n' for _, row in sorted(self._rows.items())))


def compile_all(plans: list[arithmetic.Plan], kept: Kept, after_each):
  """Compiles what is not kept, or has changed since: another program, or another compiler."""
  for number, plan in enumerate(plans, 1):
    where = f'[{number}/{len(plans)}] {plan.name} for {plan.slice}'
    compiler.tell(f'{where}: lowering')
    lowered = compiler.lower(plan, plan.images_per_device)
    made_of = dict(compiler.versions(plan.slice.device), program=hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16])
    row = kept.get(plan)
    if row and made_of.items() <= row.items():
      compiler.tell(f'{where}: up to date')
      continue
    named = {'config': plan.name, 'topology': plan.slice.topology, 'images_per_core': plan.images_per_device, **made_of}
    if same := kept.same(plan.slice.topology, made_of):
      compiler.tell(f'{where}: the same program as of {same["config"]}')
      kept.put({**same, **named})
    else:
      compiler.tell(f'{where}: compiling, which takes minutes')
      kept.put({**named, **compiler.compiled(lowered, plan.slice.device, compiler.counted_once(plan))})
    after_each()


def page(plans: list[arithmetic.Plan], kept: Kept, utilisation: float, path: str) -> str:
  """The page of all plans, in Markdown."""
  quick, of_compiler, gib = [], [], lambda size: size / arithmetic.GIB
  compiled_with = ', '.join(sorted({row['jax'] for plan in plans if (row := kept.get(plan))} or {jax.__version__}))
  for plan in plans:
    name = name_of(plan)
    paper = f'{plan.paper_core_days:,} ({plan.paper_utilisation:.0%})' if plan.paper_core_days else ''
    quick.append([
        name, f'{plan.params:,}', f'{plan.flops_per_image / 1e9:.3g}', f'{plan.images.number / 1e6:.3g} M',
        f'{plan.config.total_steps:,}', f'{plan.epochs:.3g}', plan.slice, plan.images_per_device,
        f'{gib(plan.state_bytes):.2f}', f'{gib(plan.bytes):.1f}', 'yes' if plan.fits else 'NO', f'{plan.flops:.2g}',
        f'{plan.device_days(utilisation):,.0f}', paper])
    row = kept.get(plan)
    head = [name, plan.slice, plan.images_per_device]
    if row is None:
      of_compiler.append([*head, 'not yet compiled', *[''] * 7])
    elif not row['fits']:
      of_compiler.append([*head, 'DOES NOT FIT', *[''] * 5, f'{row["compile_seconds"]:.0f}', row['libtpu']])
    else:
      known = lambda value, text: 'not reported' if value is None else text(value)
      of_compiler.append([
          *head, f'{gib(row["peak_bytes"]):.2f}', f'{gib(row["peak_bytes"]) / plan.slice.device.usable:.0%}',
          known(row['step_seconds'], lambda x: f'{x:.3f}'),
          known(row['step_seconds'], lambda x: f'{plan.images_per_device / x:,.0f}'),
          known(row['accessed_bytes'], lambda x: f'{x / 1e9:.1f}'), f'{row["all_reduce_bytes"] / 2**20:,.0f}',
          f'{row["compile_seconds"]:.0f}', row['libtpu']])
  return f'''# The pre-training runs on TPU slices, as planned

After this page you know which slice each pre-training config fits, and its memory and time there by arithmetic and by
the compiler.

Made by `python -m tools.plan --all --compile --out={path}`, with JAX {compiled_with}, without a TPU. For one config:
`python -m tools.plan --config=configs/mixer_b16_i21k.py`. Nothing here was measured on a TPU.

## By arithmetic

{table(['config', 'parameters', 'GFLOPs an image, forward', 'images', 'steps', 'epochs', 'slice', 'images a core',
         'state, GiB a core', 'estimated, GiB a core', 'fits', 'FLOPs of training',
         f'core-days at {utilisation:.0%}', "paper's TPUv3 core-days"], quick)}

Training takes three times the operations of the forward pass, and with SAM six times. Evaluations are not counted. **The utilisation is an
assumption**; in brackets stands the one that the paper's core-days come to. The paper gives these to one or two digits,
and those on ImageNet and ImageNet-21k extrapolated (Table 3). The state is the parameters and the optimizer's moments;
to it the estimate adds gradients and activations. The numbers of images are published ones: tools/planning/arithmetic.py
has their sources.

## As compiled

The training step of train.py, whole, compiled for the slice by libtpu. The seconds to compile are those of the machine at
hand, with whatever else it did.

{table(['config', 'slice', 'images a core', 'peak, GiB a core', 'of what a program may have', "XLA's seconds a step",
         'images/s a core, at most', 'GB accessed a step', 'MiB all-reduced a step', 'seconds to compile', 'libtpu'],
        of_compiler)}

XLA's seconds are its own estimate. They are a lower bound on the time of a step, and the images/s an upper bound on the
speed. Where a step has a loop over blocks or parts of the batch, XLA counts its body once, and neither is reported.
'''


def table(head: list[str], rows: list[list]) -> str:
  return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in (head, ['---'] * len(head), *rows))
