"""Plans a run on a slice of TPUs or on GPUs, without any and without its data: in seconds, or after compiling its step.

  python -m tools.plan --config=configs/mixer_b16_i21k.py                       # on the SLICE of the config
  python -m tools.plan --config=configs/mixer_b16_i21k.py --topology=v5e:4x4 --compile
  python -m tools.plan --config=configs/mixer_b16_i21k.py --topology=h100:8     # on GPUs; h100:4x8: four machines of eight
  python -m tools.plan --config=configs/mixer_b16_i21k.py --compile --sweep     # the largest batch a core that fits
  python -m tools.plan --all --compile --out=docs/tpu_plans.md                  # the page of all pre-training configs
  python -m tools.plan --all --topology=h100:8,a100-80:8 --compile --out=docs/gpu_plans.md  # of all configs, on GPUs

--compile has XLA compile the whole training step, as train.py builds it, for the slice, and reports XLA's analysis.
It needs the extra tpu, or cuda, and minutes of two cores. NAME.jsonl, next to the page, keeps the results: to resume,
repeat the command, which compiles again only what has changed; without --compile the page is made from these results.
"""

import pathlib

from absl import app
from absl import flags
import jax

from mixer.run import accelerators
from mixer.run import config_flags
from tools.planning import arithmetic
from tools.planning import compiler
from tools.planning import gpu_page
from tools.planning import page as pages

TOPOLOGY = flags.DEFINE_string('topology', None, 'Generation of TPUs and chips along each axis, such as v3:4x4, or '
                               'card and GPUs, such as h100:8; by default SLICE of the config.')
COMPILE = flags.DEFINE_bool('compile', False, 'Compile the training step for these devices.')
SWEEP = flags.DEFINE_bool('sweep', False, 'With --compile: find the largest power of two of images a device that fits.')
NUM_EXAMPLES = flags.DEFINE_integer('num_examples', None, 'The number of training images, if neither the data are '
                                    'available nor their number is published.', lower_bound=1)
UTILISATION = flags.DEFINE_float('utilisation', 0.4, 'The assumed share of the peak that the run reaches.',
                                 lower_bound=0.01, upper_bound=1.)
ALL = flags.DEFINE_bool('all', False, "Plan every pre-training config, those of the baselines and studies too, on its "
                        'SLICE; with a --topology of GPUs, or several after commas, every config of train.py --list on each.')
OUT = flags.DEFINE_string('out', None, 'With --all: the page to write, in Markdown.')


def main(arguments):
  jax.config.update('jax_platforms', 'cpu')  # nothing is run
  # A cache cannot load programs for absent devices, and would falsify the seconds.
  jax.config.update('jax_enable_compilation_cache', False)
  if ALL.value:
    _plan_all()
  else:
    _plan_one(config_flags.config(arguments))


def _plan_all():
  for flag, name in ((SWEEP, 'sweep'), (NUM_EXAMPLES, 'num_examples'), (config_flags.CONFIG, 'config')):
    if flag.value:
      raise app.UsageError(f'--all plans every config with its own images; remove --{name}')
  topologies = TOPOLOGY.value.split(',') if TOPOLOGY.value else []
  for topology in topologies:
    if accelerators.slice_of(topology).device.platform != 'gpu':
      raise app.UsageError(f'--all plans TPUs for the SLICE of each config; remove {topology} from --topology, or name GPUs')
  if OUT.value is None:
    raise app.UsageError('--all writes a page: --out=docs/tpu_plans.md')
  path = pathlib.Path(OUT.value)
  if path.suffix != '.md' or not path.parent.is_dir():
    raise ValueError(f'--out is {path}; it must be a page, .md, in an existing folder')
  kept = pages.Kept(path.with_suffix('.jsonl'))
  if topologies:
    plans = [plan for topology in topologies for plan in gpu_page.plan_all(topology)]
    write = lambda: path.write_text(gpu_page.page(plans, kept, TOPOLOGY.value, OUT.value))
  else:
    plans = pages.plan_all()
    write = lambda: path.write_text(pages.page(plans, kept, UTILISATION.value, OUT.value))
  write()
  if COMPILE.value:
    pages.compile_all(plans, kept, write)
  compiler.tell(f'{len(plans)} configs: {path}')


def _plan_one(config):
  if OUT.value:
    raise app.UsageError('--out is for --all; one plan goes to stdout')
  if SWEEP.value and not COMPILE.value:
    raise app.UsageError('--sweep compiles for each batch: pass --compile, too')
  name = config_flags.CONFIG.value
  topology = TOPOLOGY.value
  if topology is None:
    topology = None if name.endswith('.json') else getattr(config_flags.import_config(name), 'SLICE', None)
    if topology is None:
      raise ValueError(f'{name} has no SLICE, the topology to plan for; pass --topology, such as --topology=v3:4x4')
  plan = arithmetic.Plan.of(name, config, accelerators.slice_of(topology), NUM_EXAMPLES.value)
  print(plan.describe(UTILISATION.value), flush=True)
  if SWEEP.value:
    number = compiler.largest(plan)
    noun = plan.slice.device.noun
    print('no batch fits' if number is None else f'the largest that fits: {number:,} images a {noun}, '
          f'{number * plan.slice.devices:,} in all')
  elif COMPILE.value:
    compiler.tell(f'compiling for {plan.slice}, which takes minutes')
    print(compiler.describe_compiled(plan, compiler.compile_plan(plan, plan.images_per_device), plan.images_per_device))


if __name__ == '__main__':
  config_flags.run(main)
