"""Partition specs of the parameters of the DiT."""

# The first pattern that matches a parameter's path applies. Stacked blocks have a leading layer
# axis, which no mesh axis splits.
SHARDING = (
  ('blocks.*(query|key|value|gate|up).kernel', (None, 'fsdp', 'tensor')),
  ('blocks.*(out|down).kernel', (None, 'tensor', 'fsdp')),
  ('(projections|embed|time|modulation).*kernel', ('fsdp', 'tensor')),
  ('head.kernel', ('fsdp', None)),
  ('words.table', ('fsdp', None)),
)
