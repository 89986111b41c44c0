"""Initialize a transformer of stacked blocks from the parameters of another.

The parameters of such a network are `masked_blocks` and `blocks`, stacked along the layers, and
others that are shared by all tasks.
"""

import jax
import jax.numpy as jnp

# The norm and attention that each masked layer is initialized from.
SIBLINGS = {'masked_attn': ('norm1', 'attn'), 'masked_cross_attn': ('norm2', 'cross_attn')}


def transfer(source: dict, target: dict) -> dict:
  """Return parameters initialized from a network with another task or other masked blocks.

  The layers of the source are redistributed between masked blocks and the rest. Parameters that the
  source lacks, or that belong to another visual condition, keep their initial values: zero input
  weights, zero gates. If both networks have the same number of masked blocks, the masked layers are
  copied. Otherwise they are initialized from the unmasked attention of the same block.

  Args:
    source: nested dict of arrays, as `nnx.to_pure_dict` returns it.
    target: the same, of a network of equal width and depth.

  Returns:
    A nested dict with the structure of target.
  """
  target = jax.tree.map(lambda x: x, target)
  layers = _layers(source)
  count = _masked_count(target)
  shared = {k: v for k, v in source.items() if k in target and 'blocks' not in k}
  if _shapes(shared.get('embed_visual')) != _shapes(target.get('embed_visual')):
    shared.pop('embed_visual', None)
  out = {**target, **shared}
  if 'blocks' in target:
    out['blocks'] = jax.tree.map(lambda x: x[count:], layers)
  if count:
    out['masked_blocks'] = _masked_blocks(source, target, jax.tree.map(lambda x: x[:count], layers))
  return out


def _masked_blocks(source: dict, target: dict, plain: dict) -> dict:
  """Return the masked blocks: unmasked layers from the source; masked layers copied or new."""
  blocks = {**target['masked_blocks'], **plain}
  same_number = _masked_count(source) == _masked_count(target)
  for name, (norm, sibling) in SIBLINGS.items():
    if name not in blocks:
      continue
    if same_number and name in source['masked_blocks']:
      blocks[name] = source['masked_blocks'][name]
    else:
      # A norm without parameters leaves the norm of the masked layer as it is.
      norms = {'norm': plain[norm]} if norm in plain else {}
      blocks[name] = {**blocks[name], **norms, 'attention': plain[sibling]}
  return blocks


def _shapes(params: dict | None) -> list[tuple[int, ...]]:
  return [x.shape for x in jax.tree.leaves(params)]


def _masked_count(params: dict) -> int:
  return jax.tree.leaves(params['masked_blocks'])[0].shape[0] if 'masked_blocks' in params else 0


def _layers(params: dict) -> dict:
  """Return the unmasked layers of all blocks, stacked in order."""
  parts = []
  if 'masked_blocks' in params:
    parts.append({k: v for k, v in params['masked_blocks'].items() if k not in SIBLINGS})
  if 'blocks' in params:
    parts.append(params['blocks'])
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts) if len(parts) > 1 else parts[0]
