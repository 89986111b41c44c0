"""The networks that metrics use: where their weights come from, and how they are loaded.

Each network is loaded when it is first used, once for all metrics. Weights are safetensors files,
models on the hub without code of their own, or TorchScript files, which `torch.jit.load` reads
without unpickling Python objects.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError
from ttm_jax.metrics.jepa_network import VideoJepa
from ttm_jax.metrics.lpips_network import FrameDistances
from ttm_jax.metrics.point_tracker import PointTracker
from ttm_jax.metrics.torch_calls import torchscript
from ttm_jax.metrics.viclip_network import ViClip
from ttm_jax.metrics.video_masks import VideoMasks
from ttm_jax.pytorch.annotation.clip_embeddings import Clip
from ttm_jax.pytorch.annotation.clip_score import read_head
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed, looks_local
from ttm_jax.pytorch.annotation.raft import Raft
from ttm_jax.pytorch.annotation.sam2 import tracker


@dataclasses.dataclass(frozen=True)
class Network:
  """A kind of network.

  Attributes:
    what: name of the network, in words.
    origin: where its weights come from, and in which format they are read.
    default: hub id that is used unless another model is named; empty if a file must be given.
    load: loads the network: source -> object that the metrics call.
  """

  what: str
  origin: str
  default: str
  load: Callable[[ModelSource], Any]


class Networks:
  """Networks by name, loaded on first use.

  Args:
    device, batch, offline, weights: see `MetricOptions`.
  """

  def __init__(self, device: str, batch: int, offline: bool, weights: Mapping[str, str]):
    # In half precision, numbers of a GPU and of a CPU would differ.
    self._source = ModelSource('', device, 'float32', batch, offline)
    self._weights = weights
    self._loaded: dict[tuple[str, str], Any] = {}

  def get(self, network: str, metric: str = '') -> Any:
    """Return a network, loaded if it is not yet.

    Args:
      network: a name of `NETWORKS`.
      metric: the metric that asks for its main network: weights may be given by its name, too.

    Raises:
      InputError: if its weights are not named, are missing or cannot be read.
    """
    kind, model = NETWORKS[network], self._model(network, metric)
    who = f'the metric {metric}' if metric else 'a metric'
    remedy = f'get {kind.origin}, and name it as {network}=PATH among the weights'
    if not model:
      raise InputError(f'{who} needs the weights of {kind.what}: {remedy}')
    key = network, model
    if key not in self._loaded:
      if looks_local(model) and not Path(model).exists():
        raise InputError(f'{model}: not found, but {who} needs {kind.what}; {remedy}')
      self._loaded[key] = kind.load(self._source.of(model))
    return self._loaded[key]

  def label(self, network: str, metric: str = '') -> str:
    """Return the name of a metric's weights in protocols.

    It is the hub id, or the name of the file or folder with a fingerprint of its content.
    """
    model = self._model(network, metric)
    if not model:
      return 'no weights'
    path = Path(model)
    return f'{path.name} {fingerprint(path)}' if path.exists() else model

  def _model(self, network: str, metric: str) -> str:
    given = self._weights
    return given.get(metric) or given.get(network) or NETWORKS[network].default


def fingerprint(path: Path) -> str:
  """Return 8 hexadecimal digits that differ between different weights.

  They depend on the names, sizes and ends of the files of a folder, or of one file. The ends
  suffice: the weights of the last layer differ after any training.
  """
  found = hashlib.sha256()
  for file in sorted(p for p in path.rglob('*') if p.is_file()) if path.is_dir() else [path]:
    size = file.stat().st_size
    name = file.relative_to(path).as_posix() if path.is_dir() else ''
    found.update(f'{name}\0{size}\0'.encode())
    with file.open('rb') as content:
      content.seek(max(0, size - _END))
      found.update(content.read())
  return found.hexdigest()[:8]


_END = 1 << 16  # Bytes of each file in a fingerprint.


def _tokenizer(source: ModelSource) -> Any:
  check_installed()
  from transformers import AutoTokenizer

  return source.load_part(AutoTokenizer)


CLIP = 'openai/clip-vit-large-patch14'

NETWORKS: dict[str, Network] = {
  'lpips': Network(
    'LPIPS',
    "a safetensors file with torchvision's AlexNet (or VGG16) and the heads of LPIPS v0.1, see"
    ' docs/metrics.md',
    '',
    FrameDistances,
  ),
  'i3d': Network(
    'I3D',
    'i3d_torchscript.pt, the TorchScript file that the FVD of StyleGAN-V links to'
    ' (github.com/universome/stylegan-v)',
    '',
    torchscript,
  ),
  'vjepa': Network(
    'V-JEPA 2',
    'a V-JEPA 2 that was fine-tuned for classification, from the hub or as a folder',
    'facebook/vjepa2-vitl-fpc16-256-ssv2',
    VideoJepa,
  ),
  'clip': Network('CLIP', 'a CLIP model, from the hub or as a folder', CLIP, Clip),
  'clip_tokenizer': Network(
    "CLIP's tokenizer",
    'the tokenizer of a CLIP model, from the hub or as a folder',
    CLIP,
    _tokenizer,
  ),
  'viclip': Network(
    'ViCLIP',
    'the model.safetensors of OpenGVLab/ViCLIP-L-14-hf',
    'OpenGVLab/ViCLIP-L-14-hf',
    ViClip,
  ),
  'raft': Network(
    'RAFT',
    "torchvision's raft_large (C_T_SKHT_V2), converted to safetensors, see docs/metrics.md",
    '',
    Raft,
  ),
  'sam2': Network(
    'SAM 2',
    'a SAM 2.1 model, from the hub or as a folder',
    'facebook/sam2.1-hiera-large',
    lambda source: VideoMasks(tracker(source)),
  ),
  'cotracker': Network(
    'a point tracker',
    'a TorchScript file that tracks points with the signature of CoTracker 3, see docs/metrics.md',
    '',
    PointTracker,
  ),
  'aesthetic': Network(
    'the aesthetic head',
    'the linear head of the LAION aesthetic predictor, converted to safetensors',
    '',
    lambda source: read_head(source.model),
  ),
}
"""All networks by name."""
