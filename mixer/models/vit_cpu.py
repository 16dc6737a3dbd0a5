"""ViT's tokens, for CPUs: vit's numbers up to rounding, faster in bfloat16 and in less memory.

The layers are those of cpu_layers.py. Attention itself, a few percent of the FLOPs, is computed in float32. Shapes are
those of vit.py.
"""

import functools

import jax
import jax.numpy as jnp

from mixer.models import cpu_layers
from mixer.models import scan_blocks
from mixer.models import stochastic


def tokens(model, params, images, keys, rates):
  """What the last LayerNorm returns. [B, H, W, 3], [B] keys or None -> [B, N, C].

  Args:
    model: the VisionTransformer.
    params: its parameters.
    rates: the probability of dropping each branch, as `vit.drop_rates` gives them.
  """
  return cpu_layers.in_parts(lambda images, keys: _tokens(model, params, images, keys, rates), images, keys)


def _tokens(model, params, images, keys, rates):
  x = cpu_layers.stem(params['embedding'], cpu_layers.patches(images, model.patch_size), model.dtype)
  if model.pool == 'token':
    x = jnp.concatenate([jnp.broadcast_to(params['cls'].astype(x.dtype), (len(x), 1, x.shape[-1])), x], axis=1)
  encoder = params['Transformer']
  embeddings = encoder['posembed_input']['pos_embedding']
  if embeddings.shape != (1, *x.shape[1:]):
    raise ValueError(f'the position embeddings are of shape {embeddings.shape}, and the images make tokens of {x.shape}; resize the '
                     'embeddings, or take other images')
  x = x + embeddings.astype(x.dtype)
  x = stochastic.dropout(x, model.dropout_rate, stochastic.fold(keys, model.num_blocks))
  blocks = [encoder[f'encoderblock_{i}'] for i in range(model.num_blocks)]
  x = scan_blocks.apply_functions(model, functools.partial(_block, model, keys), blocks, x, rates)
  return cpu_layers.layer_norm(encoder['encoder_norm'], x, model.dtype)


def _block(model, keys, params, x, number, rates):
  """vit.EncoderBlock. [B, N, C] -> the same."""
  keys = stochastic.fold(keys, number)
  drop_path = lambda y, branch: stochastic.drop_path(y, rates[branch], stochastic.fold(keys, 2 + branch), False)
  y = cpu_layers.layer_norm(params['LayerNorm_0'], x, model.dtype)
  y = _attention(model, params['MultiHeadDotProductAttention_1'], y)
  y = stochastic.dropout(y, model.dropout_rate, stochastic.fold(keys, 0))
  x = x + drop_path(y, 0)
  y = cpu_layers.layer_norm(params['LayerNorm_2'], x, model.dtype)
  of_mlp, dropped = params['MlpBlock_3'], stochastic.fold(keys, 1)
  y = cpu_layers.gelu(cpu_layers.dense(of_mlp['Dense_0'], y, model.dtype))
  y = stochastic.dropout(y, model.dropout_rate, stochastic.fold(dropped, 0))
  y = cpu_layers.dense(of_mlp['Dense_1'], y, model.dtype)
  y = stochastic.dropout(y, model.dropout_rate, stochastic.fold(dropped, 1))
  return x + drop_path(y, 1)


def _attention(model, params, x):
  """flax.linen.MultiHeadDotProductAttention of x with itself. [B, N, C] -> the same."""
  width, heads_of_params = x.shape[-1], params['query']['kernel'].shape[1]
  if heads_of_params != model.num_heads:
    raise ValueError(f'the parameters are of {heads_of_params} heads, and num_heads is {model.num_heads}')
  flat = lambda layer: dict(kernel=layer['kernel'].reshape(width, width), bias=layer['bias'].reshape(width))
  heads = lambda y: y.reshape(*y.shape[:2], model.num_heads, -1).swapaxes(1, 2).astype(jnp.float32)
  query, key, value = (heads(cpu_layers.dense(flat(params[name]), x, model.dtype)) for name in ('query', 'key', 'value'))
  weights = jax.nn.softmax(jnp.einsum('bhqd,bhkd->bhqk', query / query.shape[-1]**0.5, key))
  y = jnp.einsum('bhqk,bhkd->bhqd', weights, value)
  return cpu_layers.dense(flat(params['out']), y.swapaxes(1, 2).reshape(x.shape), model.dtype)
