"""Exported folders read by the classes of this package: no code of the folder is run.

What is missing, cut off or changed is told in a sentence.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError

from .dit import TTMTransformer
from .errors import InputError
from .image_codec import TTMImageCodec
from .linear import TTMLinearCodec
from .schedulers import FlowMatchingScheduler, ZeroSNRScheduler
from .tae import TTMTemporalAutoencoder
from .text_encoder import TTMTextEncoder
from .unet import TTMUNet

CLASSES: dict[str, Any] = {
  kind.__name__: kind
  for kind in (
    TTMTransformer,
    TTMUNet,
    TTMLinearCodec,
    TTMTemporalAutoencoder,
    TTMImageCodec,
    TTMTextEncoder,
    FlowMatchingScheduler,
    ZeroSNRScheduler,
  )
}

SUMS = 'SHA256SUMS'


def check_sums(folder: Path) -> None:
  """Raises InputError where a file of an exported folder is not as it was written."""
  try:
    lines = (folder / SUMS).read_text().splitlines()
  except OSError as error:
    raise InputError(
      f'{folder} has no {SUMS} ({error.strerror}): it was not copied whole; verify=False loads what'
      ' is no export'
    ) from error
  for line in lines:
    wanted, _, name = line.partition('  ')
    try:
      with (folder / name).open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
      raise InputError(
        f'{folder / name} cannot be read ({error.strerror}): copy the folder again, whole'
      ) from error
    if found != wanted:
      raise InputError(
        f'{folder / name} is not as it was exported: it was changed or cut off, copy it again'
      )


def find_folder(name: str, local_files_only: bool = False) -> Path:
  """The folder of that name, or of that repository on the hub.

  Args:
    name: of either.
    local_files_only: fetch nothing; a repository must have been fetched before.

  Raises:
    InputError: if there is none, or it is no exported one.
  """
  if Path(name).is_dir():
    folder = Path(name)
  elif Path(name).exists() or name.count('/') != 1:
    raise InputError(f'{name} is no exported folder, and no id of a repository (owner/name)')
  else:
    from huggingface_hub import snapshot_download

    try:
      folder = Path(snapshot_download(name, local_files_only=local_files_only))
    except Exception as error:  # The hub client has a dozen kinds, by version.
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
      raise InputError(f'{name} is no folder here and cannot be fetched ({reason})') from error
  if not (folder / 'model_index.json').is_file():
    raise InputError(f'{folder} is no exported folder: model_index.json is missing')
  return folder


def load_component(folder: Path, name: str, kind: str | None, dtype: torch.dtype | None) -> Any:
  """A component of a folder; None where it has none.

  Raises:
    InputError: if its class is unknown, or its files are not those of its configuration.
  """
  if kind is None:
    return None
  if kind not in CLASSES:
    raise InputError(f'{folder}/model_index.json: {name} is of the unknown class {kind}')
  where = folder / name
  try:
    if not issubclass(CLASSES[kind], ModelMixin):
      return CLASSES[kind].from_pretrained(where)
    model, info = CLASSES[kind].from_pretrained(
      where, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
    )
  except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f'{where} cannot be loaded ({reason}): copy it again, whole') from error
  for what in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    if found := info[what]:
      raise InputError(
        f'{where}: the weights are not those of config.json beside them ({what.replace("_", " ")},'
        f' such as {sorted(map(str, found))[0]}): copy it again'
      )
  return model.eval()
