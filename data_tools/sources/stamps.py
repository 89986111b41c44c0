"""What tells whether the files of a source have changed: names, sizes and times of change."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from data_tools.sources.base import Video

Stamp = tuple[str, int, int]  # Name, bytes, nanoseconds; -1 and -1 where there is no file.


def stamps(path: str) -> list[Stamp]:
  """Return the stamp of a file, or of every file in a folder, by name."""
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
  """Return all that decides what clips a video gives, but for the options of the job."""
  return [dataclasses.asdict(video), [stamps(path) for path in video.paths]]


def digest(content: Any) -> str:
  """Return a short hash of what JSON can hold."""
  text = json.dumps(content, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_models(options: Iterable[object]) -> list[Any]:
  """Return the stamps of those options that name a file or folder."""
  paths = [option for option in options if isinstance(option, str) and os.path.exists(option)]
  return [[path, stamps(path)] for path in paths]
