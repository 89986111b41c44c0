"""What every network here is to diffusers: a model with a configuration, saved and loaded by it."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin


class KeepsFloat32:
  """A model some of whose modules stay in float32 when it is loaded, or moved, in less.

  diffusers has this too, but only where accelerate is installed. Their weights may have been
  rounded, but they compute in float32: as in training.
  """

  # Names of these modules and parameters.
  kept_in_float32: Sequence[str] = ()

  @classmethod
  def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
    loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model._restore_float32()
    return loaded

  def to(self, *args: Any, **kwargs: Any) -> Any:
    model = super().to(*args, **kwargs)  # type: ignore[misc]
    model._restore_float32()
    return model

  @property
  def dtype(self) -> torch.dtype:
    """Of what is not kept in float32, where there is any."""
    kept, kinds = set(self.kept_in_float32), []
    for name, parameter in self.named_parameters():  # type: ignore[attr-defined]
      if kept.isdisjoint(name.split('.')):
        return parameter.dtype
      kinds.append(parameter.dtype)
    return kinds[0] if kinds else torch.float32

  def _restore_float32(self) -> None:
    kept = set(self.kept_in_float32)
    tensors = (*self.named_parameters(), *self.named_buffers())  # type: ignore[attr-defined]
    for name, tensor in tensors:
      if tensor.is_floating_point() and not kept.isdisjoint(name.split('.')):
        tensor.data = tensor.data.float()


class Model(KeepsFloat32, ModelMixin, ConfigMixin):
  """A module with `from_pretrained` and `save_pretrained`; `config` has its arguments.

  Subclasses register their `__init__`. No module of one may have the name of an argument.
  """

  _gradient_checkpointing_func: Any
  config: Any
