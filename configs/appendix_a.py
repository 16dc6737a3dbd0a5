"""Ways of token mixing that the paper tried and dropped (App. A): appendix_a.py:MODEL,DATA.

MODEL is plain (the Mixer), untied (an MLP for each channel), grouped (two neighbouring channels in one column), views
(two learned views of a feature in one column) or pyramid (fewer tokens from the middle on). DATA is digits, or
imagenet or jft, with S/32. On ImageNet the regularisation is that of B/16 (Table 4), which has none for S/32.
The numbers of groups and of tokens are ours; the paper names none.

Paper: untied "no noticeable improvement"; grouped less than 1 to 2 points of 5-shot ImageNet top-1; views 3 to 4 points
of ImageNet top-5 for S/32, none at larger scales; pyramid faster on JFT-300M at little loss, not so on ImageNet.
Ours: docs/reproducing.md, on digits; not yet run on ImageNet or JFT-like data.
Cost: half a minute on two cores; on JFT-like data about 10 TPUv3 core-days (Table 3, S/32).
Run: python -m tools.experiment appendix_a
     python train.py --config=configs/appendix_a.py:views,imagenet --workdir=WORKDIR
"""

from configs import pretraining
from configs import small_images

SLICE = 'v3:4x4'

SMALL = {'digits': lambda: small_images.train('digits', small_images.model('mixer', 'digits'))}
LARGE = {'imagenet': lambda: pretraining.imagenet('S/32', mixup=0.5, magnitude=15.),
         'jft': lambda: pretraining.jft('S/32', learning_rate=3e-3, total_epochs=5)}
MODELS = {'plain': dict(name='mlp_mixer'), 'untied': dict(name='untied_mixer'),
          'grouped': dict(name='grouped_mixer', groups=2), 'views': dict(name='views_mixer', groups=2),
          'pyramid': dict(name='pyramid_mixer')}
PLANNED = tuple(f'{model},{data}' for data in LARGE for model in MODELS)
TOKENS = {'small': (16, 4), 'large': (49,) * 4 + (16,) * 4}  # that each block of a pyramid gives, of 16 and of 49


def get_config(which: str = 'plain,digits'):
  model, data = small_images.parse('appendix_a.py', which, MODELS, {**SMALL, **LARGE})
  config = {**SMALL, **LARGE}[data]()
  config.model.update(MODELS[model])
  if model == 'pyramid':
    config.model.tokens = TOKENS['large' if data in LARGE else 'small']
  return config
