"""The interface between a backbone and the rest of the package.

A backbone is a folder of this package with a `preset.py`; `ttm_jax.presets` collects the presets.
The train loop, the sampler, planning, import and export use a `Preset` and never name a backbone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from ttm_jax.codecs.base import Codec
from ttm_jax.errors import InputError
from ttm_jax.nn import lora
from ttm_jax.nn.lora import LoRAConfig
from ttm_jax.pretrained.names import Entry, import_parameters, iterate_tensors
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import TextEncoderSpec

Shape = tuple[int, ...]
Grid = tuple[int, int]
Latents = tuple[int, int, int]

# Fields of a model config that change how it is computed or initialized, but not its function.
COMPUTE_FIELDS = frozenset({'dtype', 'remat', 'unroll', 'masked_init'})
# Fields that may differ between a network and the one it is initialized from.
TASK_FIELDS = frozenset({'masked_blocks', 'masked_self', 'masked_cross', 'visual_channels'})


@dataclasses.dataclass(frozen=True)
class TypicalInput:
  """The input of a backbone in the paper; planning uses it if there is no dataset yet.

  Attributes:
    codec: called with the model config; returns a codec for its latents.
    encoders: the text encoders by name.
    latents: called with the model config; returns the largest supported (T', H', W').
    fps: frames per second of the clips.
  """

  codec: Callable[[Any], Codec]
  encoders: Mapping[str, TextEncoderSpec]
  latents: Callable[[Any], Latents]
  fps: float


@dataclasses.dataclass(frozen=True)
class TorchModel:
  """The PyTorch modules of a backbone, and the conversion of its configuration and parameters.

  Attributes:
    network: class name of the network.
    module: dotted name of the module that defines it.
    scheduler: class name of the scheduler, in `ttm_jax.pytorch.schedulers`.
    config_to_torch: (model config, text encoders) -> constructor arguments of the network.
    config_from_torch: the inverse, from `pretrained.weights.Weights`; raises InputError if a field
      is missing or unknown.
    table: parameters or their shapes -> name table, see `pretrained.names`.
    scheduler_config: process -> constructor arguments of the scheduler.
    component: name of the network in a pipeline of diffusers, which its adapters are saved under.
  """

  network: str
  module: str
  scheduler: str
  config_to_torch: Callable[[Any, Mapping[str, TextEncoderSpec]], dict[str, Any]]
  config_from_torch: Callable[[Any], tuple[Any, dict[str, TextEncoderSpec]]]
  table: Callable[[Mapping[str, Any]], list[Entry]]
  scheduler_config: Callable[[Any], dict[str, Any]]
  component: str = 'transformer'

  def specs(self, params: Mapping[str, Any], config: Any) -> list[tuple[str, Shape]]:
    """Return names and shapes of the tensors, in the order of `to_torch`.

    Args:
      params: nested dict of the parameters, or of their shapes.
      config: the model config.
    """
    return [(name, entry.tensor_shape()) for entry in self.table(params) for name in entry.theirs]

  def to_torch(self, params: Mapping[str, Any], config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and tensors, contiguous, one at a time.

    Args:
      params: nested dict of arrays. Lazy arrays are allowed: they need a `shape` and conversion by
        NumPy.
      config: the model config.
    """
    return iterate_tensors(self.table(params), params)

  def from_torch(self, weights: Weights, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters from tensors; they are read when they are used.

    Args:
      weights: the tensors.
      like: nested dict of the shapes of the parameters.

    Raises:
      InputError: if a tensor is missing, has the wrong shape, or is unexpected; the message names
        it.
    """
    return import_parameters(self.table(like), weights)


@dataclasses.dataclass(frozen=True)
class Preset:
  """A backbone, its noise process, and all functions that depend on the backbone.

  Attributes:
    name: as in `config.preset`.
    config: dataclass of the network's sizes. It has `channels` and `visual_channels` (latent
      channels to generate and of the visual condition), `heads`, `masked_blocks` and `dtype`. If it
      has `guidance_inputs`, the network can take guidance scales as inputs (`Condition.scales`).
    model: called as (config, text encoders, rngs=); returns the network.
    process: dataclass of the noise process.
    sharding: table of parameter paths and partition specs.
    grids: (config, H', W') -> token grids (h, w), finest first. Raises InputError if the latents do
      not divide into tokens.
    transfer: (source, target) -> target, with the parameters that the networks of two tasks share.
    forward_flops: (config, (T', H', W'), text tokens, prompt tokens, allowed) -> floating-point
      operations of one forward pass of one sample; `allowed` is the share of token pairs that
      masked self-attention computes, 0 to 1.
    typical: the input in the paper.
    torch: its PyTorch counterpart; None if it cannot be exported.
    open_weights: (folders or hub ids, config) -> parameters for `transfer`; None if there are no
      open weights.
    check_latents: (config, (T', H', W')); raises InputError if the network does not support them.
    masked_within_frames: config -> whether masked self-attention stays within single frames.
    demo_configs: names of the stage 1 and stage 2 configurations that `ttm_jax.demo` trains.
    lora_targets: regular expressions of the paths of the linear layers that LoRA adapts by default.
    new_parts: regular expression of the paths of the parts that a stage adds to a text-to-video
      network; LoRA runs train them in full.
    task_fields: config fields that may differ between a network and the one it is initialized from.
    text_prefix: prepended to captions and motion prompts for pretrained text encoders; `{fps}` is
      replaced by the frame rate of the clips.
    splits_tokens: whether mesh axis `sequence` may split the tokens.
    frame_times: whether the network takes a time for each latent frame, as a clean first frame
      needs (`config.first_frame`).
    gathers_weights: whether its layers are so narrow that an all-gather of weights is faster than
      communicating activations, see `parallel.compiler`.
  """

  name: str
  config: type
  model: Callable[..., nnx.Module]
  process: type
  sharding: tuple
  grids: Callable[[Any, int, int], tuple[Grid, ...]]
  transfer: Callable[[dict, dict], dict]
  forward_flops: Callable[[Any, Latents, int, int, float], float]
  typical: TypicalInput
  torch: TorchModel | None = None
  open_weights: Callable[[str, Any], dict[str, Any]] | None = None
  check_latents: Callable[[Any, Latents], None] = lambda config, latents: None
  masked_within_frames: Callable[[Any], bool] = lambda config: False
  demo_configs: tuple[str, str] | None = None
  lora_targets: tuple[str, ...] = ()
  new_parts: str = r'masked_(cross_)?attn'
  task_fields: frozenset[str] = TASK_FIELDS
  text_prefix: str = ''
  splits_tokens: bool = True
  frame_times: bool = False
  gathers_weights: bool = False

  def build(
    self, config: Any, encoders: Mapping[str, TextEncoderSpec], seed: int = 0
  ) -> nnx.Module:
    """Return the network with initial parameters, float32.

    Args:
      config: an instance of `config`, the sizes of the network.
      encoders: the text encoders by name.
      seed: of the initial parameters.
    """
    return self.model(config, encoders, rngs=nnx.Rngs(seed))

  def adapt(self, model: nnx.Module, config: LoRAConfig, seed: int = 0) -> None:
    """Give a network its adapters, in place.

    Args:
      model: a network of this preset.
      config: settings of the adapters; the rank is above 0.
      seed: of the initial values.

    Raises:
      InputError: if there are no targets, or no layer for one.
    """
    targets = config.targets or self.lora_targets
    if not targets:
      raise InputError(
        f'preset {self.name!r} does not say which layers LoRA adapts: set --config.lora.targets'
      )
    lora.attach(model, config, targets, self.new_parts, seed)

  def frozen(self, model: nnx.Module, sizes: Any, config: LoRAConfig) -> dict[str, Any]:
    """Return the dtype of each parameter that a LoRA run does not train, by dotted path.

    Args:
      model: a network of this preset, with or without adapters.
      sizes: its model config.
      config: settings of the adapters; with rank 0 all parameters are trained.
    """
    if not config.rank:
      return {}
    return lora.frozen(model, self.new_parts, sizes.dtype, config.base_dtype)
