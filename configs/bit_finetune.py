"""A BiT-ResNet fine-tuned by BiT-HyperRule, from weights or a run of yours: bit_finetune.py:r152x4,cifar10.

MODEL,TASK[,SIDE][,dev]: a MODEL of the table below; TASK one of configs/finetuning.py's, or the directory of an image
folder; dev to train on less and score what was left out. By default images are taken at BiT's resolutions, as for Table
2; with SIDE, which is 224 in Table 3, at that one, out of 8/7 of it, and scored by (i) of App. C on ImageNet and (ii)
elsewhere.

BiT-HyperRule (arXiv 1912.11370, section 3.3): SGD with momentum 0.9, learning rate 0.003, batch 512, no weight decay, a
head that starts at zero, softmax cross-entropy; 500, 10,000 or 20,000 steps for fewer than 20,000 or 500,000 examples or
more, a tenth of the learning rate thrice, and mixup of 0.1 but for the fewest; images of less than 96 x 96 pixels resized
to 160 and cropped to 128, larger ones to 448 and 384, and those of R152x4 to 512 and 480, as in its released code. It
resizes whole images to the resolution for the evaluation. Of more than 20,000 images of a folder:
--config.total_steps=10000 --config.step.mixup=0.1.

Paper: 85.39 % ImageNet for R152x4 from ImageNet-21k, 87.54 % from JFT-300M (Table 2); how the BiTs of Table 3 were
fine-tuned it does not say, and this stands for it.
The weights are BiT-M-R152x4.npz and so on, in the current directory, as ImageNet-21k's of gs://bit_models are called;
other files, or a work directory of configs/bit.py, by --config.start_from.weights=.
Ours: not yet run.
Cost: not measured.
Run: python train.py --config=configs/bit_finetune.py:r152x4,cifar10 --workdir=WORKDIR
"""

from ml_collections.config_dict import placeholder

from configs import finetuning

MODELS = {'r50x1': 'R50x1', 'r50x2': 'R50x2', 'r152x1': 'R152x1', 'r152x2': 'R152x2', 'r152x4': 'R152x4',
          'r200x3': 'R200x3'}
SIDES = {'small': (160, 128), 'large': (448, 384), 'large of R152x4': (512, 480)}  # resized, cropped


def get_config(which: str = 'r152x4,cifar10'):
  model, task, side, dev = finetuning.parse('bit_finetune.py', which, MODELS)
  sides = (side * 8 // 7, side) if side else None
  config = recipe(model, finetuning.row_of(task), dev, sides, dataset=task)
  if side:
    for evaluation in config.evals.values():
      evaluation.resize = config.data.resize
      evaluation.crop = 'paper_resize' if task == 'imagenet2012' or side != 224 else 'paper_crop'
  return config


def recipe(model: str, row: dict, dev: bool, sides: tuple[int, int] | None = None, **data):
  """The fine-tuning of one of MODELS; `sides` are other than BiT's SIDES, the rest as in `finetuning.hyperrule`."""
  variant, size = MODELS[model], row['size']
  resize, resolution = sides or SIDES.get(f'{size} of {variant}', SIDES[size])
  config = finetuning.hyperrule(row, dev, resize, resolution, **data)
  config.start_from = dict(weights=f'BiT-M-{variant}.npz', head='fresh')
  config.model = dict(name='bit_resnet', variant=variant, num_classes=placeholder(int), dtype='bfloat16')
  return config
