"""Write a pair of trained stages as a self-contained diffusers folder.

model_index.json        the components and their classes; diffusers reads it first
stage1/ stage2/         the networks: config.json and safetensors
motion_scheduler/       the scheduler of stage 1
scheduler/              the scheduler of stage 2
codec/                  the codec of both stages, always float32
text_encoder/           text configuration, the encoded empty text, copied pretrained encoders
pipeline.py, ttm_*.py   the code; the model card names the packages that it needs
app.py, web/            the studio; requirements.txt names the packages that it needs
training.json           the training configurations of both runs
samples/                sample images of the runs or of an evaluation
README.md               the model card
SHA256SUMS              checksums of all other files, for `sha256sum -c`
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ttm_jax.atomic import check_free
from ttm_jax.checksums import INDEX, write_sums
from ttm_jax.errors import InputError
from ttm_jax.exporting import card, code, codecs
from ttm_jax.exporting.dtypes import DTYPES
from ttm_jax.exporting.files import SHARD, whole, write_tensors
from ttm_jax.exporting.stages import StageRun, check_together, models_of
from ttm_jax.pretrained.weights import CONFIG, PICKLES, WEIGHTS
from ttm_jax.untrusted import check_links

TASKS = {'stage1': 'image_to_motion', 'stage2': 'motion_to_video'}
SCHEDULERS = {'stage1': 'motion_scheduler', 'stage2': 'scheduler'}
SCHEDULER_CONFIG = 'scheduler_config.json'
DIFFUSERS = '0.40.0'  # The oldest version of diffusers that reads the folder.
# Files of a text encoder that are not copied: hidden files, pickles, and code, which is never run.
_NOT_COPIED = ('.*', '*.py', *(f'*{suffix}' for suffix in PICKLES))


def export(
  stage1: Path,
  stage2: Path,
  out: Path,
  dtype: str = 'bf16',
  models: Mapping[str, str] | None = None,
  samples: Sequence[Path] = (),
  licence: str = '',
  shard: int = SHARD,
) -> None:
  """Write the exported folder atomically.

  Args:
    stage1, stage2: run directories.
    out: folder to create.
    dtype: dtype of the networks, 'bf16' or 'fp32'.
    models: name -> hub id or folder of pretrained text encoders that the runs do not name. Folders
      given here are copied; folders that a run names are not.
    samples: images for the model card, such as the samples.gif of an evaluation; by default the
      newest samples of each run.
    licence: license of the weights, as the hub names it; empty if not given.
    shard: maximum bytes of tensors per file.

  Raises:
    InputError: the runs cannot be exported together, or the folder cannot be written.
  """
  check_free(out)
  stages = {
    'stage1': StageRun(stage1, TASKS['stage1']),
    'stage2': StageRun(stage2, TASKS['stage2']),
  }
  check_together(list(stages.values()))
  codec = codecs.parts(stages['stage2'].context.codec)
  encoders = models_of(list(stages.values()), models or {})
  copied = {
    name: Path(source)
    for name, source in (models or {}).items()
    if name in encoders and Path(source).is_dir()
  }
  for source in copied.values():
    _check_copied(source)
  kind = DTYPES[dtype]
  sizes = {name: sum(s.bytes(kind) for s in stage.specs) for name, stage in stages.items()}
  sizes['codec'] = sum(s.bytes(DTYPES['fp32']) for s in codec.specs)
  needed = sum(sizes.values()) + sum(map(_size, copied.values())) + 16 * 2**20
  with whole(out, needed) as folder:
    index = code.write_code(folder, _classes(stages, codec))
    code.write_studio(folder, _classes(stages, codec))
    for name, stage in stages.items():
      config = stage.torch.config_to_torch(stage.sizes, stage.context.encoding.encoders)
      _config(folder / name / CONFIG, stage.torch.network, config)
      write_tensors(folder / name, stage.specs, stage.tensors(), kind, shard)
      _config(
        folder / SCHEDULERS[name] / SCHEDULER_CONFIG,
        stage.torch.scheduler,
        stage.torch.scheduler_config(stage.process),
      )
    _config(folder / 'codec' / CONFIG, codec.network, codec.config)
    write_tensors(folder / 'codec', codec.specs, codec.tensors(), DTYPES['fp32'], shard)
    _text_encoder(folder / 'text_encoder', stages, encoders, copied)
    _json(folder / INDEX, _index(stages, index))
    training = {name: card.public(stage.config) for name, stage in stages.items()}
    _json(folder / 'training.json', training)
    shown = _samples(folder / 'samples', stages, samples)
    text = card.written(stages, codec.network, sizes, dtype, encoders, shown, licence, training)
    (folder / 'README.md').write_text(text)
    write_sums(folder)


def _classes(
  stages: Mapping[str, StageRun], codec: codecs.CodecParts
) -> dict[str, tuple[str, str]]:
  found = {}
  for name, stage in stages.items():
    found[name] = (stage.torch.module, stage.torch.network)
    found[SCHEDULERS[name]] = ('ttm_jax.pytorch.schedulers', stage.torch.scheduler)
  found['codec'] = (codec.module, codec.network)
  found['text_encoder'] = ('ttm_jax.pytorch.text_encoder', 'TTMTextEncoder')
  return found


def _index(stages: Mapping[str, StageRun], index: dict[str, list[str]]) -> dict[str, Any]:
  context = stages['stage2'].context
  encoding, (frames, height, width, channels) = context.encoding, context.latent_shape
  return {
    '_class_name': ['pipeline', 'TTMPipeline'],
    '_diffusers_version': DIFFUSERS,
    **index,
    'video': {
      'frames': encoding.frames,
      'height': encoding.height,
      'width': encoding.width,
      'fps': encoding.fps,
      'latents': [channels, frames, height, width],
    },
    'stages': {name: stage.settings for name, stage in stages.items()},
  }


def _text_encoder(
  folder: Path,
  stages: Mapping[str, StageRun],
  encoders: Mapping[str, str],
  copied: Mapping[str, Path],
) -> None:
  models = {name: f'./{name}' if name in copied else model for name, model in encoders.items()}
  texts = {name: stage.texts for name, stage in stages.items()}
  _config(folder / CONFIG, 'TTMTextEncoder', {'stages': texts, 'models': models})
  tensors = {}
  for name, stage in stages.items():
    for encoder in stage.context.encoding.encoders:
      for part in ('caption', 'caption_length', 'prompts', 'prompts_length'):
        array = stage.context.null_text[f'text.{encoder}.{part}']
        tensors[f'empty.{name}.{encoder.replace(".", "_")}.{part}'] = np.ascontiguousarray(array)
  (folder / WEIGHTS).write_bytes(safetensors.numpy.save(tensors, metadata={'format': 'pt'}))
  for name, source in copied.items():
    shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*_NOT_COPIED))


def _check_copied(source: Path) -> None:
  """Raise InputError if a symbolic link in a folder would copy files from outside of it."""
  for root, folders, files in os.walk(source):
    for name in folders:
      if (linked := Path(root, name)).is_symlink():
        raise InputError(f'{linked} is a link to a folder: put the folder itself there')
    for name in files:
      check_links(source, Path(root, name))


def _samples(folder: Path, stages: Mapping[str, StageRun], given: Sequence[Path]) -> list[str]:
  """Copy sample images into a folder and return their paths relative to the exported folder."""
  found = {path.name: path for path in given}
  if len(found) < len(given):
    raise InputError('--samples: two pictures have the same file name; rename one')
  if not given:
    for name, stage in stages.items():
      newest = stage.run / 'samples' / 'newest.gif'
      found |= {f'{name}.gif': newest} if newest.is_file() and not newest.is_symlink() else {}
  if found:
    folder.mkdir()
  for name, path in found.items():
    if not path.is_file():
      raise InputError(f'--samples {path}: there is no such file')
    shutil.copyfile(path, folder / name)
  return [f'samples/{name}' for name in found]


def _config(path: Path, kind: str, values: Mapping[str, Any]) -> None:
  path.parent.mkdir(exist_ok=True)
  _json(path, {'_class_name': kind, '_diffusers_version': DIFFUSERS, **values})


def _json(path: Path, values: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=2) + '\n')


def _size(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
