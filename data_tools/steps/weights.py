"""Pretrained models by hub id or local folder, from safetensors only."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class Weights:
  """Where a model comes from and how it runs.

  Attributes:
    model: folder, or id on the Hugging Face hub.
    device: a torch device; `auto` is a GPU where there is one.
    dtype: of DTYPES; `auto` is bfloat16 on a GPU and float32 on a CPU.
    batch: how many inputs go through at once.
    offline: take nothing from the network.
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

  @property
  def torch_device(self) -> str:
    import torch

    if self.device != 'auto':
      return self.device
    return 'cuda' if torch.cuda.is_available() else 'cpu'

  @property
  def torch_dtype(self) -> Any:
    import torch

    if self.dtype != 'auto':
      return getattr(torch, self.dtype)
    return torch.bfloat16 if self.torch_device.startswith('cuda') else torch.float32

  def load(self, kind: Any) -> Any:
    """The model of a transformers class, in evaluation mode.

    Raises:
      InputError: it is not there, of another class, or has no safetensors.
    """
    self._check_family(kind)
    model, info = self._from(
      kind,
      dtype=self.torch_dtype,
      use_safetensors=True,
      # Weights that a checkpoint lacks would silently stay random.
      output_loading_info=True,
    )
    if missing := sorted(info['missing_keys']):
      raise InputError(
        f'{self.model}: lacks {len(missing)} weights of a {kind.__name__}, such as {missing[0]};'
        ' give a checkpoint of that model'
      )
    return model.to(self.torch_device).eval()

  def _check_family(self, kind: Any) -> None:
    """Refuses a T5 where a Llama is meant, of which transformers would build an empty giant."""
    from transformers import AutoConfig

    wanted = getattr(getattr(kind, 'config_class', None), 'model_type', None)
    if wanted:
      found = self.load_part(AutoConfig).model_type
      # clip and clip_text_model, sam2 and sam2_video are kin.
      if found.split('_')[0] != wanted.split('_')[0]:
        raise InputError(f'{self.model}: is a {found}, not a {wanted}; give another model')

  def load_part(self, kind: Any) -> Any:
    """A tokenizer, processor or configuration of a transformers class.

    Raises:
      InputError: it is not there.
    """
    return self._from(kind)

  def _from(self, kind: Any, **options: Any) -> Any:
    if looks_local(self.model) and not Path(self.model).is_dir():
      raise InputError(f'{self.model}: there is no such folder; check the path')
    try:
      return kind.from_pretrained(self.model, local_files_only=self.offline, **options)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
      said = str(error).strip().splitlines() or [type(error).__name__]
      raise InputError(
        f'{self.model}: cannot be loaded as {kind.__name__} ({said[0][:200]}); give a hub id, or a'
        ' folder with config.json, tokenizer and *.safetensors'
      ) from error


def looks_local(model: str) -> bool:
  """Whether a name is meant as a folder: a path, or with more or fewer than two parts."""
  return model.startswith((os.sep, '.', '~')) or model.count('/') != 1 or Path(model).exists()


def add_flags(parser: argparse.ArgumentParser, batch: int = 8) -> None:
  """The flags of `from_flags`, for the command line of one step."""
  add = parser.add_argument
  add('--model', required=True, help='folder, or id on the Hugging Face hub')
  add('--device', default='auto', help='cuda, cuda:1, cpu, mps; default a GPU where there is one')
  add(
    '--dtype', default='auto', choices=['auto', *DTYPES], help='default bfloat16, on a CPU float32'
  )
  add('--batch', type=int, default=batch, help=f'inputs that go through at once; default {batch}')
  add('--offline', action='store_true', help='take nothing from the network')


def from_flags(args: argparse.Namespace) -> Weights:
  return Weights(args.model, args.device, args.dtype, args.batch, args.offline)
