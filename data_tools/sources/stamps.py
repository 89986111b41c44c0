"""Detect changes of source files by their names, sizes and modification times."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from data_tools.sources.base import Video

# Name, size in bytes, modification time in nanoseconds; both are -1 for a missing file.
Stamp = tuple[str, int, int]


def stamps(path: str) -> list[Stamp]:
  """Return the stamp of a file, or the sorted stamps of all files in a folder."""
  if not os.path.isdir(path):
    return [_stamp(path, os.path.basename(path))]
  found = [
    _stamp(file, os.path.relpath(file, path))
    for folder, _, names in os.walk(path)
    for file in (os.path.join(folder, name) for name in names)
  ]
  return sorted(found)


def _stamp(path: str, name: str) -> Stamp:
  try:
    seen = os.stat(path)
  except (OSError, ValueError):
    return name, -1, -1
  return name, seen.st_size, seen.st_mtime_ns


def of_video(video: Video) -> list[Any]:
  """Return everything that determines the clips of a video, except the options of the job."""
  return [dataclasses.asdict(video), [stamps(path) for path in video.paths]]


def digest(content: Any) -> str:
  """Return the first 16 hex digits of the SHA-256 of a value's JSON."""
  text = json.dumps(content, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_models(options: Iterable[object]) -> list[Any]:
  """Return the stamps of the options that are paths of existing files or folders."""
  paths = [option for option in options if isinstance(option, str) and os.path.exists(option)]
  return [[path, stamps(path)] for path in paths]
