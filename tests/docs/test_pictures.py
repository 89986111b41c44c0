"""Animations of README and documentation: what they show, and that they can be made again."""

import numpy as np
import pytest
from PIL import Image

from docs.generate import panels, pictures
from docs.generate.panels import Panel, Row
from tests.helpers import cli
from ttm_jax.scenes.captions import motion_of
from ttm_jax.scenes.generator import VALIDATION_START, SceneConfig, scene

CONFIG = SceneConfig(min_objects=2, motions=pictures.MOTIONS)


def test_a_page_has_all_panels_enlarged_and_unchanged():
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (3, 20, 30, 3), np.uint8)
  rows = [Row('It moves.', [Panel('image', video[:1]), Panel('video', video)])] * 2
  frames = panels.page('A title', rows, 'made by hand')
  factor = 9  # The least that makes 176 of 20.
  width = 2 * (30 * factor) + panels.GAP + 2 * panels.MARGIN
  assert frames.shape[0] == 3 and frames.shape[2] == width and frames.dtype == np.uint8
  whole = video.repeat(factor, 1).repeat(factor, 2)
  found = [
    (y, x)
    for y in range(frames.shape[1] - 20 * factor)
    for x in (panels.MARGIN, panels.MARGIN + 30 * factor + panels.GAP)
    if np.array_equal(frames[2, y : y + 20 * factor, x], whole[2 if x > 50 else 0, :, 0])
  ]
  assert len(found) == 4  # Two rows of two panels; images stand still.


def test_longer_sentences_get_more_lines():
  video = np.zeros((1, 20, 20, 3), np.uint8)
  heights = [
    panels.page('t', [Row(sentence, [Panel('a', video)])], 'l').shape[1]
    for sentence in ('Short.', 'A sentence that does not fit into one line of so small a picture.')
  ]
  assert heights[1] - heights[0] in (20, 40)


def test_trajectories_have_the_colors_of_the_objects():
  clip = scene(CONFIG, VALIDATION_START)
  found = pictures.colored(clip.ids, clip)
  for label in range(1, len(clip.prompts) + 1):
    (color,) = np.unique(found[clip.ids == label], axis=0)
    np.testing.assert_array_equal(
      color, np.median(clip.video[0][clip.ids[0] == label], axis=0).astype(np.uint8)
    )
  assert (found[clip.ids == 0] == pictures.BACKGROUND).all()


def test_three_sentences_tell_three_motions_of_one_image():
  clip, index = pictures._of_two(CONFIG)
  assert len(clip.prompts) == 2 and index >= VALIDATION_START + pictures.SCENES
  told = [pictures._retold(CONFIG, index, clip, motions) for motions in pictures.SENTENCES]
  for request, motions in zip(told, pictures.SENTENCES, strict=True):
    assert tuple(motion_of(request.prompts[i]) for i in (1, 2)) == motions
    np.testing.assert_array_equal(request.picture, clip.video[0])
    np.testing.assert_array_equal(request.mask, clip.ids[0])
  assert len({request.motion for request in told}) == 3
  # Nothing but the motions differs.
  words = clip.names[0].split()
  assert all(set(words) <= set(request.caption.lower().split()) for request in told)


def test_a_drag_goes_to_the_freer_side():
  ids = np.zeros((4, 10, 20), np.uint8)
  ids[:, 4:6, 3:5] = 1
  assert pictures._free_way(ids) == (round(0.9 * 15), 0)
  assert pictures._free_way(ids[:, :, ::-1]) == (-round(0.9 * 15), 0)
  assert pictures._path(ids == 1) == [(4.0, 5.0)] * 4


@pytest.mark.slow
def test_the_animations_are_made_again_alike(stage1, stage2, tmp_path):
  made = []
  for name in ('a', 'b'):
    ended = cli.run(
      'docs.generate.pictures',
      f'--stage1={stage1}',
      f'--stage2={stage2}',
      f'--out={tmp_path}/{name}',
    )
    assert ended.code == 0, ended.err
    made.append([(tmp_path / name / file).read_bytes() for file in pictures.NAMES])
  assert made[0] == made[1]
  for file in pictures.NAMES:
    with Image.open(tmp_path / 'a' / file) as animation:
      # 4 frames, of which equal ones at the end become one.
      assert animation.n_frames >= 2 and min(animation.size) > 300
