"""A BiT-ResNet fine-tuned on one of the 19 tasks of VTAB-1k by BiT-HyperRule: bit_vtab.py:r152x4,caltech101.

MODEL,TASK[,dev]: a MODEL of bit_finetune.py, which says where its weights come from, and a TASK of vtab.py. BiT chooses
nothing for a task, so dev serves to look, not to choose.

Paper: mean of all tasks 70.64 % for R152x4 from ImageNet-21k, 76.29 % from JFT-300M (Table 2).
Ours: not yet run.
Cost: not measured.
Run: python train.py --config=configs/bit_vtab.py:r152x4,caltech101 --workdir=WORKDIR
"""

from configs import bit_finetune
from configs import vtab


def get_config(which: str = 'r152x4,caltech101'):
  model, row, dev = vtab.parse('bit_vtab.py', which, bit_finetune.MODELS)
  return vtab.adapt(bit_finetune.recipe(model, row, dev, **vtab.images_of(row)), row)
