"""Edits as plain data: what is accepted, and that each is a call of `trajectory_edits`."""

import numpy as np
import pytest

from tests.helpers.label_maps import clip, frame
from ttm_jax import trajectory_edits
from ttm_jax.errors import InputError
from ttm_jax.studio.motion import Base, Cache
from ttm_jax.studio.motion_edits import KINDS, Edit, apply, decode_mask, encode_mask
from ttm_jax.trajectory_edits import merge, split

IDS = clip(*[frame('........', '.11..22.', '.11..22.', '........', '........')] * 4)
MASK = np.zeros((5, 8), bool)
MASK[3, 2:5] = True

# One edit of each kind, and the calls that do the same to layers.
EDITS = {
  'translate': (
    {'object': 1, 'path': {'0': [0, 0], '3': [3, 1]}, 'smooth': True},
    lambda x: trajectory_edits.translate(x[1], 1, {0: (0, 0), 3: (3, 1)}, True),
  ),
  'follow': (
    {'object': 1, 'points': [[0, 0], [4, 2]], 'start': 1, 'speed': [[0, 0], [0.5, 0.2], [1, 1]]},
    lambda x: trajectory_edits.follow(
      x[1], 1, [(0, 0), (4, 2)], 1, speed=[(0, 0), (0.5, 0.2), (1, 1)]
    ),
  ),
  'scale': (
    {'object': 1, 'factors': {'0': 1, '3': 2}},
    lambda x: trajectory_edits.scale(x[1], 1, {0: 1, 3: 2}),
  ),
  'rotate': (
    {'object': 1, 'degrees': {'2': 45}},
    lambda x: trajectory_edits.rotate(x[1], 1, {2: 45}),
  ),
  'flip': (
    {'object': 1, 'axis': 'vertical', 'stop': 2},
    lambda x: trajectory_edits.flip(x[1], 1, 'vertical', stop=2),
  ),
  'pin': ({'object': 1, 'frame': 2}, lambda x: trajectory_edits.pin(x[1], 1, 2)),
  'hold': ({'object': 1, 'from_frame': 1}, lambda x: trajectory_edits.hold(x[1], 1, 1)),
  'hide': ({'object': 1, 'start': 2}, lambda x: trajectory_edits.hide(x[1], 1, 2)),
  'retime': (
    {'object': 1, 'times': {'0': 3, '3': 0}},
    lambda x: trajectory_edits.retime(x[1], 1, {0: 3, 3: 0}),
  ),
  'repaint': (
    {'object': 1, 'mask': encode_mask(MASK), 'start': 1, 'stop': 2},
    lambda x: trajectory_edits.repaint(x[1], 1, MASK, 1, 2),
  ),
  'fit_boxes': (
    {'object': 1, 'boxes': {'0': [1, 1, 3, 3], '3': [0, 0, 4, 4]}},
    lambda x: trajectory_edits.fit_boxes(x[1], 1, {0: (1, 1, 3, 3), 3: (0, 0, 4, 4)}),
  ),
  'camera': (
    {'objects': [1], 'pan': {'0': [0, 0], '3': [2, 0]}, 'zoom': {'3': 1.5}},
    lambda x: trajectory_edits.camera(x[1], [1], {0: (0, 0), 3: (2, 0)}, {3: 1.5}),
  ),
  'delete': ({'object': 1}, lambda x: trajectory_edits.delete(x[1], 1)),
}


def made(kind, values):
  return Edit.from_json({'kind': kind, **values})


def computed(*edits, ids=IDS):
  base = Base('test', np.zeros_like(ids)).replaced('test', split(ids))
  return Cache().compute(base, [made(kind, values) for kind, values in edits])


@pytest.mark.parametrize('kind', EDITS)
def test_each_edit_is_the_call_of_its_name(kind):
  values, call = EDITS[kind]
  layers = split(IDS)
  expected = {1: call(layers), 2: layers[2]}
  expected = {obj: layer for obj, layer in expected.items() if layer.any()}
  assert (computed((kind, values)).ids() == merge(expected)).all()
  assert (apply(made(kind, values), layers[1], 1) == call(layers)).all()


def test_every_kind_is_tested():
  assert {*EDITS} | {'depth', 'duplicate'} == {*KINDS}


