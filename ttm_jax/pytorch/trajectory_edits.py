"""`ttm_jax.trajectory_edits`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.trajectory_edits import *  # noqa: F403
