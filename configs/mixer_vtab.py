"""A published Mixer fine-tuned on one of the 19 tasks of VTAB-1k: mixer_vtab.py:b16_i21k,caltech101.

MODEL,TASK[,dev]: a MODEL of mixer_finetune.py, a TASK of vtab.py; small images are taken at 224, large ones at 448. The
paper chooses the learning rate among 0.003, 0.01 and 0.03, and its steps are BiT-HyperRule's, 500 for 1,000 examples. It
does not say whether the schedule is as well, which drops by steps; here it is a cosine, as in all other fine-tuning.
BiT-HyperRule's mixup is for larger datasets.

Paper: mean of all tasks 74.95 % for L/16 from ImageNet-21k (Table 2).
Ours: not yet run.
Cost: not measured.
Run: python train.py --config=configs/mixer_vtab.py:b16_i21k,caltech101 --workdir=WORKDIR
"""

from configs import mixer_finetune
from configs import vtab


def get_config(which: str = 'b16_i21k,caltech101'):
  model, row, dev = vtab.parse('mixer_vtab.py', which, mixer_finetune.MODELS)
  config = mixer_finetune.recipe(model, row['size'] == 'large', row, dev, **vtab.images_of(row))
  config.optimizer.learning_rate = 0.01
  return vtab.adapt(config, row)
