"""Scenes show what their captions and prompts say."""

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest

from data_tools import make_scenes
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.scenes import captions as scene_words
from ttm_jax.scenes import generator as scenes
from ttm_jax.scenes import shapes as scene_shapes
from ttm_jax.scenes.captions import MOTIONS, PHRASES, SceneDescription

CROWDED = scenes.SceneConfig(min_objects=4, max_objects=4)


def pair(config, index):
  return scenes.layout(config, index), scenes.scene(config, index)


def words_in(text):
  return re.findall('[a-z]+', text.lower())


def test_a_scene_is_a_function_of_seed_and_index():
  config = scenes.SceneConfig(seed=3)
  first, again = scenes.scene(config, 5), scenes.scene(dataclasses.replace(config), 5)
  np.testing.assert_array_equal(first.video, again.video)
  np.testing.assert_array_equal(first.ids, again.ids)
  assert first.prompts == again.prompts and first.key == 'scene-3-5'
  others = [scenes.scene(config, 6), scenes.scene(scenes.SceneConfig(seed=4), 4)]
  assert all((first.video != other.video).mean() > 0.5 for other in others)


@pytest.mark.parametrize('frames, size', [(8, (48, 48)), (1, (16, 20)), (16, (64, 96))])
def test_scenes_have_the_shape_asked_for(frames, size):
  clip = scenes.scene(scenes.SceneConfig(size=size, frames=frames, fps=6), 0)
  assert clip.video.shape == (frames, *size, 3) and clip.fps == 6
  assert clip.video.std() > 5 and clip.ids.max() >= 1


def lone(motion, index):
  """Return layout and clip of one object, its center (x, y) in frame sizes, its area [T]."""
  plan, clip = pair(scenes.SceneConfig(size=(48, 64), max_objects=1, motions=(motion,)), index)
  y, x = np.mgrid[:48, :64] + 0.5
  mask = clip.ids == 1
  area = mask.sum((1, 2))
  center = np.stack([(mask * x).sum((1, 2)) / 64, (mask * y).sum((1, 2)) / 48], axis=-1)
  assert plan.objects[0].motion == motion
  return plan, clip, center / area[:, None], area


@pytest.mark.parametrize('index', range(6))
@pytest.mark.parametrize(
  'motion, axis, sign', [('left', 0, -1), ('right', 0, 1), ('up', 1, -1), ('down', 1, 1)]
)
def test_directions_cross_a_third_of_the_frame_at_constant_speed(motion, axis, sign, index):
  _, _, center, area = lone(motion, index)
  steps = sign * np.diff(center[:, axis])
  assert 0.28 < steps.sum() < 0.42
  np.testing.assert_allclose(steps, steps.mean(), atol=0.012)
  assert np.ptp(center[:, 1 - axis]) < 0.015
  assert np.ptp(area) < 0.12 * area.mean()


@pytest.mark.parametrize('index', range(6))
def test_motions_in_place(index):
  _, _, center, area = lone('grow', index)
  assert (np.diff(area) > 0).all() and 2.4 < area[-1] / area[0] < 4
  _, _, center, area = lone('shrink', index)
  assert (np.diff(area) < 0).all() and 0.15 < area[-1] / area[0] < 0.35
  _, clip, center, area = lone('spin', index)
  assert (clip.ids[0] != clip.ids[3]).sum() > 0.08 * area[0]
  assert np.ptp(center, axis=0).max() < 0.09
  _, clip, center, _ = lone('stay', index)
  assert (clip.video == clip.video[:1]).all() and (clip.ids == clip.ids[:1]).all()


@pytest.mark.parametrize('index', range(6))
def test_motions_that_return(index):
  _, _, center, _ = lone('bounce', index)
  height = center[0, 1] - center[:, 1]
  assert height.max() > 0.17 and height.min() > -0.01 and abs(height[-1]) < 0.01
  assert height[2] > height[1] > 0.1 and height[2] > height[3] + 0.05  # Two hops.
  assert np.ptp(center[:, 0]) < 0.01
  _, _, center, _ = lone('circle', index)
  assert 0.15 < np.ptp(center[:, 0]) < 0.3 and 0.2 < np.ptp(center[:, 1]) < 0.38
  np.testing.assert_allclose(center[-1], center[0], atol=0.01)


def test_followers_go_behind_their_leaders():
  config = scenes.SceneConfig(min_objects=2, motions=('left', 'up', 'spin', 'follow'))
  seen = 0
  for index in range(40):
    plan, clip = pair(config, index)
    for i, thing in enumerate(plan.objects):
      assert (thing.leader is not None) == (thing.motion == 'follow')
      if thing.leader is not None:
        leader = plan.objects[thing.leader]
        gap = leader.center - thing.center
        np.testing.assert_allclose(gap, np.broadcast_to(gap[0], gap.shape), atol=1e-9)
        behind = {'left': (-1, 0), 'up': (0, -1)}[leader.motion]
        distance = (gap[0] @ behind) / (thing.radius[0] + leader.radius[0])
        assert 0.99 < distance < 1.26
        assert f'{leader.color} {leader.noun}' in clip.prompts[i]
        seen += 1
  assert seen >= 12


