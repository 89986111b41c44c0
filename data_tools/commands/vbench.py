"""What `python -m data_tools.vbench` does."""

import argparse
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_tools.arguments import parse_window
from data_tools.drafts import Draft, Rejected, remaining, to_clip
from data_tools.shard import Step, safely
from data_tools.sources.descriptions import Window
from data_tools.sources.windows import Crop
from data_tools.steps.detect import DetectSettings
from data_tools.steps.prompts import PromptSettings
from data_tools.steps.segment import SegmentSettings
from ttm_jax import atomic, outputs
from ttm_jax.data.clips import write_clips
from ttm_jax.data.encode import batched
from ttm_jax.data.schema import MAX_OBJECTS, Clip
from ttm_jax.data.texts import parse_json, read_text
from ttm_jax.errors import InputError, nearest, printable
from ttm_jax.media.images import read_image
from ttm_jax.pytorch.annotation.flags import templates_of
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject

SAMPLES = 5  # Videos per prompt that VBench expects.


_MODELS = ('llm', 'detector', 'sam')


_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Entry:
  """A prompt of VBench-I2V.

  Attributes:
    key: key of its clip, the number in the list.
    prompt: the text.
    image: file name of the input image.
  """

  key: str
  prompt: str
  image: str


def read_entries(path: str, dimensions: Sequence[str] = ()) -> list[Entry]:
  """Read the list of VBench-I2V, vbench2_i2v_full_info.json.

  Args:
    path: the list.
    dimensions: return only the prompts of these dimensions; by default all.

  Raises:
    InputError: if the file cannot be read, an entry is incomplete, or no entry has a dimension.
  """
  content = parse_json(read_text(path), path)
  if not isinstance(content, list) or not content:
    raise InputError(f'{path}: must be a JSON list of prompts')
  known: set[str] = set()
  found = []
  for number, entry in enumerate(content):
    texts = [str(entry.get(name, '')) if isinstance(entry, dict) else '' for name in _FIELDS]
    if not all(text and '/' not in text for text in texts):
      raise InputError(f'{path}: entry {number + 1} needs the texts {" and ".join(_FIELDS)}')
    of = entry.get('dimension')
    of = [of] if isinstance(of, str) else of or []
    known |= {*of}
    if not dimensions or not {*of}.isdisjoint(dimensions):
      found.append(Entry(f'{number:04d}', texts[0], texts[1]))
  for name in dimensions:
    if name not in known:
      raise InputError(f'--dimension {name}{nearest(name, known)}: {path} has no such prompt')
  return found


_FIELDS = ('prompt_en', 'image_name')


def clips_of(
  entries: Sequence[Entry], images: Path, window: Window, steps: Mapping[str, Step], told: list[str]
) -> Iterator[Clip]:
  """Yield one clip per entry.

  Args:
    entries: the prompts.
    images: folder of the images.
    window: length, rate and size of the clips.
    steps: the steps prompts, detect and segment, by name.
    told: receives the reasons why clips have no objects.

  Raises:
    InputError: if an image cannot be read.
  """
  for some in batched(tqdm.tqdm(entries, desc='clips', unit=' clips'), _BATCH):
    drafts = [_draft(entry, images, window) for entry in some]
    outcomes: list[Draft | Rejected] = list(drafts)
    for name, step in steps.items():
      done = iter(safely(step, remaining(outcomes), name))
      outcomes = [next(done) if isinstance(o, Draft) else o for o in outcomes]
    for draft, outcome in zip(drafts, outcomes, strict=True):
      clip = _clip(draft, outcome, told)
      shape = (window.frames, *window.size)
      yield dataclasses.replace(
        clip,
        video=np.broadcast_to(clip.video, (*shape, 3)).copy(),
        ids=np.broadcast_to(clip.ids, shape).copy(),
      )


def _clip(draft: Draft, outcome: Draft | Rejected, told: list[str]) -> Clip:
  """Return the clip of one frame of an outcome; without objects, if it has no masks."""
  if isinstance(outcome, Rejected):
    told.append(outcome.reason)
  elif outcome.ids is not None:
    try:
      return to_clip(outcome)[0]
    except Reject as reject:
      told.append(reject.reason)
  empty = np.zeros(draft.video.shape[:3], np.uint8)
  return Clip(draft.key, draft.video, empty, draft.fps, draft.caption, draft.caption, (), ())


