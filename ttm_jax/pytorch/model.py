"""What every network here is to diffusers: a model with a configuration, saved and loaded by it."""

from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin


class Model(ModelMixin, ConfigMixin):  # type: ignore[misc]
  """A module with `from_pretrained` and `save_pretrained`; `config` has its arguments.

  Subclasses register their `__init__`. No module of one may have the name of an argument.
  """

  # Names of modules and parameters that stay in float32 when a model is loaded in less.
  _keep_in_fp32_modules: Any = None
  _gradient_checkpointing_func: Any
  config: Any