def test_all_objects_are_seen_in_the_first_frame():
  for config in (CROWDED, scenes.SceneConfig(size=(32, 32))):
    for index in range(60):
      plan, clip = pair(config, index)
      for i, thing in enumerate(plan.objects, 1):
        _, coverage, _ = scene_shapes.coverage_and_light(
          thing.noun, thing.texture, config.size, thing.center, thing.radius, thing.angle
        )
        visible = (clip.ids[0] == i).sum()
        assert visible >= 15 and visible > 0.7 * (coverage[0] >= 0.5).sum()
      assert clip.ids.max() == len(plan.objects)


def test_smaller_objects_pass_in_front():
  decided = 0
  for index in range(60):
    plan, clip = pair(CROWDED, index)
    full = np.zeros((len(plan.objects), *clip.ids.shape), bool)
    for i, thing in enumerate(plan.objects):
      where, coverage, _ = scene_shapes.coverage_and_light(
        thing.noun, thing.texture, (48, 48), thing.center, thing.radius, thing.angle
      )
      full[i][:, *where] = coverage >= 0.5
    size = np.array([thing.radius.max() for thing in plan.objects])
    front = np.where(full, size[:, None, None, None], np.inf).argmin(0) + 1
    np.testing.assert_array_equal(clip.ids, np.where(full.any(0), front, 0))
    decided += (full.sum(0) > 1).sum()
  assert decided > 1000


def test_objects_have_the_color_their_name_says():
  table = np.array(list(scene_shapes.COLORS.values()), float)
  for index in range(40):
    plan, clip = pair(CROWDED, index)
    for i, thing in enumerate(plan.objects, 1):
      if (clip.ids == i).sum() > 30:
        mean = clip.video[clip.ids == i].mean(0)
        nearest = np.linalg.norm(table - mean, axis=-1).argmin()
        assert list(scene_shapes.COLORS)[nearest] == thing.color
        assert clip.names[i - 1] == f'{thing.color} {thing.noun}'
    far = clip.ids == 0  # Without the soft edges of the objects.
    for axis, shift in ((1, 1), (1, -1), (2, 1), (2, -1)):
      far &= np.roll(clip.ids, shift, axis) == 0
    pixels = clip.video[far].astype(float)
    saturation = 1 - pixels.min(-1) / pixels.max(-1)
    assert np.quantile(saturation, 0.95) < 0.33


@pytest.mark.parametrize(
  'noun, area',
  [
    ('circle', math.pi),
    ('square', 1.72**2),
    ('triangle', 3 * math.sqrt(3) * 0.62**2),
    ('star', 5 * 1.2 * 0.58 * math.sin(math.pi / 5)),
    ('heart', (4 + math.pi) * 0.58**2),
    ('ring', math.pi * (1.04**2 - 0.44**2)),
    ('cross', 4 * 0.72 - 0.72**2),
    ('diamond', 2 * 0.74 * 1.2),
    ('hexagon', 2 * math.sqrt(3) * 0.9**2),
  ],
)
def test_shapes_cover_their_area_in_any_pose(noun, area):
  center, angle = np.array([[60, 60], [62.3, 57.8]]), np.array([0, 1.0])
  _, coverage, light = scene_shapes.coverage_and_light(
    noun, 'dots', (120, 120), center, np.array([40.0, 30.0]), angle
  )
  np.testing.assert_allclose(coverage.sum((1, 2)), [area * 1600, area * 900], rtol=0.006)
  # Sharp and smooth: about one soft pixel across the outline, which is 6 to 15 radii long.
  assert 5 < ((coverage[1] > 0.01) & (coverage[1] < 0.99)).sum() / 30 < 16
  assert abs(light[coverage > 0.5].mean() - 1) < 0.03 and 0.1 < light.max() - 1 <= 0.141


def test_texts_of_a_known_scene():
  things = [
    SceneDescription('circle', 'red', '', 'left', 'moves to the left', None),
    SceneDescription('star', 'orange', 'small', 'grow', 'gets bigger', None),
    SceneDescription('ring', 'orange', '', 'follow', 'follows the {}', 0),
  ]
  assert scene_words.caption(things, 'sage', 'striped') == (
    'A red circle moves to the left, a small orange star gets bigger and an orange ring follows'
    ' the red circle over a striped sage background.'
  )
  assert scene_words.caption(things[:1], 'grey', 'plain') == (
    'A red circle moves to the left over a plain grey background.'
  )
  assert scene_words.motion_prompt(things) == (
    'The circle moves to the left, the star gets bigger and the ring follows the circle.'
  )
  assert scene_words.motion_prompt(things[:2]) == (
    'The circle moves to the left and the star gets bigger.'
  )
  assert [scene_words.prompt_of(things, i) for i in range(3)] == [
    'a red circle that moves to the left',
    'a small orange star that gets bigger',
    'an orange ring that follows the red circle',
  ]


