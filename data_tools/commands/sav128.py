"""What `python -m data_tools.sav128` does."""

import argparse
import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools import job, scoring
from data_tools.arguments import parse_size
from data_tools.selection import CATEGORIES, MULTI, SINGLE, Chosen, draw, fill_pool
from data_tools.shard import Step
from data_tools.sources.descriptions import read_captions
from data_tools.sources.sav import sav_videos
from data_tools.steps.aesthetic import AestheticSettings
from data_tools.steps.caption import CaptionSettings
from data_tools.steps.category import Categorize
from data_tools.steps.flow import FlowSettings
from data_tools.steps.prompts import Prompts, PromptSettings
from ttm_jax import atomic, outputs
from ttm_jax.data.texts import parse_json, read_text
from ttm_jax.errors import InputError, nearest, printable
from ttm_jax.pytorch.annotation.language_model import LanguageModel
from ttm_jax.pytorch.annotation.model_source import ModelSource

IDS, REASONS = 'ids.txt', 'sav128.json'


SAV_FPS = 24


_MODELS = ('captioner', 'llm', 'flow', 'clip_model', 'aesthetic_head')


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.sav128`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  out, scores = Path(args.out), Path(args.scores)
  for name in ('pool', 'each', 'batch'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name} {getattr(args, name)} must be at least 1')
  reads = {f'--{name}': getattr(args, name) for name in ('source', 'captions', 'categories')}
  outputs.check('--out', folders=[out], reads={**reads, '--scores': scores})
  outputs.check('--scores', [scores], reads=reads)
  atomic.check_free(out)
  if args.source:
    with job.alone(scores):
      _score(args, scores)
  elif not scores.is_file():
    raise InputError(f'{scores}: there is no such file; give --source to make it')
  usable, records, problems = scoring.candidates(scores)
  pool = draw(fill_pool(usable, args.pool), args.each, args.seed)
  settings = {name: getattr(args, name) for name in ('pool', 'each', 'seed')}
  with outputs.writing(out, 'free space, then run the same command again'):
    write(out, pool, records, {**settings, 'scored': len(usable), 'unusable': len(problems)})
  print(printable('\n'.join(lines(out, pool, usable, problems))))


def write(
  out: Path,
  pool: Sequence[Chosen],
  records: Mapping[str, Mapping[str, Any]],
  settings: Mapping[str, Any],
) -> None:
  """Write ids.txt and sav128.json to a new folder.

  Raises:
    InputError: if the folder is not free.
    OSError: if it cannot be written.
  """
  entries = []
  for chosen in pool:
    entries.append(
      {
        **records[chosen.candidate.id],
        'score': round(chosen.score, 6),
        'place': chosen.place,
        'rank': chosen.rank,
        'group': chosen.group or None,
        'turn': chosen.turn or None,
        'reason': chosen.reason,
      }
    )
  drawn = sorted((c for c in pool if c.group), key=lambda c: (-len(c.group), c.candidate.id))
  ids = ''.join(f'{chosen.candidate.id}  # {chosen.group}\n' for chosen in drawn)
  content = {
    'settings': dict(settings),
    'ids': [chosen.candidate.id for chosen in drawn],
    'pool': entries,
  }
  with atomic.new_folder(out) as folder:
    (folder / IDS).write_text(ids, encoding='utf-8')
    (folder / REASONS).write_text(json.dumps(content, indent=1, ensure_ascii=False), 'utf-8')


def lines(out: Path, pool: Sequence[Chosen], usable: Sequence, problems: Mapping) -> list[str]:
  """Return the summary of a selection for the console."""
  said = [f'{len(usable)} videos scored, {len(problems)} not usable']
  for reason, count in collections.Counter(problems.values()).most_common(5):
    said.append(f'  {count}: {reason}')
  counts = collections.Counter(chosen.candidate.category for chosen in pool)
  said.append('pool: ' + ', '.join(f'{counts[c]} {c}' for c in CATEGORIES if counts[c]))
  groups = collections.Counter(chosen.group for chosen in pool)
  said.append(f'drawn: {groups[SINGLE]} with one object, {groups[MULTI]} with several objects')
  return [*said, str(out / IDS), str(out / REASONS)]


def read_categories(path: str) -> dict[str, str]:
  """Read a JSON object that maps video ids to categories.

  Raises:
    InputError: if the file cannot be read, or a category is not an element of CATEGORIES.
  """
  content = parse_json(read_text(path), path)
  if not isinstance(content, dict) or not content:
    raise InputError(f'{path}: must be a JSON object that maps video ids to categories')
  for name, category in content.items():
    if category not in CATEGORIES:
      hint = nearest(str(category), CATEGORIES)
      raise InputError(
        f'{path}: "{name}" has the category {category!r}{hint}; use {", ".join(CATEGORIES)}'
      )
  return content


def _score(args: argparse.Namespace, scores: Path) -> None:
  size = parse_size(args.size)
  if not 0 < args.fps <= SAV_FPS:
    raise InputError(f'--fps {args.fps:g}: SA-V has 24 frames per second; give a number up to 24')
  said = read_captions(args.captions) if args.captions else None
  categories = read_categories(args.categories) if args.categories else None
  videos, _ = sav_videos(Path(args.source), said)
  names = ('fps', 'size', 'captions', 'categories', *_MODELS)
  settings = {name: getattr(args, name) for name in names}
  steps, categorize = _models(args, categories)
  how = scoring.Scoring(args.fps, size, steps, args.batch)
  scoring.score(videos, scores, how, categorize, settings)


def _models(
  args: argparse.Namespace, categories: Mapping[str, str] | None
) -> tuple[dict[str, Step], Categorize | Mapping[str, str]]:
  """Load the models, each once; return the steps, and what gives the categories.

  Raises:
    InputError: if a model is missing.
  """
  needed = {
    'flow': 'the motion score',
    'clip_model': 'the aesthetic score',
    'aesthetic_head': 'the aesthetic score',
  }
  if not args.captions:
    needed |= {'captioner': 'the captions', 'llm': 'the number of objects'}
  elif not args.categories:
    needed['llm'] = 'the categories'
  for name, what in needed.items():
    if not getattr(args, name):
      raise InputError(f'--source needs --{name} for {what}; give the model')
  weights = ModelSource.from_flags(args).of
  steps: dict[str, Step] = {
    'flow': FlowSettings(weights(args.flow)).build(),
    'aesthetic': AestheticSettings(weights(args.clip_model), args.aesthetic_head).build(),
  }
  if args.captioner:
    steps['caption'] = CaptionSettings(weights(args.captioner)).build()
  if args.llm:
    source = weights(args.llm)
    model = LanguageModel(source)
    steps['prompts'] = Prompts(model, PromptSettings(source))
    if categories is None:
      return steps, Categorize(model)
  assert categories is not None  # Else --llm is required.
  return steps, categories
