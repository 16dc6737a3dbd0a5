"""The paper's own listing (App. E), as anyone would run it: jitted, the state donated, Adam, float32.

  seq 4 | python -m benchmarks.listing training --model=B/16 --batch=8
"""

import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import contender
from benchmarks import workloads


class MlpBlock(nn.Module):
  mlp_dim: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x):
    y = nn.Dense(self.mlp_dim, dtype=self.dtype)(x)
    y = nn.gelu(y)
    return nn.Dense(x.shape[-1], dtype=self.dtype)(y)


class MixerBlock(nn.Module):
  tokens_mlp_dim: int
  channels_mlp_dim: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = jnp.swapaxes(y, 1, 2)
    y = MlpBlock(self.tokens_mlp_dim, self.dtype, name='token_mixing')(y)
    y = jnp.swapaxes(y, 1, 2)
    x = x + y
    y = nn.LayerNorm(dtype=self.dtype)(x)
    return x + MlpBlock(self.channels_mlp_dim, self.dtype, name='channel_mixing')(y)


class MlpMixer(nn.Module):
  """Images to logits. [B, H, W, 3] -> [B, K]. The listing has no `dtype`, which benchmarks/tpu.py needs: of
  all but the head, as in mixer/models."""
  num_classes: int
  num_blocks: int
  patch_size: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x):
    s = self.patch_size
    x = nn.Conv(self.hidden_dim, (s, s), strides=(s, s), name='stem', dtype=self.dtype)(x)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    for _ in range(self.num_blocks):
      x = MixerBlock(self.tokens_mlp_dim, self.channels_mlp_dim, self.dtype)(x)
    x = nn.LayerNorm(name='pre_head_layer_norm', dtype=self.dtype)(x)
    x = jnp.mean(x, axis=1)
    return nn.Dense(self.num_classes, name='head', kernel_init=nn.initializers.zeros)(x)


def shapes(model: str, batch: int):
  """(the model, the shapes of its parameters, that of the images)."""
  resolution, sizes = workloads.MODELS[model]
  net = MlpMixer(workloads.CLASSES, **sizes)
  images = jax.ShapeDtypeStruct((batch, resolution, resolution, 3), jnp.float32)
  return net, jax.eval_shape(net.init, jax.random.key(0), images)['params'], images


def batch_of(images):
  """Images in [-1, 1] and labels, on the device."""
  rng = np.random.default_rng(0)
  return jax.device_put((rng.uniform(-1, 1, images.shape).astype(np.float32), np.arange(images.shape[0]) % 2))


def training(model, batch):
  """(init, update, the batch): the state is (parameters, Adam's)."""
  net, _, images = shapes(model, batch)
  optimizer = optax.chain(optax.clip_by_global_norm(1.), optax.adam(1e-3))

  def init():
    params = net.init(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))['params']
    return params, optimizer.init(params)

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, images, labels):
    params, moments = state
    loss = lambda params: optax.softmax_cross_entropy_with_integer_labels(
        net.apply({'params': params}, images), labels).mean()
    value, grads = jax.value_and_grad(loss)(params)
    changes, moments = optimizer.update(grads, moments, params)
    return (optax.apply_updates(params, changes), moments), value

  return init, update, batch_of(images)


def step_rates(model, batch, seconds):
  init, update, inputs = training(model, batch)
  state = jax.jit(init)()

  def run(number):
    nonlocal state
    for _ in range(number):
      state, loss = update(state, *inputs)
    jax.block_until_ready((state, loss))
  return contender.rates(run, batch, seconds)


def forward_rates(model, batch, seconds):
  net, _, images = shapes(model, batch)
  init, _, (images, _) = training(model, batch)
  params = jax.jit(init)()[0]
  forward = jax.jit(net.apply)

  def run(number):
    for _ in range(number):
      forward({'params': params}, images).block_until_ready()
  return contender.rates(run, batch, seconds)


def compiling(model, batch):
  """Turns that compile the training step anew, and tell what that takes, and the memory that the step will."""
  jax.config.update('jax_enable_compilation_cache', False)  # that on the disk
  yield []
  while True:
    init, update, inputs = training(model, batch)
    state = jax.eval_shape(init)
    began = time.monotonic()
    lowered = update.lower(state, *inputs)
    memory = lowered.compile().memory_analysis()
    yield [dict(quantity='compile time', unit='s', value=time.monotonic() - began),
           dict(quantity='temporary memory', unit='MiB', value=memory.temp_size_in_bytes / 2**20)]


def main():
  parser = contender.parser(__doc__, ('training', 'inference', 'compiling'))
  flags = parser.parse_args()
  if not workloads.is_mixer(flags.model):
    parser.error(f'--model is {flags.model}, and the listing is a Mixer; choose one')
  turns = {'training': lambda: contender.speed(lambda: step_rates(flags.model, flags.batch, flags.seconds)),
           'inference': lambda: contender.speed(lambda: forward_rates(flags.model, flags.batch, flags.seconds)),
           'compiling': lambda: compiling(flags.model, flags.batch)}
  contender.serve(turns[flags.kind](), contender='listing', quantity=flags.kind, model=flags.model, batch=flags.batch,
                  dtype='float32')


if __name__ == '__main__':
  main()
