"""A published Mixer fine-tuned by the paper's recipe: mixer_finetune.py:b16_i21k,cifar10.

MODEL,TASK[,448][,dev]: a MODEL of the table below, a TASK of finetuning.py, or for TASK an image folder of yours
(root/train/CLASS/*.jpg and root/test/CLASS/*.jpg; root/val for dev; without them `finetuning.row_of` takes others); 448
for twice the resolution, with block-diagonal token-mixing MLPs (App. C); dev to train on less and score what was left
out, which is how the paper chooses its learning rate, among 0.003, 0.01, 0.03 and 0.06 (python -m tools.sweep).

SGD with momentum, not Adam: with Adam the ImageNet-21k Mixers are unstable in transfer, and with SGD they reach the
paper's results, as users noticed and the authors confirmed (huggingface/pytorch-image-models#651).

Paper, section 3 and App. C: momentum 0.9, batch 512, clip 1, cosine, warmup, no weight decay, and by its reference [14]
a head that starts at zero, softmax cross-entropy, and each task's steps and dev split. Average of ImageNet, CIFAR-10 and
-100, Pets and Flowers: 92.50 % for B/16 and 93.63 % for L/16 at 224 from ImageNet-21k (Table 3).
Ours: not yet run; the weights are 0.07 to 0.9 GB to download.
Cost: not measured.
Run: python train.py --config=configs/mixer_finetune.py:b16_i21k,cifar10 --workdir=WORKDIR
"""

from ml_collections.config_dict import placeholder

from configs import finetuning

MODELS = {  # name: variant, published weights
    'b16_i21k': ('B/16', 'imagenet21k/Mixer-B_16'), 'l16_i21k': ('L/16', 'imagenet21k/Mixer-L_16'),
    'b16_i1k': ('B/16', 'imagenet1k/Mixer-B_16'), 'l16_i1k': ('L/16', 'imagenet1k/Mixer-L_16'),
    'b16_sam': ('B/16', 'sam/Mixer-B_16'), 'b32_sam': ('B/32', 'sam/Mixer-B_32'),
    's8_gsam': ('S/8', 'gsam/Mixer-S_8'), 's16_gsam': ('S/16', 'gsam/Mixer-S_16'), 's32_gsam': ('S/32', 'gsam/Mixer-S_32'),
    'b16_gsam': ('B/16', 'gsam/Mixer-B_16'), 'b32_gsam': ('B/32', 'gsam/Mixer-B_32'),
}


def get_config(which: str = 'b16_i21k,cifar10'):
  model, task, side, dev = finetuning.parse('mixer_finetune.py', which, MODELS, side='448')
  return recipe(model, side == 448, finetuning.row_of(task), dev, dataset=task)


def recipe(model: str, large: bool, row: dict, dev: bool, **data):
  """The fine-tuning of one of MODELS at 224 or, if `large`, 448; the rest as in `finetuning.recipe`."""
  variant, weights = MODELS[model]
  config = finetuning.recipe(row, dev, 448 if large else 224, **data)
  config.start_from = dict(weights=weights, head='fresh',
                           token_mixing='block_diagonal' if large else placeholder(str))
  config.model = dict(name='mlp_mixer', variant=variant, tiles=2 if large else 1, num_classes=placeholder(int),
                      dtype='bfloat16')
  return config
