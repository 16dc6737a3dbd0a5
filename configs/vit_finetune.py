"""A ViT fine-tuned by the recipe of the papers, from weights or a run of yours: vit_finetune.py:b16,cifar10.

MODEL,TASK[,SIDE][,dev]: MODEL is b32, b16, l32, l16 or h14; TASK one of configs/finetuning.py's, or the directory
of an image folder; SIDE the resolution, 224 by default as in Table 3 (ViT fine-tunes at 384, and for Table 2 at 512,
L/16, and 518, H/14), to which the position embeddings are resized; dev as in mixer_finetune.py.

ViT, App. B.1.1: SGD with momentum 0.9, batch 512, clipping at 1, cosine, no weight decay, a single linear layer for
the head, which starts at zero; the learning rate is the best on the dev split of 0.003, 0.01, 0.03 and 0.06 for
ImageNet and of 0.001, 0.003, 0.01 and 0.03 elsewhere. Its figures of Table 2, on ImageNet at more than 384, are of the
average of the weights (Polyak, 0.9999): test_ema here, and tools.sweep chooses by it with --metric=dev_ema/top1.
The weights are ViT-B_16.npz and so on, in the current directory, as ImageNet-21k's of gs://vit_models/imagenet21k are
called; other files, or a work directory of configs/vit.py, by --config.start_from.weights=.
Ours: not yet run.
Cost: not measured.
Run: python train.py --config=configs/vit_finetune.py:b16,cifar10 --workdir=WORKDIR
"""

from ml_collections.config_dict import placeholder

from configs import finetuning

MODELS = {'b32': 'B/32', 'b16': 'B/16', 'l32': 'L/32', 'l16': 'L/16', 'h14': 'H/14'}


def get_config(which: str = 'b16,cifar10'):
  model, task, side, dev = finetuning.parse('vit_finetune.py', which, MODELS)
  return recipe(model, side or 224, finetuning.row_of(task), dev, dataset=task)


def recipe(model: str, side: int, row: dict, dev: bool, **data):
  """The fine-tuning of one of MODELS at a resolution; the rest as in `finetuning.recipe`."""
  variant = MODELS[model]
  config = finetuning.recipe(row, dev, side, **data)
  config.start_from = dict(weights=f'ViT-{variant.replace("/", "_")}.npz', head='fresh')
  if data['dataset'] == 'imagenet2012' and side > 384:
    config.step.ema = 0.9999
  config.model = dict(name='vit', variant=variant, num_classes=placeholder(int), dtype='bfloat16')
  return config
