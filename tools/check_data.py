"""Checks whether the data that a config needs is available, and otherwise says how to get it.

  python -m tools.check_data --config=configs/mixer_b16_i21k.py
  python -m tools.check_data --config=configs/mixer_digits.py --decode    # decodes every image, lists all bad ones
"""

from absl import flags
import tqdm

import input_pipeline
from mixer import configuration
from mixer.data import process_shard
from mixer.data import read_errors
from mixer.run import config_flags

DECODE = flags.DEFINE_bool('decode', False, 'Decode every image, check its label, and list all bad ones.')


def decode(section, batches) -> bool:
  """Decodes all examples of a section and prints the errors of bad ones. Returns whether all are good."""
  source, number, fixes = batches.source, 0, {}
  tried = read_errors.bad_examples(source, batches.decoded, batches.threads)
  for bad in tqdm.tqdm(tried, total=source.num_examples, unit='image', desc=section):
    if bad:
      number += 1
      fixes[bad[1]] = None
      tqdm.tqdm.write(f'BAD      {section}: {bad[0]}')
  if number:
    print(f'         {number:,} of {source.num_examples:,} examples are bad. {". ".join(fixes)}')
  return not number


def main(arguments):
  config = config_flags.config(arguments)
  configuration.check(config)
  missing = False
  # The batch is not checked against the devices of this machine, which need not be those of the run.
  for section, attempt in input_pipeline.dataset_openers(config, process_shard.ProcessShard(0, 1, 1)).items():
    try:
      batches = attempt()
    except ValueError as error:
      missing = True
      print(f'MISSING  {section}: {error}')
    else:
      source = batches.source
      classes = f', {len(source.class_names):,} classes' if source.class_names else ''
      print(f'present  {section}: {source.name}: {source.num_examples:,} examples{classes}'
            + (f'; read {source.order}' if section == 'data' else ''))
      if DECODE.value and not source.is_synthetic:
        missing |= not decode(section, batches)
  return 1 if missing else 0


if __name__ == '__main__':
  config_flags.run(main)
