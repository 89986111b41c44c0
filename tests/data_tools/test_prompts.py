"""Language model answers are parsed strictly, and boxes are assigned to the right objects."""

import numpy as np
import pytest

from data_tools.drafts import Draft, Rejected, to_clip
from data_tools.steps import detect, match, prompts, segment
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.inference import position_words
from ttm_jax.pytorch.annotation import box_matching
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.rejection import Reject


def draft(key='a', size=(20, 30), frames=3, **known):
  rng = np.random.default_rng(len(key))
  return Draft(key, rng.integers(0, 255, (frames, *size, 3), np.uint8), 8.0, **known)


# Prompts.


class Scripted:
  """A language model that chooses its answer by a word of the caption."""

  def __init__(self):
    self.asked = []

  def __call__(self, texts):
    self.asked += texts
    found = []
    for text in texts:
      about = text.rstrip().rsplit('Caption:', 1)[1]
      listed = 'Answer: [[name' in text
      if 'nonsense' in about:
        found.append('I am sorry.')
      else:
        found.append(
          'Answer: [[dog: a brown dog] [ball: a ball]]'
          if listed
          else 'Motion-specific prompt: "The dog runs."'
        )
    return found


class Planted:
  """A language model that answers in the paper's format, depending on the prompt."""

  def __init__(self, **answers):
    self.answers, self.asked = answers, []

  def __call__(self, texts):
    self.asked += texts
    return [self.answers['objects' if '[[name' in text else 'motion'] for text in texts]


CATS = 'A gray cat on the left rolls a ball of wool to the right while two black cats watch it.'


def test_directions_and_resting_objects_reach_the_clip():
  model = Planted(
    motion='"The cat rolls the ball to the right."\n\nCaption: A dog.',
    objects='[[left cat: a gray cat that rolls a ball]'
    ' [ball: a ball of wool that rolls to the right]'
    ' [middle cat: a black cat that watches] [right cat: a black cat that watches]]',
  )
  (done,) = prompts.Prompts(model, prompts.PromptSettings(ModelSource('x')))([draft(caption=CATS)])
  assert isinstance(done, Draft), done
  assert done.motion == 'The cat rolls the ball to the right.'
  assert done.names == {1: 'left cat', 2: 'ball', 3: 'middle cat', 4: 'right cat'}
  assert done.prompts[2].endswith('to the right') and done.prompts[4] == 'a black cat that watches'
  assert all(text.rstrip().endswith(f'Caption: {CATS}') for text in model.asked)


def test_scenes_tell_stage_1_every_direction():
  from ttm_jax.scenes import captions as scene_words
  from ttm_jax.scenes import generator as scenes

  config, seen = scenes.SceneConfig(size=(16, 16), frames=2), set()
  for index in range(40):
    clip = scenes.scene(config, index)
    for prompt in clip.prompts:
      motion = scene_words.motion_of(prompt)
      # The phrase of the motion, without the object that follows it.
      phrase = next(
        p for p in scene_words.PHRASES[motion] if p.removesuffix(' {}') in prompt
      ).removesuffix(' {}')
      assert phrase in clip.motion and phrase in clip.caption
      seen.add(motion)
  assert {'left', 'right', 'up', 'down'} <= seen


@pytest.mark.parametrize(
  'caption, reason',
  [
    ('.', 'no words in the caption'),
    ('\U0001f415 !', 'no words in the caption'),
    ('\0', 'no words in the caption'),
    ('  ', 'no caption'),
    ('a' * 100_000, 'caption of more than 8000 characters'),
    ('word ' * 20_000, 'caption of more than 400 words'),
  ],
)
def test_captions_that_say_nothing(caption, reason):
  model = Planted(motion='The dog runs.', objects='[[dog: a dog]]')
  step = prompts.Prompts(model, prompts.PromptSettings(ModelSource('x')))
  lost, kept = step([draft(caption=caption), draft(caption='A\ud800 dog\0.')])
  assert lost.reason == reason and kept.motion == 'The dog runs.'
  assert all('Caption: A dog .' in text for text in model.asked)


def test_prompts_are_filled_in_and_asked_once():
  model = Scripted()
  step = prompts.Prompts(model, prompts.PromptSettings(ModelSource('x')))
  long = ' '.join(['word'] * 2000)
  outcomes = step(
    [
      draft('a', caption='A dog {x} [with] a ball.\nIt runs.'),
      draft('b', caption='A dog {x} [with] a ball.\nIt runs.'),
      draft('c'),
      draft('d', caption='nonsense'),
      draft('e', caption=long),
      draft('f', caption='A cat.', motion='It sits.', names={2: 'cat'}, prompts={2: 'a cat'}),
      draft('g', caption='A dog.', motion='Given.'),
    ]
  )
  assert [type(o).__name__ for o in outcomes] == ['Draft'] * 2 + ['Rejected'] * 3 + ['Draft'] * 2
  a, b, c, d, e, f, g = outcomes
  assert a.motion == 'The dog runs.' and a.names == {1: 'dog', 2: 'ball'}
  assert a.prompts == {1: 'a brown dog', 2: 'a ball'} and b.prompts == a.prompts
  assert c.reason == 'no caption' and e.reason == 'caption of more than 400 words'
  assert d.reason.startswith('no motion prompt') and d.detail == '"I am sorry."'
  assert f.prompts == {2: 'a cat'} and g.motion == 'Given.' and g.names[1] == 'dog'
  assert len(model.asked) == 5  # Motion and objects of a and d, and the objects of g.
  assert 'Caption: A dog (x) (with) a ball. It runs.\n' in model.asked[0]


