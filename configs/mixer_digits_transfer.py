"""All ten digits at twice the resolution, from a Mixer that has seen five of them, on 43 training images.

The token-mixing MLPs are widened as in the paper's fine-tuning at 448 (App. C), and the recipe is that of
configs/mixer_finetune.py. `mixer_digits_transfer.py:nothing` trains the same model without the weights.

Run, after configs/mixer_digits_pretrain.py:
  python train.py --config=configs/mixer_digits_transfer.py
configs/mixer_cifar10_transfer.py does the same on photographs, where python -m tools.transfer_table measures the gain.
"""

import ml_collections

WAYS = ('weights', 'nothing', 'weights,dev', 'nothing,dev')


def get_config(which: str = 'weights'):
  if which not in WAYS:
    raise ValueError(f'mixer_digits_transfer.py:{which} is none of {"; ".join(WAYS)}')
  start, _, dev = which.partition(',')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 500
  config.log_every_steps = 50
  config.eval_every_steps = 250
  if start == 'weights':
    config.start_from = dict(weights='runs/mixer_digits_pretrain', head='fresh', token_mixing='block_diagonal')
  config.model = dict(name='mlp_mixer', num_classes=10, patch_size=4, num_blocks=2, hidden_dim=64, tokens_mlp_dim=32,
                      channels_mlp_dim=256, tiles=2)
  config.data = dict(dataset='digits', split='train[:80%]' if dev else 'train', fraction=0.03, batch_size=32,
                     resolution=16, resize=18, antialias=True, flip=False)
  config.step = dict(loss='softmax_xent')
  config.optimizer = dict(name='sgd', momentum=0.9, learning_rate=0.03, clip_norm=1.,
                          schedule=dict(name='cosine', warmup_steps=50))
  config.checkpoint = dict(every_steps=250, keep_latest=1)
  evaluation = dict(dataset='digits', batch_size=360, resolution=16, crop='antialiased', resize=16)
  config.evals = dict(dev=dict(evaluation, split='train[80%:]')) if dev else dict(test=dict(evaluation, split='test'))
  return config
