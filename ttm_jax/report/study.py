"""A human study of two systems: a page for raters, and the record of what it hides.

    STUDY/study.json    which side of which pair is A; keep it from the raters
    STUDY/page/         send this folder: index.html, and videos and images under neutral names

Raters see the input image, the motion prompt and two videos, and answer the questions of
`metrics.votes` (paper, section 4.1). Order and sides are random by the seed. Both videos of a pair
are encoded alike, at the size, length and frame rate of the clip.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from ttm_jax import outputs
from ttm_jax.atomic import replaced_folder, write_bytes, write_text
from ttm_jax.errors import InputError, printable
from ttm_jax.media.animations import png
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics import votes
from ttm_jax.metrics.systems import Batch, VideoFolder
from ttm_jax.metrics.votes import QUESTIONS, SIDES, Pair, Result, Study
from ttm_jax.report.pages import render
from ttm_jax.report.paper import paper_tables

RECORD, PAGE = votes.RECORD, 'page'
_MEDIA = 'media'
_RESULTS = ('votes.json', 'votes.md')
_SMALL = 160  # Pixels; smaller videos are enlarged without smoothing.


@dataclasses.dataclass(frozen=True)
class _Shown:
  """A pair on the page; videos and image are paths in the folder of the page."""

  id: str
  motion: str
  caption: str
  image: str
  left: str
  right: str


def write_study(
  out: Path,
  a: VideoFolder,
  b: VideoFolder,
  seed: int,
  progress: Callable[[int], None] = lambda pairs: None,
) -> Study:
  """Write the page and the record of a study of the first seed of two systems.

  Args:
    out: folder of the study.
    a, b: videos of the same clips.
    seed: seed of order, sides and file names.
    progress: called with the number of pairs written since the last call.

  Returns:
    The record.

  Raises:
    InputError: a video cannot be read, or a file cannot be written.
  """
  rng = np.random.default_rng(seed)
  keys = a.references.keys
  order = rng.permutation(len(keys))
  left_is_a = rng.integers(2, size=len(keys)).astype(bool)
  names = _neutral(rng, 3 * len(keys))
  shown: dict[int, _Shown] = {}
  with outputs.writing(out, 'free space or name another --out'):
    with replaced_folder(out / PAGE) as page:
      (page / _MEDIA).mkdir()
      fps, shape = 8.0, (1, 1, 1)
      for of_a, of_b in _first_seed(a, b):
        for index, (one, two) in enumerate(_together(of_a, of_b), of_a.first):
          clip, places = one.clip, [f'{_MEDIA}/{name}' for name in names[3 * index :][:3]]
          videos = (one.video, two.video) if left_is_a[index] else (two.video, one.video)
          for video, place in zip(videos, places, strict=False):
            write_video(page / f'{place}.mp4', video, clip.fps)
          write_bytes(page / f'{places[2]}.png', png(clip.video[0]))
          said = clip.motion or clip.caption
          media = f'{places[2]}.png', f'{places[0]}.mp4', f'{places[1]}.mp4'
          shown[index] = _Shown('', said, clip.caption or said, *media)
          if index == 0:
            frames, height, width, _ = clip.video.shape
            fps, shape = clip.fps, (frames, height, width)
          progress(1)
      pairs = [
        Pair(f'p{place:04d}', keys[index], SIDES[0] if left_is_a[index] else SIDES[1])
        for place, index in enumerate(order, 1)
      ]
      record = Study(_id(seed, a.names[0], b.names[0], page), a.names[0], b.names[0], tuple(pairs))
      entries = [
        dataclasses.replace(shown[index], id=pair.id)
        for pair, index in zip(pairs, order, strict=True)
      ]
      content = render(
        'study.html.j2',
        ['player.js', 'study.js'],
        study=record.id,
        pairs=entries,
        questions=QUESTIONS,
        fps=f'{fps:g}',
        frames=shape[0],
        height=shape[1],
        width=shape[2],
        small=shape[2] <= _SMALL,
      )
      (page / 'index.html').write_bytes(content)
    write_text(out / RECORD, json.dumps({'seed': seed, **record.as_dict()}, indent=1) + '\n')
  return record


def count_votes(
  files: Sequence[str], folder: str | None, out: str | None, draws: int
) -> dict[str, Result]:
  """Count the votes of a study, print the table, and write votes.json and votes.md.

  Args:
    files: files that raters have downloaded.
    folder: folder of the study.
    out: folder to write to; None to print only.
    draws: draws of the bootstrap.

  Raises:
    InputError: a file is damaged or of another study, or an output cannot be written.
  """
  if folder is None:
    raise InputError('give the folder of the study that the votes are of (--study STUDY)')
  written = [] if out is None else [Path(out) / name for name in _RESULTS]
  outputs.check('--out', written, reads={'--votes': files, '--study': Path(folder) / RECORD})
  study = votes.read_study(Path(folder))
  raters = [votes.read_votes(Path(file), study) for file in files]
  results = votes.count(study, raters, draws)
  lines = _notes(study, results, len(raters))
  table = RichTable('', 'prefers A', 'pairs', 'agreement of raters')
  for name, result in results.items():
    table.add_row(QUESTIONS[name], _percent(result), str(result.pairs), f'{result.agreement:.0%}')
  Console().print(table)
  for line in lines:
    print(printable(line))
  if written:
    values = {
      'study': study.id,
      'a': study.a,
      'b': study.b,
      'raters': len(raters),
      'questions': {name: result.as_dict() for name, result in results.items()},
    }
    with outputs.writing(out or '', 'free space or name another --out'):
      write_text(written[0], json.dumps(values, indent=1) + '\n')
      write_text(written[1], _markdown(study, results, lines))
    for path in written:
      print(printable(path))
  return results


def _first_seed(a: VideoFolder, b: VideoFolder):
  for of_a, of_b in zip(a.batches(), b.batches(), strict=False):
    if of_a.seed or of_b.seed:
      return
    yield of_a, of_b


def _together(of_a: Batch, of_b: Batch):
  (a,), (b,) = of_a.samples.values(), of_b.samples.values()
  return zip(a, b, strict=True)


def _neutral(rng: np.random.Generator, count: int) -> list[str]:
  """Return different file names that tell nothing."""
  names: dict[str, None] = {}
  while len(names) < count:
    names[rng.bytes(8).hex()] = None
  return list(names)


def _id(seed: int, a: str, b: str, page: Path) -> str:
  """Return an id that another study of other videos, systems or another seed does not have."""
  digest = hashlib.sha256(repr((seed, a, b)).encode())
  for path in sorted((page / _MEDIA).iterdir()):
    digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()[:16]


def _percent(result: Result) -> str:
  number = result.percent
  return f'{number.value:.1f} % [{number.low:.1f}, {number.high:.1f}]'


def _notes(study: Study, results: dict[str, Result], raters: int) -> list[str]:
  lines = [
    f'A is {study.a}, B is {study.b}; pairs: {len(study.pairs)}, raters: {raters}.',
    'Of each pair, the majority of its raters counts; a tie counts half.',
    '[low, high]: 95 % bootstrap interval over pairs. Bold: 50 % is outside.',
  ]
  for name, result in results.items():
    if result.pairs < len(study.pairs):
      lines.append(f'{name}: pairs without a vote: {len(study.pairs) - result.pairs}.')
    if result.ties:
      lines.append(f'{name}: ties: {result.ties}.')
  return lines


def _markdown(study: Study, results: dict[str, Result], lines: Sequence[str]) -> str:
  text = f'# Study {study.id}\n\n| question | prefers A | pairs | agreement of raters |\n'
  text += '|---|---|---|---|\n'
  for name, result in results.items():
    shown = f'**{_percent(result)}**' if result.decides else _percent(result)
    text += f'| {QUESTIONS[name]} | {shown} | {result.pairs} | {result.agreement:.0%} |\n'
  text += ''.join(f'\n- {line}' for line in lines) + '\n\n## In the paper\n\n'
  text += 'Raters who prefer the method of the paper to others, in percent.\n'
  for paper in paper_tables([f'prefer_{name}' for name in QUESTIONS]):
    text += f'\n{paper.caption}:\n\n| | {" | ".join(QUESTIONS)} |\n|---|---|---|---|\n'
    text += ''.join(f'| {name} | {" | ".join(values)} |\n' for name, values in paper.rows)
  return text
