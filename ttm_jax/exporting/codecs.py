"""The PyTorch class, configuration and tensors of a codec, for export."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.registry import entry_of
from ttm_jax.exporting.files import Spec
from ttm_jax.pretrained.names import Entry, iterate_tensors


@dataclasses.dataclass(frozen=True)
class CodecParts:
  """A codec in the form that the export writes.

  Attributes:
    network: name of the PyTorch class.
    module: dotted name of the module that defines the class.
    config: constructor arguments, and `_class_name` if diffusers has its own class for the weights.
    table: name table between JAX parameters and PyTorch tensors.
    params: nested dict of the arrays in the table.
  """

  network: str
  module: str
  config: dict[str, Any]
  table: list[Entry]
  params: dict[str, Any]

  @property
  def specs(self) -> list[Spec]:
    """Names and shapes of the PyTorch tensors."""
    return [Spec(name, e.tensor_shape()) for e in self.table for name in e.theirs]

  def tensors(self) -> Iterable[tuple[str, np.ndarray]]:
    """Yield the (name, array) pairs of `specs` one at a time."""
    return iterate_tensors(self.table, self.params)


def parts(codec: Codec) -> CodecParts:
  """Return the exportable parts of a codec.

  Raises:
    ValueError: the class of the codec is not registered.
  """
  torch = entry_of(codec).torch
  return CodecParts(
    torch.network, torch.module, torch.config(codec), torch.table(codec), torch.parameters(codec)
  )
