"""The gallery of a scored folder: reference, trajectory and videos of each clip, played together.

gallery.html
videos/      the scored videos, KEY__SEED.mp4
gallery/     the other videos of the page: KEY.reference.mp4, KEY.trajectory.mp4, KEY.other.mp4
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttm_jax import trajectory
from ttm_jax.atomic import write_bytes
from ttm_jax.errors import InputError
from ttm_jax.media.video_io import write_video
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.references import objects_of
from ttm_jax.metrics.score_files import VIDEOS
from ttm_jax.metrics.scored_videos import stem_of
from ttm_jax.metrics.scoring import Scores
from ttm_jax.metrics.systems import Batch
from ttm_jax.report.pages import render
from ttm_jax.report.score_table import PAPER_NOTE, ScoreTable

PAGE, MEDIA = 'gallery.html', 'gallery'
_SMALL = 160  # Pixels; smaller videos are enlarged without smoothing.


@dataclasses.dataclass(frozen=True)
class ShownClip:
  """What the page tells of a clip.

  Attributes:
    objects: number of objects in the first frame.
    texts: label -> text.
    given: name of the trajectory panel.
  """

  objects: int
  texts: Mapping[str, str]
  given: str


class KeptVideos:
  """Write the videos of batches as they are scored.

  Attributes:
    clips: what the page tells of each clip by its key.
    fps: frames per second of the first clip.
    shape: frames, height and width.
  """

  def __init__(self, videos: Path, media: Path, seeds: Sequence[int], shown: int, palette: str):
    """Choose where to write.

    Args:
      videos: existing folder for the scored videos.
      media: existing folder for the other videos of the page.
      seeds: noise seeds; the page shows the first.
      shown: number of clips that the page shows.
      palette: palette of rendered trajectories.
    """
    self._videos, self._media, self._seeds = videos, media, seeds
    self._shown, self._palette = shown, palette
    self.clips: dict[str, ShownClip] = {}
    self.fps, self.shape = 8.0, (1, 1, 1)

  def ours(self, batch: Batch) -> None:
    """Write the videos of the first system, and those beside it.

    Raises:
      OSError: a file cannot be written.
    """
    for index, sample in enumerate(next(iter(batch.samples.values())), batch.first):
      clip = sample.clip
      stem = stem_of(clip.key)
      seed = self._seeds[batch.seed]
      write_video(self._videos / f'{stem}__{seed}.mp4', sample.video, clip.fps)
      if batch.seed:
        continue
      if index == 0:
        frames, height, width, _ = sample.video.shape
        self.fps, self.shape = clip.fps, (frames, height, width)
      self.clips[clip.key] = _told(sample)
      if index < self._shown:
        write_video(self._media / f'{stem}.reference.mp4', clip.video, clip.fps)
        colors = trajectory.render(sample.target, self._palette)
        write_video(self._media / f'{stem}.trajectory.mp4', colors, clip.fps)

  def other(self, batch: Batch) -> None:
    """Write the videos of the system to compare with, of the clips that the page shows.

    Raises:
      OSError: a file cannot be written.
    """
    if batch.seed:
      return
    for index, sample in enumerate(next(iter(batch.samples.values())), batch.first):
      if index < self._shown:
        name = f'{stem_of(sample.clip.key)}.other.mp4'
        write_video(self._media / name, sample.video, sample.clip.fps)

  def copy_other(self, folder: Path, seed: int, keys: Sequence[str]) -> None:
    """Copy videos of a scored folder, as far as it has them, by encoding them anew.

    Raises:
      OSError: a file cannot be written.
    """
    for key in keys[: self._shown]:
      source = folder / VIDEOS / f'{stem_of(key)}__{seed}.mp4'
      try:
        video, fps = read_video(source)
      except InputError:  # The page leaves it out.
        continue
      write_video(self._media / f'{stem_of(key)}.other.mp4', video, fps)


def _told(sample: Sample) -> ShownClip:
  clip = sample.clip
  texts = {'caption': clip.caption, 'motion': clip.motion, 'objects': '; '.join(clip.prompts)}
  given = sample.trajectory
  truth = given is None or (given.shape == clip.ids.shape and bool((given == clip.ids).all()))
  name = 'ground-truth trajectory' if truth else 'generated trajectory'
  return ShownClip(objects_of(clip), {k: v for k, v in texts.items() if v}, name)


def write_comparison(
  out: Path, title: str, table: ScoreTable, scores: Scores, kept: KeptVideos, shown: int
) -> None:
  """Write the page beside the videos that `kept` has written.

  Args:
    out: folder with `videos/` and `gallery/`.
    title: heading of the page.
    table: table of scores.
    scores: the numbers, for the values of each clip.
    kept: the videos.
    shown: number of clips to show.

  Raises:
    OSError: the page cannot be written.
  """
  keys = scores.systems[0].keys[:shown]
  frames, height, width = kept.shape
  seeds = scores.systems[0].seeds
  intro = f'{len(keys)} of {len(scores.systems[0].keys)} clips'
  if len(seeds) > 1:
    intro += f'; seed {seeds[0]} of {len(seeds)}'
  page = render(
    'comparison.html.j2',
    ['player.js', 'comparison.js'],
    title=title,
    table=table,
    paper_note=PAPER_NOTE,
    intro=f'{intro}.',
    clips=[_clip(out, key, index, scores, kept) for index, key in enumerate(keys)],
    counts=sorted({kept.clips[key].objects for key in keys}),
    fps=f'{kept.fps:g}',
    frames=frames,
    width=width,
    height=height,
    small=width <= _SMALL,
  )
  write_bytes(out / PAGE, page)


def _clip(out: Path, key: str, index: int, scores: Scores, kept: KeptVideos) -> dict[str, Any]:
  about, stem = kept.clips[key], stem_of(key)
  ours = scores.systems[0]
  named = {
    'reference': f'{MEDIA}/{stem}.reference.mp4',
    about.given: f'{MEDIA}/{stem}.trajectory.mp4',
    ours.name: f'{VIDEOS}/{stem}__{ours.seeds[0]}.mp4',
  }
  other = f'{MEDIA}/{stem}.other.mp4'
  if scores.against is not None and (out / other).is_file():
    named[scores.systems[scores.against].name] = other
  by_metric = {
    metric.title: [_value(system.rows[metric.name][0, index]) for system in scores.systems]
    for metric in scores.metrics
    if all(system.rows[metric.name].shape[-1] == 1 for system in scores.systems)
  }
  return {
    'key': key,
    'objects': about.objects,
    'texts': about.texts,
    'panels': named,
    'by_metric': by_metric,
    'systems': [system.name for system in scores.systems],
  }


def _value(row: Any) -> float | None:
  return float(row[0]) if math.isfinite(row[0]) else None
