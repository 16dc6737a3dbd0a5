"""A published Mixer fine-tuned by the paper's recipe: mixer_finetune.py:b16_i21k,cifar10.

MODEL,TASK[,448][,dev]: a MODEL and a TASK of the tables below, or for TASK the directory of an image folder of yours
(root/train/CLASS/*.jpg and root/test/CLASS/*.jpg; root/val for dev); 448 for twice the resolution, with block-diagonal
token-mixing MLPs (App. C); dev to train on less and score what was left out, which is how the paper chooses its
learning rate, among 0.003, 0.01, 0.03 and 0.06 (python -m tools.sweep).

SGD with momentum, not Adam: with Adam the ImageNet-21k Mixers are unstable in transfer, and with SGD they reach the
paper's results, as users found and the authors confirmed (huggingface/pytorch-image-models#651).

Paper, section 3 and App. C: momentum 0.9, batch 512, clip 1, cosine, warmup, no weight decay, and by its reference [14]
a head that starts at zero, softmax cross-entropy, and each task's steps and dev split. Average of ImageNet, CIFAR-10 and
-100, Pets and Flowers: 92.50 % for B/16 and 93.63 % for L/16 at 224 from ImageNet-21k (Table 3).
Ours: not yet run; the weights are 0.07 to 0.9 GB to download.
Cost: not measured.
Run: python train.py --config=configs/mixer_finetune.py:b16_i21k,cifar10 --workdir=WORKDIR
"""

import ml_collections
from ml_collections.config_dict import placeholder

MODELS = {  # name: variant, published weights
    'b16_i21k': ('B/16', 'imagenet21k/Mixer-B_16'), 'l16_i21k': ('L/16', 'imagenet21k/Mixer-L_16'),
    'b16_i1k': ('B/16', 'imagenet1k/Mixer-B_16'), 'l16_i1k': ('L/16', 'imagenet1k/Mixer-L_16'),
    'b16_sam': ('B/16', 'sam/Mixer-B_16'), 'b32_sam': ('B/32', 'sam/Mixer-B_32'),
    's8_gsam': ('S/8', 'gsam/Mixer-S_8'), 's16_gsam': ('S/16', 'gsam/Mixer-S_16'), 's32_gsam': ('S/32', 'gsam/Mixer-S_32'),
    'b16_gsam': ('B/16', 'gsam/Mixer-B_16'), 'b32_gsam': ('B/32', 'gsam/Mixer-B_32'),
}

# Splits as TFDS writes them. The dev splits are 10 % of Pets and Flowers, 2 % of CIFAR and 1 % of ImageNet (ViT, App.
# B.1.1). Its 2,040 training images of Flowers are those that TFDS calls train and validation.
TASKS = {
    'imagenet2012': dict(train='train', dev_train='train[:99%]', dev='train[99%:]', test='validation', steps=20_000),
    'cifar10': dict(train='train', dev_train='train[:98%]', dev='train[98%:]', test='test', steps=10_000),
    'cifar100': dict(train='train', dev_train='train[:98%]', dev='train[98%:]', test='test', steps=10_000),
    'oxford_iiit_pet': dict(train='train', dev_train='train[:90%]', dev='train[90%:]', test='test', steps=500),
    'oxford_flowers102': dict(train='train+validation', dev_train='train[:90%]+validation[:90%]',
                              dev='train[90%:]+validation[90%:]', test='test', steps=500),
}


def get_config(which: str = 'b16_i21k,cifar10'):
  model, task, large, dev = _parse(which)
  row = TASKS[task] if task in TASKS else dict(train='train', dev_train='train', dev='val', test='test', steps=500)
  config = recipe(model, large, row, dev, dataset=task)
  # CIFAR's squares differ by the two crops in the method alone, and by area enlarged images would be blocky.
  if not large and not task.startswith('cifar'):
    for evaluation in config.evals.values():
      evaluation.crop = 'paper_crop'  # Table 3; Table 2, at 448, resizes whatever the shape
  return config


def recipe(model: str, large: bool, row: dict, dev: bool, **data):
  """The fine-tuning of one of MODELS at 224 or, if `large`, 448.

  Args:
    row: its splits 'train' and 'test', 'dev_train' and 'dev', and 'steps'.
    dev: whether to train on 'dev_train' and score 'dev'.
    **data: which dataset and label.
  """
  variant, weights = MODELS[model]
  resolution = 448 if large else 224
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = row['steps']
  config.log_every_steps = 50
  config.eval_every_steps = max(250, row['steps'] // 10)
  config.start_from = dict(weights=weights, head='fresh',
                           token_mixing='block_diagonal' if large else placeholder(str))
  config.model = dict(name='mlp_mixer', variant=variant, tiles=2 if large else 1, num_classes=placeholder(int),
                      dtype='bfloat16')
  shared = dict(data, data_dir=placeholder(str), batch_size=512, resolution=resolution)
  config.data = dict(shared, split=row['dev_train' if dev else 'train'], resize=resolution * 8 // 7)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='sgd', momentum=0.9, learning_rate=0.03, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_steps=500 if row['steps'] > 500 else 100))
  config.checkpoint = dict(every_steps=config.eval_every_steps, keep_latest=1)
  # These fields are one in both sections: what is set in one is set in the other.
  evaluation = dict({field: config.data.get_ref(field) for field in shared}, crop='paper_resize')
  config.evals = dict(dev=dict(evaluation, split=row['dev'])) if dev else dict(test=dict(evaluation, split=row['test']))
  return config


def _parse(which):
  """-> model, task, whether at 448, whether on the dev split."""
  parts = which.split(',')
  options = parts[2:]
  known = len(parts) >= 2 and parts[0] in MODELS and (parts[1] in TASKS or '/' in parts[1])
  if not known or not set(options) <= {'448', 'dev'}:
    raise ValueError(f'mixer_finetune.py:{which} is not MODEL,TASK[,448][,dev]: MODEL is one of {", ".join(MODELS)}; TASK '
                     f'one of {", ".join(TASKS)}, or the path of an image folder, with a slash and no comma in it')
  return parts[0], parts[1], '448' in options, 'dev' in options
