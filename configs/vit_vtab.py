"""A ViT fine-tuned on one of the 19 tasks of VTAB-1k, from weights or a run of yours: vit_vtab.py:l16,caltech101.

MODEL,TASK[,dev]: a MODEL of vit_finetune.py, which says where its weights come from, and a TASK of vtab.py.

ViT, App. B.1.1: as its other fine-tuning, with a learning rate of 0.01 and 2,500 steps for all tasks, at 384 pixels
whatever the images (378 of H/14, which are as many patches).
Paper: mean of all tasks 72.72 % for L/16 from ImageNet-21k, 77.63 % for H/14 from JFT-300M (Table 2).
Ours: not yet run.
Cost: not measured.
Run: python train.py --config=configs/vit_vtab.py:l16,caltech101 --workdir=WORKDIR
"""

from configs import vit_finetune
from configs import vtab


def get_config(which: str = 'l16,caltech101'):
  model, row, dev = vtab.parse('vit_vtab.py', which, vit_finetune.MODELS)
  config = vit_finetune.recipe(model, 378 if model == 'h14' else 384, {**row, 'steps': 2_500}, dev, **vtab.images_of(row))
  config.optimizer.learning_rate = 0.01
  return vtab.adapt(config, row)
