"""ViCLIP: a CLIP whose image encoder attends over the patches of eight frames at once.

Source: Wang et al. 2023 (InternVid, arXiv 2307.06942). All patches of all frames and one class
token form one sequence; a patch has a position in space and one in time. The text encoder is that
of CLIP with 32 positions. Sizes follow from the weights; attention heads have 64 channels.

The published model has its weights as safetensors and its network as Python code, which is not run.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.opencv_resize import resize_bilinear
from ttm_jax.metrics.torch_calls import channels_first, exactly, normalized
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed, looks_local

FRAMES, TOKENS, SIDE = 8, 32, 224
_HEAD = 64  # Channels of an attention head.
_WEIGHTS = 'model.safetensors'


class ViClip:
  """Embeddings of videos and texts, normalized to length 1."""

  def __init__(self, source: ModelSource):
    check_installed()
    import safetensors.torch

    path = _file(source)
    try:
      tensors = safetensors.torch.load_file(path, device=source.torch_device)
    except Exception as error:  # safetensors raises several exception types for corrupt files.
      raise InputError(f'{path}: is not a safetensors file ({error}); copy it again') from error
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    self._vision = _part(tensors, 'vision_encoder.', _VISION, path)
    self._text = _part(tensors, 'text_encoder.', _TEXT, path)

  def videos(self, video: np.ndarray) -> np.ndarray:
    """Return the embedding float64 [D] of a video uint8 [T, H, W, 3] of at least 8 frames."""
    with exactly():
      frames = prepared(video).to(self._vision['proj'].device)
      return _unit(vision_features(self._vision, frames[None]))[0]

  def texts(self, tokens: np.ndarray) -> np.ndarray:
    """Return embeddings float64 [n, D] of CLIP tokens int64 [n, L], L at most 32.

    The end token has the highest number. What follows it does not matter.
    """
    import torch

    with exactly():
      given = torch.from_numpy(tokens).to(self._text['text_projection'].device)
      return _unit(text_features(self._text, given))


def prepared(video: np.ndarray) -> Any:
  """Return the network's input of a video uint8 [T, H, W, 3], a tensor float32 [8, 3, 224, 224].

  As in the authors' code: every (T // 8)-th frame, eight in total; `cv2.resize` without a crop;
  mean and standard deviation of ImageNet.
  """
  frames = video[:: len(video) // FRAMES][:FRAMES]
  small = np.stack([resize_bilinear(frame, SIDE) for frame in frames])
  return normalized(channels_first(small).float() / 255)


def vision_features(weights: Mapping[str, Any], frames: Any) -> Any:
  """Return features float32 [B, D] of frames float32 [B, T, 3, S, S], T up to 8."""
  import torch
  from torch.nn.functional import conv2d

  kernel = weights['conv1.weight'][:, :, 0]
  batch, count = frames.shape[:2]
  patches = conv2d(frames.flatten(0, 1), kernel, stride=kernel.shape[-1]).flatten(2).mT
  position = weights['positional_embedding']
  patches = (patches + position[1:]).unflatten(0, (batch, count))
  patches = patches + weights['temporal_positional_embedding'][:, :count, None]
  first = (weights['class_embedding'] + position[0]).expand(batch, 1, -1)
  x = torch.cat([first, patches.flatten(1, 2)], dim=1)
  x = _transformer(weights, _norm(weights, 'ln_pre', x), causal=False)
  return _norm(weights, 'ln_post', x[:, 0]) @ weights['proj']


def text_features(weights: Mapping[str, Any], tokens: Any) -> Any:
  """Return features float32 [n, D] of tokens int64 [n, L]."""
  import torch

  x = weights['token_embedding.weight'][tokens]
  x = x + weights['positional_embedding'][: tokens.shape[1]]
  x = _norm(weights, 'ln_final', _transformer(weights, x, causal=True))
  ends = tokens.argmax(-1)
  return x[torch.arange(len(x)), ends] @ weights['text_projection']


def _transformer(weights: Mapping[str, Any], x: Any, causal: bool) -> Any:
  from torch.nn.functional import linear, scaled_dot_product_attention

  for layer in range(_layers(weights)):
    name = f'transformer.resblocks.{layer}.'
    part = {key.removeprefix(name): w for key, w in weights.items() if key.startswith(name)}
    h = linear(_norm(part, 'ln_1', x), part['attn.in_proj_weight'], part['attn.in_proj_bias'])
    q, k, v = (t.unflatten(-1, (-1, _HEAD)).transpose(1, 2) for t in h.chunk(3, -1))
    h = scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
    x = x + linear(h, part['attn.out_proj.weight'], part['attn.out_proj.bias'])
    h = linear(_norm(part, 'ln_2', x), part['mlp.c_fc.weight'], part['mlp.c_fc.bias'])
    h = h * (1.702 * h).sigmoid()  # CLIP's approximation of GELU.
    x = x + linear(h, part['mlp.c_proj.weight'], part['mlp.c_proj.bias'])
  return x


def _norm(weights: Mapping[str, Any], name: str, x: Any) -> Any:
  from torch.nn.functional import layer_norm

  return layer_norm(x, x.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'])


def _unit(features: Any) -> np.ndarray:
  found = features.double().cpu().numpy()
  return found / np.linalg.norm(found, axis=-1, keepdims=True)


_VISION = (
  *('class_embedding', 'conv1.weight', 'positional_embedding', 'temporal_positional_embedding'),
  *('ln_pre.weight', 'ln_pre.bias', 'ln_post.weight', 'ln_post.bias', 'proj'),
)
_TEXT = (
  *('token_embedding.weight', 'positional_embedding', 'text_projection'),
  *('ln_final.weight', 'ln_final.bias'),
)
_BLOCK = (
  *('attn.in_proj_weight', 'attn.in_proj_bias', 'attn.out_proj.weight', 'attn.out_proj.bias'),
  *('ln_1.weight', 'ln_1.bias', 'ln_2.weight', 'ln_2.bias'),
  *('mlp.c_fc.weight', 'mlp.c_fc.bias', 'mlp.c_proj.weight', 'mlp.c_proj.bias'),
)


def _part(
  tensors: Mapping[str, Any], prefix: str, names: tuple[str, ...], path: Path
) -> dict[str, Any]:
  """Return the tensors of one encoder, without their prefix, after a check of their names."""
  part = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
  blocks = [f'transformer.resblocks.{i}.{n}' for i in range(max(1, _layers(part))) for n in _BLOCK]
  if missing := [name for name in (*names, *blocks) if name not in part]:
    raise InputError(
      f'{path}: lacks the tensor {prefix}{missing[0]}; give the {_WEIGHTS} of ViCLIP'
      ' (OpenGVLab/ViCLIP-L-14-hf)'
    )
  return part


def _layers(weights: Mapping[str, Any]) -> int:
  found = (re.match(r'transformer\.resblocks\.(\d+)\.', name) for name in weights)
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def _file(source: ModelSource) -> Path:
  """Return the file of weights: itself, in a folder, or fetched from the hub."""
  path = Path(source.model)
  if path.is_dir():
    return path / _WEIGHTS
  if looks_local(source.model):
    return path
  from huggingface_hub import hf_hub_download

  try:
    return Path(hf_hub_download(source.model, _WEIGHTS, local_files_only=source.offline))
  except Exception as error:  # The exceptions of the hub client depend on its version.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(
      f'{source.model}: its {_WEIGHTS} could not be fetched from the hub ({reason}); download it'
      ' elsewhere, and name the file as viclip=PATH among the weights'
    ) from error
