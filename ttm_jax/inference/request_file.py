"""Read a file of requests: one JSON object per line.

    {"image": "dog.png", "segmentation": "dog_mask.png", "prompt": "A brown dog runs.",
     "motion": "The dog runs to the left.", "objects": {"1": "a brown dog that runs"}, "seed": 3}

(on one line). The keys are the flags of a generate command, except that "objects" maps ids to
prompts. Flags give what a line leaves open. Paths are relative to the file. "out" names the video,
an .mp4 in the folder --out; without it, videos are named after their lines, such as 0001.mp4.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError, nearest

LIMIT = 64 * 2**20  # Bytes of the file.

_PATHS = ('image', 'segmentation', 'described', 'trajectory')
_TEXTS = (*_PATHS, 'prompt', 'motion', 'out')
_KEYS = (*_TEXTS, 'objects', 'seed')


def read_requests(path: str, args: argparse.Namespace) -> list[argparse.Namespace]:
  """Return the flags of each request of a file.

  Args:
    path: the file.
    args: flags of `command.add_flags`; `out` is the folder of the videos.

  Returns:
    For each request the flags, with `out` as the name of its video, and `where`, which says the
    file and the line.

  Raises:
    InputError: If the file cannot be read, a line is not a request, or two have one name.
  """
  found: list[argparse.Namespace] = []
  lines: dict[str, int] = {}
  for number, text in enumerate(_read(Path(path)).split('\n'), 1):
    if not text.strip():
      continue
    where = f'{path}, line {number}'
    with at(where):
      values = _values(text)
      out = values.pop('out', f'{number:04d}.mp4')
      if not out.lower().endswith('.mp4') or Path(out).is_absolute() or '..' in Path(out).parts:
        raise InputError(f'"out" is {out!r}: give the name of an .mp4 in the folder --out')
      if first := lines.get(out):
        raise InputError(f'{out} is the video of line {first} already: give another "out"')
      lines[out] = number
      for name in _PATHS:
        if name in values:
          values[name] = str(Path(path).parent / values[name])
      flags = {**vars(args), **values, 'out': str(Path(args.out) / out), 'where': where}
      found.append(argparse.Namespace(**flags))
  if not found:
    raise InputError(f'{path} has no request: write one JSON object per line')
  return found


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
  """Raise an InputError of the block with the place of the request; '' for none."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{where}: {error}' if where else str(error)) from error


def _read(path: Path) -> str:
  try:
    if not path.is_file():
      raise InputError(f'{path}: there is no such file')
    with path.open('rb') as file:
      content = file.read(LIMIT + 1)
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror or error})') from error
  if len(content) > LIMIT:
    raise InputError(f'{path}: has more than {LIMIT} bytes; split it')
  try:
    return content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise InputError(f'{path}: is not UTF-8 ({error})') from error


def _values(text: str) -> dict[str, Any]:
  """Return the flags that a line sets."""
  try:
    values = json.loads(text)
    json.dumps(values, ensure_ascii=False).encode()  # Refuses lone surrogates.
  except (ValueError, RecursionError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f'not JSON ({reason})') from error
  if not isinstance(values, dict):
    raise InputError(f'must be a JSON object, not {type(values).__name__}')
  for key, value in values.items():
    if key not in _KEYS:
      raise InputError(f'unknown key "{key}"{nearest(key, _KEYS)}: the keys are {", ".join(_KEYS)}')
    if key in _TEXTS and not isinstance(value, str):
      raise InputError(f'"{key}" must be a text, not {json.dumps(value)[:80]}')
  seed, objects = values.get('seed', 0), values.pop('objects', None)
  if not isinstance(seed, int) or isinstance(seed, bool):
    raise InputError(f'"seed" must be a whole number, not {json.dumps(seed)[:80]}')
  if objects is not None:
    if not isinstance(objects, dict) or not all(isinstance(x, str) for x in objects.values()):
      raise InputError('"objects" must map ids to prompts, as in {"1": "a dog that runs"}')
    values['object'] = [f'{number}: {prompt}' for number, prompt in objects.items()]
  return values
