"""Dragged scenes keep image and texts of a scene, and move its objects elsewhere."""

import numpy as np
import pytest

from data_tools import make_scenes
from ttm_jax.data.clips import Clips
from ttm_jax.scenes.dragged import LEAST_WAY, dragged_scene
from ttm_jax.scenes.generator import SceneConfig, scene

CONFIG = SceneConfig(size=(48, 64), min_objects=1, max_objects=1, motions=('stay', 'grow'))


@pytest.mark.parametrize('index', range(8))
def test_image_and_texts_are_those_of_the_scene(index):
  config = SceneConfig(max_objects=4)
  ordinary, dragged = scene(config, index), dragged_scene(config, index)
  np.testing.assert_array_equal(ordinary.video[0], dragged.video[0])
  np.testing.assert_array_equal(ordinary.ids[0], dragged.ids[0])
  for name in ('caption', 'motion', 'names', 'prompts'):
    assert getattr(ordinary, name) == getattr(dragged, name)
  assert dragged.key == f'{ordinary.key}-dragged'
  np.testing.assert_array_equal(dragged.video, dragged_scene(config, index).video)


@pytest.mark.parametrize('index', range(8))
def test_an_object_glides_to_another_place_and_stays_in_the_frame(index):
  clip = dragged_scene(CONFIG, index)
  area = (clip.ids == 1).sum((1, 2))
  assert np.ptp(area) <= 0.15 * area[0]  # Neither grows nor leaves, whatever its text says.
  places = np.array([np.argwhere(frame == 1).mean(0) for frame in clip.ids])
  steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
  assert np.linalg.norm(places[-1] - places[0]) >= LEAST_WAY * 48 - 1
  middle = len(steps) // 2
  assert steps[middle] > steps[0] and steps[middle] > steps[-1]


def test_the_command_makes_them(tmp_path):
  flags = ['--train=1', '--validation=1', '--size=32']
  make_scenes.main([f'--out={tmp_path}/dragged', '--dragged', *flags])
  clip = Clips(tmp_path / 'dragged', 'validation')[0]
  assert clip.key.endswith('-dragged')


def test_the_command_makes_one_kind_of_scenes(tmp_path, capsys):
  with pytest.raises(SystemExit) as ended:
    make_scenes.main([f'--out={tmp_path}/x', '--dragged', '--lookalike'])
  assert ended.value.code != 0
  assert '--lookalike and --dragged are two kinds of scenes' in capsys.readouterr().err
  assert not (tmp_path / 'x').exists()
