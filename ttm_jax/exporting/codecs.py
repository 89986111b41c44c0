"""A codec as an export writes it: class, configuration and tensors of its PyTorch counterpart."""

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
  """A codec to be written.

  Attributes:
    network, module: its PyTorch class, and the dotted name of the module that holds it.
    config: constructor arguments; `_class_name` where diffusers has its own class for the weights.
    table, params: the names of its tensors, and the arrays.
  """

  network: str
  module: str
  config: dict[str, Any]
  table: list[Entry]
  params: dict[str, Any]

  @property
  def specs(self) -> list[Spec]:
    """Names and shapes of the tensors."""
    return [Spec(name, e.tensor_shape()) for e in self.table for name in e.theirs]

  def tensors(self) -> Iterable[tuple[str, np.ndarray]]:
    """The tensors of `specs`, one at a time."""
    return iterate_tensors(self.table, self.params)


def parts(codec: Codec) -> CodecParts:
  """Return the parts of a codec."""
  torch = entry_of(codec).torch
  return CodecParts(
    torch.network, torch.module, torch.config(codec), torch.table(codec), torch.parameters(codec)
  )
