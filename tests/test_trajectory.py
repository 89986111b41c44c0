"""Label maps: colors, boxes, tokens, edits and files, by value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.label_maps import clip, frame
from ttm_jax import trajectory
from ttm_jax.errors import InputError


def pixels(*colors: tuple[int, int, int]) -> np.ndarray:
  """Return one frame with one row: uint8 [1, 1, W, 3]."""
  return np.array([[colors]], np.uint8)


class TestColors:
  def test_palette_goldens(self):
    half = [
      (128, 32, 32),
      (128, 80, 80),
      (128, 59, 26),
      (128, 91, 26),
      (104, 106, 26),
      (38, 126, 9),
      (74, 104, 13),
      (32, 111, 69),
    ]
    spread = [
      (255, 0, 0),
      (0, 255, 0),
      (0, 0, 255),
      (255, 255, 0),
      (255, 0, 255),
      (0, 255, 255),
      (255, 128, 0),
      (255, 255, 255),
    ]
    assert [tuple(c) for c in trajectory.PALETTES['supervision_half'].tolist()] == half
    assert [tuple(c) for c in trajectory.PALETTES['spread8'].tolist()] == spread

  def test_render_paints_the_background_black(self):
    rgb = trajectory.render(frame('.17'))
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[[0, 0, 0], [255, 0, 0], [255, 128, 0]]]

  @pytest.mark.parametrize('palette', trajectory.PALETTES)
  @pytest.mark.parametrize('with_first', [True, False])
  def test_round_trip(self, palette, with_first):
    ids = np.random.default_rng(0).integers(0, 9, (3, 16, 16)).astype(np.uint8)
    rgb = trajectory.render(ids, palette)
    decoded = trajectory.decode(rgb, ids[0] if with_first else None, palette)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, ids)

  def test_colors_that_drifted(self):
    # Mean colors of generated trajectories, on the paper's project page.
    rgb = pixels((122, 24, 22), (121, 73, 68), (0, 0, 0))
    assert trajectory.decode(rgb, None, 'supervision_half').tolist() == [[[1, 2, 0]]]

  @pytest.mark.parametrize('palette, dark', [('spread8', 127), ('supervision_half', 72)])
  def test_an_edge_lies_half_way_to_black(self, palette, dark):
    rgb = pixels((dark, 0, 0), (dark + 1, 0, 0))
    assert trajectory.decode(rgb, None, palette).tolist() == [[[0, 1]]]

  def test_absent_objects_go_to_black_or_to_a_neighbor(self):
    first = frame('11110')
    orange, pink, green, white = (255, 110, 0), (255, 128, 128), (0, 255, 0), (255, 255, 255)
    rgb = np.concatenate([pixels(*[(9, 9, 9)] * 5), pixels(orange, pink, green, white, (0, 0, 0))])
    # Without the rule they would be 7, 7, 2, 8.
    assert trajectory.decode(rgb, None)[1].tolist() == [[7, 7, 2, 8, 0]]
    # With it: a wrong color stays in the object, an invented object on black is removed.
    assert trajectory.decode(rgb, first)[1].tolist() == [[1, 1, 0, 1, 0]]

  def test_black_is_background_even_where_the_first_mask_has_none(self):
    rgb = np.concatenate([pixels((255, 0, 0), (0, 255, 0)), pixels((0, 0, 0), (0, 0, 255))])
    assert trajectory.decode(rgb, frame('12'))[1].tolist() == [[0, 0]]

  def test_of_equally_near_colors_the_first_wins(self):
    # Between red (1) and orange (7).
    assert trajectory.decode(pixels((255, 64, 0), (255, 65, 0)), None).tolist() == [[[1, 7]]]

  def test_frame_0_is_taken_over(self):
    first = frame('1.2')
    rgb = np.zeros((2, 1, 3, 3), np.uint8)
    assert trajectory.decode(rgb, first).tolist() == [[[1, 0, 2]], [[0, 0, 0]]]

  def test_a_blurred_edge_is_no_third_object(self):
    # A mixture of red (1) and white (8) is nearest to orange (7), which is elsewhere.
    first = frame('111888.7')
    red, white, black, orange = (255, 0, 0), (255, 255, 255), (0, 0, 0), (255, 128, 0)
    for mixture, label in (((255, 110, 110), 1), ((255, 140, 140), 8)):
      line = pixels(red, red, mixture, white, white, white, black, orange)
      found = trajectory.decode(np.concatenate([line, line]), first)[1]
      assert found.tolist() == [[1, 1, label, 8, 8, 8, 0, 7]]
    # Where only one of the two is near, the nearest color counts.
    line = pixels(red, red, (255, 110, 110), *[black] * 4, orange)
    assert trajectory.decode(np.concatenate([line, line]), first)[1, 0, 2] == 7

  def test_a_thin_object_on_black_stays(self):
    dim = (150, 0, 0)  # Blurred, so far from red, and nearer to it than to black.
    line = pixels((0, 0, 0), dim, (0, 0, 0))
    found = trajectory.decode(np.concatenate([line, line]), frame('.1.'))[1]
    assert found.tolist() == [[0, 1, 0]]

  def test_overlay(self):
    ids = np.zeros((1, 6, 5), np.uint8)
    ids[0, 1:4, 1:4] = 1
    video = np.full((1, 6, 5, 3), 100, np.uint8)
    shown = trajectory.overlay(video, ids)
    assert shown[0, 2, 2].tolist() == [162, 60, 60]
    rim = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert all(shown[0, y, x].tolist() == [255, 0, 0] for y, x in rim)
    assert (shown[ids == 0] == 100).all()
    whole = trajectory.overlay(video, np.ones_like(ids), 'supervision_half')
    assert (whole == [111, 72, 72]).all()  # The border of the image is not an edge of an object.
    with pytest.raises(InputError, match='label maps'):
      trajectory.overlay(video[:, 1:], ids)

  def test_bad_input(self):
    with pytest.raises(InputError, match=r'no palette "spred8".*did you mean "spread8"'):
      trajectory.render(frame('1'), 'spred8')
    with pytest.raises(InputError, match='object 9'):
      trajectory.render(frame('9'))
    with pytest.raises(InputError, match='uint8'):
      trajectory.render(np.zeros((1, 2, 2), np.int32))
    with pytest.raises(InputError, match='painted frames'):
      trajectory.decode(np.zeros((2, 2, 3), np.uint8), None)
    with pytest.raises(InputError, match='frame 0 is 1x2, but the painted frames are 1x3'):
      trajectory.decode(np.zeros((1, 1, 3, 3), np.uint8), frame('12'))


class TestBoxesAndAreas:
  def test_boxes_are_tight_with_exclusive_ends(self):
    ids = clip(frame('....', '.22.', '..23'), frame('1...', '....', '...3'))
    assert trajectory.boxes(ids, 3).tolist() == [
      [[0, 0, 0, 0], [1, 1, 3, 3], [3, 2, 4, 3]],
      [[0, 0, 1, 1], [0, 0, 0, 0], [3, 2, 4, 3]],
    ]
    assert trajectory.boxes(ids, 3).dtype == np.int32
    with pytest.raises(InputError, match='object 3, but boxes of 2'):
      trajectory.boxes(ids, 2)

  def test_the_eighth_object_has_a_box(self):
    assert trajectory.boxes(clip(frame('..8')), 8)[0, 7].tolist() == [2, 0, 3, 1]

  def test_areas(self):
    ids = clip(frame('1.8', '188'), frame('...', '..1'))
    assert trajectory.areas(ids).tolist() == [[1, 2, *[0] * 6, 3], [5, 1, *[0] * 7]]


class TestRegions:
  def test_majority_with_the_background_as_a_label(self):
    ids = clip(frame('111.', '1...', '11..', '1...'))
    # Cells: 3 of 4, 0, 3 of 4, 0.
    assert trajectory.token_regions(ids, [0], (2, 2)).tolist() == [[[1, 0], [1, 0]]]

  def test_an_object_beats_the_background_on_equal_counts(self):
    # Object 1 has more pixels than the background.
    ids = clip(frame('111.', '111.'))
    assert trajectory.token_regions(ids, [0], (1, 2)).tolist() == [[[1, 1]]]

  def test_of_equals_the_smaller_object_wins(self):
    ids = clip(frame('1211', '1211', '....', '22..'))
    assert trajectory.token_regions(ids, [0], (1, 2)).tolist() == [[[2, 1]]]
    swapped = np.take(np.array([0, 2, 1], np.uint8), ids)
    assert trajectory.token_regions(swapped, [0], (1, 2)).tolist() == [[[1, 2]]]

  def test_of_equals_of_one_size_the_lower_number_wins(self):
    assert trajectory.token_regions(clip(frame('2121')), [0], (1, 1)).tolist() == [[[1]]]

  def test_size_is_compared_within_the_latent_frame(self):
    # Object 1 is larger in the clip, but smaller in latent frame 0.
    ids = clip(frame('12.2', '12..'), frame('1111', '1111'))
    assert trajectory.token_regions(ids, [0, 1], (1, 2))[0].tolist() == [[1, 2]]

  def test_a_small_object_takes_its_best_token(self):
    ids = clip(frame('11111111', '11111211', '11111221', '11111111'))
    assert trajectory.token_regions(ids, [0], (1, 2)).tolist() == [[[1, 2]]]

  def test_it_does_not_take_the_last_token_of_another(self):
    # Most pixels of 2 are in the only token of 1; it takes the other token, of the background.
    ids = clip(frame('1122....', '1111....', '11112...', '1111....'))
    assert trajectory.token_regions(ids, [0], (1, 2)).tolist() == [[[1, 2]]]

  def test_the_best_token_has_the_most_pixels_wherever_the_centroid_is(self):
    # 3, 0, 0, 2, 2 pixels: the centroid is in the middle.
    ids = clip(frame('222.......22..22....', *['1' * 20] * 4)[:4])
    assert trajectory.token_regions(ids, [0], (1, 5)).tolist() == [[[2, 1, 1, 1, 1]]]

  def test_the_smallest_chooses_first_and_the_next_takes_the_nearest(self):
    # 2 and 3 are in token 1 only. 3 is smaller and gets it; 2 is to the right of the middle. Of the
    # tokens without any of its pixels, token 2 is as near as token 0: it gets the first of them.
    ids = clip(frame('....' + '2.23' + '........', *['.' * 16] * 3))
    assert trajectory.token_regions(ids, [0], (1, 4)).tolist() == [[[2, 3, 0, 0]]]

  def test_more_objects_than_tokens(self):
    ids = clip(frame('1112', '1113'))
    assert trajectory.token_regions(ids, [0], (1, 1)).tolist() == [[[1]]]
    assert trajectory.token_presence(ids, [0], (1, 1)).tolist() == [[[0b1110]]]

  @pytest.mark.parametrize(
    'groups, on, expected',
    [
      # TAE, 8 frames per latent: 4 of 8 win (the object before the background), 3 of 8 lose.
      (np.arange(16) // 8, [4, 5, 6, 7, 8, 9, 10], [1, 0]),
      (np.arange(16) // 8, [5, 6, 7, 8, 9, 10, 11], [0, 1]),
      # Wan: latent 0 is frame 0 alone, latent k is frames 4k-3..4k.
      ((np.arange(9) + 3) // 4, [0], [1, 0, 0]),
      ((np.arange(9) + 3) // 4, [1, 4], [0, 1, 0]),
      ((np.arange(9) + 3) // 4, [4, 5, 6], [0, 0, 1]),
      # U-Net: every frame on its own.
      (np.arange(3), [1], [0, 1, 0]),
    ],
  )
  def test_time_grouping(self, groups, on, expected):
    ids = np.zeros((len(groups), 2, 4), np.uint8)
    ids[:, :, :2] = 1  # It has a token of its own in all frames, so that it is given none.
    ids[on, :, 2:] = 1
    regions = trajectory.token_regions(ids, groups, (1, 2))
    assert regions.dtype == np.uint8
    assert regions[:, 0, 0].tolist() == [1] * len(expected)
    assert regions[:, 0, 1].tolist() == expected
    # One frame of a group is enough for the cross rule.
    some = np.isin(np.arange(len(expected)), groups[on])
    assert (trajectory.token_presence(ids, groups, (1, 2))[:, 0, 1] == 2 * some).all()

  @pytest.mark.parametrize('groups', [[0, 1], [1, 1, 1], [0, 2, 2], [0, 1, 0], [[0, 0, 0]], []])
  def test_bad_groups(self, groups):
    with pytest.raises(InputError, match='each of 3 pixel frames'):
      trajectory.token_regions(np.zeros((3, 2, 2), np.uint8), groups, (1, 1))

  def test_bad_grid(self):
    with pytest.raises(InputError, match='2x3 tokens does not divide a picture of 4x4'):
      trajectory.token_regions(np.zeros((1, 4, 4), np.uint8), [0], (2, 3))
    with pytest.raises(InputError, match='0x1 tokens does not divide'):
      trajectory.token_regions(np.zeros((1, 4, 4), np.uint8), [0], (0, 1))


class TestPresence:
  def presence(self, *rows, grid, mask='box'):
    return trajectory.token_presence(clip(frame(*rows)), [0], grid, mask).tolist()[0]

  def test_half_of_a_cell_is_enough(self):
    assert self.presence(*['1' * 6 + '.' * 2] * 4, grid=(1, 2)) == [[2, 2]]
    assert self.presence(*['1' * 5 + '.' * 3] * 4, grid=(1, 2)) == [[2, 0]]
    # Half along each axis is a quarter of the cell.
    rows = ['1' * 6 + '.' * 2] * 6 + ['.' * 8] * 2
    assert self.presence(*rows, grid=(2, 2)) == [[2, 2], [2, 0]]

  def test_a_box_covers_more_than_the_object(self):
    rows = ('1...', '1...', '1...', '1111')
    assert self.presence(*rows, grid=(2, 2)) == [[2, 2], [2, 2]]
    assert self.presence(*rows, grid=(2, 2), mask='seg') == [[2, 0], [2, 2]]

  def test_overlapping_boxes_make_sets(self):
    assert self.presence('1112', '1212', '1111', '2222', grid=(1, 1)) == [[0b110]]
    assert self.presence('28', '82', grid=(1, 2)) == [[0b100000100] * 2]

  def test_a_small_object_is_where_its_centre_is(self):
    rows = ['.' * 8] * 3 + ['.' * 3 + '11' + '.' * 3] + ['.' * 8] * 4
    # Center (4, 3.5): the right-hand cell of the upper row. It also gets the token with most of its
    # pixels, the first one of equals.
    assert self.presence(*rows, grid=(2, 2)) == [[2, 2], [0, 0]]
    owner = np.zeros((1, 2, 2), np.uint8)
    by_box = trajectory.token_presence(clip(frame(*rows)), [0], (2, 2), 'box', owner)
    assert by_box.tolist() == [[[0, 2], [0, 0]]]

  def test_the_background_is_no_member(self):
    assert self.presence('.1', '.1', grid=(1, 2)) == [[0, 2]]
    assert trajectory.token_presence(np.zeros((1, 2, 2), np.uint8), [0], (1, 1)).tolist() == [[[0]]]

  def test_the_given_owner_is_added(self):
    owner = np.array([[[0, 3]]], np.uint8)
    bits = trajectory.token_presence(clip(frame('1.', '1.')), [0], (1, 2), 'box', owner)
    assert bits.tolist() == [[[2, 8]]]
    assert bits.dtype == np.int32

  def test_a_grown_box_reaches_half_a_token_further(self):
    full = ['....1111........'] * 4
    assert self.presence(*full, grid=(1, 4)) == [[0, 2, 0, 0]]
    assert self.presence(*full, grid=(1, 4), mask='dilated_box') == [[2, 2, 2, 0]]
    # One pixel short of the cell's border, it covers a quarter of the next cell.
    short = ['....111.........'] * 4
    assert self.presence(*short, grid=(1, 4), mask='dilated_box') == [[2, 2, 0, 0]]

  def test_segmentation_needs_half_or_the_best(self):
    few = ('11.11...', '1..11...', '........', '........')
    # 4 and 3 pixels of 16: only the best.
    assert self.presence(*few, grid=(1, 2), mask='seg') == [[2, 0]]
    half = ('1111....', '1111....', '11111111', '11111111')
    assert self.presence(*half, grid=(1, 2), mask='seg') == [[2, 2]]

  def test_unknown_mask(self):
    with pytest.raises(InputError, match=r'"boxes".*box, seg, dilated_box'):
      self.presence('1', grid=(1, 1), mask='boxes')


GROUPINGS = [lambda t: t // 8, lambda t: (t + 3) // 4, lambda t: t, lambda t: t // 2]


@st.composite
def scattered(draw):
  """Draw a sparse label map with its groups and its grid."""
  frames = draw(st.integers(1, 9))
  grid = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
  cell = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  shape = (frames, grid[0] * cell[0], grid[1] * cell[1])
  ids = rng.integers(1, draw(st.integers(2, 9)), shape).astype(np.uint8)
  ids[rng.random(shape) > draw(st.sampled_from([0.02, 0.2, 0.9]))] = 0
  groups = np.array(draw(st.sampled_from(GROUPINGS))(np.arange(frames)))
  return ids, groups, grid


@given(scattered())
@settings(max_examples=150, deadline=None)
def test_regions_follow_the_majority_and_lose_nobody(case):
  ids, groups, grid = case
  regions = trajectory.token_regions(ids, groups, grid)
  cell = ids.shape[1] // grid[0], ids.shape[2] // grid[1]
  for latent, region in enumerate(regions):
    volume = ids[groups == latent]
    visible = set(np.unique(volume[volume > 0]).tolist())
    sizes = {label: (volume == label).sum() for label in range(9)}

    def winner(y, x, volume=volume, sizes=sizes):
      here = volume[:, y * cell[0] : (y + 1) * cell[0], x * cell[1] : (x + 1) * cell[1]]
      return max(range(9), key=lambda i: ((here == i).sum(), i > 0, -sizes[i], -i))

    majority = np.array([[winner(y, x) for x in range(grid[1])] for y in range(grid[0])])
    homeless = visible - set(majority.ravel().tolist())
    changed = region[region != majority].tolist()
    assert sorted(set(changed)) == sorted(changed), 'one token each'
    assert set(changed) <= homeless
    if len(visible) <= region.size:
      assert visible <= set(region.ravel().tolist())


@given(scattered(), st.sampled_from(['box', 'seg', 'dilated_box']))
@settings(max_examples=150, deadline=None)
def test_presence_follows_its_definition(case, mask):
  ids, groups, grid = case
  cell = ids.shape[1] // grid[0], ids.shape[2] // grid[1]
  regions = trajectory.token_regions(ids, groups, grid)
  nobody = np.zeros_like(regions)
  present = trajectory.token_presence(ids, groups, grid, mask, nobody)
  expected = np.zeros_like(present)
  for t, label in zip(*np.nonzero(trajectory.areas(ids)[:, 1:]), strict=True):
    own = ids[t] == label + 1
    ys, xs = np.nonzero(own)
    center = (ys.min() + ys.max() + 1) / 2, (xs.min() + xs.max() + 1) / 2
    fill = own
    if mask != 'seg':
      margin = (cell[0] // 2, cell[1] // 2) if mask == 'dilated_box' else (0, 0)
      fill = np.zeros_like(own)
      fill[
        max(ys.min() - margin[0], 0) : ys.max() + 1 + margin[0],
        max(xs.min() - margin[1], 0) : xs.max() + 1 + margin[1],
      ] = True
    share = fill.reshape(grid[0], cell[0], grid[1], cell[1]).mean((1, 3))
    chosen = share >= 0.5
    if mask == 'seg':
      chosen.flat[share.argmax()] = True
    else:
      chosen[int(center[0] // cell[0]), int(center[1] // cell[1])] = True
    expected[groups[t]] |= chosen.astype(np.int32) << (label + 1)
  np.testing.assert_array_equal(present, expected)
  # With the owners, which are always present.
  with_owners = trajectory.token_presence(ids, groups, grid, mask)
  owner = np.where(regions > 0, 1 << regions.astype(np.int32), 0)
  np.testing.assert_array_equal(with_owners, expected | owner)


class TestFiles:
  def test_round_trip(self, tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (11, 6, 7)).astype(np.uint8)
    trajectory.write_folder(tmp_path / 'a' / 'b', ids)
    files = sorted(p.name for p in (tmp_path / 'a' / 'b').iterdir())
    assert files == [f'{t:05d}.png' for t in range(11)]
    np.testing.assert_array_equal(trajectory.read_folder(tmp_path / 'a' / 'b'), ids)
    with Image.open(tmp_path / 'a' / 'b' / '00003.png') as picture:
      assert picture.mode == 'P'
      shown = np.array(picture.convert('RGB'))
    np.testing.assert_array_equal(shown, trajectory.render(ids[3]))

  def test_grey_and_the_order_of_numbers(self, tmp_path):
    for number in (9, 10, 1):
      Image.fromarray(np.full((2, 2), number % 9, np.uint8)).save(tmp_path / f'm{number}.png')
    (tmp_path / 'notes.txt').write_text('not a frame')
    assert trajectory.read_folder(tmp_path)[:, 0, 0].tolist() == [1, 0, 1]
    assert trajectory.read_mask(tmp_path / 'm10.png').tolist() == [[1, 1], [1, 1]]

  def test_a_shorter_clip_does_not_mix_with_an_older_one(self, tmp_path):
    trajectory.write_folder(tmp_path, np.ones((3, 2, 2), np.uint8))
    trajectory.write_folder(tmp_path, np.full((3, 2, 2), 2, np.uint8))
    assert (trajectory.read_folder(tmp_path) == 2).all()
    with pytest.raises(InputError, match=r'00002\.png'):
      trajectory.write_folder(tmp_path, np.ones((2, 2, 2), np.uint8))

  def save(self, path, *pictures):
    for number, picture in enumerate(pictures):
      Image.fromarray(np.asarray(picture, np.uint8)).save(path / f'{number:05d}.png')

  def test_refuses_what_is_ambiguous(self, tmp_path):
    self.save(tmp_path, [[1, 9]], [[1, 255]])
    with pytest.raises(InputError, match='holds values 1, 9 and 255, which may be an object or'):
      trajectory.read_folder(tmp_path)
    assert trajectory.read_mask(tmp_path / '00000.png').tolist() == [[1, 2]]
    assert trajectory.read_mask(tmp_path / '00001.png').tolist() == [[1, 0]]

  def test_refuses_differing_sizes(self, tmp_path):
    self.save(tmp_path, np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match=r'00001\.png is 2x4, but 00000\.png is 2x3'):
      trajectory.read_folder(tmp_path)

  def test_refuses_what_is_not_there(self, tmp_path):
    with pytest.raises(InputError, match=r'no folder .*nowhere'):
      trajectory.read_folder(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='no PNG files'):
      trajectory.read_folder(tmp_path)
    with pytest.raises(InputError, match=r'gone\.png: there is no such image'):
      trajectory.read_mask(tmp_path / 'gone.png')

  def test_refuses_broken_files(self, tmp_path):
    noise = np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)
    self.save(tmp_path, noise)
    whole = (tmp_path / '00000.png').read_bytes()
    for broken in (b'', b'no picture', whole[: len(whole) // 2], whole[:40] + b'?' * 60):
      (tmp_path / '00000.png').write_bytes(broken)
      with pytest.raises(InputError, match=r'00000\.png: not a readable image; save the'):
        trajectory.read_folder(tmp_path)

  def test_refuses_lossy_formats(self, tmp_path):
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / 'mask.jpg')
    with pytest.raises(InputError, match=r'mask\.jpg: JPEG has altered the values of the mask'):
      trajectory.read_mask(tmp_path / 'mask.jpg')

  def test_refuses_a_mask_of_nothing(self, tmp_path):
    self.save(tmp_path, np.zeros((2, 2)))
    with pytest.raises(InputError, match='shows no object'):
      trajectory.read_mask(tmp_path / '00000.png')
    assert not trajectory.read_folder(tmp_path).any()

  def test_a_folder_that_is_a_file(self, tmp_path):
    (tmp_path / 'x').write_text('')
    with pytest.raises(InputError, match='cannot write label maps to'):
      trajectory.write_folder(tmp_path / 'x', np.ones((1, 2, 2), np.uint8))
