"""Where each parameter of the U-Net lies on the mesh."""

# The first pattern that is found in a parameter's path, with as many axes, decides. Convolutions
# have two spatial axes before those of the channels.
SHARDING = (
  ('conv2.kernel', (None, None, 'tensor', 'fsdp')),
  ('(out|ffn.down).kernel', ('tensor', 'fsdp')),
  ('kernel', (None, None, 'fsdp', 'tensor')),
  ('kernel', ('fsdp', 'tensor')),
  ('words.table', ('fsdp', None)),
)
