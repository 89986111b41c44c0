"""Initialize one U-Net from the parameters of another."""

# The norm and attention that each masked layer is initialized from.
SIBLINGS = {'masked_attn': ('norm1', 'attn'), 'masked_cross_attn': ('norm2', 'cross_attn')}


def transfer(source: dict, target: dict) -> dict:
  """Return the parameters of a U-Net, initialized from a U-Net with another task or masked blocks.

  Parameters that the source lacks, or has in another shape, keep their initial values: zero input
  weights of another visual condition, zero gates. Masked layers that the source lacks are
  initialized from the unmasked attention of the same block.

  Args:
    source: nested dict of arrays, as `nnx.to_pure_dict` returns it.
    target: the same, of a network of equal widths.

  Returns:
    A nested dict with the structure of target.
  """
  out = {}
  for name, own in target.items():
    other = source.get(name)
    if isinstance(own, dict):
      out[name] = transfer(other or {}, own)
    else:
      out[name] = own if other is None or other.shape != own.shape else other
  for extra, (norm, attention) in SIBLINGS.items():
    if extra in target and extra not in source and norm in source:
      out[extra] = {**out[extra], 'norm': out[norm], 'attention': out[attention]}
  return out
