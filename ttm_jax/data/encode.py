"""Encode clips into the latents, token masks and text tokens of latents records."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax import optical_flow, trajectory, trajectory_edits
from ttm_jax.codecs.base import Codec, Moments, to_float
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.packed_ids import encode_ids
from ttm_jax.data.schema import FLOW, MAX_OBJECTS, Clip
from ttm_jax.errors import InputError
from ttm_jax.text import word_ids
from ttm_jax.text.encoders import WORDS, pad

Arrays = dict[str, np.ndarray]

# Returns the flow of a clip from each frame to the next, float [T - 1, H, W, 2], (x, y) in pixels.
Flow = Callable[[Clip], np.ndarray]

# (texts, length) -> embeddings [n, length, ...] and the number of valid tokens of each, int32 [n].
TextEncoder = Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]


def encode_words(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
  """Tokenize texts for the `words` encoder.

  Args:
    texts: n texts.
    length: tokens of a padded text.

  Returns:
    Word ids, int32 [n, length], and the number of valid tokens of each text, int32 [n].
  """
  ids, lengths = zip(*(word_ids.tokenize(text, length) for text in texts), strict=True)
  return np.stack(ids), np.array(lengths, np.int32)


def flow_of_labels(clip: Clip) -> np.ndarray:
  """Return the flow of a clip from its label maps; see `optical_flow.of_labels`."""
  return optical_flow.of_labels(clip.ids)


TEXT_ENCODERS: dict[str, TextEncoder] = {WORDS: encode_words}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random augmentation of each variant of a clip. The drawn values are stored in its record.

  Attributes:
    variants: number of records per clip.
    permute: whether to permute the object ids, so that a color carries no meaning.
    corrupt: fraction of the variants with corrupted masks, which imitate the errors of generated
      masks. Stage 2 is conditioned on the corrupted masks; stage 1 is trained on the true masks.
    true_masks: whether records also hold the latents of the true masks. Must be true in every split
      if one split has corrupted masks.
  """

  variants: int = 1
  permute: bool = True
  corrupt: float = 0.0
  true_masks: bool = False


def text_arrays(
  encoding: Encoding,
  encoders: Mapping[str, TextEncoder],
  caption: str,
  motion: str,
  prompts: Mapping[int, str],
) -> Arrays:
  """Return the text arrays of one record (see `data.batch`).

  Args:
    encoding: the settings of the dataset.
    encoders: text encoders by name; must contain those of `encoding`.
    caption: the caption.
    motion: the motion-only prompt.
    prompts: object prompts by object id, 1..max_objects. The slots of other objects stay empty.

  Raises:
    InputError: an object id exceeds max_objects.
  """
  highest = max(prompts, default=0)
  if highest > encoding.max_objects:
    raise InputError(
      f'object {highest} has a prompt, but the dataset has slots for {encoding.max_objects} objects'
    )
  arrays: Arrays = {}
  for name, settings in encoding.encoders.items():
    encode = encoders[name]
    said = [caption, motion]
    if name != WORDS:
      said = [encoding.prefixed(text) for text in said]
    embedding, lengths = encode(said, settings.length)
    for row, field in enumerate(('caption', 'motion')):
      arrays[f'text.{name}.{field}'] = pad(embedding[row], settings.length)
      arrays[f'text.{name}.{field}_length'] = lengths[row]
    slots = np.zeros(
      (encoding.max_objects, settings.prompt_length, *embedding.shape[2:]), embedding.dtype
    )
    counts = np.zeros(encoding.max_objects, np.int32)
    if prompts:
      embedding, lengths = encode(list(prompts.values()), settings.prompt_length)
      for row, obj in enumerate(prompts):
        slots[obj - 1] = pad(embedding[row], settings.prompt_length)
        counts[obj - 1] = lengths[row]
    arrays[f'text.{name}.prompts'] = slots
    arrays[f'text.{name}.prompts_length'] = counts
  return arrays


def null_text(encoding: Encoding, encoders: Mapping[str, TextEncoder]) -> Arrays:
  """Return the arrays of the empty text as caption, motion prompt and every object prompt.

  The arrays have a leading batch axis of 1.
  """
  every = {obj: '' for obj in range(1, encoding.max_objects + 1)}
  arrays = text_arrays(encoding, encoders, '', '', every)
  return {name: np.asarray(array)[None] for name, array in arrays.items()}


