"""Parameters drawn together equal those drawn one by one."""

import jax
import numpy as np
import pytest
from flax import nnx

from ttm_jax.models.unet import model as unet
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.nn.initial import draw_together, initializer
from ttm_jax.nn.linear import Linear
from ttm_jax.text.encoders import TextEncoderSpec

CONFIG = UNetConfig(
  widths=(8, 16), units=1, heads=2, groups=4, text_width=12, masked_blocks=1, visual_channels=4
)
ENCODERS = {'words': TextEncoderSpec(16, 5, 3)}


class OneByOne:
  """Replaces `nnx.Rngs`: the keys that `draw_together` promises."""

  def __init__(self, seed):
    self._root, self._number = nnx.Rngs(seed).params(), -1

  def params(self):
    self._number += 1
    return jax.random.fold_in(self._root, self._number)


def values(model):
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.slow
def test_the_values_are_those_drawn_one_by_one():
  together = jax.jit(lambda: values(unet.create(CONFIG, ENCODERS, rngs=nnx.Rngs(3))))()
  alone = values(UNet(CONFIG, ENCODERS, rngs=OneByOne(3)))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), together, alone)
  kernels = [x for x in jax.tree.leaves(together) if x.ndim > 1 and x.any()]
  assert len({x.tobytes() for x in map(np.asarray, kernels)}) == len(kernels) - 8  # The copies.


def test_one_draw_for_each_shape():
  drawn = []

  @initializer
  def draw(key, shape, dtype):
    drawn.append(shape)
    return jax.random.normal(key, shape, dtype)

  def build(rngs):
    layers = {str(i): Linear(4, 4 + (i == 6), rngs=rngs, init=draw) for i in range(7)}
    return nnx.Dict(layers)

  model = draw_together(build, nnx.Rngs(0))
  assert drawn == [(4, 4), (4, 5)]
  first, second = (values(model)[name]['kernel'] for name in '01')
  assert np.abs(first - second).max() > 0.1


def test_initialisers_draw_at_once_elsewhere():
  draw = initializer(nnx.initializers.normal(1.0))
  key = jax.random.key(0)
  np.testing.assert_array_equal(draw(key, (3,)), jax.random.normal(key, (3,)))
