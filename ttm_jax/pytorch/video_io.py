"""Stands for `ttm_jax.data.video_io`, for the command of this package alone: it needs PyAV."""

from ttm_jax.data.video_io import *  # noqa: F403
