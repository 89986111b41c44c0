"""Video ids to exclude from training, by default those of the benchmark SA-V-128.

The list is published with the benchmark on the Hugging Face hub and is not part of this repository.
To be independent of the dataset's layout, collect every id of the form sav_NNNNNN from its file
names and tables (CSV, TSV, JSON, JSONL, YAML, text, Parquet).
"""

import json
import re
from pathlib import Path
from typing import Any

from ttm_jax.data.texts import lines_of, read_text
from ttm_jax.errors import InputError

SAV_128 = 'GuyYariv/SA-V-128-Benchmark'
NONE = 'none'

_ID = re.compile(r'sav_\d{6}(?!\d)')
_TEXTS, _PARQUET = ('.csv', '.tsv', '.json', '.jsonl', '.txt', '.yaml'), '.parquet'
_REMEDY = (
  'give --exclude FILE with one id per line, or --exclude none to include the benchmark videos'
)


def excluded_ids(where: str, offline: bool = False) -> frozenset[str]:
  """Return the ids to exclude.

  Args:
    where: a text file with one id per line, a dataset id on the Hugging Face hub, or `none`.
    offline: read a hub dataset from the local cache only.

  Raises:
    InputError: if the list cannot be read or downloaded, or contains no id. Benchmark videos must
      not enter the training data unnoticed.
  """
  if where == NONE:
    return frozenset()
  if Path(where).exists() or where.count('/') != 1 or where.endswith('.txt'):
    return read_list(where)
  return _on_the_hub(where, offline)


def read_list(path: str | Path) -> frozenset[str]:
  """Return the video ids of a text file, one per line; text after # is a comment.

  Raises:
    InputError: if the file cannot be read or contains no id.
  """
  try:
    lines = list(lines_of(read_text(path)))
  except InputError as error:
    raise InputError(f'{path}: cannot be read; give a text file with one id per line') from error
  found = frozenset(line.split('#')[0].strip() for line in lines) - {''}
  if not found:
    raise InputError(f'{path}: contains no id; write one per line, or give --exclude none')
  return found


def _on_the_hub(dataset: str, offline: bool) -> frozenset[str]:
  try:
    folder, names = _fetch(dataset, offline)
  except Exception as error:  # The hub client raises its own, HTTP and network errors.
    reason = '--offline is given, and it is not in the cache' if offline else type(error).__name__
    raise InputError(
      f'the ids to exclude cannot be read from {dataset} ({reason}); {_REMEDY}'
    ) from error
  found = {match for name in names for match in _ID.findall(name)}
  for file in sorted(folder.rglob('*')):
    if file.suffix in (*_TEXTS, _PARQUET):
      found |= set(_ID.findall(_text_of(file)))
  if not found:
    raise InputError(f'{dataset}: contains no id of a SA-V video (sav_NNNNNN); {_REMEDY}')
  return frozenset(found)


def _fetch(dataset: str, offline: bool) -> tuple[Path, list[str]]:
  """Download the tables of a hub dataset; return their folder and the names of all its files."""
  import huggingface_hub

  wanted: dict[str, Any] = {'repo_id': dataset, 'repo_type': 'dataset'}
  names = [] if offline else huggingface_hub.list_repo_files(**wanted)
  patterns = [f'*{suffix}' for suffix in (*_TEXTS, _PARQUET)]
  folder = huggingface_hub.snapshot_download(
    **wanted, allow_patterns=patterns, local_files_only=offline
  )
  return Path(folder), names


def _text_of(file: Path) -> str:
  if file.suffix != _PARQUET:
    content = file.read_bytes()
    return content.decode(json.detect_encoding(content), errors='replace')
  from pyarrow import parquet

  table = parquet.ParquetFile(file)
  columns = [table.schema.column(i) for i in range(len(table.schema))]
  # Read only the text columns: others may hold whole videos as bytes.
  names = [c.path for c in columns if c.logical_type.type == 'STRING']
  return json.dumps(table.read(names).to_pylist()) if names else ''
