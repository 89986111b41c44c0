"""The gallery: complete, escaped, exact in its pixels, and drawn to scale."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ttm_jax.errors import InputError
from ttm_jax.media import animations
from ttm_jax.media.contact_sheet import contact_sheet, save_gif
from ttm_jax.report.curves import Chart, svg
from ttm_jax.report.gallery import Panel, Row, Table, Within, write_gallery


def video(frames=8, height=48, width=48, seed=0):
  """Return a video of a textured square that moves over a textured background."""
  rng = np.random.default_rng(seed)
  clip = np.repeat(rng.integers(60, 140, (1, height, width, 3)), frames, 0)
  for t in range(frames):
    clip[t, 8:20, 2 * t : 2 * t + 12] = rng.integers(180, 250, (12, 12, 3))
  return clip.astype(np.uint8)


def decoded(data):
  image = Image.open(io.BytesIO(data))
  frames = [np.asarray(frame.convert('RGB')) for frame in ImageSequence.Iterator(image)]
  return np.stack(frames), image


class Page(HTMLParser):
  """Collects what a browser would load or run, and the visible text."""

  def __init__(self, path):
    super().__init__()
    self.tags, self.sources, self.text = [], [], ''
    self.feed(path.read_text(encoding='utf-8'))

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.sources += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'data', 'poster')]

  def handle_data(self, data):
    self.text += data


def test_pixels_come_back_exactly(tmp_path):
  clip = video()
  row = Row('one', {'caption': 'x'}, [Panel('still', clip[3]), Panel('moves', clip, fps=4)])
  path = write_gallery(tmp_path / 'new' / 'page.html', 'Title', 'Intro', rows=[row])
  still, moves = (decoded(base64.b64decode(uri.split(',')[1])) for uri in Page(path).sources)
  np.testing.assert_array_equal(still[0], clip[3:4])
  np.testing.assert_array_equal(moves[0], clip)
  assert moves[1].info['duration'] == 250 and moves[1].info['loop'] == 0
  assert [p.name for p in path.parent.iterdir()] == ['page.html']


def test_page_is_escaped_and_loads_nothing(tmp_path):
  evil = '</style><script>alert(1)</script>&"'
  path = write_gallery(
    tmp_path / 'page.html',
    evil,
    f'{evil}\n\nsecond',
    [Table(evil, [evil], [[evil]])],
    [Chart(evil, {evil: [(0, 1.0), (1, 2.0)]}, x_label=evil)],
    [Row(evil, {evil: evil}, [Panel(evil, video(1)[0])])],
  )
  page = Page(path)
  assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
  assert all(source.startswith('data:image/webp;base64,') for source in page.sources)
  assert page.tags.count('p') == 2
  # Window title, heading, paragraph; three in the table; above the chart, in its legend, at its x
  # axis; three in the row, one below its panel.
  assert page.text.count(evil) == 13
  loaded = re.sub(r'xmlns(:\w+)?="[^"]*"|url\(#\w+\)', '', path.read_text())
  assert not re.search(r'https?:|url\(|@import', loaded)


def test_numbers_in_tables(tmp_path):
  cells = [0.93812, np.float32(24.34), 144.04, 21530.2, 2400, 3e-5, 0.0, None, np.True_, 'as it is']
  path = write_gallery(tmp_path / 'page.html', 't', '', [('c', ['h'], [[c] for c in cells])])
  shown = re.findall(r'<td(?: class="(number)")?>(.*?)</td>', path.read_text())
  texts = ['0.938', '24.34', '144.0', '21,530', '2,400', '3.00e-05', '0.000', '–']  # noqa: RUF001
  assert shown == [('number', text) for text in texts] + [('', 'yes'), ('', 'as it is')]


def test_sixteen_rows_of_six_stay_small(tmp_path):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (8, 48, 48, 3)).astype(np.uint8)  # Incompressible.
  rows = [Row(str(i), {}, [Panel(str(j), noise) for j in range(6)]) for i in range(16)]
  path = write_gallery(tmp_path / 'page.html', 't', 'i', rows=rows)
  assert path.stat().st_size < 10e6


def test_large_panels_are_shrunk(tmp_path):
  large = np.full((2, 400, 800, 3), 90, np.uint8)
  large[1] = 200
  path = write_gallery(tmp_path / 'page.html', 't', 'i', rows=[Row('r', {}, [Panel('p', large)])])
  frames, _ = decoded(base64.b64decode(Page(path).sources[0].split(',')[1]))
  assert frames.shape == (2, 192, 384, 3)
  np.testing.assert_allclose(frames.mean((1, 2, 3)), [90, 200], atol=3)


def test_a_failed_page_leaves_the_old_one(tmp_path):
  path = write_gallery(tmp_path / 'page.html', 'old', '')
  before = path.read_bytes()
  with pytest.raises(InputError, match='"bad" must be a uint8'):
    write_gallery(path, 'new', '', rows=[Row('r', {}, [Panel('bad', np.zeros((4, 4, 3)))])])
  assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def corners(drawing):
  """Return the line of each series: its segments without gaps, each a list of (x, y)."""
  found = []
  for path in re.findall(r'<g id="series-\d+">\s*<path d="(.*?)"', drawing, re.DOTALL):
    stretches = [re.findall(r'(-?[\d.]+) (-?[\d.]+)', part) for part in path.split('M')[1:]]
    found += [[(float(x), float(y)) for x, y in stretch] for stretch in stretches]
  return found


def test_chart_is_drawn_to_scale():
  linear = svg(Chart('c', {'a': [(0, 0.0), (5, 2.5), (10, 10.0)]}))
  ((a, b, c),) = corners(linear)
  assert b[0] - a[0] == pytest.approx((c[0] - a[0]) / 2, abs=0.11)
  assert a[1] - b[1] == pytest.approx((a[1] - c[1]) / 4, abs=0.11)  # y grows downwards.
  log = svg(Chart('c', {'a': [(0, 0.001), (5, 0.1), (10, 10.0)]}, log=True))
  ((a, b, c),) = corners(log)
  assert a[1] - b[1] == pytest.approx((a[1] - c[1]) / 2, abs=0.11)
  assert svg(Chart('c', {'a': [(0, 1.0)]})) == svg(Chart('c', {'a': [(0, 1.0)]}))


def test_chart_breaks_where_a_value_is_missing():
  points = [(0, 1.0), (1, float('nan')), (2, 2.0), (3, 3.0), (4, 0.0), (5, 1.0)]
  assert [len(line) for line in corners(svg(Chart('c', {'a': points})))] == [1, 4]
  assert [len(line) for line in corners(svg(Chart('c', {'a': points}, log=True)))] == [1, 2, 1]
  assert corners(svg(Chart('c', {'a': []}))) == []


def test_long_series_are_thinned_but_keep_their_spikes():
  points = [(i, 1.0 + (i == 7777) * 8 + 0.1 * (i % 2)) for i in range(20_000)]
  drawing = svg(Chart('c', {'a': points}))
  (line,) = corners(drawing)
  assert len(drawing) < 100_000
  heights = sorted(y for _, y in line)
  assert heights[0] < heights[5] - 50


def test_more_series_than_colors_are_refused():
  with pytest.raises(InputError, match='only 8 can be told apart'):
    svg(Chart('c', {str(i): [(0, 1.0)] for i in range(9)}))


def test_contact_sheet_shows_first_to_last_frame():
  clip = np.arange(8, dtype=np.uint8).repeat(48 * 48 * 3).reshape(8, 48, 48, 3) * 20
  sheet = contact_sheet([('moves', clip), ('still', clip[7])], frames=3)
  # Enlarged three times: margins of 6, labels of 20, rows of 144 with gaps of 6.
  assert sheet.shape == (6 + 20 + 144 + 6 + 20 + 144 + 6, 6 + 3 * 144 + 2 * 6 + 6, 3)
  np.testing.assert_array_equal(sheet[26:170, 6:150], 0)
  np.testing.assert_array_equal(sheet[26:170, 156:300], 80)
  np.testing.assert_array_equal(sheet[26:170, 306:450], 140)
  np.testing.assert_array_equal(sheet[196:340, 6:150], 140)
  assert sheet[6:26].min() < 100 and (sheet[170:176] == 255).all()


@pytest.mark.parametrize('suffix', ['gif', 'webp'])
def test_animation_of_panels(tmp_path, suffix):
  red, blue = np.zeros((2, 4, 64, 64, 3), np.uint8)
  red[:, :, :, 0] = np.array([60, 120, 180, 240])[:, None, None]
  blue[..., 2] = 200
  path = save_gif(tmp_path / f'demo.{suffix}', [('a', red), ('b', blue[:2])], fps=10)
  frames, image = decoded(path.read_bytes())
  assert frames.shape[0] == 4 and image.info['duration'] == 100
  np.testing.assert_allclose(
    frames[:, 26:154, 6:134].mean((1, 2))[:, 0], [60, 120, 180, 240], atol=2
  )
  np.testing.assert_allclose(frames[:, 26:154, 140:268, 2], 200, atol=2)
  with pytest.raises(InputError, match='must end in'):
    save_gif(tmp_path / 'demo.mp4', [('a', red)])


def test_frames_per_second_must_be_positive():
  with pytest.raises(InputError, match='above 0'):
    animations.webp(video(2), fps=0)


def test_numbers_within_intervals(tmp_path):
  table = Table('t', ['', 'IoU'], [['a', Within(0.7184, 0.69, 0.7439)], ['b', None]])
  path = write_gallery(tmp_path / 'page.html', 'Title', 'Intro', [table])
  assert '<td class="number">0.718<span class="interval">[0.690, 0.744]</span></td>' in (
    path.read_text()
  )
