"""Work directories as train.py leaves them, small and invented, for tests of what reads them."""

import copy
import json

DIGITS = {
    'seed': 0, 'total_steps': 100, 'log_every_steps': 10, 'eval_every_steps': 50, 'checkpoint': {'every_steps': 50},
    'model': {'name': 'mlp_mixer', 'num_classes': 10, 'patch_size': 4, 'num_blocks': 2, 'hidden_dim': 64,
              'tokens_mlp_dim': 32, 'channels_mlp_dim': 256},
    'data': {'dataset': 'digits', 'split': 'train', 'batch_size': 128, 'resolution': 8},
    'step': {'loss': 'softmax_xent'}, 'optimizer': {'name': 'adamw', 'learning_rate': 0.003},
    'evals': {'test': {'dataset': 'digits', 'split': 'test', 'batch_size': 360, 'resolution': 8}},
    'contents': 'digits/1.0.0, 1437 examples',
}


def imagenet(variant='B/16', images=1_268_355, epochs=300, **fields):
  """A run from scratch on ImageNet-1k, as configs/mixer_b16_i1k.py."""
  evaluation = {'split': 'validation', 'resolution': 224, 'batch_size': 2048, 'crop': 'paper_crop'}
  config = {
      **DIGITS, 'total_steps': round(epochs * images / 4096), 'model': {'name': 'mlp_mixer', 'variant': variant},
      'data': {'dataset': 'imagenet2012', 'split': 'train[:99%]', 'batch_size': 4096, 'resolution': 224},
      'evals': {'val': {**evaluation, 'dataset': 'imagenet2012'}},
      'contents': f'imagenet2012/5.1.0, {images} examples'}
  return changed(config, **fields)


def finetuned(weights, task='imagenet2012', resolution=224, variant='B/16', crop='paper_crop', **fields):
  """A run from weights, as configs/mixer_finetune.py."""
  split = 'validation' if task == 'imagenet2012' else 'test'
  config = {
      **DIGITS, 'total_steps': 500, 'model': {'name': 'mlp_mixer', 'variant': variant},
      'start_from': {'weights': str(weights)},
      'data': {'dataset': task, 'split': 'train', 'batch_size': 512, 'resolution': resolution},
      'evals': {'test': {'dataset': task, 'split': split, 'batch_size': 512, 'resolution': resolution, 'crop': crop}},
      'contents': f'{task}/3.0.2, 50000 examples'}
  return changed(config, **fields)


def changed(config, **fields):
  """A copy of a config with other values at some paths, written with __ for a dot: data__fraction=0.1."""
  config = copy.deepcopy(config)
  for path, value in fields.items():
    *sections, name = path.split('__')
    section = config
    for part in sections:
      section = section.setdefault(part, {})
    section[name] = value
  return config


def write(folder, config, curve, *, examples=360, history=()):
  """Writes a work directory. `curve` is [(step, {metric: value})], the metrics without '/examples'."""
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(config))
  lines = []
  for step, metrics in curve:
    names = {name.split('/')[0] for name in metrics}
    lines.append({'step': step, 'train/loss': 1., **metrics, **{f'{name}/examples': examples for name in names}})
  (folder / 'records.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  if history:
    (folder / 'history.jsonl').write_text(''.join(json.dumps(event) + '\n' for event in history))
  return folder


def started_and_ended(seconds=3600., devices=32, time='2025-01-01T00:00:00+00:00', step=100, device='TPU v3'):
  """The events of one start that has ended."""
  about = {'format': 1, 'time': time, 'commit': '0123abc', 'versions': {'jax': '0.10.2'}, 'device': device,
           'devices': devices, 'hosts': 1}
  return [{**about, 'event': 'start', 'step': 0}, {**about, 'event': 'end', 'step': step, 'seconds': seconds}]
