"""Multiply-adds against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer import flops


def zeros(*shape):
  return jax.ShapeDtypeStruct(shape, 'float32')


@pytest.mark.parametrize('equation, a, b, macs', [
    ('ij,jk->ik', (3, 5), (5, 7), 3 * 5 * 7),
    ('bij,bjk->bik', (2, 3, 5), (2, 5, 7), 2 * 3 * 5 * 7),
    ('ij,ij->', (3, 5), (3, 5), 3 * 5),
    ('bsc,st->bct', (2, 3, 5), (3, 7), 2 * 3 * 5 * 7),
])
def test_products(equation, a, b, macs):
  assert flops.macs(lambda a, b: jnp.einsum(equation, a, b), zeros(*a), zeros(*b)) == macs


@pytest.mark.parametrize('stride, padding, groups, outputs', [(1, 'SAME', 1, 8 * 12), (4, 'VALID', 1, 2 * 3),
                                                               (1, 'VALID', 3, 5 * 9)])
def test_convolutions(stride, padding, groups, outputs):
  def conv(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, feature_group_count=groups,
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  assert flops.macs(conv, zeros(2, 8, 12, 6), zeros(4, 4, 6 // groups, 9)) == 2 * outputs * 9 * (4 * 4 * 6 // groups)


def test_a_scan_counts_its_length():
  def products(x, kernels):
    return jax.lax.scan(lambda x, kernel: (jax.jit(jnp.dot)(x, kernel), None), x, kernels)[0]
  assert flops.macs(products, zeros(3, 5), zeros(11, 5, 5)) == 11 * 3 * 5 * 5
  assert flops.macs(lambda x, k: products(products(x, k), k), zeros(3, 5), zeros(11, 5, 5)) == 2 * 11 * 3 * 5 * 5


@pytest.mark.parametrize('wrap', [jax.jit, jax.checkpoint, lambda f: jax.vmap(f, (0, None))])
def test_it_looks_into_inner_functions(wrap):
  leading = () if wrap in (jax.jit, jax.checkpoint) else (4,)
  assert flops.macs(wrap(jnp.dot), zeros(*leading, 3, 5), zeros(5, 7)) == (4 if leading else 1) * 3 * 5 * 7


def test_a_gradient_costs_twice_the_product():
  loss = lambda x, kernel: jnp.sum(jnp.tanh(x @ kernel))
  assert flops.macs(jax.grad(loss, (0, 1)), zeros(3, 5), zeros(5, 7)) == 3 * (3 * 5 * 7)


def test_sums_are_not_counted():
  assert flops.macs(lambda x: jnp.exp(x).sum() + x.mean(), np.zeros((3, 5), np.float32)) == 0
