"""Conversion of Wan to and from PyTorch (`ttm_jax.pytorch.wan`), and import of open weights.

Tensors that diffusers' `WanTransformer3DModel` has keep its names; the masked layers and the input
of the visual condition are added. In JAX, kernels are [in, out], stacked over the layers: first the
masked blocks, then the rest. In PyTorch, each layer has its own tensors.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.models.wan import original
from ttm_jax.models.wan.model import EPS, MOST_POSITIONS, PATCH, Wan, WanConfig
from ttm_jax.pretrained.fields import NONE, Free, Only, Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights, locate, read, read_file
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.text.from_config import encoders

# Regular expressions from JAX parameter paths to PyTorch names, applied in this order; '@' is the
# layer index.
NAMES = (
  (r'^(masked_)?blocks\.', 'blocks.@.'),
  (r'^embed\.', 'patch_embedding.'),
  (r'^embed_visual\.', 'patch_embedding_visual.'),
  (r'^text\.mlp\.up', 'condition_embedder.text_embedder.linear_1'),
  (r'^text\.mlp\.down', 'condition_embedder.text_embedder.linear_2'),
  (r'^text\.words\.', 'words.'),
  (r'^time\.scales\.', 'scales.'),
  (r'^time\.hidden', 'condition_embedder.time_embedder.linear_1'),
  (r'^time\.out', 'condition_embedder.time_embedder.linear_2'),
  (r'^modulation', 'condition_embedder.time_proj'),
  (r'^head', 'proj_out'),
  (r'table$', 'scale_shift_table'),
  (r'^words\.scale_shift_table', 'words.table'),
  (r'@\.attn\.', '@.attn1.'),
  (r'@\.cross_attn\.', '@.attn2.'),
  (r'attn(\d)\.query_norm', r'attn\1.norm_q'),
  (r'attn(\d)\.key_norm', r'attn\1.norm_k'),
  (r'attn(\d)\.query', r'attn\1.to_q'),
  (r'attn(\d)\.key', r'attn\1.to_k'),
  (r'attn(\d)\.value', r'attn\1.to_v'),
  (r'attn(\d)\.out', r'attn\1.to_out.0'),
  (r'ffn\.up', 'ffn.net.0.proj'),
  (r'ffn\.down', 'ffn.net.2'),
  (r'(masked_\w+)\.gate$', r'\1.alpha'),
  (r'\.(kernel|scale)$', '.weight'),
)

# JAX config fields and their names in the PyTorch configuration.
FIELDS = {
  'layers': 'num_layers',
  'heads': 'num_attention_heads',
  'ffn': 'ffn_dim',
  'channels': 'in_channels',
}
ADDED = {
  'masked_blocks': 'num_masked_blocks',
  'masked_self': 'masked_self',
  'masked_cross': 'masked_cross',
  'visual_channels': 'visual_channels',
  'guidance_inputs': 'guidance_inputs',
}

KIND = 'WanTransformer3DModel'  # The class of open weights in diffusers.


def config_to_torch(config: WanConfig, texts: Mapping[str, TextEncoderSpec]) -> dict[str, Any]:
  """Return the constructor arguments of `TTMWanTransformer`, the content of its `config.json`."""
  ((name, spec),) = texts.items()
  return {
    'encoders': [{'name': name, **dataclasses.asdict(spec)}],
    **{theirs: getattr(config, ours) for ours, theirs in (FIELDS | ADDED).items()},
    'attention_head_dim': config.head_dim,
    'out_channels': config.channels,
    'text_dim': spec.dim,
  }


def config_from_torch(weights: Weights) -> tuple[WanConfig, dict[str, TextEncoderSpec]]:
  """Return the model config and text encoders of exported weights, with default training fields.

  Raises:
    InputError: if a field is missing, has the wrong type, or has an unsupported value; the message
      names it.
  """
  texts = encoders(weights.config, weights.folder)
  if len(texts) != 1:
    raise InputError(f'{weights.folder}/config.json: encoders must be one: copy it again')
  (spec,) = texts.values()
  own = dict.fromkeys(['encoders', *ADDED.values()], Read())
  return _sizes(weights, FIELDS | ADDED, own | {'text_dim': Only(spec.dim)}), texts


def open_weights(source: str, config: WanConfig) -> dict[str, Any]:
  """Return the parameters of open text-to-video weights.

  Args:
    source: a folder or hub id in the layout of diffusers (with or without a subfolder
      `transformer`), or a folder or safetensors file of the original repository.
    config: sizes of the target network; its masked layers and visual condition are ignored.

  Raises:
    InputError: if a file is missing or damaged, or the architecture differs.
  """
  path = Path(source)
  weights = (
    read_file(path, half=True) if path.is_file() else read(locate(source, 'transformer'), half=True)
  )
  weights = original.to_diffusers(weights)
  kind = weights.config.get('_class_name')
  if kind != KIND:
    raise InputError(f'{weights.folder} holds a {kind}, a {KIND} is needed')
  channels = weights.config.get('in_channels')
  if weights.config.get('image_dim') is not None or channels != weights.config.get('out_channels'):
    raise InputError(
      f'{weights.folder} is an image-to-video checkpoint ({channels} input channels): take the'
      ' text-to-video one of the same size, which has no image encoder and as many input as output'
      ' channels'
    )
  found = _sizes(weights, FIELDS, {'text_dim': Free('compared with the text encoder later')})
  for field in ('width', *FIELDS):
    there, wanted = getattr(found, field), getattr(config, field)
    if there != wanted:
      raise InputError(
        f'{weights.folder} holds another architecture: {field} is {there} there, {wanted} is needed'
        f' (--config.model.{field})'
      )
  spec = TextEncoderSpec(weights.config['text_dim'], 1, 1)
  plain = dataclasses.replace(config, masked_blocks=0, visual_channels=0)
  model = nnx.eval_shape(lambda: Wan(plain, {'text': spec}, rngs=nnx.Rngs(0)))
  return import_parameters(table(nnx.to_pure_dict(nnx.state(model, nnx.Param))), weights)


def _sizes(weights: Weights, names: Mapping[str, str], rules: Mapping[str, Any]) -> WanConfig:
  """Check every field of a configuration of diffusers and return the sizes that it has."""
  folder, values = weights.folder, weights.config
  read_fields = {**names, 'width': 'attention_head_dim'}
  made = sizes(_Sizes, folder, values, read_fields, len(weights.tensors))
  fields = {
    **dict.fromkeys(read_fields.values(), Read()),
    'out_channels': Only(made.channels),
    'patch_size': Only((1, *PATCH), (1, *PATCH)),
    'freq_dim': Only(256, 256),
    'cross_attn_norm': Only(True, True),
    'qk_norm': Only('rms_norm_across_heads', 'rms_norm_across_heads'),
    'eps': Only(EPS, EPS),
    'image_dim': NONE,
    'added_kv_proj_dim': NONE,
    'pos_embed_seq_len': NONE,
    'rope_max_seq_len': Only(MOST_POSITIONS, MOST_POSITIONS),
    **rules,
  }
  check(folder, values, fields)
  given = dataclasses.asdict(made)
  try:
    return WanConfig(**{**given, 'width': made.width * made.heads})
  except ValueError as error:
    raise InputError(f'{folder}/config.json is not a configuration of it: {error}') from error


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """The fields of `WanConfig` as stored; `width` is that of one head."""

  width: int
  layers: int
  heads: int
  ffn: int
  channels: int
  masked_blocks: int = 0
  masked_self: bool = True
  masked_cross: bool = True
  visual_channels: int = 0
  guidance_inputs: bool = False


def table(params: Mapping[str, Any]) -> list[Entry]:
  """Return the name table of a transformer.

  Args:
    params: nested dict of its parameters, or of their shapes (`jax.ShapeDtypeStruct`).
  """
  masked = jax.tree.leaves(params.get('masked_blocks', {}))
  first = {'masked_blocks': 0, 'blocks': masked[0].shape[0] if masked else 0}
  entries = []
  for path, leaf in jax.tree.leaves_with_path(params):
    keys = tuple(key.key for key in path)
    theirs = '.'.join(map(str, keys))
    for pattern, name in NAMES:
      theirs = re.sub(pattern, name, theirs)
    names, stacked = [theirs], '@' in theirs
    if stacked:
      names = [theirs.replace('@', str(first[keys[0]] + i)) for i in range(leaf.shape[0])]
    entries.append(Entry(keys, tuple(names), leaf.shape, _layout(theirs, keys), stacked))
  return entries


def _layout(theirs: str, keys: tuple[str, ...]) -> str:
  """Return the name of the axis order of a tensor, see `pretrained.names.LAYOUTS`."""
  if theirs.startswith('patch_embedding') and keys[-1] == 'kernel':
    return 'patch'
  if theirs.endswith('scale_shift_table'):
    return 'row'
  return 'linear' if keys[-1] == 'kernel' else 'same'