@pytest.mark.parametrize(
  'motion, phrase', [(motion, phrase) for motion in MOTIONS for phrase in PHRASES[motion]]
)
def test_motion_of_inverts_every_phrase(motion, phrase):
  for noun in scene_shapes.SHAPES:
    leader = 0 if motion == 'follow' else None
    things = [
      SceneDescription('circle', 'green', 'large', 'left', 'goes left', None),
      SceneDescription(noun, 'orange', 'small', motion, phrase, leader),
    ]
    assert scene_words.motion_of(scene_words.prompt_of(things, 1)) == motion


def test_motion_of_knows_when_nothing_is_said():
  assert scene_words.motion_of('a dog that barks at a blue circle') is None
  assert scene_words.motion_of('A Red Ball That Moves To The Right') == 'right'


def test_prompts_agree_with_the_layout():
  motions = set()
  for index in range(60):
    plan, clip = pair(CROWDED, index)
    found = [scene_words.motion_of(prompt) for prompt in clip.prompts]
    assert found == [thing.motion for thing in plan.objects]
    assert len({t.noun for t in plan.objects}) == len({t.color for t in plan.objects}) == 4
    assert not any(t.motion == 'spin' and t.noun in scene_shapes.ROUND for t in plan.objects)
    motions.update(found)
  assert motions == set(MOTIONS)


def test_the_vocabulary_is_all_there_is_and_motion_prompts_use_little_of_it():
  known, used = scene_words.vocabulary(), set()
  appearance = {
    *scene_shapes.COLORS,
    *scene_shapes.BACKGROUND_COLORS,
    *scene_shapes.BACKGROUNDS,
    *scene_words.SIZES,
    'background',
  }
  for index in range(400):
    clip = scenes.scene(dataclasses.replace(CROWDED, size=(16, 16), frames=2), index)
    used.update(words_in(' '.join([clip.caption, clip.motion, *clip.prompts, *clip.names])))
    assert appearance.isdisjoint(words_in(clip.motion))
  assert used == known and len(known) < 80


def test_splits_are_disjoint():
  splits = scenes.scene_splits(scenes.SceneConfig(size=(16, 16), frames=2), 30, 10)
  clips = {split: list(source) for split, source in splits.items()}
  assert [len(clips['train']), len(clips['validation'])] == [30, 10]
  captions = {split: {clip.caption for clip in some} for split, some in clips.items()}
  assert len({clip.key for some in clips.values() for clip in some}) == 40
  assert captions['train'].isdisjoint(captions['validation'])
  assert splits['validation'].start == 1 << 32
  assert len(pickle.dumps(splits['train'])) < 500
  with pytest.raises(IndexError, match='no scene 10 among 10'):
    splits['validation'][10]
  assert list(scenes.scene_splits(scenes.SceneConfig(), 5, 0)) == ['train']
  with pytest.raises(InputError, match=r'at least 1 scene.*got 0, 3'):
    scenes.scene_splits(scenes.SceneConfig(), 0, 3)


@pytest.mark.parametrize(
  'options, complaint',
  [
    ({'motions': ('left', 'spim')}, r'unknown motion "spim" \(did you mean "spin"\?\)'),
    ({'motions': ('follow',)}, 'more than "follow" alone'),
    ({'size': (8, 48)}, 'at least 16 pixels'),
    ({'max_objects': 5}, '1 to 4 objects, got 1 to 5'),
    ({'min_objects': 3, 'max_objects': 2}, 'got 3 to 2'),
    ({'frames': 0}, 'at least 1 frame, got 0'),
    ({'seed': -1}, 'must not be negative, got -1'),
    ({'fps': 0}, 'must be positive, got 0'),
  ],
)
def test_impossible_scenes_are_refused(options, complaint):
  with pytest.raises(InputError, match=complaint):
    scenes.SceneConfig(**options)


def test_the_tool_writes_what_was_asked_for(tmp_path, capsys):
  options = '--train 3 --validation 2 --size 16x24 --frames 2 --max_objects 2 --motions left,stay'
  make_scenes.main(['--out', str(tmp_path / 'd'), *options.split()])
  config = scenes.SceneConfig(
    size=(16, 24), frames=2, max_objects=2, motions=('left', 'stay'), seed=0
  )
  for split, source in scenes.scene_splits(config, 3, 2).items():
    written = Clips(tmp_path / 'd', split)
    assert len(written) == len(source)
    np.testing.assert_array_equal(written[1].video, source[1].video)
    assert written[1].caption == source[1].caption
  assert written.records.metadata['scenes']['motions'] == ['left', 'stay']
  assert capsys.readouterr().out == f'wrote {tmp_path}/d: 3 train, 2 validation\n'
  with pytest.raises(SystemExit) as stopped:
    make_scenes.main(['--out', str(tmp_path / 'e'), '--size', '0x9'])
  assert stopped.value.code == 2
  assert 'error: "0x9" is not a size' in capsys.readouterr().err
