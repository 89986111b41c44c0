"""Start the studio of an exported folder, without JAX: the program behind its `app.py`."""

import argparse

import numpy as np

from ttm_jax.errors import front_door
from ttm_jax.pytorch.clicks import ClickSegmenter
from ttm_jax.pytorch.segmentation import Segmenter
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.backends import Found
from ttm_jax.studio.exported_networks import ExportedNetworks
from ttm_jax.studio.server_flags import add_flags, check_flags
from ttm_jax.studio.shell import serve


class PromptFinder:
  """A `backends.Finder`: Grounding DINO finds what the prompt names, SAM 2 outlines it."""

  def __init__(self, detector: str, sam: str, device: str, offline: bool):
    """Remember what to load when it is used; an empty `detector` leaves only clicks."""
    self._detector, self._sam = detector, sam
    self._device = None if device == 'auto' else device
    self._click = ClickSegmenter(sam, device, offline)
    self._segmenter: Segmenter | None = None
    self.by_click, self.by_text = True, bool(detector)

  def named(self, picture: np.ndarray, caption: str, motion: str, max_objects: int) -> Found:
    if self._segmenter is None:
      self._segmenter = Segmenter(self._detector, self._sam, device=self._device)
    self._segmenter.max_objects = max_objects
    mask, prompts = self._segmenter(picture, motion or caption)
    return Found(mask, {}, prompts)

  def clicked(
    self, picture: np.ndarray, points: np.ndarray, inside: np.ndarray, box: np.ndarray | None
  ) -> np.ndarray:
    return self._click(picture, points, inside, box)


def main(folder: str) -> None:
  """Start the studio.

  Args:
    folder: The exported folder.

  Raises:
    InputError: If a flag is invalid, or the folder cannot be loaded.
  """
  args = parser().parse_args()
  check_flags(args)
  finder = None
  if args.sam:
    finder = PromptFinder(args.detector, args.sam, args.device, args.offline)
  networks = ExportedNetworks(folder, args.device, args.dtype, args.offline)
  serve(Studio(networks, finder, args.time_limit, args.work), args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser('python app.py', description='Start the studio of this folder.')
  add = made.add_argument
  add('--device', default='auto', help='PyTorch device; default a GPU if available')
  add(
    '--dtype',
    default='auto',
    choices=['auto', 'float32', 'bfloat16', 'float16'],
    help='default bfloat16 on a GPU, float32 on a CPU',
  )
  add('--offline', action='store_true', help='do not download models')
  add('--detector', default='', help='Grounding DINO, which finds the objects of the prompt')
  add('--sam', default='', help='SAM 2, which outlines objects')
  add_flags(made)
  return made


def cli(folder: str) -> None:
  """Run the command; show an InputError as one line and exit with code 2."""
  with front_door():
    main(folder)
