"""Draws the images of a training step as the model sees them, with their labels, mixed by mixup or CutMix.

  python -m tools.show_batch --config=configs/mixer_digits.py --out=batch.png
"""

import dataclasses

from absl import flags
import jax
import numpy as np

import input_pipeline
from mixer import configuration
from mixer.data import class_names
from mixer.data import process_shard
from mixer.run import config_flags
from mixer.run import plots
from mixer.training import losses
from mixer.training import mixup

STEP = flags.DEFINE_integer('step', 1, 'Which step of the run, counted from 1.', lower_bound=1)
IMAGES = flags.DEFINE_integer('images', 32, 'How many images of its batch.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'batch.png', 'The picture.')


def main(arguments):
  config = config_flags.config(arguments)
  configuration.check(config)
  data = configuration.instantiate(input_pipeline.train_batches, 'data', config.data,
                                   shard=process_shard.ProcessShard(0, 1, 1), seed=config.seed)
  batch = {name: x[0] for name, x in next(data.start(STEP.value - 1)).items()}
  num_classes = len(data.source.class_names or range(batch['label'].max() + 1))  # the model need not fit
  images, targets = batch['image'].astype(np.float32), losses.targets(batch, num_classes)
  fields = {field.name for field in dataclasses.fields(mixup.Mixing)}
  mixing = configuration.instantiate(mixup.Mixing, 'step', {k: v for k, v in config.step.items() if k in fields})
  if mixing:
    mix = jax.vmap(lambda *parts: mixing(*parts, config.seed, STEP.value - 1, 'batch'), axis_name='batch')
    images, targets = (x[0] for x in mix(images[None], targets[None]))
  images, targets = np.round(images[:IMAGES.value]).astype(np.uint8), np.asarray(targets[:IMAGES.value])
  names = [class_names.words(name) for name in data.source.class_names or range(num_classes)]
  texts = ['\n'.join(f'{of_one[k]:.0%} {names[k]}' for k in np.argsort(-of_one, kind='stable')[:2] if of_one[k] > 0)
           for of_one in targets]
  plots.grid(images, texts, f'{data.source.name}: step {STEP.value:,}', OUT.value)
  print(f'{len(images)} of the {data.batch_size:,} images of step {STEP.value:,}: {OUT.value}')


if __name__ == '__main__':
  config_flags.run(main)
