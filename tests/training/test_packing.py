import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.training.packing import SMALL, pack, unpack

TREE = {
  'blocks': {
    '0': {'scale': jnp.arange(3.0), 'kernel': jnp.ones((2, 3))},
    '1': {'gate': jnp.ones(())},
  },
  'head': {'bias': jnp.arange(4.0) + 7, 'kernel': jnp.zeros((2, 2, 1))},
}


def test_vectors_and_scalars_are_joined_and_the_rest_keeps_its_name():
  packed = pack(TREE)
  assert set(packed) == {SMALL, 'blocks.0.kernel', 'head.kernel'}
  np.testing.assert_array_equal(packed[SMALL], [0, 1, 2, 1, 7, 8, 9, 10])
  np.testing.assert_array_equal(packed['blocks.0.kernel'], TREE['blocks']['0']['kernel'])


@pytest.mark.parametrize(
  'tree', [TREE, {'only': {'bias': jnp.ones(2)}}, {'only': {'kernel': jnp.ones((2, 2))}}]
)
def test_taken_apart_it_is_what_it_was(tree):
  again = unpack(pack(tree), tree)
  assert jax.tree.structure(again) == jax.tree.structure(tree)
  jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_shapes_do_to_take_it_apart():
  shapes = jax.eval_shape(lambda: TREE)
  jax.tree.map(np.testing.assert_array_equal, unpack(pack(TREE), shapes), TREE)


def test_gates_of_masked_layers_stay_apart():
  tree = {'masked_blocks': {'masked_attn': {'gate': jnp.zeros(2), 'norm': jnp.ones(3)}}}
  packed = pack(tree)
  assert set(packed) == {SMALL, 'masked_blocks.masked_attn.gate'}
  jax.tree.map(np.testing.assert_array_equal, unpack(packed, tree), tree)
