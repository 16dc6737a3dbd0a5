"""Same weights, same logits: as the paper's formula written out, and as timm's model."""

import jax
import numpy as np
import pytest
import safetensors.numpy

import example_weights
from mixer import models
from mixer import weights
import timm_models

SIZES = dict(example_weights.FIELDS, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=64)  # timm's are C/2 and 4C


def images(number, resolution):
  return np.random.default_rng(1).uniform(-1, 1, (number, resolution, resolution, 3)).astype(np.float32)


def ours(loaded, x):
  model = models.build(**loaded.model)
  return np.asarray(jax.jit(model.apply)({'params': loaded.params}, x))


def formula(p, x):
  """Logits by eq. 1 with biases. [B, H, W, 3] -> [B, K] float64. The published names stand for the symbols."""
  p = {name: np.float64(array) for name, array in p.items()}
  P = p['stem/kernel'].shape[0]
  gelu = lambda a: a / 2 * (1 + np.tanh((2 / np.pi)**0.5 * (a + 0.044715 * a * a * a)))

  def layer_norm(a, name):
    centred = a - a.mean(-1, keepdims=True)
    return centred / ((centred**2).mean(-1, keepdims=True) + 1e-6)**0.5 * p[f'{name}/scale'] + p[f'{name}/bias']

  def linear(a, name):  # over the last axis
    return np.einsum('...i,ij->...j', a, p[f'{name}/kernel']) + p[f'{name}/bias']

  B, H, W, _ = x.shape
  patches = np.float64(x).reshape(B, H // P, P, W // P, P, 3)
  X = np.einsum('brpcqk,pqkd->brcd', patches, p['stem/kernel']).reshape(B, H * W // P**2, -1) + p['stem/bias']
  for block in sorted({name.split('/')[0] for name in p if name.startswith('MixerBlock_')}):
    tokens = np.swapaxes(layer_norm(X, f'{block}/LayerNorm_0'), 1, 2)
    W1, W2 = f'{block}/token_mixing/Dense_0', f'{block}/token_mixing/Dense_1'
    U = X + np.swapaxes(linear(gelu(linear(tokens, W1)), W2), 1, 2)
    W3, W4 = f'{block}/channel_mixing/Dense_0', f'{block}/channel_mixing/Dense_1'
    X = U + linear(gelu(linear(layer_norm(U, f'{block}/LayerNorm_1'), W3)), W4)
  return linear(layer_norm(X, 'pre_head_layer_norm').mean(1), 'head')


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_logits_are_those_of_the_formula_whatever_file_the_weights_come_from(tmp_path, suffix):
  params = example_weights.params(SIZES)
  weights.save(weights.Weights(params, dict(name='mlp_mixer', **SIZES), 8, 'softmax_xent', None, ''), tmp_path / f'w.{suffix}')
  x = images(3, 8)
  weights.save(weights.Weights(params, dict(name='mlp_mixer', **SIZES), 8, 'softmax_xent', None, ''), tmp_path / 'names.npz')
  with np.load(tmp_path / 'names.npz') as named:
    expected = formula(named, x)
  got = ours(weights.load(tmp_path / f'w.{suffix}'), x)
  np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


# timm's own model


@pytest.fixture(scope='module')
def timm():
  """timm.models.mlp_mixer."""
  with timm_models.module('mlp_mixer') as result:
    yield result


def theirs(timm, fields, resolution, gelu):
  """timm's model of the same sizes, all of whose parameters are moved from where they start; always the same."""
  import torch
  torch.manual_seed(0)
  model = timm.MlpMixer(
      img_size=resolution, patch_size=fields['patch_size'], num_blocks=fields['num_blocks'],
      embed_dim=fields['hidden_dim'], mlp_ratio=(0.5, 4.), num_classes=fields['num_classes'],
      act_layer=lambda: torch.nn.GELU(approximate=gelu)).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.1 * torch.randn(parameter.shape)
  return model


def logits(model, x):
  import torch
  with torch.no_grad():
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def saved(model, path):
  arrays = {name: np.ascontiguousarray(array.numpy()) for name, array in model.state_dict().items()}
  safetensors.numpy.save_file(arrays, path)
  return weights.load(path)


def test_timms_weights_give_timms_logits(timm, tmp_path):
  model, x = theirs(timm, SIZES, 8, 'tanh'), images(3, 8)
  loaded = saved(model, tmp_path / 'w.safetensors')
  assert loaded.model == dict(name='mlp_mixer', **SIZES)
  np.testing.assert_allclose(ours(loaded, x), logits(model, x), atol=1e-4)


def test_with_timms_own_gelu_the_logits_are_further_apart(timm, tmp_path):
  """timm computes GELU exactly, the paper's code by tanh: why logits of converted weights are not quite timm's."""
  x = images(3, 8)
  tanh, exact = (theirs(timm, SIZES, 8, gelu) for gelu in ('tanh', 'none'))
  got = ours(saved(exact, tmp_path / 'w.safetensors'), x)
  apart = np.abs(got - logits(exact, x)).max()
  assert 10 * np.abs(got - logits(tanh, x)).max() < apart < 0.1


def test_our_weights_give_our_logits_in_timm(timm, tmp_path):
  import torch
  params, x = example_weights.params(SIZES), images(3, 8)
  saved = weights.Weights(params, dict(name='mlp_mixer', **SIZES), 8, 'softmax_xent', None, '')
  weights.save(saved, tmp_path / 'w.safetensors')
  model = theirs(timm, SIZES, 8, 'tanh')
  arrays = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
  np.testing.assert_allclose(logits(model, x), ours(saved, x), atol=1e-4)


def test_s32_of_timm_is_the_papers(timm, tmp_path):
  """At its real size, built by timm's own name."""
  import torch
  model = timm.mixer_s32_224(act_layer=lambda: torch.nn.GELU(approximate='tanh')).eval()
  with torch.no_grad():
    model.head.weight.normal_()
  loaded, x = saved(model, tmp_path / 'w.safetensors'), images(1, 224)
  assert loaded.describe().startswith('Mixer-S/32, 1,000 classes, 224 x 224 pixels')
  expected = logits(model, x)
  np.testing.assert_allclose(ours(loaded, x), expected, atol=1e-5 * np.abs(expected).max())
