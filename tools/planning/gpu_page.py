"""The page of the plans of all configs on GPUs, and what has been compiled for it."""

from mixer.run import accelerators
from tools.planning import arithmetic
from tools.planning import page as pages

# Where nobody has published the number of images or of classes, and the data are not here. The first sets the number of
# steps alone, which the compiled step does not depend on.
ASSUMED_IMAGES, ASSUMED_CLASSES = 10_000, 1_000
STUDIES = ('appendix_a', 'data_scale', 'permutations')  # variants of one model and recipe: the default one stands for all


def plan_all(topology: str) -> list[arithmetic.Plan]:
  """Plans of every config of `train.py --list` that trains, of its PLANNED arguments where it has such, on some GPUs."""
  slice_ = accelerators.slice_of(topology)
  return [_plan(name, config, slice_) for module in pages.modules() if hasattr(module, 'get_config')
          for name, config in _configs_of(module).items() if 'model' in config]


def _configs_of(module) -> dict:
  stem = module.__name__.removeprefix('configs.')
  return {f'configs/{stem}.py': module.get_config()} if stem in STUDIES else pages.configs_of(module)


def _plan(name, config, slice_):
  try:
    plan = arithmetic.Plan.of(name, config, slice_)
  except ValueError:  # the number of images is unknown, or something else, which is then raised again
    plan = arithmetic.Plan.of(name, config, slice_, ASSUMED_IMAGES)
  if plan.model.num_classes is None:
    config.model.num_classes = ASSUMED_CLASSES
    plan = arithmetic.Plan.of(name, config, slice_, ASSUMED_IMAGES)
  return plan


def page(plans: list[arithmetic.Plan], kept: pages.Kept, topologies: str, path: str) -> str:
  """The page of all plans, in Markdown."""
  rows, compiled, gib = [], [kept.get(plan) for plan in plans], lambda size: size / arithmetic.GIB
  for plan, row in zip(plans, compiled):
    rows.append([
        pages.name_of(plan), plan.slice, plan.images_per_device, f'{plan.params:,}',
        f'{gib(plan.state_bytes):.2f}', f'{gib(plan.bytes):.1f}',
        *(['not yet compiled', *[''] * 5] if row is None else [
            f'{gib(row["peak_bytes"]):.1f}', _fits(plan, row), f'{gib(row["peak_bytes"]) / plan.slice.device.usable:.0%}',
            f'{row["all_reduce_bytes"] / 2**20:,.0f}', f'{row["kernels"]:,}', f'{row["compile_seconds"]:.0f}'])])
  pending = compiled.count(None)
  incomplete = f' {pending} of the {len(plans)} are not yet compiled, and have the estimate alone.' if pending else ''
  versions = ', '.join(sorted({row['jax'] for row in compiled if row}))
  titles = dict.fromkeys(f'8 x {plan.slice.device.title}' for plan in plans)
  table = pages.table(['config', 'GPUs', 'images a GPU', 'parameters', 'state, GiB a GPU', 'estimated, GiB a GPU',
                       'compiled, GiB a GPU', 'fits', 'of what a program may have', 'MiB all-reduced a step', 'kernels',
                       'seconds to compile'], rows)
  return f'''# All configs on GPUs, as planned

After this page you know which configs fit the memory of {' and '.join(titles)}, and with
which setting.

Made by `python -m tools.plan --all --topology={topologies} --compile --out={path}`{versions and f', with JAX {versions}'},
without a GPU. For one config, and other GPUs: `python -m tools.plan --config=configs/mixer_b16_i21k.py --topology=h100:4x8
--compile`. Nothing here was measured on a GPU.{incomplete}

**The setting.** JAX allocates {accelerators.DEFAULT_MEM_FRACTION:.0%} of a GPU's memory at its start, and JAX 0.10.2 no more later. What
"fits with the setting" needs `XLA_CLIENT_MEM_FRACTION={accelerators.MEM_FRACTION:g}` in train.py's environment; the rest
is left to CUDA, cuDNN and NCCL. What does not fit takes fewer images at once, `--config.step.accumulate=2` or more,
recomputes blocks, `--config.model.remat=block`, or takes more GPUs.

{table}

The batches are the configs' own, of which each GPU gets its part. **Estimated** is by arithmetic: the state (parameters
and the optimizer's moments), gradients and activations. **Compiled** is what XLA allots to the training step of train.py,
whole, for that card: arguments, results that do not take their place, and temporary memory. Kernels are the fusions and
library calls of a step; those of a loop's body count once. Without a card XLA cannot try out implementations of a
product, so that kernels and temporary memory may differ on one. Datasets whose sizes nobody has published and that are
not here count as of {ASSUMED_CLASSES:,} classes. The seconds to compile are those of the machine at hand, with whatever else it did.
'''


def _fits(plan, row) -> str:
  if not row['fits']:
    return 'NO'
  return 'with the setting' if plan.needs_setting(row['peak_bytes']) else 'yes'
