"""Resolve the `--codec` argument of commands to a codec."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ttm_jax import exported_folder as exported
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.folder import load_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.registry import ENTRIES
from ttm_jax.data.context import FOLDER
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError

FIT_CLIPS = 384  # Enough clips to fit the principal components of a patch.


def choose_codec(
  name: str, clips: Sequence[Clip], rendering: Callable[[Clip], np.ndarray]
) -> Codec:
  """Load a saved codec, or fit a linear codec to clips and their rendered trajectories.

  Args:
    name: one of

      - a codec folder, or the run that trained a codec,
      - a dataset, run or exported folder that contains a codec,
      - `sd_vae:SOURCE`, `wan21_vae:SOURCE` or `wan22_vae:SOURCE`, the autoencoder of Stable
        Diffusion, Wan 2.1 or Wan 2.2 in a folder or on the Hugging Face Hub,
      - `linear:TxHxWxC`, a linear codec with patches of T x H x W pixels and C channels, or
        `lapped:TxHxWxC`, the same with patches that overlap by half.
    clips: the clips to fit a linear codec to.
    rendering: returns the rendered trajectory of a clip, uint8 [T, H, W, 3].

  Raises:
    InputError: `name` is none of these.
  """
  prefix, colon, source = name.partition(':')
  if colon and prefix in ENTRIES and (load := ENTRIES[prefix].open_weights) is not None:
    return load(source)
  if exported.is_exported(name):
    return exported.read_codec(Path(name))
  if prefix not in ('linear', 'lapped') or not colon:
    folders = (Path(name) / 'codec', Path(name) / FOLDER / 'codec')
    return load_codec(next((f for f in folders if f.exists()), name))
  try:
    st, sh, sw, channels = (int(x) for x in source.split('x'))
  except ValueError:
    raise InputError(f'--codec {name}: write {prefix}:TxHxWxC, such as {prefix}:2x6x6x32') from None

  def videos() -> Iterator[np.ndarray]:
    for index in np.linspace(0, len(clips) - 1, min(FIT_CLIPS, len(clips))).astype(int):
      clip = clips[int(index)]
      yield clip.video
      yield rendering(clip)

  return LinearCodec.fit(videos(), (st, sh, sw), channels, prefix == 'lapped')