# Positions.


def box(x, y=0, size=4):
  return np.array([x, y, x + size, y + size], float)


def test_position_words():
  split = position_words.split_name
  assert split('the left brown dog') == ('left', 'brown dog')
  assert split('Dog.') == ('', 'dog') and split('dog on the right') == ('right', 'dog')
  assert split('back') == ('', 'back') and split('second-left car') == ('second', 'car')


def test_overlapping_boxes_are_suppressed():
  boxes = np.stack([box(0), box(0.3), box(8)])
  assert position_words.suppress(boxes, np.array([0.5, 0.9, 0.6])).tolist() == [1, 2]
  assert position_words.box_iou(box(0), box(2)) == pytest.approx(8 / 24)
  assert position_words.box_iou(box(0), box(4)) == 0
  assert position_words.box_iou(box(0, size=0), box(9, size=0)) == 0


@pytest.mark.parametrize(
  'names, wanted',
  [
    (['left dog', 'right dog'], [0, 30]),
    (['right dog', 'left dog', 'middle dog'], [30, 0, 10]),
    (['middle dog'], [10]),
    (['dog'], [10]),  # The best score.
    (['dog', 'left dog'], [10, 0]),
    (['second dog', 'last dog'], [10, 30]),
  ],
)
def test_boxes_go_to_those_that_are_meant(names, wanted):
  found = {'dog': (np.stack([box(30), box(0), box(10)]), np.array([0.5, 0.6, 0.9]))}
  assigned = position_words.assign(dict(enumerate(names, 1)), found)
  assert list(assigned) == list(range(1, len(names) + 1))
  assert [b[0] for b in assigned.values()] == wanted


def test_boxes_above_and_below_and_of_other_nouns():
  found = {
    'dog': (np.stack([box(0, 20), box(5, 0)]), np.array([0.9, 0.5])),
    'ball': (box(50)[None], np.array([0.3])),
  }
  names = {3: 'top dog', 1: 'ball', 2: 'front dog'}
  assigned = position_words.assign(names, found)
  assert [(i, b[0]) for i, b in assigned.items()] == [(3, 5), (1, 50), (2, 0)]
  found['ball'] = (np.zeros((0, 4)), np.zeros(0))
  assert list(position_words.assign(names, found)) == [3, 2]
  (rejected,) = detect.Detect(lambda pictures, nouns: [found[noun] for noun in nouns])(
    [draft(names=names)]
  )
  assert rejected.reason == 'not detected'
  assert rejected.detail == 'ball: 0 boxes of "ball"'


def test_detection_of_several_drafts_keeps_them_apart():
  asked = []

  def detector(pictures, nouns):
    asked.extend(zip([int(p[0, 0, 0]) for p in pictures], nouns, strict=True))
    return [
      (np.stack([box(10 * len(n)), box(1)]), np.array([0.9, 0.8]))
      if n != 'cow'
      else (np.zeros((0, 4)), np.zeros(0))
      for n in nouns
    ]

  a = draft('a', names={1: 'left dog', 2: 'right dog', 4: 'horse'})
  b, c = draft('bb', names={1: 'cow'}), draft('ccc', names={1: ''})
  nameless = draft('e', names={1: 'cow', 2: '.'})
  d = draft('dddd', names={1: 'x'}, boxes={1: box(7)})
  first, second, third, fourth, fifth = detect.Detect(detector)([a, b, c, d, nameless])
  assert fifth.reason == 'the name of an object has no words'
  assert {i: x[0] for i, x in first.boxes.items()} == {1: 1, 2: 30, 4: 50}
  assert second.reason == 'not detected' and third.reason == 'no object is named'
  assert fourth is d
  assert [noun for _, noun in asked] == ['dog', 'horse', 'cow']
  assert asked[0][0] == a.video[0, 0, 0, 0] and asked[2][0] == b.video[0, 0, 0, 0]


# From boxes to label maps.


def planted():
  """Return two objects that move, the second in front of the first in the last frame."""
  ids = np.zeros((3, 20, 30), np.uint8)
  for t in range(3):
    ids[t, 4:12, 2 + 4 * t : 10 + 4 * t] = 2
    ids[t, 6:10, 20 - 4 * t : 24 - 4 * t] = 5
  return ids


