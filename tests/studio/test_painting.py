"""Strokes of brush, eraser, lasso and fill."""

import numpy as np
import pytest

from tests.helpers.label_maps import frame
from ttm_jax.errors import InputError
from ttm_jax.studio.painting import Stroke, filled, paint

NONE = np.zeros((6, 8), bool)
GREY = np.full((6, 8, 3), 128, np.uint8)


def stroke(tool, points, **options):
  return Stroke(tool, np.array(points, float), **options)


def test_a_dot_of_the_brush():
  assert (paint(NONE, GREY, stroke('brush', [(3.5, 2.5)], radius=0.5)) == frame(
    '........', '........', '...1....', '........', '........', '........')).all()  # fmt: skip
  disc = paint(NONE, GREY, stroke('brush', [(4, 3)], radius=1.6))
  rows = ('........', '...11...', '..1111..', '..1111..', '...11...', '........')
  assert (disc == frame(*rows)).all()


def test_a_line_of_the_brush_has_no_gaps():
  line = paint(NONE, GREY, stroke('brush', [(0.5, 0.5), (7.5, 5.5)], radius=0.8))
  assert line[0, 0] and line[5, 7] and line.any(axis=0).all() and line.any(axis=1).all()


def test_a_thin_brush_marks_the_pixel_under_it():
  assert paint(NONE, GREY, stroke('brush', [(3.05, 2.95)], radius=0.1)).sum() >= 1


def test_the_eraser_takes_away():
  left = paint(~NONE, GREY, stroke('eraser', [(4, 0), (4, 6)], radius=1))
  assert not left[:, 3:5].any() and left[:, :3].all() and left[:, 5:].all()


def test_the_lasso_fills_its_inside():
  square = paint(NONE, GREY, stroke('lasso', [(1, 1), (5, 1), (5, 4), (1, 4)]))
  assert square[1:4, 1:5].all() and not square[:, 6:].any() and not square[5].any()


def test_fill_stops_at_other_colors():
  picture = GREY.copy()
  picture[:, 4] = 255
  assert (filled(picture, 1, 1, 60) == (np.arange(8) < 4)).all()
  picture[3, 4] = 130
  assert filled(picture, 1, 1, 60)[3, 4] and filled(picture, 1, 1, 60)[:, 5:].all()
  assert not filled(picture, 1, 1, 0)[3, 4]
  painted = paint(NONE, picture, stroke('fill', [(4.5, 0.5)], tolerance=10))
  assert painted[:3, 4].all() and painted.sum() == 3


@pytest.mark.parametrize(
  'given, message',
  [
    (stroke('brush', [(-9, -9)]), 'the brush does not touch the picture'),
    (stroke('fill', [(8, 0)]), 'the fill does not touch'),
    (stroke('lasso', [(1, 1), (2, 2)]), 'the lasso does not touch'),
  ],
)
def test_strokes_beside_the_picture(given, message):
  with pytest.raises(InputError, match=message):
    paint(NONE, GREY, given)


@pytest.mark.parametrize(
  'value, message',
  [
    (None, 'needs a tool'),
    ({'tool': 'spray', 'points': [[0, 0]]}, 'needs a tool: brush, eraser, lasso, fill'),
    ({'tool': 'brush'}, 'needs points'),
    ({'tool': 'brush', 'points': [[0]]}, '20000 points'),
    ({'tool': 'brush', 'points': [[0, 0]] * 20001}, '20000 points'),
    ({'tool': 'brush', 'points': [[float('nan'), 0]]}, 'far outside'),
    ({'tool': 'brush', 'points': [[0, 0]], 'radius': 0}, 'the radius'),
    ({'tool': 'fill', 'points': [[0, 0]], 'tolerance': 900}, 'the tolerance'),
  ],
)
def test_what_is_no_stroke(value, message):
  with pytest.raises(InputError, match=message):
    Stroke.from_json(value)
