"""Training objective of all four tasks: predict the target of the process at a random time."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import conditioning, trajectory
from ttm_jax.codecs.base import to_uint8
from ttm_jax.conditioning import Condition
from ttm_jax.data import loader, mixture
from ttm_jax.data.context import FOLDER, Context, Shape, read_mixed
from ttm_jax.data.latents import Latents
from ttm_jax.data.mixture import same_codec
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import ranges
from ttm_jax.models.preset import COMPUTE_FIELDS
from ttm_jax.nn import lora
from ttm_jax.nn.linear import exact_gradients
from ttm_jax.nn.time_embedding import embeds_scales
from ttm_jax.parallel import compiler
from ttm_jax.settings import first_difference
from ttm_jax.tasks import CHANGE, CONCAT, TASKS
from ttm_jax.text.encoders import total_tokens
from ttm_jax.training import varied_conditions
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.objective import (
  VALIDATION,
  Arrays,
  Metrics,
  gather,
  has_validation,
  held_out,
)
from ttm_jax.training.optimizer import placement
from ttm_jax.training.partial import by_name, dotted, merged, split
from ttm_jax.training.runs import check_same_architecture, read_config
from ttm_jax.training.sources import PRETRAINED, Source, of_run, open_weights, settings

Array = jax.Array
Size = tuple[int, int, int]

TIME_BUCKETS = 4  # Equal intervals of t for which the loss is also reported separately.

_MASKED_OUTPUT = re.compile(r'(^|\.)masked_\w+\.attention\.out\.')

# Dtype in which gradients of kernels are summed over devices, see `nn.linear.exact_gradients`.
GRADIENT_DTYPES = ('compute', 'float32')


class Denoising:
  """The `Objective` of a denoiser, on a latents dataset or a mixture of them (`data.mixture`).

  Attributes:
    context: what the datasets share, with the shape of each.
  """

  parts: tuple[str, ...] = (FOLDER,)

  def __init__(self, config: ConfigDict, context: Context | None = None):
    """Build the objective and check that the network fits the datasets.

    Args:
      config: configuration of the run.
      context: context of the clips; by default that of the datasets. If given, these are needed for
        batches only.

    Raises:
      InputError: if there is neither a dataset nor a context, the network does not fit them, or the
        datasets do not fit each other.
    """
    self.directory = config.data.path
    if context is None:
      if not config.data.path:
        raise InputError('give the latents dataset: --config.data.path=DIR')
      context = mixture.load(mixture.datasets(config.data.path))
    self.context = context
    self.denoiser = Denoiser(config, self.context)
    self.config = config
    if config.train.gradient_dtype not in GRADIENT_DTYPES:
      raise InputError(
        f'config.train.gradient_dtype must be one of {GRADIENT_DTYPES},'
        f' got {config.train.gradient_dtype!r}'
      )
    varied_conditions.check(config, self.denoiser.task)
    self.lora = settings(config)
    rules = (*self.denoiser.preset.sharding, *(lora.SHARDING if self.lora.rank else ()))
    self.sharding = placement(rules, config.optimizer)
    self.gather = self.denoiser.preset.gathers_weights
    # The shapes of clips by that of their latents, by which batches are told apart.
    self._shapes: dict[Size, Shape] = {}
    for shape in context.shapes:
      one = context.at(shape)
      try:
        _check_model(self.denoiser, one)
      except InputError as error:
        if not context.mixed:
          raise
        raise InputError(f'clips of {shape}: {error}') from error
      self._shapes.setdefault(one.latent_shape[:3], shape)
    self._decode = jax.jit(
      lambda codec, latents, frames: codec.decode(latents, frames), static_argnums=2
    )

  @functools.cached_property
  def frozen(self) -> Mapping[str, Any]:
    """The dtype of each parameter that is not trained, by dotted path; empty without LoRA."""
    denoiser = self.denoiser
    model = nnx.eval_shape(lambda: denoiser.build(0))
    return denoiser.preset.frozen(model, denoiser.model_config, self.lora)

  @functools.cached_property
  def _generate(self) -> Any:
    # Lazy, because the compiler options depend on the mesh in use.
    return compiler.jit(self.generate, gather=self.gather)

  @property
  def fps(self) -> float:
    """Frames per second of the clips."""
    return self.context.encoding.fps

  @functools.cached_property
  def datasets(self) -> tuple[mixture.Dataset, ...]:
    """The datasets of the mixture, in the order of the context's shapes."""
    return mixture.datasets(self.config.data.path)

  @property
  def kinds(self) -> int:
    """Number of different shapes of latents."""
    return len(self._shapes)

  def kind(self, arrays: Arrays) -> int:
    """Return the number of the shape of a batch, from 0."""
    return list(self._shapes).index(latent_size(arrays['video'])) if self.kinds > 1 else 0

  @property
  def has_validation(self) -> bool:
    """Whether a dataset has a validation split."""
    return any(has_validation(dataset.path) for dataset in self.datasets)

  @property
  def flops_per_sample(self) -> float:
    """FLOPs of one sample, forward and backward, averaged over the datasets.

    Masked self-attention counts all pairs. LoRA computes no gradients of kernels; the products of
    the adapters are not counted.
    """
    return sum(
      shape.weight * self._flops(1.0, self.context.at(shape).latent_shape[:3])
      for shape in self.context.shapes
    )

  def _flops(self, allowed: float, latents: Size) -> float:
    """Return the FLOPs of one sample if masked self-attention computes this share of all pairs."""
    d = self.denoiser
    text, prompts = total_tokens(d.encoders, self.context.encoding.max_objects)
    return self._passes() * d.preset.forward_flops(d.model_config, latents, text, prompts, allowed)

  def _passes(self) -> float:
    """Return the FLOPs of a training step, in forward passes of the network."""
    return 2 if self.lora.rank else 3

  def build(self, seed: int) -> nnx.Module:
    """Return the network with initial parameters, and its adapters with LoRA.

    Raises:
      InputError: if the network cannot be sharded over the current mesh, or LoRA has no layers to
        adapt.
    """
    self.check_mesh(jax.sharding.get_abstract_mesh().shape)
    model = self.denoiser.build(seed)
    if self.lora.rank:
      self.denoiser.preset.adapt(model, self.lora, seed)
    return model

  def check_mesh(self, sizes: Mapping[str, int]) -> None:
    """Raise InputError if the network cannot be sharded over a mesh.

    Args:
      sizes: size of each mesh axis, by name; 1 where missing.
    """
    self.denoiser.check_mesh(sizes)

  def source(self, init_from: str) -> Source:
    """Return the parameters to initialize from, checked except for their values.

    Args:
      init_from: a run directory, or 'pretrained:' followed by open weights or an exported folder.

    Raises:
      InputError: if the source cannot be read, or its architecture, its text encoders or what it
        generates (`config.first_frame`) differ.
    """
    if init_from.startswith(PRETRAINED):
      return self._open_weights(init_from.removeprefix(PRETRAINED))
    other = read_config(init_from)
    if ranges(other.get('distill')):
      raise InputError(
        f'run {init_from} is a student that takes guidance scales: start from its teacher,'
        f' {other.init_from}'
      )
    self._check_first_frame(init_from, other)
    check_same_architecture(
      self.config.model.to_dict(),
      other.model.to_dict(),
      init_from,
      self.denoiser.preset.task_fields | COMPUTE_FIELDS,
    )
    theirs = {
      n: dataclasses.asdict(e) for n, e in Context.load(init_from).encoding.encoders.items()
    }
    ours = {n: dataclasses.asdict(e) for n, e in self.denoiser.encoders.items()}
    found = first_difference(theirs, ours)
    if found:
      key, old, new = found
      raise InputError(
        f'run {init_from} reads other texts: {key} is {old!r} there and {new!r} in {self.directory}'
      )
    return of_run(init_from)

  def _check_first_frame(self, run: str, other: ConfigDict) -> None:
    """Raise InputError if a run generates whole latents and this one differences, or vice versa.

    Runs of the same task must also get the first frame in the same way. Without a first frame, as
    in pretraining, all is possible.
    """
    ours, theirs = (config.get('first_frame', CONCAT) for config in (self.config, other))
    strict = CHANGE in (ours, theirs) or other.task == self.config.task
    if ours != theirs and strict and TASKS[other.task].first is not None:
      raise InputError(
        f'config.first_frame is {ours!r}, and run {run} was trained with {theirs!r}: take the same'
        ' value'
      )

  def _open_weights(self, names: str) -> Source:
    """Open open weights or an exported folder, and check that its text encoders match."""
    source = open_weights(names, self.denoiser.preset, self.denoiser.model_config)
    model = nnx.eval_shape(lambda: self.denoiser.build(0))
    abstract = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    ours, theirs = (
      jax.tree.map(lambda x: x.shape, tree.get('text', {})) for tree in (abstract, source.params)
    )
    found = first_difference(theirs, ours) if theirs else None
    if found:
      key, old, new = found
      raise InputError(
        f'{names} reads other texts: parameter {key} is {old} there and {new} for {self.directory}'
      )
    return source

  def transfer(self, source: dict, params: dict) -> dict:
    """Return `params` with values replaced from `source`, as the preset defines; inside jit.

    Adapters are not replaced, nor is the embedding of guidance scales that are inputs.
    """
    own = {name for name in by_name(params) if lora.is_adapter(name) or embeds_scales(name)}
    plain, kept = split(params, own)
    moved = self.denoiser.preset.transfer(source, plain)
    if self.config.model.get('masked_init') == 'output':
      moved = _without_new_outputs(moved, source)
    return merged(moved, kept)

  def batches(self, split: str, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield this process's rows of the batches of latents, starting with step `start`."""
    return self._batches(self.datasets, split, start)

  def _batches(
    self, datasets: Sequence[mixture.Dataset], split: str, start: int
  ) -> Iterator[dict[str, np.ndarray]]:
    data = self.config.data
    sources = [Latents(one.path, held_out(one.path, split)) for one in datasets]
    return loader.mixed_batches(
      [source.stored for source in sources],
      [source.collate for source in sources],
      [one.weight for one in datasets],
      data.batch_size,
      data.seed,
      start,
      data.threads,
    )

  def validation(self, count: int) -> list[tuple[float, list[dict[str, np.ndarray]]]]:
    """Return the weight and `count` batches of each dataset that has a validation split.

    If none has, return training batches of all.
    """
    chosen = [one for one in self.datasets if has_validation(one.path)] or self.datasets
    return [
      (one.weight, list(itertools.islice(self._batches([one], VALIDATION, 0), count)))
      for one in chosen
    ]

  def loss(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Metrics]:
    """Return the mean squared error of the prediction, uniform over generated latents, and metrics.

    Metrics are the loss, the loss in each interval of t (`by_time`), of a mixture the loss of each
    shape, and 'gflops' per sample.
    """
    keys = jax.random.split(key, 4)
    process = self.denoiser.process
    target, condition = self.denoiser.known(arrays, keys[0])
    condition = varied_conditions.vary(
      keys[1], condition, self.denoiser.null_text, self.config.train
    )
    t = process.draw_t(keys[2], len(target))
    noise = jax.random.normal(keys[3], target.shape)
    x_t, wanted = process.corrupt(target, noise, t)
    with exact_gradients(self.config.train.gradient_dtype == 'float32'):
      error = self.denoiser.predictor(model)(x_t, t, condition) - wanted
    if condition.clean_frame is not None:  # That frame is given, not generated.
      error = error[:, 1:]
    losses = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
    metrics = by_time(losses, t) | self._by_shape(losses, latent_size(target))
    return losses.mean(), metrics | {'gflops': self._gflops(condition, target)}

  def _by_shape(self, losses: Array, latents: Size) -> Metrics:
    """Return the mean loss of each shape of a mixture as metrics; the others have count 0."""
    if self.kinds == 1:
      return {}
    count = jnp.float32(len(losses))
    return {
      f'loss_{shape}': (losses.sum(), count) if one == latents else (jnp.float32(0), jnp.float32(0))
      for one, shape in self._shapes.items()
    }

  def _gflops(self, condition: Condition, target: Array) -> tuple[Array, Array]:
    """Return the GFLOPs per sample as a metric; masked self-attention counts allowed pairs only."""
    least, most = (self._flops(share, latent_size(target)) / 1e9 for share in (0.0, 1.0))
    shares = jnp.ones(len(target))
    if condition.objects is not None:
      by_frame = self.denoiser.preset.masked_within_frames(self.denoiser.model_config)
      shares = allowed_pairs(condition.objects.token_masks[0].region, by_frame)
    return (least + shares * (most - least)).sum(), jnp.asarray(float(len(target)))

  def samples(self, model: nnx.Module, arrays: Arrays, key: Array) -> dict[str, np.ndarray]:
    """Return 'truth' and 'generated' videos, uint8 [sample.count, T, H, W, 3] each."""
    generated, target = self._generate(model, arrays, key)
    codec = self.context.codec
    frames = self._shapes.get(latent_size(target), self.context.shapes[0]).frames
    videos = {'truth': target, 'generated': generated}
    return {name: to_uint8(gather(self._decode(codec, x, frames))) for name, x in videos.items()}

  def label_maps(self, arrays: Arrays) -> np.ndarray:
    """Return the label maps of `samples`, decoded from the latents; zeros if these are of flow."""
    count, encoding = self.config.sample.count, self.context.encoding
    frames = self._shapes.get(latent_size(arrays['video']), self.context.shapes[0]).frames
    rendered, first = (
      to_uint8(gather(self._decode(self.context.codec, arrays[name][:count], length)))
      for name, length in (('trajectory', frames), ('first_mask', 1))
    )
    if encoding.trajectory == FLOW:
      return np.zeros(rendered.shape[:-1], np.uint8)
    return np.stack([self._labels(*pair) for pair in zip(rendered, first, strict=True)])

  def _labels(self, rendered: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the labels of a rendering [T, H, W, 3] whose frame 0 is known, [1, H, W, 3]."""
    palette = self.context.encoding.palette
    return trajectory.decode(rendered, trajectory.decode(first, None, palette)[0], palette)

  def check_run(self, run: epath.Path) -> None:
    """Raise InputError if a run was begun with a mixture of other shapes or weights."""
    if not (run / FOLDER).exists():
      return
    theirs, ours = read_mixed(run), self.context.mixed
    if theirs != ours:
      raise InputError(
        f'{run} was begun with {_listed(theirs)}, and {self.directory} is {_listed(ours)}: give the'
        ' datasets and weights that it was begun with, or another --workdir'
      )

  def begin(self, directory: Path) -> None:
    """Save the context (codec, encodings of the empty text) to the run directory.

    Raises:
      InputError: if the run was started with a different encoding or codec.
    """
    if not (directory / FOLDER).exists():
      self.context.save(directory)
      return
    self.check_run(epath.Path(directory))
    begun, ours = Context.load(directory), self.context
    found = first_difference(dataclasses.asdict(begun.encoding), dataclasses.asdict(ours.encoding))
    if not found and not same_codec(begun.codec, ours.codec):
      raise InputError(
        f'{directory} was begun with latents of another codec than those of {self.directory} (a'
        ' codec that is fitted or trained again makes other latents): give the dataset it was'
        ' begun with, encode with its codec (data_tools.encode'
        f' --codec={directory}/{FOLDER}/codec), or choose another --workdir'
      )
    if found:
      key, old, new = found
      raise InputError(
        f'{directory} was begun with clips encoded otherwise: {key} is {old!r} there and {new!r} in'
        f' {self.directory}; give the dataset it was begun with, or another --workdir'
      )

  def finish(self, directory: Path, average: Callable[[], nnx.Module]) -> None:
    """Do nothing: a denoiser is read from its checkpoints."""

  def generate(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Array]:
    """Sample latents for the first `sample.count` conditions of a batch; inside jit.

    Returns:
      The generated latents and the ground truth, [sample.count, T', H', W', C] each.
    """
    arrays = jax.tree.map(lambda x: x[: self.config.sample.count], arrays)
    target, condition = self.denoiser.known(arrays, key)
    sampled = self.denoiser.sample(model, condition, jax.random.fold_in(key, 1), target.shape[1:])
    return sampled, conditioning.whole_latents(target, condition)


def _without_new_outputs(moved: dict, source: dict) -> dict:
  """Return parameters with zeros as output projections of masked layers that the source lacks.

  They are copies of unmasked layers; those of the source are its own arrays.
  """
  theirs = by_name(source)

  def kept(path: tuple[Any, ...], x: Array) -> Array:
    name = dotted(path)
    new = _MASKED_OUTPUT.search(name) and theirs.get(name) is not x
    return jnp.zeros_like(x) if new else x

  return jax.tree_util.tree_map_with_path(kept, moved)


def allowed_pairs(region: Array, by_frame: bool) -> Array:
  """Return the share of token pairs that masked self-attention computes, float32 [B].

  Args:
    region: the token labels, int32 [B, t, h, w] with one bit set.
    by_frame: whether tokens attend within their own frame only.
  """
  tokens = region.reshape(*region.shape[: 2 if by_frame else 1], -1)
  owners = jnp.left_shift(1, jnp.arange(32))
  # Tokens with the same label attend to each other, so the share is the sum of squared shares.
  shares = jnp.mean(tokens[..., None] == owners, axis=-2)
  pairs = jnp.sum(shares**2, axis=-1)
  return pairs.mean(axis=-1) if by_frame else pairs


def by_time(losses: Array, t: Array) -> Metrics:
  """Return the mean loss, and the mean loss in each of TIME_BUCKETS intervals of t, as metrics.

  Args:
    losses: loss of each sample, float32 [B].
    t: time of each sample, float32 [B] in 0..1.
  """
  bucket = jnp.clip((t * TIME_BUCKETS).astype(jnp.int32), 0, TIME_BUCKETS - 1)
  inside = jax.nn.one_hot(bucket, TIME_BUCKETS)
  metrics = {'loss': (losses.sum(), jnp.asarray(float(len(losses))))}
  for i in range(TIME_BUCKETS):
    name = f'loss_t{i}of{TIME_BUCKETS}'
    metrics[name] = ((losses * inside[:, i]).sum(), inside[:, i].sum())
  return metrics


def _check_model(denoiser: Denoiser, context: Context) -> None:
  """Raise InputError if the network does not fit the dataset of a context."""
  model = denoiser.model_config
  if context.encoding.preset != denoiser.config.preset:
    raise InputError(
      f'the dataset was encoded for preset {context.encoding.preset!r},'
      f' the config asks for {denoiser.config.preset!r}'
    )
  *latents, channels = context.latent_shape
  if channels != model.channels:
    raise InputError(
      f'the codec of the dataset has {channels} channels, the network {model.channels}: set'
      f' --config.model.channels={channels} (other open weights may have that many), or encode the'
      ' clips with a codec of the network'
    )
  frames, height, width = latents
  denoiser.preset.check_latents(model, (frames, height, width))
  grids = denoiser.preset.grids(model, height, width)
  if context.encoding.grids[: len(grids)] != grids:
    raise InputError(
      f'the dataset has token masks for grids {_sizes(context.encoding.grids)}, the network has'
      f' {_sizes(grids)}: encode the clips with --config of this run'
    )


def latent_size(latents: Array) -> Size:
  """Return (T', H', W') of latents [B, T', H', W', C]."""
  _, frames, height, width, _ = latents.shape
  return frames, height, width


def _listed(shapes: Sequence[Shape]) -> str:
  if not shapes:
    return 'one dataset'
  return 'a mixture of ' + ', '.join(f'{shape}:{shape.weight:.4g}' for shape in shapes)


def _sizes(grids: Sequence[tuple[int, int]]) -> str:
  return ', '.join(f'{h} x {w}' for h, w in grids)
