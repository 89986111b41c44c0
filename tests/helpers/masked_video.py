"""A video file with masks and captions, as `import_folder` reads them."""

import numpy as np

from ttm_jax import trajectory
from ttm_jax.media import video_io

DOG = {
  'c': 'A dog runs after a ball.',
  'c_motion': 'The dog runs after the ball.',
  'c_local': {'1': 'a brown dog that runs', '3': 'a red ball that rolls'},
}


def make_source(folder, ids, fps=12, video='video.mp4', masks='masks'):
  """Make a gray video whose frame t has level 10 t; its objects are white."""
  levels = np.arange(len(ids), dtype=np.uint8)[:, None, None] * np.uint8(10)
  frames = np.where(ids > 0, np.uint8(250), levels)[..., None].repeat(3, axis=-1)
  video_io.write_video(folder / video, frames, fps)
  trajectory.write_folder(folder / masks, ids)


def label_maps(shape=(20, 24, 48)):
  ids = np.zeros(shape, np.uint8)
  ids[:, 4:12, 20:28] = 3
  return ids
