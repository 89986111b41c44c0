"""LPIPS, a perceptual distance between two images on the features of a VGG16 or an AlexNet.

Source: Zhang et al. 2018, version 0.1 with its linear heads. The weights are not included in this
package; they are read from a safetensors file. As a loss, the authors advise VGG16; papers report
the distance of AlexNet.
"""

import dataclasses
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ttm_jax.errors import InputError

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class _Layers:
  """The convolutions of a network, as `features` of torchvision's module.

  Attributes:
    stages: the convolutions by stage: index, output channels and kernel size in pixels.
    pools: window of the maximum before each stage, with a stride of 2; 0 for none.
    stride, padding: of the first convolution; others have a stride of 1 and keep the size.
    least: smallest height and width of an image.
  """

  stages: tuple[tuple[tuple[int, int, int], ...], ...]
  pools: tuple[int, ...]
  stride: int
  padding: int
  least: int


_NETWORKS = {
  'vgg16': _Layers(
    (
      ((0, 64, 3), (2, 64, 3)),
      ((5, 128, 3), (7, 128, 3)),
      ((10, 256, 3), (12, 256, 3), (14, 256, 3)),
      ((17, 512, 3), (19, 512, 3), (21, 512, 3)),
      ((24, 512, 3), (26, 512, 3), (28, 512, 3)),
    ),
    pools=(0, 2, 2, 2, 2),
    stride=1,
    padding=1,
    least=16,
  ),
  'alexnet': _Layers(
    (((0, 64, 11),), ((3, 192, 5),), ((6, 384, 3),), ((8, 256, 3),), ((10, 256, 3),)),
    pools=(0, 3, 3, 0, 0),
    stride=4,
    padding=2,
    least=31,
  ),
}
# ImageNet mean and standard deviation, for pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@flax.struct.dataclass
class Perceptual:
  """The LPIPS distance, a pytree of frozen weights.

  Attributes:
    kernels: convolution kernels by stage, float32 [3, 3, in, out] each.
    biases: convolution biases by stage, float32 [out] each.
    heads: channel weights, one float32 [out] per stage.
    network: 'vgg16' or 'alexnet'.
  """

  kernels: tuple[tuple[Array, ...], ...]
  biases: tuple[tuple[Array, ...], ...]
  heads: tuple[Array, ...]
  network: str = flax.struct.field(pytree_node=False, default='vgg16')

  @property
  def least(self) -> int:
    """The smallest height and width of an image in pixels."""
    return _NETWORKS[self.network].least

  def __call__(self, a: Array, b: Array) -> Array:
    """Return the LPIPS distance of each pair of images.

    Args:
      a, b: float [..., H, W, 3] in [-1, 1], H and W at least `least`.

    Returns:
      float32 [...], nonnegative.
    """
    count = a[..., 0, 0, 0].size
    x = jnp.concatenate([a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:])])
    x = (x.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    distance = jnp.zeros(count)
    layers = _NETWORKS[self.network]
    for stage, (kernels, biases, head) in enumerate(
      zip(self.kernels, self.biases, self.heads, strict=True)
    ):
      if window := layers.pools[stage]:
        x = jax.lax.reduce_window(
          x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, 2, 2, 1), 'VALID'
        )
      for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        stride, padding = 1, kernel.shape[0] // 2
        if stage == number == 0:
          stride, padding = layers.stride, layers.padding
        x = jax.lax.conv_general_dilated(
          x,
          kernel,
          (stride, stride),
          [(padding, padding)] * 2,
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        x = jax.nn.relu(x + bias)
      # The epsilon is inside the square root, unlike in the original: where all features are zero,
      # the gradient of the original is NaN.
      unit = x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-20)
      difference = jnp.square(unit[:count] - unit[count:])
      distance += jnp.dot(difference, head, precision='highest').mean((1, 2))
    return distance.reshape(a.shape[:-3])


def load_perceptual(path: str | Path) -> Perceptual:
  """Read the LPIPS weights.

  Args:
    path: safetensors file with `features.N.weight` [out, in, k, k] and `features.N.bias` [out] of
      torchvision's VGG16 or AlexNet, and the heads `lin{0..4}.weight` [1, out, 1, 1]. The first
      kernel tells the network. Other tensors are ignored.

  Raises:
    InputError: the file is missing or not safetensors, or a tensor is missing or of another shape.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(f'no perceptual weights at {path}: give a file, or train without them')
  try:
    tensors = safetensors.numpy.load_file(path)
  except SafetensorError as error:
    raise InputError(f'{path} is not a safetensors file ({error})') from error

  def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
      raise InputError(
        f'{path} lacks the tensor {name}: it must hold VGG16 or AlexNet, and the LPIPS heads'
      )
    if tensors[name].shape != shape:
      raise InputError(f'{path}: tensor {name} is {tensors[name].shape}, expected {shape}')
    return tensors[name].astype(np.float32)

  first = tensors.get('features.0.weight')
  network = 'alexnet' if first is not None and first.shape[2:] == (11, 11) else 'vgg16'
  kernels, biases, heads = [], [], []
  d_in = 3
  for k, stage in enumerate(_NETWORKS[network].stages):
    of_stage = []
    for index, d_out, size in stage:
      kernel = tensor(f'features.{index}.weight', (d_out, d_in, size, size))
      of_stage.append(jnp.asarray(kernel.transpose(2, 3, 1, 0)))
      d_in = d_out
    kernels.append(tuple(of_stage))
    biases.append(tuple(jnp.asarray(tensor(f'features.{i}.bias', (d,))) for i, d, _ in stage))
    heads.append(jnp.asarray(tensor(f'lin{k}.weight', (1, d_in, 1, 1)).reshape(-1)))
  return Perceptual(tuple(kernels), tuple(biases), tuple(heads), network)
