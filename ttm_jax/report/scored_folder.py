"""Score videos and write the scored folder: numbers, tables, videos and gallery."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ttm_jax.atomic import replaced_folder, write_text
from ttm_jax.metrics.agreement import About
from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.defaults import DRAWS
from ttm_jax.metrics.intervals import LEVEL
from ttm_jax.metrics.score_files import SCORES, VIDEOS, ScoredFolder, write_scores
from ttm_jax.metrics.scoring import Measured, Scores, measure, summarize
from ttm_jax.metrics.systems import Source
from ttm_jax.outputs import writing
from ttm_jax.report.comparison import MEDIA, PAGE, KeptVideos, write_comparison
from ttm_jax.report.score_table import ScoreTable, as_csv, markdown, score_table

TABLES = ('scores.csv', 'scores.md')
FILES = (SCORES, 'rows.safetensors', *TABLES, PAGE)
FOLDERS = (VIDEOS, MEDIA)
CACHE = 'cache'  # Measured rows, see `metrics.rows_cache`; it may be deleted.


@dataclasses.dataclass(frozen=True)
class Options:
  """How to score.

  Attributes:
    draws: draws of the bootstrap.
    level: probability that the intervals cover.
    shown: number of clips in the gallery.
    palette: palette of rendered trajectories.
  """

  draws: int = DRAWS
  level: float = LEVEL
  shown: int = 64
  palette: str = 'spread8'


def write_scored(
  out: Path,
  source: Source,
  metrics: Sequence[Metric],
  about: About,
  other: Source | ScoredFolder | None,
  options: Options,
  progress: Callable[[int], None] = lambda videos: None,
) -> ScoreTable:
  """Score videos, and write all files of a scored folder.

  Args:
    out: output folder.
    source: the videos.
    metrics: the metrics.
    about: what is scored.
    other: what to compare with: videos of the same clips, or a scored folder that has them.
    options: how to score.
    progress: see `scoring.measure`.

  Returns:
    The table of scores.

  Raises:
    InputError: a video cannot be generated, read or measured, or a file cannot be written.
  """
  with writing(out, 'free space or name another --out'):
    with replaced_folder(out / VIDEOS) as videos, replaced_folder(out / MEDIA) as media:
      kept = KeptVideos(videos, media, source.seeds, options.shown, options.palette)
      ours = measure(source, metrics, out / CACHE, kept.ours, progress)
      keys = source.references.keys
      theirs: Measured | None = None
      if isinstance(other, ScoredFolder):
        theirs = other.measured.of(keys)
        kept.copy_other(other.folder, theirs.seeds[0], keys)
      elif other is not None:
        (theirs,) = measure(other, metrics, out / CACHE, kept.other, progress)
    scores = summarize(metrics, ours, theirs, options.draws, options.level)
    table = score_table(scores, about)
    write_all(out, scores, table, about, kept, options)
  return table


def write_all(
  out: Path,
  scores: Scores,
  table: ScoreTable,
  about: About,
  kept: KeptVideos,
  options: Options,
) -> None:
  """Write the numbers, the tables and the page of a scored folder.

  Raises:
    OSError: a file cannot be written.
  """
  title = f'Scores of {scores.systems[0].name}'
  objects = [kept.clips[key].objects for key in scores.systems[0].keys]
  write_scores(out, scores, objects, about.shape, table.notes)
  write_text(out / TABLES[0], as_csv(scores))
  write_text(out / TABLES[1], f'# {title}\n\n{markdown(table)}')
  write_comparison(out, title, table, scores, kept, options.shown)
