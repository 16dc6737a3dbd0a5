"""The paper's Tables 1 to 4, the throughput ratios, and our small experiments, as Markdown: tables.md in --out.

  python -m paper.tables RUNS... --out=runs/paper

RUNS are work directories of train.py, folders of them, and files of records (.jsonl; .json of tools.evaluate); those of
paper/ours are read in any case.
"""

import csv
import importlib
import itertools
import pathlib

from mixer import storage
from paper import cells
from paper import command_line
from paper import entries
from paper import matching
from paper import reading
from paper import render
from paper.render import Cell
from paper.render import Table
from paper.render import Value
from paper import studies

PUBLISHED = pathlib.Path(__file__).parent / 'published'

NAMES = {'imagenet': 'ImageNet', 'imagenet21k': 'ImageNet-21k', 'jft300m': 'JFT-300M',
         'unlabelled_or_weakly_labelled': 'unlabelled or weakly labelled'}

# Table 2's HaloNet, whose resolution it does not print: 120 images/s belong to 85.8 %, at 512 pixels (CoAtNet, Table 14).
HALONET = matching.VARIANTS['HaloNet-H4'], 512
# Table 3's and Table 2's speeds, as ratios: (model, resolution) over (model, resolution).
RATIOS = ((('Mixer-H/14', 224), ('ViT-H/14', 224)), (('Mixer-L/16', 224), ('ViT-L/16', 224)),
          (('Mixer-B/16', 224), ('ViT-B/16', 224)), (('Mixer-L/16', 224), ('Mixer-L/16', 448)),
          (HALONET, ('Mixer-L/16', 448)))

# The configs of Table 4's rows.
CONFIGS = {('Mixer-B', 'imagenet'): ('mixer_b16_i1k',), ('Mixer-L', 'imagenet'): ('mixer_l16_i1k',),
           ('Mixer-B', 'imagenet21k'): ('mixer_b16_i21k',), ('Mixer-L', 'imagenet21k'): ('mixer_l16_i21k',),
           ('Mixer-S', 'jft300m'): ('mixer_s32_jft', 'mixer_s16_jft'),
           ('Mixer-B', 'jft300m'): ('mixer_b32_jft', 'mixer_b16_jft'),
           ('Mixer-L', 'jft300m'): ('mixer_l32_jft', 'mixer_l16_jft'), ('Mixer-H', 'jft300m'): ('mixer_h14_jft',)}
# A column of Table 4: (section, field) of a config, and the default of the function that takes the section.
TABLE_4 = {'epochs': (None, 'total_epochs', None), 'learning_rate': ('optimizer', 'learning_rate', None),
           'weight_decay': ('optimizer', 'weight_decay', None),
           'randaugment_layers': ('data', 'randaugment_layers', 2),
           'randaugment_magnitude': ('data', 'randaugment_magnitude', None), 'mixup_p': ('step', 'mixup', 0.),
           'dropout': ('model', 'dropout_rate', 0.), 'stochastic_depth': ('model', 'stochastic_depth', 0.)}

STUDIES = {
    'figure2_right': ('Figure 2, right, as a table: data scale', 'Parts of the training data at equal steps; at the '
                      'best upstream validation, where the config keeps it.', 'python -m tools.experiment data_scale'),
    'figure4': ('Figure 4 as a table: permuted pixels', 'At the end of training.',
                'python -m tools.experiment permutations')}
NO_CURVES = "No values of the paper's curves are published, to compare with ours."


