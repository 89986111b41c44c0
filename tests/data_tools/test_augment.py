"""Variants of clips: pixels, masks and texts that agree."""

import dataclasses

import numpy as np
import pytest

from data_tools import augment, augmentation
from data_tools.augmentation import Variation, Varied, cropped, flipped, reversed_clip, variant
from ttm_jax.data.clips import Clips, write_clips
from ttm_jax.data.schema import Clip
from ttm_jax.metrics.evaluation import motion_row
from ttm_jax.scenes.generator import SceneConfig, Scenes


def clip(caption='A ball rolls to the left.', motion='The ball rolls to the left.', key='park/0'):
  """Return 3 frames of 12 x 16 pixels; object 1 moves left, object 2 rests on the right."""
  rng = np.random.default_rng(0)
  ids = np.zeros((3, 12, 16), np.uint8)
  for t in range(3):
    ids[t, 4:8, 8 - 2 * t : 12 - 2 * t] = 1
  ids[:, 2:4, 13:15] = 2
  video = rng.integers(0, 256, (3, 12, 16, 3), np.uint8)
  prompts = 'A ball that rolls to the left', 'a box that stays still'
  return Clip(key, video, ids, 8.0, caption, motion, ('ball', 'box'), prompts)


def test_a_mirrored_clip():
  found = flipped(clip())
  np.testing.assert_array_equal(found.video, clip().video[:, :, ::-1])
  np.testing.assert_array_equal(found.ids, clip().ids[:, :, ::-1])
  assert (found.caption, found.motion) == (
    'A ball rolls to the right.',
    'The ball rolls to the right.',
  )
  assert found.names == ('ball', 'box')
  assert found.prompts == ('A ball that rolls to the right', 'a box that stays still')
  assert flipped(clip(caption='A ball that left.')) is None


def test_a_reversed_clip():
  found, reason = reversed_clip(clip())
  assert reason == ''
  np.testing.assert_array_equal(found.video, clip().video[::-1])
  np.testing.assert_array_equal(found.ids, clip().ids[::-1])
  assert found.motion == 'The ball rolls to the right.'
  assert reversed_clip(clip(motion='The ball rolls, then rests.')) == (
    None,
    '"then" is an order in time',
  )


def test_an_object_that_ends_hidden_cannot_be_reversed():
  gone = clip()
  gone.ids[-1][gone.ids[-1] == 2] = 0
  assert reversed_clip(gone) == (None, 'an object is hidden in the last frame')
  unprompted = dataclasses.replace(gone, prompts=(gone.prompts[0], ''))
  assert reversed_clip(unprompted)[1] == ''


def test_a_crop_keeps_pixels_masks_and_objects_together():
  # Pixels say their place and their object, so that the same box is seen in both.
  original = clip()
  shown = np.array([40, 140, 240], np.uint8)[original.ids]
  original = dataclasses.replace(original, video=np.repeat(shown[..., None], 3, -1))
  sizes = set()
  for seed in range(20):
    found = cropped(original, np.random.default_rng(seed), 0.5)
    assert found.video.shape == original.video.shape and found.ids.shape == original.ids.shape
    assert {1, 2} <= {*np.unique(found.ids[0]).tolist()}
    level = np.array([40, 140, 240])[found.ids]
    assert np.mean(np.abs(found.video[..., 0] - level) < 60) > 0.9
    sizes.add(int((found.ids[0] == 1).sum()))
  assert len(sizes) > 3 and max(sizes) > 20  # 16 pixels before.


def test_no_crop_returns_the_pixels():
  found = cropped(clip(), np.random.default_rng(0), 1.0)
  np.testing.assert_array_equal(found.video, clip().video)
  np.testing.assert_array_equal(found.ids, clip().ids)


def test_an_object_at_each_border_is_never_cut_away(monkeypatch):
  wide = clip()
  wide.ids[:] = 0
  wide.ids[:, :, 0], wide.ids[:, :, -1] = 1, 2
  for seed in range(10):
    found = cropped(wide, np.random.default_rng(seed), 0.5)
    assert {1, 2} <= {*np.unique(found.ids[0]).tolist()}
  # No part keeps more than all of an object.
  monkeypatch.setattr(augmentation, '_LEAST_KEPT', 1.01)
  assert cropped(wide, np.random.default_rng(0), 0.5) is wide


