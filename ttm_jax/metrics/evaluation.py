"""Evaluate a trained pair of stages on validation clips, with lower and upper bounds.

Three measurements:

* motion: the IoU of generated and ground-truth trajectories, and the motion accuracy, which is the
  fraction of objects that move as their prompts say;
* video: the similarity to the ground truth of videos generated from ground-truth trajectories;
* chained: the same for videos generated from the image and prompts alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax import trajectory
from ttm_jax.codecs.base import Codec, to_float, to_uint8
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import Pipeline, Request
from ttm_jax.metrics.adherence import find_by_color
from ttm_jax.metrics.intervals import bootstrap
from ttm_jax.metrics.motion import DIRECTIONAL, judged_motions, mean_iou
from ttm_jax.metrics.video import WINDOW, psnr, ssim

Row = dict[str, float]
Values = dict[str, list[list[float]]]
"""By metric and clip: a value, none if the metric does not apply, or one for each object."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Metrics and generated samples.

  Attributes:
    motion: trajectory metrics by row name, means over the clips:
      `iou`: IoU with the ground truth over frames 2..T, 0..1.
      `direction`: fraction of objects prompted to go left, right, up or down that do so, 0..1.
      `all_motions`: the same for all motions that prompts can name.
    video: video metrics by row name, means over the clips:
      `psnr` (dB), `ssim`: compared with the ground truth.
      `adherence`: IoU of the objects found in the video by color with its input trajectory.
      `direction`, `all_motions`: as in `motion`, of the objects found in the video.
    clips: the evaluated clips.
    trajectories: generated trajectories, uint8 [T, H, W] each.
    from_truth: videos generated from ground-truth trajectories, uint8 [T, H, W, 3] each.
    chained: videos generated from generated trajectories, uint8 [T, H, W, 3] each.
    intervals: ends of the 95 % bootstrap interval over clips, by `motion` or `video`, row name and
      metric; those without an interval are left out.
  """

  motion: dict[str, Row]
  video: dict[str, Row]
  clips: list[Clip]
  trajectories: list[np.ndarray]
  from_truth: list[np.ndarray]
  chained: list[np.ndarray]
  intervals: dict[str, dict[str, dict[str, tuple[float, float]]]] = dataclasses.field(
    default_factory=dict
  )


def evaluate(
  pipeline: Pipeline,
  clips: Sequence[Clip],
  seed: int = 0,
  batch: int = 16,
  progress: Callable[[int], None] = lambda clips: None,
) -> Evaluation:
  """Generate trajectories and videos for each clip, and compute all metrics.

  Args:
    pipeline: a pipeline with both stages.
    clips: clips with the number of frames and the resolution of the pipeline.
    seed: seed of the initial noise.
    batch: batch size of the generation.
    progress: called with the number of clips finished by one generation step. Each clip counts
      three times: once for the trajectory, twice for the videos.

  Raises:
    InputError: there is no clip, a clip does not fit the pipeline, or stage 1 is missing. Raised
      before anything is generated.
  """
  trajectories: list[np.ndarray] = []
  from_truth: list[np.ndarray] = []
  chained: list[np.ndarray] = []
  clips = [clips[i] for i in range(len(clips))]
  check(pipeline, clips)
  for made in generate(pipeline, clips, seed, batch, progress):
    trajectories += made.trajectories
    from_truth += made.from_truth
    chained += made.chained
  codec1 = pipeline.stage1.context.codec if pipeline.stage1 else pipeline.stage2.context.codec
  palette = pipeline.encoding.palette
  rendered = [trajectory.render(clip.ids, palette) for clip in clips]
  ceiling = [
    trajectory.decode(video, clip.ids[0], palette)
    for clip, video in zip(clips, round_trip(codec1, rendered), strict=True)
  ]
  held = [np.broadcast_to(clip.ids[:1], clip.ids.shape) for clip in clips]
  still = [np.broadcast_to(clip.video[:1], clip.video.shape) for clip in clips]
  decoded = list(round_trip(pipeline.stage2.context.codec, [clip.video for clip in clips]))
  truth_ids = [clip.ids for clip in clips]
  values = {
    'motion': {
      'first masks repeated (lower bound)': motion_values(clips, held),
      'stage 1': motion_values(clips, trajectories),
      'ground truth through the codec (upper bound)': motion_values(clips, ceiling),
    },
    'video': {
      'first frame repeated (lower bound)': video_values(clips, still, truth_ids),
      'stage 2 from the ground-truth trajectory': video_values(clips, from_truth, truth_ids),
      'both stages': video_values(clips, chained, trajectories),
      'ground truth through the codec (upper bound)': video_values(clips, decoded, truth_ids),
    },
  }
  return Evaluation(
    motion={name: averaged(row) for name, row in values['motion'].items()},
    video={name: averaged(row) for name, row in values['video'].items()},
    clips=clips,
    trajectories=trajectories,
    from_truth=from_truth,
    chained=chained,
    intervals={
      what: {name: intervals(row) for name, row in rows.items()} for what, rows in values.items()
    },
  )


@dataclasses.dataclass(frozen=True)
class Generated:
  """What a pair of stages generates for a batch of clips.

  Attributes:
    clips: the clips.
    trajectories, from_truth, chained: see `Evaluation`.
  """

  clips: list[Clip]
  trajectories: list[np.ndarray]
  from_truth: list[np.ndarray]
  chained: list[np.ndarray]


def generate(
  pipeline: Pipeline,
  clips: Sequence[Clip],
  seed: int = 0,
  batch: int = 16,
  progress: Callable[[int], None] = lambda clips: None,
) -> Iterator[Generated]:
  """Generate trajectories and videos, one batch of clips at a time; see `evaluate`.

  Raises:
    InputError: a clip does not fit the pipeline.
  """
  for first, some in batches(clips, batch):
    requests = [request_of(clip) for clip in some]
    count = min(batch, len(clips) - first)
    noise = noise_seed(seed, first)
    generated = pipeline.trajectories(requests, noise)
    progress(count)
    truth = np.stack([clip.ids for clip in some])
    with_truth = pipeline.videos(requests, truth, noise)
    progress(count)
    with_generated = pipeline.videos(requests, generated, noise)
    progress(count)
    made = (list(videos[:count]) for videos in (generated, with_truth, with_generated))
    yield Generated(some[:count], *made)


def noise_seed(seed: int, first: int) -> int:
  """Return the seed of the noise of a batch that begins with clip `first`."""
  return (seed + first) % 2**63  # Random generators accept seeds below 2**63.


def check(pipeline: Pipeline, clips: Sequence[Clip]) -> None:
  """Check that every clip can be generated.

  Raises:
    InputError: there is no clip, or a clip does not fit the pipeline. The message names the clip.
  """
  if not clips:
    raise InputError('there is no clip to evaluate on: give a --split or --count with clips')
  for clip in clips:
    try:
      request = request_of(clip)
      for stage, ids in ((pipeline.stage1, None), (pipeline.stage2, clip.ids)):
        if stage is not None:
          stage.check(request, ids)
    except InputError as error:
      raise InputError(f'clip {clip.key} cannot be evaluated on: {error}') from error


def request_of(clip: Clip) -> Request:
  """Return the request of a clip: its first frame and masks, caption, motion and object prompts.

  Only objects that are visible in the first frame, and have a prompt, get one.
  """
  present = set(np.unique(clip.ids[0]).tolist()) - {0}
  prompts = {obj: clip.prompts[obj - 1] for obj in sorted(present) if clip.prompts[obj - 1]}
  return Request(clip.video[0], clip.ids[0], clip.caption, clip.motion, prompts)


def motion_row(clips: Sequence[Clip], ids: Sequence[np.ndarray]) -> Row:
  """Return the trajectory metrics, averaged over clips.

  Args:
    clips: the ground truth.
    ids: trajectories to evaluate, uint8 [T, H, W] each.

  Returns:
    `iou`, `direction` and `all_motions`; see `Evaluation`.
  """
  return averaged(motion_values(clips, ids))


def video_row(
  clips: Sequence[Clip], videos: Sequence[np.ndarray], given: Sequence[np.ndarray]
) -> Row:
  """Return the video metrics, averaged over clips; objects are found by their color in frame 0.

  Args:
    clips: the ground truth.
    videos: videos to evaluate, uint8 [T, H, W, 3] each.
    given: their input trajectories, uint8 [T, H, W] each.

  Returns:
    `psnr`, `ssim`, `adherence`, `direction` and `all_motions`; see `Evaluation`. Exact matches,
    such as a static clip and its repeated frame, have infinite PSNR and are skipped; `psnr` is
    infinite if all videos match exactly.
  """
  return averaged(video_values(clips, videos, given))


def motion_values(clips: Sequence[Clip], ids: Sequence[np.ndarray]) -> Values:
  """Return the values that `motion_row` averages."""
  pairs = list(zip(clips, ids, strict=True))
  return {'iou': [_known(mean_iou(found, clip.ids)) for clip, found in pairs], **_told(pairs)}


def video_values(
  clips: Sequence[Clip], videos: Sequence[np.ndarray], given: Sequence[np.ndarray]
) -> Values:
  """Return the values that `video_row` averages."""
  found = [
    find_by_color(video, clip.video[0], clip.ids[0])
    for clip, video in zip(clips, videos, strict=True)
  ]
  pairs = list(zip(clips, videos, strict=True))
  return {
    'psnr': [_known(psnr(clip.video, video)) for clip, video in pairs],
    'ssim': [_known(_ssim(clip.video, video)) for clip, video in pairs],
    'adherence': [_known(mean_iou(ids, aim)) for ids, aim in zip(found, given, strict=True)],
    **_told(list(zip(clips, found, strict=True))),
  }


def averaged(values: Values) -> Row:
  """Return the mean of each metric; NaN for one without values, infinity for the PSNR."""
  row = {name: mean([x for some in by_clip for x in some]) for name, by_clip in values.items()}
  if np.isnan(row.get('psnr', 0.0)):
    row['psnr'] = float('inf')
  return row


def intervals(values: Values) -> dict[str, tuple[float, float]]:
  """Return the ends of the 95 % bootstrap interval over clips of each metric that has one."""
  found = {}
  for name, by_clip in values.items():
    rows = np.array([[[sum(some), len(some)] for some in by_clip]], np.float64)
    interval = bootstrap(rows, _ratio)
    if np.isfinite([interval.low, interval.high]).all():
      found[name] = interval.low, interval.high
  return found


def _ratio(rows: np.ndarray) -> float:
  total, count = rows.sum(0)
  return float(total / count) if count else float('nan')


def _known(value: float) -> list[float]:
  return [value] if np.isfinite(value) else []


def mean(values: Sequence[float]) -> float:
  """Return the mean of the values that are not NaN; NaN if there are none."""
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else float('nan')


def _ssim(truth: np.ndarray, video: np.ndarray) -> float:
  """Return `metrics.video.ssim`, or NaN for frames smaller than its window."""
  return ssim(truth, video) if min(truth.shape[1:3]) >= WINDOW else float('nan')


def _told(pairs: Sequence[tuple[Clip, np.ndarray]]) -> Values:
  """Return whether each object moves as its prompt says, by clip.

  Args:
    pairs: clips with prompts, and label maps uint8 [T, H, W] to evaluate.

  Returns:
    `direction`, of objects prompted to go left, right, up or down, and `all_motions`, of all
    motions that can be checked.
  """
  found: dict[str, list[list[float]]] = {'direction': [], 'all_motions': []}
  for clip, ids in pairs:
    judged = judged_motions(clip.prompts, ids)
    found['direction'].append([float(x) for motion, x in judged if motion in DIRECTIONAL])
    found['all_motions'].append([float(x) for _, x in judged])
  return found


def round_trip(codec: Codec, videos: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  """Yield each video after encoding and decoding; uint8 [T, H, W, 3], all of the same shape."""
  through = jax.jit(lambda codec, v: codec.decode(codec.encode(v).mean, v.shape[1]))
  for video in videos:
    yield to_uint8(through(codec, jnp.asarray(to_float(video)[None])))[0]


def batches(clips: Sequence[Clip], batch: int) -> Iterator[tuple[int, list[Clip]]]:
  """Yield (index of the first clip, batch); the last batch is padded by repeating its last clip.

  All batches have the same size, to avoid recompilation.
  """
  for first in range(0, len(clips), batch):
    some = [clips[i] for i in range(first, min(first + batch, len(clips)))]
    yield first, some + [some[-1]] * (batch - len(some))
