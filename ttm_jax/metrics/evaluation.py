"""How well a trained pair of stages does on held-out clips, beside floors and ceilings.

Three questions. Motion: does the generated trajectory match the true one, and do objects go where
their prompts say? Video: how close is the video made from the true trajectory to the truth? Chain:
the same, from the picture and the sentences alone.
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
from ttm_jax.metrics.adherence import adherence, find_by_colour
from ttm_jax.metrics.motion import DIRECTIONAL, goes_as_told, mean_iou
from ttm_jax.metrics.video import WINDOW, psnr, ssim
from ttm_jax.scenes.captions import motion_of

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Tables and what was generated.

  Attributes:
    motion: by name of the row, means over the clips: `iou` of trajectories over frames 2..T,
      `direction`, the share of the objects told to go left, right, up or down that do, `as_told`,
      the same for all motions that prompts name.
    video: likewise: `psnr` (dB) and `ssim` against the truth, `adherence`, the IoU of the objects
      found in the video by colour with the trajectory it was given, and where they go.
    clips: the clips.
    trajectories: generated, uint8 [T, H, W] each.
    from_truth, chained: videos from the true and the generated trajectories, uint8 [T, H, W, 3].
  """

  motion: dict[str, Row]
  video: dict[str, Row]
  clips: list[Clip]
  trajectories: list[np.ndarray]
  from_truth: list[np.ndarray]
  chained: list[np.ndarray]


def evaluate(
  pipeline: Pipeline,
  clips: Sequence[Clip],
  seed: int = 0,
  batch: int = 16,
  progress: Callable[[int], None] = lambda clips: None,
) -> Evaluation:
  """Generates for each clip and measures.

  Args:
    clips: of the frames and size that the pipeline works at.
    batch: clips generated at once.
    progress: called with the number of clips that a piece of work has finished, three times each.

  Raises:
    InputError: there is no clip, or one does not fit the pipeline; before anything is generated.
  """
  trajectories: list[np.ndarray] = []
  from_truth: list[np.ndarray] = []
  chained: list[np.ndarray] = []
  clips = [clips[i] for i in range(len(clips))]
  check(pipeline, clips)
  for first, some in _batches(clips, batch):
    requests = [request_of(clip) for clip in some]
    count = min(batch, len(clips) - first)
    noise = (seed + first) % 2**63  # What random generators take.
    generated = pipeline.trajectories(requests, noise)
    progress(count)
    truth = np.stack([clip.ids for clip in some])
    with_truth = pipeline.videos(requests, truth, noise)
    progress(count)
    with_generated = pipeline.videos(requests, generated, noise)
    progress(count)
    trajectories += list(generated[:count])
    from_truth += list(with_truth[:count])
    chained += list(with_generated[:count])
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
  return Evaluation(
    motion={
      'frame-0 masks held still (floor)': motion_row(clips, held),
      'stage 1': motion_row(clips, trajectories),
      'truth through the codec (ceiling)': motion_row(clips, ceiling),
    },
    video={
      'frame 0 repeated (floor)': video_row(clips, still, truth_ids),
      'stage 2 from the true trajectory': video_row(clips, from_truth, truth_ids),
      'chained: stage 1, then stage 2': video_row(clips, chained, trajectories),
      'truth through the codec (ceiling)': video_row(clips, decoded, truth_ids),
    },
    clips=clips,
    trajectories=trajectories,
    from_truth=from_truth,
    chained=chained,
  )


def check(pipeline: Pipeline, clips: Sequence[Clip]) -> None:
  """Raise InputError where there is no clip, or one cannot be generated; names the clip."""
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
  """What a user would give to get this clip."""
  present = set(np.unique(clip.ids[0]).tolist()) - {0}
  prompts = {obj: clip.prompts[obj - 1] for obj in sorted(present) if clip.prompts[obj - 1]}
  return Request(clip.video[0], clip.ids[0], clip.caption, clip.motion, prompts)


def motion_row(clips: Sequence[Clip], ids: Sequence[np.ndarray]) -> Row:
  """Means over clips of the IoU with the truth, and of where the objects go."""
  pairs = list(zip(clips, ids, strict=True))
  iou = mean([mean_iou(found, clip.ids) for clip, found in pairs])
  return {'iou': iou, **told(pairs)}


def video_row(
  clips: Sequence[Clip], videos: Sequence[np.ndarray], given: Sequence[np.ndarray]
) -> Row:
  """Means over clips; objects are found in the pixels by their colour in frame 0."""
  found = [
    find_by_colour(video, clip.video[0], clip.ids[0])
    for clip, video in zip(clips, videos, strict=True)
  ]
  triples = list(zip(clips, videos, given, strict=True))
  return {
    'psnr': mean_psnr([(clip.video, video) for clip, video, _ in triples]),
    'ssim': mean([_ssim(clip.video, video) for clip, video, _ in triples]),
    'adherence': mean([adherence(v, clip.video[0], ids) for clip, v, ids in triples]),
    **told(list(zip(clips, found, strict=True))),
  }


def mean(values: Sequence[float]) -> float:
  """The mean of what is not NaN; NaN where nothing is."""
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else float('nan')


def _ssim(truth: np.ndarray, video: np.ndarray) -> float:
  """`metrics.video.ssim`; NaN for frames smaller than its window."""
  return ssim(truth, video) if min(truth.shape[1:3]) >= WINDOW else float('nan')


def mean_psnr(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
  """Mean PSNR in dB; clips that are met exactly (still ones, by a repeated frame) do not count."""
  values = [psnr(truth, video) for truth, video in pairs]
  return float(np.mean([v for v in values if np.isfinite(v)] or [np.inf]))


def told(pairs: Sequence[tuple[Clip, np.ndarray]]) -> Row:
  """Shares of the objects that do as their prompts say: those with a direction, and all.

  NaN where no prompt names a motion that can be judged.
  """
  judged: list[tuple[str, bool]] = []
  for clip, ids in pairs:
    for obj, prompt in enumerate(clip.prompts, 1):
      motion = motion_of(prompt)
      agrees = None if motion is None else goes_as_told(ids, obj, motion)
      if motion is not None and agrees is not None:
        judged.append((motion, agrees))
  directed = [agrees for motion, agrees in judged if motion in DIRECTIONAL]
  every = [agrees for _, agrees in judged]
  return {'direction': mean(directed), 'as_told': mean(every)}


def round_trip(codec: Codec, videos: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  """Videos uint8 [T, H, W, 3] of one shape, encoded and decoded."""
  through = jax.jit(lambda codec, v: codec.decode(codec.encode(v).mean, v.shape[1]))
  for video in videos:
    yield to_uint8(through(codec, jnp.asarray(to_float(video)[None])))[0]


def _batches(clips: Sequence[Clip], batch: int) -> Iterator[tuple[int, list[Clip]]]:
  """Batches of one size, so that nothing is compiled twice; the last repeats its last clip."""
  for first in range(0, len(clips), batch):
    some = list(clips[first : first + batch])
    yield first, some + [some[-1]] * (batch - len(some))