def test_variants_depend_on_seed_key_and_number():
  chosen = Variation(4)
  same = [variant(clip(), chosen, n) for n in range(4)]
  again = Varied([clip()], chosen)
  assert len(again) == 4 and [c.key for c in again] == [
    'park/0',
    'park/0~1',
    'park/0~2',
    'park/0~3',
  ]
  for a, b in zip(same, again, strict=True):
    np.testing.assert_array_equal(a.video, b.video)
    assert (a.caption, a.prompts) == (b.caption, b.prompts)
  np.testing.assert_array_equal(same[0].video, clip().video)
  other = [
    variant(clip(), dataclasses.replace(chosen, seed=1), 1),
    variant(clip(key='park/1'), chosen, 1),
  ]
  assert not any(np.array_equal(c.video, same[1].video) for c in other)
  with pytest.raises(IndexError):
    again[4]


def test_half_of_the_variants_is_mirrored_and_half_reversed():
  many = Varied([clip()], Variation(200, crop=1.0))
  # Mirrored and reversed: to the left again.
  says = [c.motion == 'The ball rolls to the right.' for c in many]
  turned = [np.array_equal(c.video[0], clip().video[-1]) for c in many]
  assert 80 < sum(says) < 120 and 30 < sum(turned) < 70
  plain = Varied([clip()], Variation(9, crop=1.0, flip=False, reverse=False))
  assert all(np.array_equal(c.video, clip().video) for c in plain)


def test_the_texts_of_scenes_stay_true():
  scenes = Scenes(
    SceneConfig(motions=('left', 'right', 'up', 'down', 'grow', 'shrink', 'stay')), 40
  )
  clips = [scenes[i] for i in range(40)]
  before = motion_row(clips, [c.ids for c in clips])
  mirror = [c for c in map(flipped, clips) if c]
  backwards = [c for c in (reversed_clip(c)[0] for c in clips) if c]
  assert len(mirror) == 40 and len(backwards) > 15
  for made in (mirror, backwards):
    after = motion_row(made, [c.ids for c in made])
    assert after['direction'] == before['direction'] == 1.0
    assert after['all_motions'] > 0.95
  flips, count, reasons = augmentation.possible(clips)
  assert (flips, count) == (40, len(backwards)) and sum(reasons.values()) == 40 - count


def test_the_command(tmp_path, capsys):
  other = clip('A man walks.', 'The man walks.', 'park/1')
  write_clips(
    tmp_path / 'clips', {'train': [clip(), other], 'validation': [clip(key='x')]}, {'by': 'hand'}
  )
  out = tmp_path / 'out'
  given = ['--clips', str(tmp_path / 'clips'), '--out', str(out), '--variants', '3']
  augment.main([*given, '--seed', '5'])
  assert capsys.readouterr().out.splitlines() == [
    '2 of 2 training clips can be mirrored',
    '1 of 2 training clips can be reversed',
    '  not reversed 1: "walks" has no opposite',
    f'wrote {out}: 6 train, 1 validation',
  ]
  train, validation = Clips(out, 'train'), Clips(out, 'validation')
  assert [c.key for c in train][::3] == ['park/0', 'park/1'] and validation[0].key == 'x'
  np.testing.assert_array_equal(validation[0].video, clip().video)
  wanted = variant(clip(), Variation(3, seed=5), 1)
  np.testing.assert_array_equal(train[1].video, wanted.video)
  np.testing.assert_array_equal(train[1].ids, wanted.ids)
  assert train.records.metadata == {
    'by': 'hand',
    'augmented': {'variants': 3, 'crop': 0.7, 'flip': True, 'reverse': True, 'seed': 5},
  }


@pytest.mark.parametrize(
  ('flags', 'error'),
  [
    (['--variants', '0'], '--variants 0 must be at least 1'),
    (['--variants', '2', '--crop', '0'], '--crop 0: must be above 0 and at most 1'),
    (['--variants', '2', '--seed', '-1'], '--seed -1 must be at least 0'),
  ],
)
def test_numbers_out_of_range(flags, error, tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    augment.main(['--clips', str(tmp_path / 'a'), '--out', str(tmp_path / 'b'), *flags])
  assert stopped.value.code == 2 and capsys.readouterr().err == f'error: {error}\n'
