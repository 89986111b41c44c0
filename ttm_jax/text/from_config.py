"""Read the text encoder specifications in the `config.json` of an exported network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError
from ttm_jax.pretrained.fields import sizes
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.untrusted import identifier


def encoders(config: Mapping[str, Any], folder: Path) -> dict[str, TextEncoderSpec]:
  """Return the text encoders of an exported network by name.

  Args:
    config: Content of config.json.
    folder: Folder of config.json, for error messages.

  Raises:
    InputError: If the encoders are missing, or an entry is invalid.
  """
  where = f'{folder}/config.json: encoders'
  listed = config.get('encoders')
  if not isinstance(listed, list | tuple):
    raise InputError(f'{where} must be a list: copy it again')
  names = {f.name: f.name for f in dataclasses.fields(TextEncoderSpec)}
  found = {}
  for entry in listed:
    if not isinstance(entry, dict) or entry.keys() != {'name', *names}:
      raise InputError(f'{where} is {repr(entry)[:100]} in one place: copy it again')
    name = identifier(entry['name'], where)
    found[name] = sizes(TextEncoderSpec, folder, entry, names, len(names))
  return found
