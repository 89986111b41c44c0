"""Load pretrained models by hub id or local folder, from safetensors only."""

import argparse
import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError
from ttm_jax.pytorch import pretrained

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class ModelSource:
  """A pretrained model with its device, dtype and batch size.

  Attributes:
    model: folder, or id on the Hugging Face hub; empty for the settings alone, see `of`.
    device: a PyTorch device; `auto` is a GPU if available, else the CPU.
    dtype: a name of DTYPES; `auto` is bfloat16 on a CUDA GPU, else float32.
    batch: batch size.
    offline: do not download anything; read from the local cache.

  Raises:
    InputError: if `dtype` is unknown or `batch` is below 1.
  """

  model: str
  device: str = 'auto'
  dtype: str = 'auto'
  batch: int = 8
  offline: bool = False

  def __post_init__(self):
    if self.dtype not in ('auto', *DTYPES):
      raise InputError(f'--dtype {self.dtype}: choose auto, {", ".join(DTYPES)}')
    if self.batch < 1:
      raise InputError(f'--batch {self.batch} must be at least 1')

  @classmethod
  def from_flags(cls, args: argparse.Namespace, model: str = '') -> 'ModelSource':
    """Build from the parsed flags of `flags.add_device_flags`."""
    return cls(model, args.device, args.dtype, args.model_batch, args.offline)

  def of(self, model: str) -> 'ModelSource':
    """Return the source of another model, with the same settings."""
    return dataclasses.replace(self, model=model)

  @property
  def torch_device(self) -> str:
    """The resolved device name; raise InputError if PyTorch cannot use it."""
    import torch

    if self.device == 'auto':
      return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
      torch.empty(0, device=self.device)
    except (RuntimeError, AssertionError, ValueError) as error:
      said = str(error).splitlines()[0][:200]
      raise InputError(
        f'--device {self.device}: cannot be used ({said}); choose auto, cpu, or a device that this'
        ' PyTorch supports'
      ) from error
    return self.device

  @property
  def torch_dtype(self) -> Any:
    """The resolved torch.dtype."""
    import torch

    if self.dtype != 'auto':
      return getattr(torch, self.dtype)
    return torch.bfloat16 if self.torch_device.startswith('cuda') else torch.float32

  def load(self, kind: Any) -> Any:
    """Load a model on the device, in evaluation mode.

    Args:
      kind: a model class of transformers.

    Raises:
      InputError: if the model is not found, is of another class, has no safetensors, or requires
        remote code.
    """
    model = self._from(pretrained.load_model, kind, dtype=self.torch_dtype)
    return model.to(self.torch_device)

  def load_part(self, kind: Any) -> Any:
    """Load a tokenizer, processor or configuration.

    Args:
      kind: a class of transformers.

    Raises:
      InputError: if it is not found.
    """
    return self._from(pretrained.load_part, kind)

  def check_folder(self) -> None:
    """Raise InputError if the model is a local folder that does not exist."""
    if looks_local(self.model) and not Path(self.model).is_dir():
      raise InputError(f'{self.model}: there is no such folder; check the path')

  def _from(self, load: Callable[..., Any], kind: Any, **options: Any) -> Any:
    self.check_folder()
    return load(kind, self.model, self.offline, **options)


def check_installed() -> None:
  """Raise InputError if PyTorch or transformers cannot be imported."""
  try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
  except (ImportError, RuntimeError, OSError) as error:  # OSError: a CUDA library is missing.
    raise InputError(
      f'the models need PyTorch and transformers, which cannot be imported ({error}); install them'
      " with pip install 'ttm_jax[data]'"
    ) from error


def free_gpu_memory() -> None:
  """Free the GPU memory of deleted models, for the next model and for JAX."""
  import torch

  if torch.cuda.is_available():
    gc.collect()
    torch.cuda.empty_cache()


def looks_local(model: str) -> bool:
  """Return whether a name is a local folder: a path, or not of the form OWNER/NAME."""
  return model.startswith((os.sep, '.', '~')) or model.count('/') != 1 or Path(model).exists()
