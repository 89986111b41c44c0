"""The base class of all networks here: a diffusers model with a configuration."""

from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import is_accelerate_available


class Model(ModelMixin, ConfigMixin):
  """A module with `from_pretrained` and `save_pretrained`; `config` holds its arguments.

  Subclasses decorate their `__init__` with `register_to_config`. None of their submodules may have
  the name of an argument.

  Attributes:
    FLOAT32: names of modules and parameters that stay in float32 when the model is loaded in a
      lower precision. They are small, and training computes with them in float32 too.
  """

  FLOAT32: ClassVar[tuple[str, ...]] = ()
  _keep_in_fp32_modules: Any = None
  _gradient_checkpointing_func: Any
  config: Any

  def __init_subclass__(cls, **options: Any) -> None:
    super().__init_subclass__(**options)
    # diffusers keeps these in float32 only with accelerate; without it, it refuses to load.
    cls._keep_in_fp32_modules = list(cls.FLOAT32) if is_accelerate_available() else None

  @classmethod
  def from_pretrained(cls, *args: Any, **options: Any) -> Any:
    """Load a model as in diffusers; modules named in FLOAT32 ignore `torch_dtype`."""
    if is_accelerate_available():
      return super().from_pretrained(*args, **options)
    dtypes = [options.pop(name, None) for name in ('dtype', 'torch_dtype')]
    wanted = next((dtype for dtype in dtypes if isinstance(dtype, torch.dtype)), torch.float32)
    loaded = super().from_pretrained(*args, torch_dtype=torch.float32, **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
      if tensor.is_floating_point():
        kept = not set(cls.FLOAT32).isdisjoint(name.split('.'))
        tensor.data = tensor.data.to(torch.float32 if kept else wanted)
    return loaded
