"""Mixer-B/16 on ImageNet-1k, 400 epochs, by a later recipe than the paper's: ResMLP's, which is DeiT's with LAMB.

NOT YET RUN, and no published figure is of it. ResMLP-S12 has 76.6 % by it (facebookresearch/deit#106), with repeated
augmentation. For comparison, Mixer-B/16 has 76.44 % by the paper's recipe and 77.8 % by that of mixer_gsam.py:b16; 77.3 %
by one like DeiT's, of gMLP's authors (arXiv 2105.08050), is quoted second-hand. timm's own Mixers (gmixer_24_224.ra3_in1k,
78.05 %) have a gate more, and their recipe is not published.

The letters in the code say whose values they are:
  R  ResMLP's authors (facebookresearch/deit#106);
  D  main.py of that repository, by default;
  P  the paper, Table 4, and what pretraining.py has for all; so are crops, flips, and evaluation at 256/224.

RandAugment is the paper's at the magnitude 9 of R, whose rand-m9-mstd0.5-inc1 is timm's. At 9 both rotate by 27 degrees,
shear by 0.27, and move by 90 pixels of 224. Of timm's two operations each is applied with probability 1/2; ours all are, so
one is as many on average. timm's changes of color go either way, and its Posterize and Solarize grow stronger with the
magnitude (inc1), where the paper's grow weaker; Cutout it leaves to random erasing.
Not available here: repeated augmentation, color jitter of 0.4 (D), the noise of the magnitude.

Ours: not yet run.
Cost: about 13 TPUv3 core-days, by the paper's 10 for 300 epochs.
Run: python train.py --config=configs/mixer_b16_i1k_strong.py --workdir=WORKDIR
"""

from configs import pretraining

SLICE = 'v3:4x4'


def get_config():
  config = pretraining.imagenet('B/16', mixup=0.8, magnitude=9.)  # R
  config.total_epochs = 400.  # R
  config.model.update(stochastic_depth=0.1, head_bias_init=0.)  # P, D; R has 0.05 for S12, a quarter of B/16 in size
  config.data.update(batch_size=2048, randaugment_layers=1, random_erasing=0.25)  # R
  config.step.update(loss='softmax_xent', label_smoothing=0.1, cutmix=1., cutmix_probability=0.5,  # R, D
                     ema=0.99992)  # D has 0.99996 of steps of 1,024 images; both are 20 epochs
  config.optimizer = dict(name='lamb', learning_rate=5e-3, weight_decay=0.2,  # R; decay of kernels alone, as in D
                          clip_norm=1.,  # by default in NVIDIA's FusedLAMB, which they used (deit#112)
                          schedule=dict(name='cosine', warmup_epochs=5., end=1e-5))  # R; the end of D
  return config