def test_a_copy_leaves_the_object():
  found = computed(('duplicate', {'object': 1, 'new': 3, 'offset': [0, 2]}))
  assert sorted(found.layers) == [1, 2, 3]
  assert found.ids()[0, 3:].tolist() == [[0, 3, 3, 0, 0, 0, 0, 0], [0, 3, 3, 0, 0, 0, 0, 0]]
  later = computed(
    ('duplicate', {'object': 1, 'new': 3, 'offset': [0, 2]}), ('delete', {'object': 1})
  )
  assert sorted(later.layers) == [2, 3]


def test_depth_in_some_frames():
  over = ('translate', {'object': 1, 'path': {'0': [3, 0]}})
  front = computed(over, ('depth', {'object': 2, 'step': 'front', 'stop': 1}))
  back = computed(over, ('depth', {'object': 2, 'step': 'back', 'start': 2}))
  assert [f[1, 5] for f in front.ids()] == [2, 2, 2, 2], 'of equals, the higher number is in front'
  assert [f[1, 5] for f in back.ids()] == [2, 2, 1, 1]


def test_what_was_covered_comes_back():
  away = ({'0': [4, 0]}, {'0': [0, 0]})
  for path, alone in zip(away, (False, True), strict=True):
    ids = computed(('translate', {'object': 1, 'path': path})).ids()
    assert ((ids == IDS).all()) == alone


def test_equal_layers_have_equal_versions():
  still = computed().layers[1].version
  moved = computed(('translate', {'object': 1, 'path': {'0': [1, 0]}}))
  there_and_back = computed(
    ('translate', {'object': 1, 'path': {'0': [1, 0]}}),
    ('translate', {'object': 1, 'path': {'0': [-1, 0]}}),
  )
  assert moved.layers[1].version != still == there_and_back.layers[1].version
  assert moved.layers[2].version == computed().layers[2].version


def test_a_long_list_of_edits_costs_its_last_one():
  cache, base = Cache(), Base.still(IDS[0], 4)
  edits = []
  for number in range(1500):
    edits.append(made('translate', {'object': 1, 'path': {'0': [(-1) ** number, 0]}}))
    if number % 100 == 0 or number == 1499:
      found = cache.compute(base, edits)
  assert (found.ids() == IDS).all()


@pytest.mark.parametrize(
  'value, message',
  [
    (None, 'there is no edit'),
    ({'kind': 'explode'}, "no edit 'explode'; the kinds are translate"),
    ({'kind': 'delete'}, '"delete" needs "object", but it is None'),
    ({'kind': 'delete', 'object': 9}, 'but it is 9'),
    ({'kind': 'delete', 'object': True}, 'but it is True'),
    ({'kind': 'delete', 'object': 1, 'also': 2}, 'has no "\'also\'"'),
    ({'kind': 'translate', 'object': 1, 'path': {}}, 'needs "path"'),
    ({'kind': 'translate', 'object': 1, 'path': {'a': [0, 0]}}, 'needs "path"'),
    ({'kind': 'translate', 'object': 1, 'path': {'0': [0]}}, 'needs "path"'),
    ({'kind': 'translate', 'object': 1, 'path': {'0': [0, float('nan')]}}, 'needs "path"'),
    ({'kind': 'translate', 'object': 1, 'path': {'0': [0, 1e9]}}, 'needs "path"'),
    ({'kind': 'follow', 'object': 1, 'points': [[0, 0]] * 5000}, 'needs "points"'),
    ({'kind': 'flip', 'object': 1, 'axis': 'x'}, 'needs "axis"'),
    ({'kind': 'depth', 'object': 1, 'step': 'up'}, 'needs "step"'),
    ({'kind': 'hide', 'object': 1, 'start': -1}, 'needs "start"'),
    ({'kind': 'camera', 'objects': []}, 'needs "objects"'),
  ],
)
def test_what_is_no_edit(value, message):
  with pytest.raises(InputError, match=message):
    Edit.from_json(value)


@pytest.mark.parametrize('text', ['', 'abc', encode_mask(MASK[:2]), 'iVBORw0KGgo=', '*'])
def test_what_is_no_mask(text):
  with pytest.raises(InputError, match='1-bit PNG of 8 x 5'):
    decode_mask(text, (5, 8))
  assert (decode_mask(encode_mask(MASK), (5, 8)) == MASK).all()
