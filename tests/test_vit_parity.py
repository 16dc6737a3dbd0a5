"""Same weights, same logits: ViT as timm's model, by files of either kind."""

import importlib

import numpy as np
import pytest
import safetensors.numpy

from mixer import weights
from mixer.models import vit_names
from test_parity import timm  # a fixture  # noqa: F401
import test_vit_weights


def theirs(timm, gelu, **fields):  # noqa: F811
  """timm's model of our sizes, all of whose parameters are moved from where they start; always the same."""
  import torch
  torch.manual_seed(0)
  fields = {**test_vit_weights.FIELDS, **fields}
  pooled = dict(class_token=False, global_pool='avg', fc_norm=False) if fields['pool'] == 'mean' else {}
  model = importlib.import_module('timm.models.vision_transformer').VisionTransformer(
      img_size=8, patch_size=4, embed_dim=fields['hidden_dim'], depth=2, num_heads=3, num_classes=5,
      mlp_ratio=fields['mlp_dim'] / fields['hidden_dim'], act_layer=lambda: torch.nn.GELU(approximate=gelu), **pooled)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.1 * torch.randn(parameter.shape)
  return model.eval()


def outputs(model, x):
  import torch
  with torch.no_grad():
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def saved(model, path, metadata=None):
  arrays = {name: np.ascontiguousarray(array.numpy()) for name, array in model.state_dict().items()}
  safetensors.numpy.save_file(arrays, path, metadata=metadata)
  return weights.load(path)


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_timms_weights_give_timms_logits(timm, tmp_path, pool):  # noqa: F811
  model, x = theirs(timm, 'tanh', pool=pool), test_vit_weights.images(3, 8)
  loaded = saved(model, tmp_path / 'w.safetensors', {'num_heads': '3'})
  assert loaded.model == dict(name='vit', **{**test_vit_weights.FIELDS, 'pool': pool})
  np.testing.assert_allclose(test_vit_weights.logits(loaded, x), outputs(model, x), atol=1e-4)


def test_with_timms_own_gelu_the_logits_are_further_apart(timm, tmp_path):  # noqa: F811
  tanh, exact, x = theirs(timm, 'tanh'), theirs(timm, 'none'), test_vit_weights.images(3, 8)
  got = test_vit_weights.logits(saved(exact, tmp_path / 'w.safetensors', {'num_heads': '3'}), x)
  apart = np.abs(got - outputs(exact, x)).max()
  assert 10 * np.abs(got - outputs(tanh, x)).max() < apart < 0.1


@pytest.mark.parametrize('suffix, pool', [('safetensors', 'token'), ('safetensors', 'mean'), ('npz', 'token')])
def test_our_weights_give_our_logits_in_timm(timm, tmp_path, suffix, pool):  # noqa: F811
  """By either file: timm reads the .npz as one of the published."""
  import torch
  section, params = test_vit_weights.vit(pool=pool)
  saved, x = test_vit_weights.as_weights(section, params), test_vit_weights.images(3, 8)
  model = theirs(timm, 'tanh', pool=pool)
  weights.save(saved, tmp_path / f'w.{suffix}')
  if suffix == 'npz':
    model.load_pretrained(str(tmp_path / 'w.npz'))
  else:
    arrays = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
  np.testing.assert_allclose(outputs(model, x), test_vit_weights.logits(saved, x), atol=1e-4)


@pytest.mark.slow
def test_b32_of_timm_is_the_papers(timm, tmp_path):  # noqa: F811
  """At its real size, built by timm's own name."""
  import torch
  make = importlib.import_module('timm.models.vision_transformer').vit_base_patch32_224
  model = make(act_layer=lambda: torch.nn.GELU(approximate='tanh')).eval()
  with torch.no_grad():
    model.head.weight.normal_()
  loaded, x = saved(model, tmp_path / 'w.safetensors'), test_vit_weights.images(1, 224)
  assert loaded.describe().startswith('ViT-B/32, 1,000 classes, 224 x 224 pixels')
  expected = outputs(model, x)
  np.testing.assert_allclose(test_vit_weights.logits(loaded, x), expected, atol=2e-5 * np.abs(expected).max())


def test_the_heads_of_every_width_are_timms(timm, monkeypatch):  # noqa: F811
  module = importlib.import_module('timm.models.vision_transformer')
  monkeypatch.setattr(module, '_create_vision_transformer', lambda name, **fields: fields)
  names = ('tiny_patch16_224', 'small_patch16_224', 'medium_patch16_gap_240', 'base_patch16_224', 'large_patch16_224',
           'huge_patch14_224', 'giant_patch14_224', 'gigantic_patch14_224')
  theirs = [getattr(module, f'vit_{name}')() for name in names]
  assert {fields['embed_dim']: fields['num_heads'] for fields in theirs} == vit_names.HEADS
