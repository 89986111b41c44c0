"""Load transformers models by hub id or folder: safetensors weights only, no remote code.

A repository can contain Python files, name kernels on the hub, or store its weights as a pickle.
Each of these would run code of the repository's author, so none of them is used.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ttm_jax.errors import InputError


def load_part(kind: Any, source: str, local_files_only: bool = False, **options: Any) -> Any:
  """Return `kind.from_pretrained(source)`, with errors reported as InputError.

  Args:
    kind: a transformers class of a configuration, a tokenizer, a processor or a model.
    source: local folder, or repository id on the Hugging Face Hub.
    local_files_only: do not use the network.
    options: further arguments of `from_pretrained`.

  Raises:
    InputError: if the source cannot be loaded as that class, or needs its own Python code.
  """
  try:
    return kind.from_pretrained(
      source, local_files_only=local_files_only, trust_remote_code=False, **options
    )
  except Exception as error:  # transformers, tokenizers and safetensors raise many types.
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if 'trust_remote_code' in str(error):
      raise InputError(
        f'{source}: contains Python code, which is never run; give a model whose class is in'
        ' transformers'
      ) from error
    raise InputError(
      f'{source}: cannot be loaded as {kind.__name__} ({said}); give a hub id, or a folder with'
      ' config.json, tokenizer and *.safetensors'
    ) from error


def load_model(kind: Any, source: str, local_files_only: bool = False, **options: Any) -> Any:
  """Return a model in evaluation mode, with all weights from the safetensors files of the source.

  Args:
    kind: a transformers model class.
    source, local_files_only, options: as in `load_part`.

  Raises:
    InputError: as in `load_part`; or if the source is a model of another family, lacks weights, has
      no safetensors, or names a kernel on the hub.
  """
  _check_config(kind, source, local_files_only)
  model, info = load_part(
    kind,
    source,
    local_files_only,
    use_safetensors=True,
    # Needed to find missing weights, which would silently stay random.
    output_loading_info=True,
    **options,
  )
  if missing := sorted(info['missing_keys']):
    raise InputError(
      f'{source}: lacks {len(missing)} weights of a {kind.__name__}, such as {missing[0]}; give a'
      ' checkpoint of that model'
    )
  return model.eval()


def check_texts(texts: Iterable[str]) -> None:
  """Raise InputError if a text is not valid Unicode (lone surrogates): tokenizers reject it."""
  for text in texts:
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise InputError(
        f'the text {text[:80]!a} holds bytes that are not valid UTF-8; write it again'
      ) from error


def _check_config(kind: Any, source: str, local_files_only: bool) -> None:
  """Raise InputError if the source is another model family, or names a kernel on the hub."""
  from transformers import AutoConfig

  config = load_part(AutoConfig, source, local_files_only)
  wanted = getattr(getattr(kind, 'config_class', None), 'model_type', None)
  # Check first: transformers would allocate a large random Llama for a T5 checkpoint. Compare only
  # the family: clip_text_model belongs to clip, and sam2_video to sam2.
  if wanted and config.model_type.split('_')[0] != wanted.split('_')[0]:
    raise InputError(f'{source}: is a {config.model_type}, not a {wanted}; give another model')
  raw, _ = type(config).get_config_dict(source, local_files_only=local_files_only)
  if kernel := kernel_of(raw):
    raise InputError(
      f'{source}: its config.json names the kernel {kernel}, which is code from the hub and is not'
      ' run; remove the attn_implementation or experts_implementation from it'
    )


def kernel_of(config: Any) -> str:
  """Return the first hub kernel ('owner/name') that a configuration names, or ''."""
  if not isinstance(config, Mapping):
    return ''
  for name, value in config.items():
    if name.strip('_').startswith(('attn_implementation', 'experts_implementation')):
      named = value.values() if isinstance(value, Mapping) else [value]
      found = next((str(one) for one in named if '/' in str(one)), '')
    else:
      found = kernel_of(value)
    if found:
      return found
  return ''
