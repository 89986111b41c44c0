"""Clips to latents records: pixels by the codec, label maps to token masks, texts to tokens."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax import trajectory, trajectory_edits
from ttm_jax.codecs.base import Codec, Moments, to_float
from ttm_jax.data.clips import encode_ids
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.schema import MAX_OBJECTS, Clip
from ttm_jax.errors import InputError
from ttm_jax.text import word_ids
from ttm_jax.text.encoders import WORDS, pad

Arrays = dict[str, np.ndarray]

# (texts, length) -> embeddings [n, length, ...] and how many tokens of each count, int32 [n].
TextEncoder = Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]


def encode_words(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
  """The `words` encoder: ids int32 [n, length]."""
  ids, lengths = zip(*(word_ids.tokenize(text, length) for text in texts), strict=True)
  return np.stack(ids), np.array(lengths, np.int32)


TEXT_ENCODERS: dict[str, TextEncoder] = {WORDS: encode_words}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What is drawn anew for each variant of a clip, and recorded.

  Attributes:
    variants: records made of each clip.
    permute: whether objects swap their numbers, so that no colour carries a meaning.
    corrupt: share of the variants whose masks are damaged as generated ones are, where stage 2 is
      given them; stage 1 learns the true ones.
    true_masks: whether records also hold the latents of the true masks, as those of every split
      must if one split has damaged ones.
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
  """The text part of one record (see `data.batch`).

  Args:
    prompts: by object id 1..max_objects; the others' slots stay empty.

  Raises:
    InputError: for an object beyond max_objects.
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
  """The encodings of the empty text in every place, with a batch axis of 1."""
  every = {obj: '' for obj in range(1, encoding.max_objects + 1)}
  arrays = text_arrays(encoding, encoders, '', '', every)
  return {name: np.asarray(array)[None] for name, array in arrays.items()}


def place_arrays(ids: np.ndarray, context: Context) -> Arrays:
  """The token masks of one label map [T, H, W] on all grids of the preset."""
  groups = context.codec.frame_groups(len(ids))
  arrays: Arrays = {}
  for g, grid in enumerate(context.encoding.grids):
    regions = trajectory.token_regions(ids, groups, grid)
    arrays[f'places.{g}.region'] = regions
    arrays[f'places.{g}.box'] = trajectory.token_presence(ids, groups, grid, 'box', regions)
    arrays[f'places.{g}.seg'] = trajectory.token_presence(ids, groups, grid, 'seg', regions)
  return arrays


class LatentEncoder:
  """Pixels and label maps to latents, a few clips at a time, on whatever device is there."""

  def __init__(self, codec: Codec, palette: str):
    self.palette = palette
    self._codec = codec
    self._encode = jax.jit(lambda codec, video: codec.encode(video))

  def __call__(self, videos: np.ndarray) -> Moments:
    """uint8 [B, T, H, W, 3] -> Moments of NumPy arrays."""
    moments = self._encode(self._codec, jnp.asarray(to_float(videos)))
    return jax.tree.map(np.asarray, moments)

  def clips(self, video: np.ndarray, ids: np.ndarray, true_ids: np.ndarray | None = None) -> Arrays:
    """The latent part of the records of clips: [B, T, H, W, 3], [B, T, H, W].

    Args:
      true_ids: the label maps before they were damaged on purpose; like `ids`.
    """
    rendered = trajectory.render(ids, self.palette)
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
  """The records of a latents dataset made of clips: an iterable of (key, record)."""

  def __init__(
    self,
    clips: Collection[Clip],
    context: Context,
    encoders: Mapping[str, TextEncoder] = TEXT_ENCODERS,
    augmentation: Augmentation = Augmentation(),
    seed: int = 0,
    batch: int = 32,
  ):
    """Args:
    batch: clips that go through the codec at once.
    """
    self._clips, self._context, self._encoders = clips, context, encoders
    self._augmentation, self._seed, self._batch = augmentation, seed, batch
    self._latents = LatentEncoder(context.codec, context.encoding.palette)

  def __len__(self) -> int:
    return len(self._clips) * self._augmentation.variants

  def __iter__(self) -> Iterator[tuple[str, Arrays]]:
    """Yields records.

    Raises:
      InputError: for a clip whose frames, size or objects do not fit the encoding.
    """
    for some in batched(self._variants(), self._batch):
      keys, clips, true_ids, drawn = zip(*some, strict=True)
      latents = self._latents.clips(
        np.stack([c.video for c in clips]),
        np.stack([c.ids for c in clips]),
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

  def _variants(self) -> Iterator[tuple[str, Clip, np.ndarray, Arrays]]:
    for clip in self._clips:
      check_clip(clip, self._context.encoding)
      for variant in range(self._augmentation.variants):
        rng = np.random.default_rng([self._seed, zlib.crc32(clip.key.encode()), variant])
        yield f'{clip.key}#{variant}', *draw_variant(clip, self._augmentation, rng)


def batched(items: Iterable, count: int) -> Iterator[list]:
  """Lists of `count` items, the last perhaps shorter."""
  iterator = iter(items)
  while some := list(itertools.islice(iterator, count)):
    yield some


def draw_variant(
  clip: Clip, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Clip, np.ndarray, Arrays]:
  """Draw one augmented variant of a clip.

  Returns:
    The clip, whose masks may be damaged; its label maps without damage; and what was drawn, the
    permutation and whether there is damage.
  """
  count = len(clip.prompts)
  order = rng.permutation(count) if augmentation.permute else np.arange(count)
  # Object order[i] + 1 becomes object i + 1.
  table = np.zeros(256, np.uint8)
  table[order + 1] = np.arange(1, count + 1)
  ids = true_ids = table[clip.ids]
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
  """Raises InputError where the clip does not fit the encoding."""
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
