"""A project: objects, motion, history, texts, and what the networks are asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.studio_stub import LIMITS
from ttm_jax import trajectory_edits
from ttm_jax.errors import InputError
from ttm_jax.studio.backends import Found
from ttm_jax.studio.motion_edits import Edit
from ttm_jax.studio.observations import notes
from ttm_jax.studio.painting import Stroke
from ttm_jax.studio.project import Project, Thing, named_mask, proposal
from ttm_jax.trajectory_edits import merge, split

HEIGHT, WIDTH, FRAMES = LIMITS.height, LIMITS.width, LIMITS.frames


def mask():
  ids = np.zeros((HEIGHT, WIDTH), np.uint8)
  ids[4:10, 4:12], ids[20:28, 30:40] = 1, 2
  return ids


def project():
  made = Project(LIMITS)
  made.start(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), mask())
  made.say('Two squares.', 'The first square moves.')
  return made


def edit(**values):
  return Edit.from_json(values)


def brush(points, radius=2.0):
  return Stroke('brush', np.array(points, float), radius)


def still():
  return np.repeat(mask()[None], FRAMES, 0)


def test_objects_stand_still_at_first():
  assert (project().trajectory() == still()).all()
  assert sorted(project().things) == [1, 2]


def test_painting_the_picture():
  made = project()
  made.paint(3, brush([(20, 4), (24, 4)]))
  assert (made.trajectory()[5] == made.scene.mask).all() and (made.scene.mask == 3).sum() > 20
  made.paint(1, brush([(20, 4)]))
  assert made.scene.mask[4, 20] == 1, 'what is painted over changes its owner'
  made.paint(1, Stroke('eraser', np.array([[8.0, 7.0]]), 50))
  assert not (made.scene.mask == 1).any() and (made.scene.mask == 2).any()
  assert made.undoable == 'Eraser on object 1'


def test_undo_restores_it_bit_by_bit():
  made = project()
  before = [made.trajectory()]
  changes = [
    lambda: made.handle('translate', 1, 5, [3, 2]),
    lambda: made.edit(edit(kind='hide', object=2, start=5)),
    lambda: made.paint(3, brush([(24, 16)])),
    lambda: made.handle('scale', 2, 3, 1.5),
    lambda: made.edit(edit(kind='duplicate', object=1, new=4, offset=[0, 10])),
    lambda: made.set_base(proposal(np.roll(still(), 2, 1), 7), 'Pick'),
    lambda: made.remove_object(1),
  ]
  for change in changes:
    change()
    before.append(made.trajectory())
  for expected in reversed(before[:-1]):
    made.undo()
    assert (made.trajectory() == expected).all()
  assert made.undoable == ''
  made.undo()
  for expected in before[1:]:
    made.redo()
    assert (made.trajectory() == expected).all()
  made.redo()
  made.undo()
  made.edit(edit(kind='flip', object=2))
  assert made.redoable == '', 'a new change ends what could be done again'


def test_drags_of_one_object_are_keyframes_of_one_edit():
  made = project()
  made.handle('translate', 1, 8, [8, 0])
  made.handle('translate', 2, 3, [0, -4])
  made.handle('translate', 1, 4, [0, 6])
  first, second = made.scene.edits
  assert first.values['path'] == {'0': [0, 0], '4': [4, 6], '8': [8, 0]}
  assert second.values['path'] == {'0': [0, 0], '3': [0, -4]}
  layers = split(still())
  layers[1] = trajectory_edits.translate(layers[1], 1, {0: (0, 0), 4: (4, 6), 8: (8, 0)}, True)
  layers[2] = trajectory_edits.translate(layers[2], 2, {0: (0, 0), 3: (0, -4)}, True)
  assert (made.trajectory() == merge(layers)).all()


def test_another_edit_in_between_begins_anew():
  made = project()
  made.handle('translate', 1, 8, [8, 0])
  made.handle('scale', 1, 8, 2)
  made.handle('scale', 1, 8, 0.5)
  made.handle('rotate', 1, 8, 90)
  made.handle('translate', 1, 0, [1, 0])
  kinds = [(e.kind, e.keyframes) for e in made.scene.edits]
  assert kinds == [
    ('translate', [0, 8]),
    ('scale', [0, 8]),
    ('rotate', [0, 8]),
    ('translate', [0]),
  ]
  assert made.scene.edits[1].values['factors'] == {'0': 1, '8': 1.0}


def test_a_copy_keeps_what_it_was_copied_from():
  made = project()
  made.handle('translate', 1, 8, [8, 0])
  made.edit(edit(kind='duplicate', object=1, new=3, offset=[0, 12]))
  copy = made.trajectory() == 3
  made.handle('translate', 1, 8, [0, 6])
  assert ((made.trajectory() == 3) == copy).all()
  assert made.things[3] == Thing('object 1 copy')


def test_keyframes_move_and_go():
  made = project()
  made.handle('translate', 1, 8, [8, 0])
  made.move_keyframe(0, 8, 4)
  assert made.scene.edits[0].values['path'] == {'0': [0, 0], '4': [8, 0]}
  made.move_keyframe(0, 4, None)
  assert made.scene.edits[0].values['path'] == {'0': [0, 0]}
  made.move_keyframe(0, 0, None)
  assert not made.scene.edits
  with pytest.raises(InputError, match='edit 1 has no keyframe at frame 3'):
    made.move_keyframe(0, 3, None)


def test_edits_can_be_replaced_and_removed():
  made = project()
  made.edit(edit(kind='follow', object=1, points=[[8, 7], [30, 7]]))
  made.edit(edit(kind='duplicate', object=1, new=3, offset=[0, 12]))
  made.edit(edit(kind='hide', object=3, start=2))
  made.replace_edit(0, edit(kind='follow', object=1, points=[[8, 7], [30, 7]], stop=4))
  assert (np.argmax((made.trajectory() == 1).any(1), axis=1)[[0, 4, 11]] == [4, 26, 26]).all()
  with pytest.raises(
    InputError, match=r'"Hide object 3 in frames 2 to the end" does not fit any more .*no object 3'
  ):
    made.remove_edit(1)
  with pytest.raises(InputError, match='of the same object'):
    made.replace_edit(0, edit(kind='hide', object=2, start=1))
  made.remove_edit(2)
  made.remove_edit(1)
  assert [e.kind for e in made.scene.edits] == ['follow']
  with pytest.raises(InputError, match='there is no edit 2'):
    made.remove_edit(1)


def test_repaint_a_frame():
  made = project()
  made.repaint(1, brush([(20, 16)]), 3)
  ids = made.trajectory()
  assert ids[3, 16, 20] == 1 and ids[3, 5, 5] == 1 and ids[2, 16, 20] == 0
  made.repaint(1, Stroke('eraser', np.array([[20.0, 16.0]]), 4), 3)
  assert (made.trajectory() == still()).all()
  made.repaint(4, brush([(20, 16)]), 5, 6)
  assert [(f == 4).any() for f in made.trajectory()] == [5 <= t <= 6 for t in range(FRAMES)]


def test_in_a_proposal_only_painted_objects_stand_still():
  made = project()
  moving = np.stack([np.roll(mask(), t, 1) for t in range(FRAMES)])
  made.set_base(proposal(moving, 3), 'Pick proposal, seed 3')
  assert (made.trajectory() == moving).all() and made.scene.base.origin == 'proposal, seed 3'
  made.paint(3, brush([(24, 14)]))
  ids = made.trajectory()
  assert ((ids == 1) == (moving == 1)).all() and (ids[:, 14, 24] == 3).all()


def test_a_still_proposal_is_not_taken_for_no_motion():
  made = project()
  made.set_base(proposal(still(), 3), 'Pick')
  assert not made.scene.base.is_still


def test_edits_that_need_a_removed_object_are_named():
  made = project()
  made.edit(edit(kind='duplicate', object=1, new=3))
  made.handle('translate', 1, 3, [1, 1])
  with pytest.raises(InputError, match='"Duplicate object 1 as 3" does not fit any more'):
    made.set_mask(np.where(mask() == 1, 0, mask()).astype(np.uint8))
  made.remove_object(1)
  assert sorted(made.computed().layers) == [2] and not made.scene.edits


def test_layers_of_others_keep_their_edits():
  made = project()
  made.handle('translate', 1, 3, [1, 1])
  made.handle('translate', 2, 3, [1, 1])
  layer = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
  layer[:, 0:4, 0:4] = 1
  made.replace_layers({1: layer}, 'Clip a.mp4')
  assert [e.values['object'] for e in made.scene.edits] == [2]
  assert ((made.trajectory() == 1) == (layer == 1)).all()


def test_several_edits_are_one_change():
  made = project()
  good = edit(kind='hide', object=1, start=3)
  made.edit_all([good, edit(kind='hide', object=2, start=3)], 'Import boxes')
  assert len(made.scene.edits) == 2 and made.undoable == 'Import boxes'
  made.undo()
  assert (made.trajectory() == still()).all()
  with pytest.raises(InputError):
    made.edit_all([good, edit(kind='hide', object=3, start=3)], 'Import boxes')
  assert not made.scene.edits and made.redoable == 'Import boxes'


def test_a_request():
  made = project()
  made.describe(1, name='left square', prompt='it moves')
  asked = made.request()
  assert (asked.mask == mask()).all() and asked.prompts == {1: 'it moves'}
  assert asked.caption == 'Two squares.' and asked.motion == 'The first square moves.'
  made.say(motion='')
  assert made.request().motion == 'Two squares.'


def test_objects_that_enter_later_keep_their_prompts():
  made = project()
  made.describe(1, prompt='it enters')
  made.edit(edit(kind='hide', object=1, start=0, stop=3))
  ids = made.trajectory()
  assert not (ids[0] == 1).any()
  asked = made.request(ids)
  assert asked.prompts == {1: 'it enters'} and (asked.mask == mask()).all()
  assert (named_mask(ids) == mask()).all()


def test_what_models_find():
  made = project()
  made.say(motion='')
  made.adopt(Found(mask(), {1: 'a', 2: ''}, {1: 'it runs'}, 'It runs.'))
  assert (
    made.things == {1: Thing('a', 'it runs'), 2: Thing('object 2')} and made.motion == 'It runs.'
  )


def test_notes_about_the_motion():
  made = project()
  assert notes(made.computed(), mask()) == []
  made.edit(edit(kind='hide', object=1, start=0, stop=3))
  made.edit(edit(kind='hide', object=2, start=6, stop=7))
  said = notes(made.computed(), mask())
  assert said[0].startswith('Object 1 is not in frame 0') and 'in frames 0 to 3' in said[1]
  assert said[2] == 'Object 2 is not visible in frames 6 to 7.'
  made = project()
  made.handle('translate', 1, 0, [4, 0])
  (said,) = notes(made.computed(), mask())
  assert 'Object 1 in frame 0 is not where the picture has it (IoU 0.33)' in said


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda p: p.paint(5, brush([(1, 1)])), 'no object 5: this model knows 4'),
    (lambda p: p.paint(1, brush([(500, 1)])), 'does not touch the picture'),
    (lambda p: p.set_mask(np.full((HEIGHT, WIDTH), 7, np.uint8)), 'object 7, but this model'),
    (lambda p: p.edit(edit(kind='delete', object=3)), 'no object 3'),
    (lambda p: p.edit(edit(kind='duplicate', object=1, new=2)), 'there is an object 2 already'),
    (lambda p: p.edit(edit(kind='duplicate', object=1, new=6)), 'no object 6'),
    (lambda p: p.edit(edit(kind='depth', object=3, step='front')), 'no frame shows object 3'),
    (lambda p: p.edit(edit(kind='hide', object=1, start=12)), 'frames run from 0 to 11'),
    (lambda p: p.edit(edit(kind='follow', object=1, points=[[-5, 3], [60, 90]])), 'outside of the'),
    (lambda p: p.handle('translate', 1, 12, [1, 1]), 'no frame 12'),
    (lambda p: p.handle('translate', 1, 2, 'far'), 'needs "path"'),
    (lambda p: p.handle('shear', 1, 2, 1), 'move, scale or rotate'),
    (lambda p: p.handle('scale', 1, 2, -1), 'factors must be above 0'),
    (lambda p: p.say(caption='word ' * 2000), 'has 2000 words: write at most 200'),
    (lambda p: p.say(caption='x' * 5000), '5000 characters'),
    (lambda p: p.say(motion='A <b>dog</b> runs.'), r'contains markup \(<b>\): write plain words'),
    (lambda p: p.say(motion=3), 'must be a text'),
    (lambda p: p.describe(1, prompt='<|im_start|>'), 'prompt of object 1 contains markup'),
    (lambda p: p.describe(9, name='x'), 'no object 9'),
  ],
)
def test_bad_changes_leave_the_project(change, message):
  made = project()
  before, scene = made.trajectory(), made.scene
  with pytest.raises(InputError, match=message):
    change(made)
  assert made.scene is scene and (made.trajectory() == before).all()
  assert made.caption == 'Two squares.' and made.things[1] == Thing('object 1')


def test_what_is_missing_is_said():
  with pytest.raises(InputError, match='there is no picture yet'):
    _ = Project(LIMITS).scene
  made = project()
  made.say(caption=' ')
  with pytest.raises(InputError, match='the caption is empty'):
    made.request()
  made = Project(LIMITS)
  made.start(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
  made.say('A picture.')
  with pytest.raises(InputError, match='there is no object yet'):
    made.request()
  with pytest.raises(InputError, match='no frame shows an object'):
    made.trajectory()


def test_a_smaller_than_sign_is_no_markup():
  made = project()
  made.say('2 < 3 and 5 > 4')
  assert made.caption == '2 < 3 and 5 > 4'


DRAGS = st.lists(
  st.tuples(
    st.sampled_from([1, 2]),
    st.integers(0, FRAMES - 1),
    st.lists(st.integers(-4, 4), min_size=2, max_size=2),
  ),
  max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(DRAGS)
def test_a_drag_moves_the_object_in_that_frame_by_what_was_dragged(drags):
  made = project()
  for obj, at, by in drags:
    before = made.computed().layers.get(obj)
    made.handle('translate', obj, at, by)
    after = made.computed().layers.get(obj)
    whole = before is not None and after is not None
    if whole and before.area[at] == after.area[at] == (mask() == obj).sum():
      np.testing.assert_allclose(after.centers[at] - before.centers[at], by)
  for _ in drags:
    made.undo()
  assert (made.trajectory() == still()).all()
