"""Defaults and choices of the flags of `ttm_jax.evaluate`; imports nothing."""

# Metrics that need no weights.
METRICS = ('psnr', 'ssim', 'adherence_color', 'first_frame', 'color_drift')
DEVIATIONS = ('missing', 'fps', 'length', 'size')  # From the clips, see `scored_videos`.
DRAWS = 1000  # Of the bootstrap.
BATCH = 16  # Videos that are generated at once.
