"""Training objective of the temporal autoencoder: reconstruct videos, trajectories and images."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from flax.nnx import traversals
from ml_collections import ConfigDict

from ttm_jax import trajectory
from ttm_jax.codecs import discriminator as critics
from ttm_jax.codecs import losses
from ttm_jax.codecs.base import to_uint8
from ttm_jax.codecs.folder import save_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.perceptual import load_perceptual
from ttm_jax.codecs.tae import SHARDING, TAE, TAEConfig, forward_flops
from ttm_jax.data import loader
from ttm_jax.data.clips import Clips
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.errors import InputError
from ttm_jax.parallel import compiler
from ttm_jax.settings import from_config
from ttm_jax.training.objective import (
  VALIDATION,
  Arrays,
  Metrics,
  gather,
  has_validation,
  held_out,
)
from ttm_jax.training.optimizer import placement
from ttm_jax.training.runs import check_same_architecture, read_config
from ttm_jax.training.sources import Source, read_parameters
from ttm_jax.trajectory_layers import recolor

Array = jax.Array

LINEAR = 'linear'  # Value of `init_from`: start from the principal components of patches.
CODEC = 'codec'  # Folder of the trained codec in its run directory.
NORMALIZE_CLIPS = 64  # Training clips used to measure the latent statistics.


class Trained(nnx.Module):
  """The trained modules: the autoencoder and, for an adversarial loss, its discriminator.

  Attributes:
    codec: the autoencoder.
    critic: the discriminator, or None.
  """

  def __init__(self, config: TAEConfig, adversarial: bool, rngs: nnx.Rngs):
    self.codec = TAE(config, rngs=rngs)
    self.critic = critics.Discriminator(rngs=rngs) if adversarial else None


class CodecTraining:
  """The `Objective` of the autoencoder, on a clips dataset.

  Each clip gives two videos: its pixels and its rendered trajectory.
  """

  parts: tuple[str, ...] = ()
  gather = True
  kinds = 1
  frozen: Mapping[str, Any] = {}

  def __init__(self, config: ConfigDict, size: tuple[int, int] | None = None):
    """Build the objective.

    Args:
      config: configuration of the run.
      size: (height, width) of the clips in pixels; by default that of the dataset. If given, the
        dataset is needed for batches only.

    Raises:
      InputError: if there is neither a dataset nor a size.
    """
    if size is None and not config.data.path:
      raise InputError('give the clips dataset: --config.data.path=DIR')
    self.config, self.size = config, size
    self.model_config = from_config(TAEConfig, config.model, 'model')
    weights = config.loss
    self.weights = losses.LossWeights(
      weights.perceptual, weights.kl, weights.outlier, weights.squared
    )
    self.perceptual = None
    if weights.perceptual_weights:
      self.perceptual = load_perceptual(weights.perceptual_weights)
    self.sharding = placement(SHARDING, config.optimizer)

  @functools.cached_property
  def _generate(self) -> Any:
    # Lazy, because the compiler options depend on the mesh in use.
    return compiler.jit(self.generate, gather=self.gather)

  @property
  def fps(self) -> float:
    """Frames per second of the clips."""
    return Clips(self.config.data.path, 'train')[0].fps

  @property
  def has_validation(self) -> bool:
    """Whether the dataset has a validation split."""
    return has_validation(self.config.data.path)

  @property
  def flops_per_sample(self) -> float:
    """FLOPs of one sample, forward and backward, averaged over video and single-frame batches.

    The discriminator and the perceptual loss are not counted.
    """
    data = self.config.data
    height, width = self.size or Clips(data.path, 'train')[0].video.shape[1:3]
    video, picture = (
      forward_flops(self.model_config, (frames, height, width)) for frames in (data.frames, 1)
    )
    share = 1 / data.image_every if data.image_every else 0.0
    return 3 * ((1 - share) * video + share * picture)

  def build(self, seed: int) -> nnx.Module:
    """Return a `Trained` with initial parameters."""
    return Trained(self.model_config, self.config.loss.adversarial > 0, nnx.Rngs(seed))

  def source(self, init_from: str) -> Source:
    """Load the autoencoder's EMA parameters of a codec run, or fit its linear path to the dataset.

    Args:
      init_from: a run directory, or 'linear' for the principal components of the patches of
        training clips and their rendered trajectories. Clips are as in `choose_codec`.

    Raises:
      InputError: if it is not a run, or its architecture differs in more than dtype and remat. Also
        if the network has no linear path to fit.
    """
    if init_from == LINEAR:
      return Source({'codec': self._linear_path()})
    expected = self.config.model.to_dict()
    found = read_config(init_from).model.to_dict()
    check_same_architecture(expected, found, init_from, ('dtype', 'remat'))
    return Source({'codec': read_parameters(init_from)['codec']})

  def _linear_path(self) -> dict[str, Any]:
    """Return the parameters of the linear path that make the network a linear codec."""
    config, data = self.model_config, self.config.data
    if not config.linear_path:
      raise InputError(
        f"config.init_from is '{LINEAR}', but the network has no linear path: set"
        ' --config.model.linear_path=True, or start from a run'
      )
    size = 'x'.join(map(str, (*config.cell, config.channels)))
    fitted = choose_codec(
      f'linear:{size}',
      Clips(data.path, 'train'),
      lambda clip: trajectory.render(clip.ids, data.palette),
    )
    assert isinstance(fitted, LinearCodec)
    basis, mean, scale = (np.asarray(x) for x in (fitted.basis, fitted.mean, fitted.scale))
    encode = {'kernel': basis * scale, 'bias': -mean @ basis * scale}
    decode = {'kernel': basis.T / scale, 'bias': mean}
    return {'encoder': {'patches': encode}, 'decoder': {'patches': decode}}

  def transfer(self, source: dict, params: dict) -> dict:
    """Return `params` with those of the source in place of their initial values."""
    values = dict(traversals.flatten_mapping(params))
    # Lists of modules have integers as keys, which a checkpoint has as text.
    paths = {tuple(map(str, path)): path for path in values}
    for path, value in traversals.flatten_mapping(source).items():
      values[paths[tuple(map(str, path))]] = value
    return dict(traversals.unflatten_mapping(values))

  def batches(self, split: str, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield this process's rows of the batches: {'pixels': uint8 [B, T, H, W, 3]}.

    A batch holds a random window of `data.frames` frames; every `data.image_every`-th batch holds
    single frames. Objects get random colors of the palette, so that the codec learns all of them
    from clips of few objects.

    Raises:
      InputError: if the two videos of a clip would be on two processes.
    """
    data = self.config.data
    rows = loader.share(data.batch_size)
    clips = sorted({row // 2 for row in rows})
    if len(rows) != 2 * len(clips):
      raise InputError(
        f'config.data.batch_size {data.batch_size} must give each process the two videos of a clip:'
        f' make it a multiple of {2 * jax.process_count()}'
      )
    stream = loader.batches(
      Clips(data.path, held_out(data.path, split)),
      data.batch_size // 2,
      data.seed,
      start,
      lambda clip: {'video': clip.video, 'ids': clip.ids},
      data.threads,
      clips,
    )
    for step, arrays in enumerate(stream, start):
      length = 1 if data.image_every and (step + 1) % data.image_every == 0 else data.frames
      first = np.random.default_rng([data.seed, step]).integers(
        max(arrays['ids'].shape[1] - length, 0) + 1
      )
      window = slice(first, first + length)
      pixels = []
      for row, video, ids in zip(clips, arrays['video'], arrays['ids'], strict=True):
        colored = recolor(ids[window], np.random.default_rng([data.seed, step, row]))
        pixels.append(both(video[window], colored, data.palette))
      yield {'pixels': np.concatenate(pixels)}

  def kind(self, arrays: Arrays) -> int:
    """Return 0: clips and images are of one kind."""
    return 0

  def validation(self, count: int) -> list[tuple[float, list[dict[str, np.ndarray]]]]:
    """Return `count` batches for evaluation, as the only entry, with the weight 1."""
    return [(1.0, list(itertools.islice(self.batches(VALIDATION, 0), count)))]

  def record(self, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the array specs of one sample of `frames` frames; needs the `size` of `__init__`."""
    assert self.size is not None
    return {'pixels': jax.ShapeDtypeStruct((frames, *self.size, 3), np.uint8)}

  def loss(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Metrics]:
    """Return reconstruction loss plus regularizers (`codecs.losses`) and adversarial terms, if any.

    Metrics include 'psnr' in dB.
    """
    assert isinstance(model, Trained)
    video = as_floats(arrays['pixels'])
    reconstruction, posterior, latents = model.codec.reconstruct(video, key)
    loss, terms = losses.autoencoder_loss(
      video, reconstruction, posterior, latents, self.weights, self.perceptual
    )
    if weight := self.config.loss.labels:
      # Every second video is the trajectory of the one before, see `both`.
      colors = as_floats(jnp.asarray(trajectory.label_colors(self.config.data.palette)))
      terms['labels'] = losses.label_error(video[1::2], reconstruction[1::2], colors)
      loss += weight * terms['labels']
    if model.critic is not None:
      fooled = critics.generator_loss(model.critic, reconstruction)
      judged = critics.discriminator_loss(model.critic, video, reconstruction)
      loss += self.config.loss.adversarial * fooled + judged
      terms = {**terms, 'generator': fooled, 'discriminator': judged}
    squared = jnp.mean((jnp.clip(reconstruction, -1, 1) - video) ** 2, axis=(1, 2, 3, 4))
    terms = {**terms, 'loss': loss, 'psnr': jnp.mean(10 * jnp.log10(4 / (squared + 1e-8)))}
    return loss, {name: (value, jnp.ones(())) for name, value in terms.items()}

  def samples(self, model: nnx.Module, arrays: Arrays, key: Array) -> dict[str, np.ndarray]:
    """Return 'truth' and 'reconstructed' videos, uint8 [2 * sample.count, T, H, W, 3] each."""
    assert isinstance(model, Trained)
    reconstructed, truth = self._generate(model, arrays, key)
    return {
      'truth': to_uint8(gather(truth)),
      'reconstructed': to_uint8(gather(reconstructed)),
    }

  def label_maps(self, arrays: Arrays) -> np.ndarray:
    """Return zeros: batches have no label maps."""
    return np.zeros((2 * self.config.sample.count, *arrays['pixels'].shape[1:4]), np.uint8)

  def check_run(self, run: epath.Path) -> None:
    """Do nothing: all codec runs have one kind of batches."""

  def begin(self, directory: Path) -> None:
    """Do nothing: a codec run writes no files before training."""

  def finish(self, directory: Path, average: Callable[[], nnx.Module]) -> None:
    """Measure latent statistics on training clips and write the codec to `directory/codec`."""
    graphdef, state = nnx.split(average())  # Copied to one device.
    model = nnx.merge(graphdef, jax.device_put(jax.device_get(state)))
    assert isinstance(model, Trained)
    clips = Clips(self.config.data.path, 'train')
    chosen = np.linspace(0, len(clips) - 1, min(NORMALIZE_CLIPS, len(clips))).astype(int)
    model.codec.normalize(
      video
      for clip in (clips[int(i)] for i in chosen)
      for video in both(clip.video, clip.ids, self.config.data.palette)
    )
    save_codec(directory / CODEC, model.codec)

  def generate(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Array]:
    """Reconstruct the videos of the first `sample.count` clips of a batch; inside jit.

    Returns:
      The reconstructions and the originals, float32 [2 * sample.count, T, H, W, 3] in [-1, 1].
    """
    del key
    assert isinstance(model, Trained)
    video = as_floats(arrays['pixels'][: 2 * self.config.sample.count])
    codec = model.codec

    def reconstructed(one: Array) -> Array:
      return codec.decode(codec.encode(one[None]).mean, one.shape[0])[0]

    # One video at a time: too few to shard over devices, and large in memory.
    return jax.lax.map(reconstructed, video), video


def both(video: np.ndarray, ids: np.ndarray, palette: str) -> np.ndarray:
  """Return the pixels and the rendered trajectory of a clip: uint8 [2, T, H, W, 3].

  Args:
    video: the pixels, uint8 [T, H, W, 3].
    ids: the label map, uint8 [T, H, W].
    palette: name of the colors of the trajectory, see `trajectory.PALETTES`.
  """
  return np.stack([video, trajectory.render(ids, palette)])


def as_floats(pixels: Array) -> Array:
  """Convert uint8 pixels to float32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1