def true_logits(ids, labels):
  """Return the logits of a perfect tracker, uncertain where objects overlap."""
  return np.stack([np.where(ids == label, 4.0, -4.0) for label in labels], 1).astype(np.float32)


def test_true_boxes_and_tracks_give_back_the_true_label_map():
  ids = planted()
  tight = box_matching.tight_boxes(ids[0])
  assert tight[2].tolist() == [2, 4, 10, 12] and tight[5].tolist() == [20, 6, 24, 10]
  seen = []

  def detector(pictures, nouns):
    return [(tight[{'dog': 5, 'man': 2}[noun]][None], np.array([0.8])) for noun in nouns]

  def track(video, boxes):
    seen.append(boxes)
    return true_logits(ids, [5, 2])

  start = draft('a', caption='c', motion='m', names={1: 'dog', 2: 'man'}, prompts={1: 'd', 2: 'm'})
  (boxed,) = detect.Detect(detector)([start])
  (done,) = segment.Segment(track)([boxed])
  np.testing.assert_array_equal(seen[0], np.stack([tight[5], tight[2]]))
  clip, background = to_clip(done)
  np.testing.assert_array_equal(clip.ids, np.array([0, 0, 2, 0, 0, 1], np.uint8)[ids])
  assert clip.names == ('dog', 'man') and not background


def test_pixels_of_two_objects():
  logits = np.full((1, 2, 4, 6), -1.0, np.float32)
  logits[0, 0, :, :4] = 2  # Sixteen pixels.
  logits[0, 1, 1:3, 2:5] = 2  # Six pixels: in front where both scores are equal.
  logits[0, 0, 1, 2] = 3  # Where the first scores higher, it wins.
  ids = trajectory.from_logits(logits)[0]
  assert ids[1].tolist() == [1, 1, 1, 2, 2, 0] and ids[2].tolist() == [1, 1, 2, 2, 2, 0]
  assert ids[0].tolist() == [1, 1, 1, 1, 0, 0]


def test_lost_tracks_are_rejected():
  ids = planted()
  logits = true_logits(ids, [2, 5])
  logits[1:, 1] = -1
  start = draft(names={1: 'man', 2: 'ball'}, boxes={1: box(0), 2: box(9)})
  (lost,) = segment.Segment(lambda video, boxes: logits)([start])
  assert (lost.reason, lost.detail) == ('track lost', 'ball: in 33% of the frames')
  logits[0, 1] = -1
  (lost,) = segment.Segment(lambda video, boxes: logits)([start])
  assert lost.detail == 'ball: not in frame 0'
  (bare,) = segment.Segment(lambda video, boxes: logits)([draft()])
  assert bare.reason == 'no object is named'


def test_detected_objects_find_their_masklets():
  ids = planted()
  boxes = {1: np.array([20.0, 6, 24, 11]), 2: np.array([2.0, 4, 11, 12])}
  names = {1: 'ball', 2: 'man'}
  (done,) = match.Match()([draft(ids=ids, boxes=boxes, names=names)])
  np.testing.assert_array_equal(done.ids, np.array([0, 0, 2, 0, 0, 1], np.uint8)[ids])
  (one,) = match.Match()([draft(ids=ids, boxes={1: boxes[1]}, names=names)])
  np.testing.assert_array_equal(one.ids, ids == 5)
  boxes[2] = np.array([2.0, 4, 30, 20])
  (lost,) = match.Match()([draft(ids=ids, boxes=boxes, names=names)])
  assert (lost.reason, lost.detail) == ('no mask fits a detected object', 'man')


@pytest.mark.parametrize(
  'known, reason',
  [
    ({'caption': 'c', 'motion': 'm'}, 'no masks'),
    ({'ids': planted(), 'motion': 'm'}, 'no caption'),
    ({'ids': planted(), 'caption': 'c'}, 'no motion prompt'),
    ({'ids': planted(), 'caption': 'c', 'motion': 'm', 'prompts': {1: 'x'}}, 'no described object'),
  ],
)
def test_drafts_that_are_not_finished_become_no_clips(known, reason):
  with pytest.raises(Reject, match=reason):
    to_clip(draft(**known))


def test_more_objects_than_colours():
  ids = np.zeros((3, 20, 30), np.uint8)
  ids[:, 0, :9] = np.arange(1, 10)
  said = {i: 'x' for i in range(1, 10)}
  with pytest.raises(Reject, match=r'too many objects \(9, the palette has 8\)'):
    to_clip(draft(ids=ids, caption='c', motion='m', names=said, prompts=said))


def test_command_line_boxes():
  assert segment.parse_box('1,2,3.5,4').tolist() == [1, 2, 3.5, 4]
  for wrong in ('1,2,3', 'a,b,c,d', '3,2,1,4', ''):
    with pytest.raises(InputError, match='write x0,y0,x1,y1'):
      segment.parse_box(wrong)


def test_rejections_carry_their_draft():
  (outcome,) = segment.Segment(lambda *_: None)([draft('key')])
  assert isinstance(outcome, Rejected) and outcome.draft.key == 'key'
