"""Start one U-Net from the parameters of another."""

# Which extra layer begins as a copy of which norm and attention beside it.
SIBLINGS = {'masked_attn': ('norm1', 'attn'), 'masked_cross_attn': ('norm2', 'cross_attn')}


def transfer(source: dict, target: dict) -> dict:
  """Brings the parameters of one U-Net into another that differs in task or masked blocks.

  Parameters that the source lacks, or has in another shape, keep their initial value: zero input
  weights of another visual condition, closed gates. Extra layers that the source lacks become
  copies of their siblings.

  Args:
    source, target: nested dicts of arrays, as `nnx.to_pure_dict` gives them; same widths.

  Returns:
    Like target.
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
