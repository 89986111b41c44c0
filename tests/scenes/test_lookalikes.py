"""Scenes of look-alike objects: only its own prompt tells what becomes of an object."""

import numpy as np
import pytest

from data_tools import make_scenes
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.scenes import captions, lookalikes
from ttm_jax.scenes.lookalikes import LookalikeConfig, lookalike_scene
from ttm_jax.scenes.shapes import COLORS
from ttm_jax.text.word_ids import tokenize, word_id

CLIPS = [lookalike_scene(LookalikeConfig(max_objects=4), i) for i in range(120)]


def inner(ids, label):
  """Return the pixels of an object with no other label beside them, bool [H, W]."""
  mask = np.pad(ids == label, 1)
  shifts = [mask[y : y + ids.shape[0], x : x + ids.shape[1]] for y in range(3) for x in range(3)]
  return np.all(shifts, axis=0)


def test_a_scene_is_a_function_of_seed_and_index():
  again = lookalike_scene(LookalikeConfig(max_objects=4), 7)
  np.testing.assert_array_equal(again.video, CLIPS[7].video)
  assert again.prompts == CLIPS[7].prompts and again.key == 'lookalike-0-7'
  other = lookalike_scene(LookalikeConfig(max_objects=4, seed=1), 7)
  assert (other.video != again.video).mean() > 0.5


def test_every_object_becomes_what_its_prompt_says():
  checked = dict.fromkeys(lookalikes.CHANGES, 0)
  for clip in CLIPS:
    for label, prompt in enumerate(clip.prompts, 1):
      first, last = inner(clip.ids[0], label), inner(clip.ids[-1], label)
      if min(first.sum(), last.sum()) < 4:
        continue
      begin, end = clip.video[0][first].mean(0), clip.video[-1][last].mean(0)
      change = lookalikes.change_of(prompt)
      if change == 'turn':
        assert np.abs(end - COLORS[prompt.split()[-1]]).max() < 40
      else:
        scale = lookalikes.DIM if change == 'blink' else 1.0
        np.testing.assert_allclose(end, begin * scale, atol=30)
      checked[change] += 1
  assert min(checked.values()) > 50


def test_the_caption_names_every_change_but_no_object_and_no_first_color():
  in_order = 0
  for clip in CLIPS:
    said = [prompt.split(' and ')[-1] for prompt in clip.prompts]
    assert sorted(clip.caption.rstrip('.').split(': ')[1].replace(' and ', ', ').split(', ')) == (
      sorted(f'one {words}' for words in said)
    )
    named = [w for w in (*clip.caption.split(), *clip.motion.split()) if w.strip('.,') in COLORS]
    assert len(named) == sum('turns' in words for words in said)
    places = [clip.caption.find(words) for words in said]
    in_order += places == sorted(places)
  assert in_order < 0.7 * len(CLIPS)  # One in two or more would be in order by chance.


def test_objects_share_their_shape_and_half_of_the_scenes_their_color():
  alike = 0
  for clip in CLIPS:
    assert len(set(clip.names)) == 1
    first = np.stack(
      [
        np.median(clip.video[0][clip.ids[0] == label], axis=0)
        for label in range(1, len(clip.names) + 1)
      ]
    )
    chroma = first / first.max(-1, keepdims=True)
    alike += np.abs(chroma - chroma[0]).max() < 0.1
  assert 0.35 < alike / len(CLIPS) < 0.65


def test_objects_hide_each_other():
  hidden = [
    min(
      (clip.ids == label).sum((1, 2)).min() / (clip.ids[0] == label).sum()
      for label in range(1, len(clip.names) + 1)
    )
    for clip in CLIPS
  ]
  assert np.mean(np.array(hidden) < 0.6) > 0.5


def test_motions_are_told_from_left_to_right():
  checked = 0
  for clip in CLIPS:
    starts = [np.nonzero(clip.ids[0] == label)[1].mean() for label in range(1, len(clip.names) + 1)]
    if np.diff(sorted(starts)).min() < 3:  # The shape, or what hides it, decides.
      continue
    clauses = clip.motion.removeprefix('From left to right, ').rstrip('.').replace(' and ', ', ')
    told = [captions.motion_of(clause) for clause in clauses.split(', ')]
    assert told == [captions.motion_of(clip.prompts[i]) for i in np.argsort(starts)]
    checked += 1
  assert checked > 60


def test_words_have_ids_of_their_own_and_prompts_fit_the_demo():
  words = captions.vocabulary() | lookalikes.vocabulary()
  assert len({word_id(word) for word in words}) == len(words)
  for clip in CLIPS:
    assert set(clip.caption.lower().replace(':', '').replace(',', '').rstrip('.').split()) <= words
    assert all(tokenize(prompt, 13)[1] <= 12 for prompt in clip.prompts)
    assert max(tokenize(text, 40)[1] for text in (clip.caption, clip.motion)) <= 34


@pytest.mark.parametrize(
  'change, message',
  [
    ({'size': (8, 48)}, r'at least 16 pixels high and wide, got \(8, 48\)'),
    ({'frames': 4}, 'at least 8 frames, got 4'),
    ({'fps': 0.0}, 'must be positive, got 0'),
    ({'min_objects': 1}, '2 to 4 look-alike objects, got 1 to 3'),
    ({'max_objects': 5}, '2 to 4 look-alike objects, got 2 to 5'),
    ({'seed': -1}, 'must not be negative, got -1'),
  ],
)
def test_bad_configurations_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    LookalikeConfig(**change)


def test_the_command_makes_them(tmp_path):
  make_scenes.main(
    [f'--out={tmp_path}/clips', '--lookalike', '--train=3', '--validation=2', '--max_objects=2']
  )
  clips = Clips(tmp_path / 'clips', 'validation')
  wanted = lookalike_scene(LookalikeConfig(max_objects=2), 2**32)
  assert len(clips) == 2 and clips[0].prompts == wanted.prompts
  np.testing.assert_array_equal(clips[0].video, wanted.video)
