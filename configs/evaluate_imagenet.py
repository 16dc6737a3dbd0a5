"""The paper's evaluations on ImageNet, for tools.evaluate: validation, ReaL labels, ImageNet-V2.

Paper: Mixer-B/16 and L/16 trained on ImageNet-1k 76.44 % and 71.76 %, ReaL 82.36 % and 77.08 % (Table 3).
Ours: not yet run. timm reports 76.62 % and 72.08 %, ReaL 82.01 % and 77.31 %, ImageNet-V2 63.22 % and 56.21 % of the same
weights, by its own preprocessing.
ReaL is real/precision_at_1: right is any of an image's labels, and images without one are left out.
Run: python -m tools.evaluate --weights=imagenet1k/Mixer-B_16 --config=configs/evaluate_imagenet.py
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  of_imagenet = dict(split='validation', batch_size=512, resolution=224, crop='paper_crop')
  config.evals = dict(
      val=dict(of_imagenet, dataset='imagenet2012'),
      # No image has as many labels; one that had would be an error.
      real=dict(of_imagenet, dataset='imagenet2012_real', label='real_label', max_labels=100),
      v2=dict(of_imagenet, dataset='imagenet_v2', split='test'))
  return config
