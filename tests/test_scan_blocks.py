"""What the blocks of a model keep for the backward pass on a GPU, and in which order their gradients come."""

import jax
import jax.numpy as jnp
import pytest

from mixer import flops
from mixer import models
from mixer.models import scan_blocks

MODELS = {
    'mlp_mixer': dict(patch_size=4, hidden_dim=16, tokens_mlp_dim=10, channels_mlp_dim=24),
    'resmlp': dict(patch_size=4, hidden_dim=16),
    'vit': dict(patch_size=4, hidden_dim=16, mlp_dim=24, num_heads=2)}
BATCH, SIDE = 7, 16  # no other dimension is 7
TOKENS = (SIDE // 4)**2
# Numbers of an image and block: its input, and the results of its matrix products, but of the last, which is in the next
# block's input.
KEPT = {
    'mlp_mixer': TOKENS * 16 + 16 * 10 + 16 * TOKENS + TOKENS * 24,
    'resmlp': TOKENS * (16 + 16 + 64 + 16),  # and the last, whose scale has a gradient
    # Queries, keys and values, scores, weighted values, the layer after them, the hidden layer; and the class token.
    'vit': (TOKENS + 1) * (16 + 3 * 16 + 2 * (TOKENS + 1) + 16 + 16 + 24)}


def small(name, num_blocks, **fields):
  model = models.build(name=name, num_classes=5, num_blocks=num_blocks, **MODELS[name], **fields)
  images = jnp.zeros((BATCH, SIDE, SIDE, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  return lambda params: model.apply({'params': params}, images), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)


def kept(name, num_blocks, **fields):
  """How many numbers of images the backward pass of a model needs from the forward pass."""
  function, params = small(name, num_blocks, **fields)
  residuals = jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(function, params)[1], params))
  return sum(x.size for x in residuals if BATCH in x.shape and jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize('name', MODELS)
def test_a_block_keeps_its_products_alone_on_a_gpu(name):
  of_a_block = lambda **fields: kept(name, 4, **fields) - kept(name, 3, **fields)
  assert of_a_block(platform='gpu') == BATCH * KEPT[name]
  assert of_a_block(platform='any') > 1.5 * BATCH * KEPT[name]
  assert of_a_block(platform='gpu', remat='block') == BATCH * (TOKENS + (name == 'vit')) * 16


@pytest.mark.parametrize('name', MODELS)
def test_the_gradients_of_a_block_come_together_on_a_gpu(name):
  def barriers(platform):
    function, params = small(name, 3, platform=platform)
    jaxpr = jax.make_jaxpr(jax.grad(lambda params: function(params).sum()))(params)
    return [len(eqn.invars) for eqn in jaxpr.eqns if eqn.primitive.name == 'optimization_barrier']
  _, params = small(name, 3)
  of_a_block = (len(jax.tree.leaves(params)) - len(jax.tree.leaves(small(name, 2)[1])))
  assert barriers('gpu') == [of_a_block + 1] * 3
  assert barriers('any') == []


def test_a_scan_keeps_products_alone_on_a_gpu():
  of_a_block = lambda **fields: kept('mlp_mixer', 4, scan=True, **fields) - kept('mlp_mixer', 3, scan=True, **fields)
  assert of_a_block(platform='gpu') == BATCH * KEPT['mlp_mixer'] < of_a_block(platform='any') / 1.5
  assert of_a_block(platform='gpu', remat='block') == BATCH * TOKENS * 16


def test_a_kernels_gradient_comes_before_its_inputs_on_a_gpu_with_as_many_products():
  def gradient(platform):
    function, params = small('mlp_mixer', 3, platform=platform)
    return jax.grad(lambda params: function(params).sum()), params
  assert flops.macs(*gradient('gpu')) == flops.macs(*gradient('any'))
  function, params = gradient('gpu')
  barriers = str(jax.make_jaxpr(function)(params)).count('optimization_barrier')
  assert barriers == 3 + 3 * 2  # of each block, and of the second layers of its two MLPs

  x, kernel = jnp.ones((2, 3, 4)), jnp.ones((4, 5))
  backwards = jax.make_jaxpr(lambda gradient: jax.vjp(scan_blocks.product, x, kernel)[1](gradient))(jnp.ones((2, 3, 5)))
  steps = [(eqn.primitive.name, eqn.outvars[0].aval.shape) for eqn in backwards.eqns]
  names = ('dot_general', 'optimization_barrier')
  assert [step for step in steps if step[0] in names][-3:] == [
      ('dot_general', (4, 5)), ('optimization_barrier', (4, 5)), ('dot_general', (2, 3, 4))]
