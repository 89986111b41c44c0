"""Partition specs of the parameters of the U-Net."""

# The first pattern that matches a parameter's path and has as many axes applies. Convolutions have
# two spatial axes before the channel axes.
SHARDING = (
  ('conv2.kernel', (None, None, 'tensor', 'fsdp')),
  ('(out|ffn.down).kernel', ('tensor', 'fsdp')),
  ('kernel', (None, None, 'fsdp', 'tensor')),
  ('kernel', ('fsdp', 'tensor')),
  ('words.table', ('fsdp', None)),
)
