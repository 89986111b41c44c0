"""Names of the original repository of Wan (Wan-Video/Wan2.1), translated to those of diffusers."""

import dataclasses
import re

from ttm_jax.errors import InputError
from ttm_jax.pretrained.weights import Weights

# Regular expressions from names of the original repository to names in diffusers, in this order.
NAMES = (
  (r'^text_embedding\.0\.', 'condition_embedder.text_embedder.linear_1.'),
  (r'^text_embedding\.2\.', 'condition_embedder.text_embedder.linear_2.'),
  (r'^time_embedding\.0\.', 'condition_embedder.time_embedder.linear_1.'),
  (r'^time_embedding\.2\.', 'condition_embedder.time_embedder.linear_2.'),
  (r'^time_projection\.1\.', 'condition_embedder.time_proj.'),
  (r'^head\.head\.', 'proj_out.'),
  (r'^head\.modulation$', 'scale_shift_table'),
  (r'\.modulation$', '.scale_shift_table'),
  (r'\.self_attn\.', '.attn1.'),
  (r'\.cross_attn\.', '.attn2.'),
  (r'(attn\d)\.(q|k|v)\.', r'\1.to_\2.'),
  (r'(attn\d)\.o\.', r'\1.to_out.0.'),
  (r'\.ffn\.0\.', '.ffn.net.0.proj.'),
  (r'\.ffn\.2\.', '.ffn.net.2.'),
  (r'\.norm3\.', '.norm2.'),  # The norm before cross-attention.
)
# A tensor that only the original layout has.
MARK = 'head.modulation'
IMAGE = 'img_emb.'  # Prefix of the image encoder's projection in image-to-video checkpoints.


def to_diffusers(weights: Weights) -> Weights:
  """Return weights with the names and the configuration of diffusers.

  The sizes follow from the shapes of the tensors. Heads have 128 channels in all published sizes;
  `num_heads` of the configuration decides, if there is one.

  Args:
    weights: a checkpoint of the original repository; any other is returned as it is.

  Raises:
    InputError: if `num_heads` is not a size.
  """
  tensors = weights.tensors
  if MARK not in tensors:
    return weights
  width, channels = tensors['patch_embedding.weight'].shape[:2]
  layers = {int(found[1]) for name in tensors if (found := re.match(r'blocks\.(\d+)\.', name))}
  heads = weights.config.get('num_heads', max(width // 128, 1))
  if type(heads) is not int or heads < 1:
    raise InputError(f'{weights.folder}/config.json: num_heads is {heads!r:.50}, a size is needed')
  image = any(name.startswith(IMAGE) for name in tensors)
  config = {
    '_class_name': 'WanTransformer3DModel',
    'num_layers': len(layers),
    'num_attention_heads': heads,
    'attention_head_dim': width // heads,
    'ffn_dim': tensors['blocks.0.ffn.0.weight'].shape[0],
    'in_channels': channels,
    'out_channels': tensors['head.head.weight'].shape[0] // 4,
    'text_dim': tensors['text_embedding.0.weight'].shape[1],
    'image_dim': tensors[f'{IMAGE}proj.0.weight'].shape[0] if image else None,
  }
  return dataclasses.replace(
    weights, config=config, tensors={_renamed(name): x for name, x in tensors.items()}
  )


def _renamed(name: str) -> str:
  for pattern, theirs in NAMES:
    name = re.sub(pattern, theirs, name)
  return name