def _draft(entry: Entry, images: Path, window: Window) -> Draft:
  """Return a draft of one frame."""
  picture = read_image(images / entry.image)
  crop = Crop.central(picture.shape[:2], window.size)
  return Draft(entry.key, crop.pixels(picture)[None], window.fps, caption=entry.prompt)


def name_videos(entries: Sequence[Entry], generated: Path, out: Path) -> dict[str, list[str]]:
  """Link the videos of all entries into a new folder, as VBench names them.

  Returns:
    The file names of the videos of each prompt, in the order of their indices.

  Raises:
    InputError: if a prompt does not have exactly SAMPLES videos, or `out` is not free.
    OSError: if `out` cannot be written.
  """
  videos: dict[str, list[tuple[int, str]]] = {}
  for path in generated.glob('*.mp4'):
    named = re.fullmatch(r'(.+?)(?:__(\d+))?', path.stem)
    if named and len(named[2] or '') < 20:
      videos.setdefault(named[1], []).append((int(named[2] or 0), path.name))
  for entry in entries:
    count = len(videos.get(entry.key, ()))
    if count != SAMPLES:
      raise InputError(
        f'{generated}: has {count} videos of {entry.key} ("{entry.prompt}"), VBench needs'
        f' {SAMPLES}; generate them with {SAMPLES} seeds, or name fewer with --dimension'
      )
  named_by = {}
  with atomic.new_folder(out) as folder:
    for entry in entries:
      named_by[entry.prompt] = [name for _, name in sorted(videos[entry.key])]
      for index, name in enumerate(named_by[entry.prompt]):
        _link(generated / name, folder / f'{entry.prompt}-{index}.mp4')
  return named_by


def _link(source: Path, target: Path) -> None:
  try:
    os.link(os.path.realpath(source), target)
  except OSError:  # Another file system, or one without hard links.
    shutil.copyfile(source, target)


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.vbench`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  entries = read_entries(args.info, args.dimension)
  if args.command == 'names':
    _names(args, entries)
  else:
    _clips(args, entries)


def _names(args: argparse.Namespace, entries: Sequence[Entry]) -> None:
  out, generated = Path(args.out), Path(args.generated)
  beside = out.with_name(f'{out.name}.json')
  reads = {'--generated': outputs.files_of(generated), '--info': args.info}
  outputs.check('--out', [beside], [out], reads)
  with outputs.writing(out, 'free space or name another --out'):
    named = name_videos(entries, generated, out)
    atomic.write_text(beside, json.dumps(named, indent=1))
  print(printable(f'{out}: {SAMPLES * len(named)} videos of {len(named)} prompts'))


def _clips(args: argparse.Namespace, entries: Sequence[Entry]) -> None:
  out, images = Path(args.out), Path(args.images)
  window = parse_window(args.clip, args.fps, None)
  missing = [entry.image for entry in entries if not (images / entry.image).is_file()]
  if missing:
    raise InputError(
      f'{images}: there is no {missing[0]}, and {len(missing) - 1} more are missing; give the'
      ' folder of the cropped images, such as crop/1-1'
    )
  reads = {'--images': images, '--info': args.info}
  outputs.check('--out', folders=[out], reads=reads)
  told: list[str] = []
  clips = clips_of(entries, images, window, _steps(args), told)
  info: dict[str, Any] = {'benchmark': 'VBench-I2V', 'window': dataclasses.asdict(window)}
  write_clips(out, {'validation': clips}, info)
  print(printable(f'{out}: {len(entries)} clips in the split validation'))
  for reason in sorted({*told}):
    print(f'  {told.count(reason)} without objects: {reason}')


def _steps(args: argparse.Namespace) -> dict[str, Step]:
  given = [name for name in _MODELS if getattr(args, name)]
  if given and len(given) < len(_MODELS):
    raise InputError(f'--{given[0]}: objects need --llm, --detector and --sam; give all three')
  if not given:
    return {}
  weights = ModelSource.from_flags(args).of
  return {
    'prompts': PromptSettings(weights(args.llm), MAX_OBJECTS, **templates_of(args)).build(),
    'detect': DetectSettings(weights(args.detector), args.threshold).build(),
    'segment': SegmentSettings(weights(args.sam), args.sam_backend).build(),
  }
