"""What recipes beyond the paper's are worth to a small Mixer on CIFAR-10: recipes.py:RECIPE,DATASET.

RECIPE is plain (crops and flips) or what is added to it or replaces a part: mixup, cutmix, label_smoothing, ema, sam,
gsam, lion. All have equally many epochs; sam_half and gsam_half have half as many, and so the time of the others, as a
step of SAM takes two gradients. DATASET is cifar10, which TFDS downloads; a folder with its images, train/CLASS/*.png
and test/CLASS/*.png, goes as well: --config.data.dataset=FOLDER. A tenth of the training images, chosen by content, is
trained on: on all of them a model as small fits its training images too little in so many steps for a recipe to matter.

The learning rate was chosen for the plain recipe, on training images that were left out, of 1e-3 and 3e-3. The other
values are those of the sources named beside them, and not tuned.
Ours: docs/reproducing.md, on CIFAR-10.
Cost: a minute or two on two cores.
Run: python -m tools.experiment recipes
     python train.py --config=configs/recipes.py:cutmix,cifar10 --workdir=WORKDIR
"""

import ml_collections

from configs import small_images

EPOCHS = 50.
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.1
SAM = dict(rho_max=0.1, rho_min=0.1, images_per_perturbation=64)  # rho of Mixer-S/32 (arXiv 2106.01548)
GSAM = dict(rho_max=0.5, rho_min=0., alpha=0.2, images_per_perturbation=64)  # of Mixer-S/32 (arXiv 2203.08065, Table 4)
LION = 10  # as configs/mixer_b16_i1k_lion.py: the learning rate is that much smaller, and weight decay larger

RECIPES = {  # {section: {field: value}}
    'plain': {},
    'mixup': dict(step=dict(mixup=0.5)),  # of the paper's Mixer-B/16 (Table 4)
    'cutmix': dict(step=dict(cutmix=1., cutmix_probability=0.5)),  # its authors' for CIFAR-100 (clovaai/CutMix-PyTorch)
    'label_smoothing': dict(step=dict(label_smoothing=0.1)),  # arXiv 1512.00567, section 7
    'ema': dict(step=dict(ema=0.995)),  # over some 200 steps of the 1,950
    'sam': dict(step=dict(sam=SAM)),
    'gsam': dict(step=dict(sam=GSAM)),
    'lion': dict(optimizer=dict(name='lion', learning_rate=LEARNING_RATE / LION, weight_decay=WEIGHT_DECAY * LION)),
    'sam_half': dict(step=dict(sam=SAM), total_epochs=EPOCHS / 2),
    'gsam_half': dict(step=dict(sam=GSAM), total_epochs=EPOCHS / 2),
}


def get_config(which: str = 'plain,cifar10'):
  recipe, _ = small_images.parse('recipes.py', which, RECIPES, ('cifar10',))
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_epochs = EPOCHS
  config.log_every_steps = 50
  config.eval_every_epochs = EPOCHS
  config.model = dict(name='mlp_mixer', num_classes=10, patch_size=8, num_blocks=4, hidden_dim=64, tokens_mlp_dim=32,
                      channels_mlp_dim=256)
  config.data = dict(dataset='cifar10', split='train', fraction=0.1, batch_size=128, resolution=32, resize=32, pad=4)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='adamw', learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_epochs=3.))
  config.checkpoint = dict(every_epochs=5., keep_latest=1)
  # Once, after the last step.
  config.evals = dict(test=dict(dataset=config.data.get_ref('dataset'), split='test', batch_size=500, resolution=32,
                                crop='antialiased', resize=32))
  for section, fields in RECIPES[recipe].items():
    config.update({section: fields})
  return config
