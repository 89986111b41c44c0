"""Partition specs of the parameters of Wan."""

# The first pattern that matches a parameter's path applies. Stacked blocks have a leading layer
# axis, which no mesh axis splits.
SHARDING = (
  ('blocks.*(query|key|value|up).kernel', (None, 'fsdp', 'tensor')),
  ('blocks.*(out|down).kernel', (None, 'tensor', 'fsdp')),
  ('(embed|text|time|modulation).*kernel', ('fsdp', 'tensor')),
  ('head.kernel', ('fsdp', None)),
  ('words.table', ('fsdp', None)),
)
