"""LPIPS, a perceptual distance between two images on the features of a VGG16.

Source: Zhang et al. 2018, version 0.1 with its linear heads. The weights are not included in this
package; they are read from a safetensors file.
"""

from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ttm_jax.errors import InputError

Array = jax.Array

# Convolutions of torchvision's `vgg16().features` by stage: (index, output channels).
_STAGES = (
  ((0, 64), (2, 64)),
  ((5, 128), (7, 128)),
  ((10, 256), (12, 256), (14, 256)),
  ((17, 512), (19, 512), (21, 512)),
  ((24, 512), (26, 512), (28, 512)),
)
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
  """

  kernels: tuple[tuple[Array, ...], ...]
  biases: tuple[tuple[Array, ...], ...]
  heads: tuple[Array, ...]

  def __call__(self, a: Array, b: Array) -> Array:
    """Return the LPIPS distance of each pair of images.

    Args:
      a, b: float [..., H, W, 3] in [-1, 1], H and W at least 16.

    Returns:
      float32 [...], nonnegative.
    """
    count = a[..., 0, 0, 0].size
    x = jnp.concatenate([a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:])])
    x = (x.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    distance = jnp.zeros(count)
    for stage, (kernels, biases, head) in enumerate(
      zip(self.kernels, self.biases, self.heads, strict=True)
    ):
      if stage:
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, 'VALID')
      for kernel, bias in zip(kernels, biases, strict=True):
        x = jax.lax.conv_general_dilated(
          x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
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
    path: safetensors file with `features.N.weight` [out, in, 3, 3] and `features.N.bias` [out] of
      torchvision's VGG16, and the heads `lin{0..4}.weight` [1, out, 1, 1]. Other tensors are
      ignored.

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
      raise InputError(f'{path} lacks the tensor {name}: it must hold VGG16 and the LPIPS heads')
    if tensors[name].shape != shape:
      raise InputError(f'{path}: tensor {name} is {tensors[name].shape}, expected {shape}')
    return tensors[name].astype(np.float32)

  kernels, biases, heads = [], [], []
  d_in = 3
  for k, stage in enumerate(_STAGES):
    of_stage = []
    for index, d_out in stage:
      kernel = tensor(f'features.{index}.weight', (d_out, d_in, 3, 3))
      of_stage.append(jnp.asarray(kernel.transpose(2, 3, 1, 0)))
      d_in = d_out
    kernels.append(tuple(of_stage))
    biases.append(tuple(jnp.asarray(tensor(f'features.{i}.bias', (d,))) for i, d in stage))
    heads.append(jnp.asarray(tensor(f'lin{k}.weight', (1, d_in, 1, 1)).reshape(-1)))
  return Perceptual(tuple(kernels), tuple(biases), tuple(heads))