def place_arrays(ids: np.ndarray, context: Context) -> Arrays:
  """Return the token masks of label maps on all token grids (see `data.batch`).

  If trajectories are optical flow, there are no objects: all tokens are background.

  Args:
    ids: label maps, uint8 [T, H, W].
    context: supplies the grids and the temporal grouping of the codec.
  """
  if context.encoding.trajectory == FLOW:
    ids = np.zeros_like(ids)
  groups = context.codec.frame_groups(len(ids))
  arrays: Arrays = {}
  for g, grid in enumerate(context.encoding.grids):
    regions = trajectory.token_regions(ids, groups, grid)
    arrays[f'token_masks.{g}.region'] = regions
    arrays[f'token_masks.{g}.box'] = trajectory.token_presence(ids, groups, grid, 'box', regions)
    arrays[f'token_masks.{g}.seg'] = trajectory.token_presence(ids, groups, grid, 'seg', regions)
  return arrays


class LatentEncoder:
  """Encodes batches of pixels and label maps into latents on the default JAX device."""

  def __init__(self, codec: Codec, palette: str):
    self.palette = palette
    self._codec = codec
    self._encode = jax.jit(lambda codec, video: codec.encode(video))

  def __call__(self, videos: np.ndarray) -> Moments:
    """Encode videos, uint8 [B, T, H, W, 3], into `Moments` of NumPy arrays."""
    moments = self._encode(self._codec, jnp.asarray(to_float(videos)))
    return jax.tree.map(np.asarray, moments)

  def clips(
    self, video: np.ndarray, rendered: np.ndarray, true_ids: np.ndarray | None = None
  ) -> Arrays:
    """Return the latent arrays of the records of B clips, as float16.

    Args:
      video: uint8 [B, T, H, W, 3].
      rendered: rendered trajectories, uint8 [B, T, H, W, 3].
      true_ids: the label maps before corruption, uint8 [B, T, H, W].
    """
    videos = {
      'video': video,
      'trajectory': rendered,
      'first_frame': video[:, :1],
      'first_mask': rendered[:, :1],
    }
    if true_ids is not None:
      videos['true_trajectory'] = trajectory.render(true_ids, self.palette)
    arrays: Arrays = {}
    for name, pixels in videos.items():
      moments = self(pixels)
      arrays[name] = np.asarray(moments.mean, np.float16)
      if moments.logvar is not None and not name.startswith('first'):
        arrays[f'{name}_logvar'] = np.asarray(moments.logvar, np.float16)
    return arrays


class EncodedClips:
  """An iterable of (key, record) pairs of a latents dataset, encoded from clips."""

  def __init__(
    self,
    clips: Collection[Clip],
    context: Context,
    encoders: Mapping[str, TextEncoder] = TEXT_ENCODERS,
    augmentation: Augmentation = Augmentation(),
    seed: int = 0,
    batch: int = 32,
    flow: Flow = flow_of_labels,
  ):
    """Initialize the iterable; encoding starts with iteration.

    Args:
      clips: the clips to encode.
      context: codec and settings of the dataset.
      encoders: text encoders by name.
      augmentation: the augmentation of each clip.
      seed: seed of the augmentation; draws depend only on seed, clip key and variant.
      batch: number of clips that the codec encodes at once.
      flow: the flow of a clip, if the trajectories of the dataset are optical flow.
    """
    self._clips, self._context, self._encoders = clips, context, encoders
    self._augmentation, self._seed, self._batch = augmentation, seed, batch
    self._flow = flow
    self._latents = LatentEncoder(context.codec, context.encoding.palette)

  def __len__(self) -> int:
    return len(self._clips) * self._augmentation.variants

  def __iter__(self) -> Iterator[tuple[str, Arrays]]:
    """Yield (key, record) pairs.

    Raises:
      InputError: the frames, size, frame rate or objects of a clip do not match the encoding.
    """
    for some in batched(self._variants(), self._batch):
      keys, clips, true_ids, drawn = zip(*some, strict=True)
      latents = self._latents.clips(
        np.stack([c.video for c in clips]),
        np.stack([self._rendered(c) for c in clips]),
        np.stack(true_ids) if self._augmentation.true_masks else None,
      )
      for row, (key, clip) in enumerate(zip(keys, clips, strict=True)):
        prompts = {i + 1: prompt for i, prompt in enumerate(clip.prompts) if prompt}
        record = {
          'key': key,
          'ids': encode_ids(clip.ids),
          **{name: array[row] for name, array in latents.items()},
          **place_arrays(clip.ids, self._context),
          **text_arrays(self._context.encoding, self._encoders, clip.caption, clip.motion, prompts),
          **drawn[row],
        }
        yield key, record

  def _rendered(self, clip: Clip) -> np.ndarray:
    encoding = self._context.encoding
    return rendering(clip, encoding.trajectory, encoding.palette, self._flow)

  def _variants(self) -> Iterator[tuple[str, Clip, np.ndarray, Arrays]]:
    for clip in self._clips:
      check_clip(clip, self._context.encoding)
      for variant in range(self._augmentation.variants):
        rng = np.random.default_rng([self._seed, zlib.crc32(clip.key.encode()), variant])
        yield f'{clip.key}#{variant}', *draw_variant(clip, self._augmentation, rng)


