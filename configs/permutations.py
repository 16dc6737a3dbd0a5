"""Permuted pixels (section 3.4, Fig. 4): permutations.py:MODEL,DATA,KIND.

MODEL is mixer, vit or bit; DATA is cifar10, mnist5k or jft; KIND is original, patches (the patches change places, and
the pixels within each, alike) or pixels (all pixels do). On JFT-like data they are Mixer-B/16 and R50x1, as in the
paper, and ViT-B/16. The permutation is that of the seed.

Paper: linear 5-shot ImageNet top-1, figure only. The Mixer's curves of original and patches "match perfectly", and
R50x1 falls; with pixels the Mixer loses some 45 %, R50x1 some 75 %.
TFDS downloads CIFAR-10; a folder with its images, train/CLASS and test/CLASS, goes as well: --config.data.dataset=FOLDER.
Ours: docs/reproducing.md, on cifar10 and mnist5k; not yet run on JFT-like data.
Cost: two to four minutes of a core on cifar10; on JFT-like data 80 TPUv3 core-days (Table 3, which has no ViT-B/16 on JFT).
Run: python -m tools.experiment permutations
     python train.py --config=configs/permutations.py:mixer,jft,patches --workdir=WORKDIR
"""

from configs import bit
from configs import pretraining
from configs import small_images
from configs import vit

SLICE = 'v3:4x4'

JFT = {'mixer': lambda: pretraining.jft('B/16', learning_rate=3e-3, total_epochs=7),
       'vit': lambda: vit.jft('B/16', 8e-4, 7, 768),
       'bit': lambda: bit.adam('R50x1', 7, 1e-3)}
PATCH_SIZES = {'jft': 16, **{name: small_images.DATASETS[name]['patch_size'] for name in ('cifar10', 'mnist5k')}}
LIKE_COST = {'cifar10': {'mixer': 'mixer_l', 'vit': 'vit_l'}}  # to BiT's: 11 to 12 million FLOPs an image
KINDS = ('original', 'patches', 'pixels')
PLANNED = tuple(f'{model},jft,original' for model in JFT)  # with every kind the steps take the same


def get_config(which: str = 'mixer,cifar10,patches'):
  model, data, kind = small_images.parse('permutations.py', which, JFT, PATCH_SIZES, KINDS)
  if data == 'jft':
    config = JFT[model]()
  else:
    config = small_images.train(data, small_images.model(LIKE_COST.get(data, {}).get(model, model), data))
  if kind != 'original':
    # Not the seed's own reference: --config.data.permutation_seed= leaves the seed, and changes all parts.
    shared = dict(permutation=kind, permutation_seed=config.get_ref('seed') + 0)
    if kind == 'patches':
      shared.update(permutation_patch=PATCH_SIZES[data])
    for section in (config.data, *config.evals.values(),
                    *(probe[part] for probe in config.get('probes', {}).values() for part in ('train', 'test'))):
      section.update(shared)
  return config
