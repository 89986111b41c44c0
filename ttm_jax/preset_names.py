"""Names of the presets that this package has (see `ttm_jax.presets`); imports nothing."""

NAMES = ('dit', 'unet', 'wan')
DEFAULT = 'dit'  # Of the data tools and the demo.
