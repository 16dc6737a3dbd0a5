"""timm's Mixer or ViT on PyTorch, from PyPI: eager or compiled, float32 or autocast to bfloat16, on all cores.

  seq 4 | python -m benchmarks.timm training --model=B/16 --batch=8 --dtype=bfloat16 --compile
"""

import importlib.util
import os
import sys
from unittest import mock

from benchmarks import contender
from benchmarks import workloads

INSTALL = "pip install -e '.[timm]' -c requirements.lock"
TORCHVISION = ['torchvision', *(f'torchvision.{part}' for part in (
    'ops', 'ops.misc', 'models', 'models.feature_extraction', 'transforms', 'transforms.functional', 'datasets'))]


def load(module: str = 'mlp_mixer'):
  """timm.models.MODULE; without torchvision, which timm imports for other models, by a stand-in for it."""
  if importlib.util.find_spec('torch') is None or importlib.util.find_spec('timm') is None:
    sys.exit(f'torch and timm are not installed: {INSTALL}')
  if importlib.util.find_spec('torchvision') is None:
    for name in TORCHVISION:
      sys.modules[name] = mock.MagicMock(name=name, __path__=[], __spec__=None)
  return importlib.import_module(f'timm.models.{module}')


def rates(flags):
  """`contender.rates` of a training step (Adam, clipped) or a forward pass of one batch that lies in memory."""
  module = load('mlp_mixer' if workloads.is_mixer(flags.model) else 'vision_transformer')
  import torch
  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count())
  resolution, sizes = workloads.MODELS[flags.model]
  width = sizes['hidden_dim']
  shared = dict(num_classes=workloads.CLASSES, img_size=resolution, patch_size=sizes['patch_size'], embed_dim=width)
  if workloads.is_mixer(flags.model):
    model = module.MlpMixer(**shared, num_blocks=sizes['num_blocks'],
                            mlp_ratio=(sizes['tokens_mlp_dim'] / width, sizes['channels_mlp_dim'] / width))
  else:
    model = module.VisionTransformer(**shared, depth=sizes['num_blocks'], num_heads=sizes['num_heads'],
                                     mlp_ratio=sizes['mlp_dim'] / width)
  model.train(flags.kind == 'training')
  forward = torch.compile(model) if flags.compile else model
  images = torch.rand(flags.batch, 3, resolution, resolution) * 2 - 1
  labels = torch.arange(flags.batch) % 2
  cast = lambda: torch.autocast('cpu', torch.bfloat16, enabled=flags.dtype == 'bfloat16')
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)  # the fastest of its three ways

  def step():
    optimizer.zero_grad()
    with cast():
      loss = torch.nn.functional.cross_entropy(forward(images), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    optimizer.step()

  def infer():
    with torch.inference_mode(), cast():
      forward(images)

  once = step if flags.kind == 'training' else infer
  return contender.rates(lambda number: [once() for _ in range(number)], flags.batch, flags.seconds)


def main():
  parser = contender.parser(__doc__, ('training', 'inference'))
  contender.add_dtype(parser)
  parser.add_argument('--compile', action='store_true', help='by torch.compile, which needs a C++ compiler')
  flags = parser.parse_args()
  contender.serve(contender.speed(lambda: rates(flags)), contender='timm, compiled' if flags.compile else 'timm',
                  quantity=flags.kind, model=flags.model, batch=flags.batch, dtype=flags.dtype)


if __name__ == '__main__':
  main()