def rendering(clip: Clip, kind: str, palette: str, flow: Flow = flow_of_labels) -> np.ndarray:
  """Return the rendered trajectory of a clip.

  Args:
    clip: the clip.
    kind: an element of `context.TRAJECTORIES`.
    palette: name of the color palette of masks.
    flow: the flow of a clip.

  Returns:
    uint8 [T, H, W, 3].
  """
  if kind == FLOW:
    return optical_flow.as_trajectory(flow(clip))
  return trajectory.render(clip.ids, palette)


def batched(items: Iterable, count: int) -> Iterator[list]:
  """Yield lists of `count` items; the last may be shorter."""
  iterator = iter(items)
  while some := list(itertools.islice(iterator, count)):
    yield some


def draw_variant(
  clip: Clip, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Clip, np.ndarray, Arrays]:
  """Draw one augmented variant of a clip.

  Args:
    clip: the original clip.
    augmentation: what to draw.
    rng: the source of randomness.

  Returns:
    The clip with permuted object ids and possibly corrupted masks; its label maps before
    corruption, uint8 [T, H, W]; and the drawn values as record arrays, `permutation` uint8 [8]
    and `corrupted` uint8 [].
  """
  count = len(clip.prompts)
  order = rng.permutation(count) if augmentation.permute else np.arange(count)
  # Object order[i] + 1 becomes object i + 1.
  ids = true_ids = trajectory.relabel(clip.ids, {old + 1: new for new, old in enumerate(order, 1)})
  damaged = bool(rng.random() < augmentation.corrupt)
  if damaged:
    ids = trajectory_edits.corrupt(rng, ids)
  permutation = np.zeros(MAX_OBJECTS, np.uint8)
  permutation[:count] = order + 1
  relabelled = dataclasses.replace(
    clip,
    ids=ids,
    names=tuple(clip.names[i] for i in order),
    prompts=tuple(clip.prompts[i] for i in order),
  )
  return (
    relabelled,
    true_ids,
    {
      'permutation': permutation,
      'corrupted': np.asarray(damaged, np.uint8),
    },
  )


def check_clip(clip: Clip, encoding: Encoding) -> None:
  """Raise InputError if the frames, size, frame rate or objects of a clip do not match `encoding`.

  Frame rates may differ by 0.1 %.
  """
  expected = (encoding.frames, encoding.height, encoding.width)
  if clip.ids.shape != expected:
    raise InputError(
      f'clip {clip.key} has {clip.ids.shape} frames, height, width; the dataset takes {expected}'
    )
  if abs(clip.fps - encoding.fps) > 1e-3 * encoding.fps:
    raise InputError(
      f'clip {clip.key} has {clip.fps:g} frames per second; the dataset takes {encoding.fps:g}'
    )
  if len(clip.prompts) > encoding.max_objects:
    raise InputError(
      f'clip {clip.key} has {len(clip.prompts)} objects; the dataset takes at most'
      f' {encoding.max_objects} (--max_objects)'
    )
