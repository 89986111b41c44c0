"""Run the open image-to-video pipelines of diffusers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed
from ttm_jax.pytorch.baselines.models import Baseline, Plan
from ttm_jax.pytorch.pretrained import kernel_of, load_part

_LIBRARIES = ('diffusers', 'transformers')


class Generator:
  """Generates videos of clips with one model.

  Attributes:
    model: the entry of the table.
    pipeline: the pipeline of diffusers, or a callable with the same arguments and result.
    steps: sampling steps.
    negative: negative prompt; '' for none.
  """

  def __init__(
    self,
    model: Baseline,
    pipeline: Callable[..., Any],
    steps: int | None = None,
    negative: str = '',
  ):
    self.model, self.pipeline = model, pipeline
    self.steps, self.negative = steps or model.steps, negative

  @classmethod
  def load(
    cls,
    model: Baseline,
    weights: ModelSource,
    offload: bool = False,
    steps: int | None = None,
    negative: str = '',
  ) -> 'Generator':
    """Load the pipeline of a model.

    Args:
      model: the entry of the table.
      weights: folder or hub id, device and dtype.
      offload: whether to keep on the GPU only the component that computes.
      steps, negative: as in `Generator`.

    Raises:
      InputError: if the weights cannot be loaded, or the device cannot be used.
      ImportError: if diffusers, or ftfy for a Wan model, is missing.
    """
    check_installed()
    import torch

    kind = _pipeline_class(model.pipeline)
    dtypes = {'default': weights.torch_dtype, **dict.fromkeys(model.float32, torch.float32)}
    folder = _checked_folder(kind, weights)
    pipeline = load_part(kind, folder, weights.offline, torch_dtype=dtypes, use_safetensors=True)
    _check_complete(pipeline, Path(folder))
    encoder = getattr(pipeline, 'text_encoder', None)
    if hasattr(encoder, 'final_layer_norm') and not hasattr(encoder, 'text_model'):
      # I2VGenXLPipeline reads `text_model`, whose layers transformers 5 moved into the encoder.
      object.__setattr__(encoder, 'text_model', encoder)  # Not as a submodule of itself.
    pipeline.set_progress_bar_config(disable=True)
    if offload:
      pipeline.enable_model_cpu_offload(device=weights.torch_device)
    else:
      pipeline.to(weights.torch_device)
    return cls(model, pipeline, steps, negative)

  def __call__(self, picture: np.ndarray, prompt: str, plan: Plan, seed: int) -> np.ndarray:
    """Return the video of a clip, uint8 [T, H, W, 3].

    Args:
      picture: first frame of the clip, uint8 [H, W, 3].
      prompt: caption; not used by models that read none.
      plan: from `Plan.of`.
      seed: seed of the noise.

    Raises:
      InputError: if the pipeline returns a video of another size or length.
    """
    import torch

    texts: dict[str, Any] = {'prompt': prompt} if self.model.prompted else {}
    if self.model.prompted and self.negative:
      texts['negative_prompt'] = self.negative
    made = self.pipeline(
      image=Image.fromarray(plan.condition(picture)),
      height=plan.size[0],
      width=plan.size[1],
      num_frames=plan.frames,
      num_inference_steps=self.steps,
      generator=torch.Generator('cpu').manual_seed(seed),
      output_type='np',
      **{self.model.guidance_name: self.model.guidance},
      **texts,
      **self.model.arguments,
    ).frames[0]
    if made.shape != (plan.frames, *plan.size, 3):
      raise InputError(
        f'{self.model.pipeline} made a video {list(made.shape)} instead of'
        f' {[plan.frames, *plan.size, 3]}; give --size of a size that the model takes'
      )
    return plan.fitted(np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8))


def versions() -> dict[str, str]:
  """Return the versions of the packages that determine a video."""
  import diffusers
  import torch
  import transformers

  return {package.__name__: package.__version__ for package in (torch, diffusers, transformers)}


def _pipeline_class(name: str) -> Any:
  """Return a pipeline class of diffusers; raise ImportError if a package is missing."""
  from diffusers import (
    CogVideoXImageToVideoPipeline,
    I2VGenXLPipeline,
    StableVideoDiffusionPipeline,
    WanImageToVideoPipeline,
  )

  if name == WanImageToVideoPipeline.__name__:
    import ftfy  # noqa: F401  # The pipeline fails without it, at the first prompt.
  kinds = (
    *(CogVideoXImageToVideoPipeline, I2VGenXLPipeline),
    *(StableVideoDiffusionPipeline, WanImageToVideoPipeline),
  )
  return {kind.__name__: kind for kind in kinds}[name]


def _check_complete(pipeline: Any, folder: Path) -> None:
  """Raise InputError if a network of diffusers has more tensors than its files.

  diffusers would leave the missing ones random. Their names differ in old files, so count them.
  """
  import diffusers
  import safetensors

  for name, component in pipeline.components.items():
    if not isinstance(component, diffusers.ModelMixin):
      continue
    stored: set[str] = set()
    for file in (folder / name).glob('*.safetensors'):
      with safetensors.safe_open(file, 'pt') as opened:
        stored |= {*opened.keys()}
    lost = len(component.state_dict()) - len(stored)
    if lost > 0:
      raise InputError(
        f'{folder / name}: lacks {lost} weights of a {type(component).__name__}; copy the folder'
        ' again'
      )


def _checked_folder(kind: Any, weights: ModelSource) -> str:
  """Return the local folder of the weights, downloaded if needed, which names no code of its own.

  Raises:
    InputError: if it cannot be downloaded or read, or a component is of another library or names a
      kernel on the hub, which is code.
  """
  weights.check_folder()
  folder = weights.model
  if not Path(folder).is_dir():
    try:
      folder = kind.download(
        folder, local_files_only=weights.offline, use_safetensors=True, trust_remote_code=False
      )
    except Exception as error:  # The hub client raises its own, HTTP and network errors.
      said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
      raise InputError(
        f'{weights.model}: cannot be downloaded ({said}); give --weights FOLDER, a copy in the'
        ' format of diffusers'
      ) from error
  index = Path(folder) / 'model_index.json'
  for name, entry in read_object(index, 'give a folder in the format of diffusers').items():
    # diffusers would import any other module that a component names.
    if isinstance(entry, list) and entry[:1] and entry[0] not in (None, *_LIBRARIES):
      raise InputError(f'{index}: {name} is of {entry[0]!r}, not of {" or ".join(_LIBRARIES)}')
  for file in sorted(Path(folder).glob('*/config.json')):
    if kernel := kernel_of(read_object(file, 'copy the folder again')):
      raise InputError(f'{file}: names the kernel {kernel}, which is code from the hub; remove it')
  return str(folder)