def published(name: str) -> list[dict[str, str]]:
  """The rows of published/NAME.csv."""
  with (PUBLISHED / f'{name}.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def table1(collection: reading.Collection) -> Table:
  counts = {matching.named(count): count for count in reversed(collection.counts) if count.resolution == 224}
  columns = {'num_layers': ('layers', 'num_blocks'), 'patch': ('patch', 'patch_size'),
             'hidden_dim_C': ('C', 'hidden_dim'), 'sequence_length_S_at_224': ('S', 'tokens'),
             'channels_mlp_dim_DC': ('D_C', 'channels_mlp_dim'),
             'tokens_mlp_dim_DS': ('D_S', 'tokens_mlp_dim'),
             'params_millions_without_head': ('parameters, M', None),
             'exact_params_without_head': ('exactly', 'params_without_head'),
             'exact_params_1000_classes': ('with 1,000 classes', 'params_1000_classes'),
             'gmacs_at_224': ('GMACs at 224', 'gmacs')}
  rows = []
  for row in published('table1_specs'):
    count = counts.get(row['model'])
    line = []
    for column, (_, field) in columns.items():
      ours = ()
      if count is not None:
        value = (count.params_without_head / 1e6 if field is None
                 else count.fields[field] if field in count.fields else getattr(count, field))
        ours = (Value(f'{value:,.0f}' if field is None or isinstance(value, int) else f'{value:,.2f}', (count.id,)),)
      line.append(Cell(row[column] if 'exact' not in column else f'{int(row[column]):,}', ours))
    rows.append([row['model'], *line])
  return Table('table1', 'Table 1: the models', (
      'Sizes of the seven Mixers: C channels, S patches at 224 pixels, channel and token MLPs of D_C and D_S units; '
      'parameters without the head. The paper gives millions: exact counts and multiply-adds '
      'are arithmetic on its sizes. Ours are counted from the models that the code builds (python -m paper.count).'),
      ['model', *(words for words, _ in columns.values())], rows)


def table2(collection: reading.Collection) -> Table:
  rows = []
  for row in published('table2_transfer'):
    rows.append([
        row['model'], NAMES[row['pretrain']], row['resolution'],
        Cell(row['imagenet_top1'], cells.accuracy(collection, row, 'imagenet2012', 'paper_resize')),
        Cell(row['real_top1'], cells.accuracy(collection, row, 'imagenet2012_real', 'paper_resize')),
        Cell(row['avg5_top1'], cells.average(collection, row, 'paper_resize')),
        Cell(row['vtab1k'], cells.vtab(collection, row)),
        Cell(row['images_per_sec_per_core'], cells.speed(collection, row)),
        Cell(row['tpuv3_core_days'], cells.core_days(collection, row))])
  return Table('table2', 'Table 2: transfer', (
      'After fine-tuning, in percent: ImageNet (evaluation by preprocessing (i) of App. C), ReaL labels, the mean of '
      'five tasks, VTAB-1k; speed in images a second and core, of TPUs alone, and core-days of pre-training, both on '
      'TPUv3 in the paper. Published values of Mixers are means of three fine-tunings.'),
      ['model', 'pre-trained on', 'pixels', 'ImageNet', 'ReaL', 'Avg. 5', 'VTAB-1k', 'img/s/core', 'core-days'],
      rows, 3)


def table3(collection: reading.Collection) -> Table:
  rows = []
  for row in published('table3_scales'):
    rows.append([
        row['model'], NAMES[row['pretrain']], row['resolution'], row['epochs'],
        Cell(row['imagenet_top1'], cells.accuracy(collection, row, 'imagenet2012', 'paper_crop')),
        Cell(row['real_top1'], cells.accuracy(collection, row, 'imagenet2012_real', 'paper_crop')),
        Cell(row['avg5_top1'], cells.average(collection, row, 'paper_crop')),
        Cell(row['images_per_sec_per_core'], cells.speed(collection, row)),
        Cell(row['tpuv3_core_days'], cells.core_days(collection, row))])
  return Table('table3', 'Table 3: models, data and scales', (
      'Fine-tuned at these resolutions, in percent (evaluation by preprocessing (ii) of App. C, of BiT by (i) on '
      'ImageNet); columns as in Table 2. Ours count as JFT-300M if they are as many images, 290 to 310 million, and have '
      'been seen as often.'),
      ['model', 'pre-trained on', 'pixels', 'epochs', 'ImageNet', 'ReaL', 'Avg. 5', 'img/s/core', 'core-days'], rows, 4)


def table4(collection: reading.Collection) -> Table:
  del collection
  rows = []
  for row in published('table4_pretraining'):
    configs = {name: load_config(name) for name in CONFIGS[row['model'], row['data']]}
    line = []
    for column, (section, field, default) in TABLE_4.items():
      values = {name: (config[section] if section else config).get(field, default) for name, config in configs.items()}
      if row['data'] == 'jft300m' and column == 'randaugment_layers':
        values = {name: None for name in values}  # without a magnitude, RandAugment is off
      ours = [Value('none' if value is None else f'{value:g}', tuple(f'config-{name}' for name, other in values.items()
                                                                     if other == value))
              for value in dict.fromkeys(values.values())]
      line.append(Cell(row[column], tuple(ours)))
    rows.append([row['model'], NAMES[row['data']], *line])
  return Table('table4', 'Table 4: pre-training', (
      'Hyperparameters of the paper, and those of the configs here. Where the paper prints a dash, ours are off.'),
      ['model', 'data', *(name.replace('_', ' ') for name in TABLE_4)], rows, 2)


def load_config(name: str) -> dict:
  """The config in configs/NAME.py, as plain values."""
  return importlib.import_module(f'configs.{name}').get_config().to_dict()


def throughput(collection: reading.Collection) -> Table:
  rows = []
  printed = {(row['model'], int(row['resolution'])): float(row['images_per_sec_per_core'])
             for row in published('table3_scales')}
  halonet, = (row for row in published('table2_transfer') if matching.of_row(row) == HALONET[0])
  printed[HALONET] = float(halonet['images_per_sec_per_core'])
  named = lambda one: (matching.named(one), one.resolution)
  shown = lambda speed: f'{speed:,.0f}' if speed >= 10 else f'{speed:.2g}'
  counts = {named(count): count for count in reversed(collection.counts)}
  for over, under in RATIOS:
    measured = []
    for one, other in itertools.product(collection.throughputs, repeat=2):
      if (named(one), named(other)) == (over, under) and (one.dtype, one.device) == (other.dtype, other.device):
        measured.append(Value(f'{one.images_per_s_per_core / other.images_per_s_per_core:.2f}', (one.id, other.id),
                              f'{shown(one.images_per_s_per_core)} to {shown(other.images_per_s_per_core)}; {one.dtype}, '
                              f'{one.device or "unknown device"}'))
    operations = ()
    if over in counts and under in counts:
      mine, theirs = counts[over], counts[under]
      operations = (Value(f'{theirs.gmacs / mine.gmacs:.2f}', (mine.id, theirs.id),
                          f'{theirs.gmacs:,.1f} to {mine.gmacs:,.1f} GMACs'),)
    rows.append([f'{over[0]} at {over[1]} over {under[0]} at {under[1]}',
                 Cell(f'{printed[over] / printed[under]:.2f} ({printed[over]:,.0f} to {printed[under]:,.0f})'),
                 Cell(ours=tuple(measured)), Cell(ours=operations)])
  return Table('throughput', 'Throughput as ratios', (
      'Images a second and core of one model over those of another, forward pass, each at its best batch size: the '
      "paper's on TPUv3 (Tables 2 and 3), ours from python -m tools.throughput on the same device and in the same dtype, and "
      'what multiply-adds alone would give.'),
      ['models', 'published', 'measured', 'by multiply-adds'], rows)


def speeds(collection: reading.Collection) -> Table:
  """All of our speeds, by device."""
  hardware = lambda one: one.device or 'unknown'
  order = lambda one: (hardware(one), one.dtype, matching.named(one), one.resolution)
  rows = [[hardware(one), one.dtype, matching.named(one), str(one.resolution), str(one.batch_size),
           Cell(ours=(Value(f'{one.images_per_s_per_core:,.1f}', (one.id,)),))]
          for one in sorted(collection.throughputs, key=order)]
  return Table('speeds', 'Speed by hardware', (
      'Images a second of one device, forward pass, at the best batch size: not to be compared with those of '
      'other hardware. A device is what JAX calls one; on TPU v2 and v3 that is a core.'),
      ['device', 'dtype', 'model', 'pixels', 'batch', 'images/s'], rows, 5, 'python -m tools.throughput')


def study_table(kind: str, collection: reading.Collection) -> Table:
  """The runs of Figure 4 or of Figure 2 right, as means over seeds."""
  of = {'figure4': studies.permutations, 'figure2_right': studies.data_scale}[kind](collection.runs)
  score = (lambda run, metric: run.metrics[metric]) if kind == 'figure4' else studies.early_stopped
  present = {arm for study in of for arm in study.arms}
  arms = [arm for arm in studies.ARMS_OF_FIGURE_4 if arm in present] if kind == 'figure4' else sorted(present)
  rows = [[study.model, study.data, metric, *(_seeds(study.arms.get(arm), metric, score) for arm in arms)]
          for study in of for metric in study.metrics]
  title, caption, command = STUDIES[kind]
  names = [arm if isinstance(arm, str) else f'{arm:.0%} of the data' for arm in arms]
  return Table(f'{kind}_table', title, f'{caption} In percent, mean over seeds and least to greatest. {NO_CURVES}',
               ['model', 'data', 'metric', *names], rows, 3, command)


def appendix_a(collection: reading.Collection) -> Table:
  of = studies.appendix_a(collection.runs)
  metrics = list(dict.fromkeys(metric for study in of for metric in study.metrics))
  score = lambda run, metric: run.metrics[metric]
  rows = [[model, study.data, *(_seeds(group, metric, score) for metric in metrics)]
          for study in of for model, group in study.arms.items()]
  return Table('appendix_a', 'Appendix A: what did not help', (
      'Other ways of token mixing and the plain Mixer, all trained alike, in percent, mean over seeds and least to '
      'greatest. The paper describes them in words alone.'), ['model', 'data', *metrics], rows, 2,
      'python -m tools.experiment appendix_a')


def _seeds(group: studies.Group | None, metric: str, score) -> Cell:
  """The mean over the newest run of each seed, and the older ones on their own."""
  if group is None or any(metric not in run.metrics for run in group.runs):
    return Cell()
  spread = studies.Spread.of([score(run, metric) for run in group.runs])
  newest = Value(cells.percent(spread.mean), tuple(run.id for run in group.runs), spread.about)
  older = [Value(cells.percent(score(run, metric)), (run.id,), f'seed {run.seed}, older') for run in group.older
           if metric in run.metrics]
  return Cell(ours=(newest, *older))


def other_runs(collection: reading.Collection, placed: set[str]) -> Table:
  """Runs that are in no other table: a row per metric and group of runs that differ in their seeds alone."""
  rows = []
  for group in studies.groups([run for run in collection.runs if run.id not in placed]):
    first = group.runs[0]
    took = ('evaluation alone' if first.kind == 'evaluation' else f'{first.steps:,} steps' if first.finished
            else f'{first.steps:,} of {first.config["total_steps"]:,} steps, not finished')
    for metric in studies.metrics_of(group.runs):
      rows.append([matching.label(first.config['model']), studies.data_of(first), took, metric,
                   _seeds(group, metric, lambda run, metric: run.metrics[metric])])
  return Table('other_runs', 'Other runs', (
      'Runs that belong to no row of the paper, in percent, mean over seeds and least to greatest.'),
      ['model', 'data', 'training', 'metric', 'result'], rows, 4, 'python -m paper RUNS')


def all_tables(collection: reading.Collection) -> list[Table]:
  tables = [table1(collection), study_table('figure2_right', collection), table2(collection), table3(collection),
            throughput(collection), speeds(collection), study_table('figure4', collection), table4(collection),
            appendix_a(collection)]
  return [*tables, other_runs(collection, {id for table in tables for id in table.ids})]


def configs_of(tables: list[Table]) -> dict[str, dict]:
  """The configs that cells link to, by their ids."""
  ids = [id for table in tables for id in table.ids if id.startswith('config-')]
  return {id: load_config(id.removeprefix('config-')) for id in ids}


def write(tables: list[Table], collection: reading.Collection, out):
  """Writes tables.md: all tables, and the records that they link to."""
  shown = entries.of([id for table in tables for id in table.ids], collection, configs_of(tables))
  parts = ["# The paper's tables with our results\n\nA cell is published, or ours with a link to its record, or "
           'empty.\n', *map(render.markdown, tables), entries.markdown(shown)]
  if collection.warnings:
    parts.insert(1, 'Skipped:\n\n' + ''.join(f'- {warning}\n' for warning in collection.warnings))
  storage.make_folder(out)
  storage.write(out / 'tables.md', '\n'.join(parts))


def main(arguments: list[str] | None = None):
  flags, collection = command_line.parse(__doc__, arguments)
  write(all_tables(collection), collection, flags.out)
  print(flags.out / 'tables.md')


if __name__ == '__main__':
  command_line.run(main)
