"""Captions as people and tools write them: encodings, line breaks, paths, lists."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_tools.sources.base import Video, inside, unique
from data_tools.sources.benchmark import read_list
from data_tools.sources.captioned import captioned
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.leftovers import leftovers, lines
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import drafts
from tests.helpers import video_fixtures
from ttm_jax.data.texts import lines_of, read_text
from ttm_jax.errors import InputError

SAID = {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a dog that runs'}}
MOTION = 'The square moves.'


def empty_videos(folder, *names):
  """Make files that are listed but not opened."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')


def captions_of(folder, table=None):
  return {v.key: (v.description.caption, v.description.motion) for v in captioned(folder, table)[0]}


# Records with line breaks.


def test_line_breaks_in_quoted_fields_are_spaces(tmp_path):
  empty_videos(tmp_path, 'a.mp4', 'b.mp4')
  (tmp_path / 'captions.csv').write_bytes(
    f'video,caption,motion\r\na.mp4,"A wall.\r\nIt is\ngrey.\n\nLight\u2028grows.",{MOTION}\r\n'
    f'b.mp4,"One ""big"" dog,\x0bbrown.",\r\n'.encode()
  )
  assert captions_of(tmp_path) == {
    'a': ('A wall. It is grey. Light grows.', MOTION),
    'b': ('One "big" dog, brown.', ''),
  }


@pytest.mark.parametrize('inner', ['\u2028', '\u2029', '\x85'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_json_lines_end_only_at_line_ends(tmp_path, inner, end):
  empty_videos(tmp_path, 'a.mp4', 'b.mp4')
  rows = [{'file_name': f'{n}.mp4', 'text': f'A square.{inner}It moves.'} for n in 'ab']
  text = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
  (tmp_path / 'metadata.jsonl').write_bytes(text.encode())
  assert captions_of(tmp_path) == dict.fromkeys('ab', ('A square. It moves.', ''))


def test_lines_of_a_text():
  assert list(lines_of('a\r\nb\u2028c\rd\n')) == ['a', 'b\u2028c', 'd']


# Encodings.


@pytest.mark.parametrize(
  'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32']
)
def test_encodings(tmp_path, encoding):
  text = 'video,caption\na.mp4,Ein Hündchen läuft.\n'
  empty_videos(tmp_path, 'a.mp4')
  (tmp_path / 'captions.csv').write_bytes(text.encode(encoding))
  assert captions_of(tmp_path) == {'a': ('Ein Hündchen läuft.', '')}
  (tmp_path / 'c.json').write_bytes(
    json.dumps({'hündchen': SAID}, ensure_ascii=False).encode(encoding)
  )
  assert list(read_captions(tmp_path / 'c.json')) == ['hündchen']
  (tmp_path / 'ids.txt').write_bytes('sav_000001 # the first\nsav_000002\n'.encode(encoding))
  assert read_list(tmp_path / 'ids.txt') == {'sav_000001', 'sav_000002'}


def test_other_encodings_are_refused(tmp_path):
  (tmp_path / 'c.json').write_bytes('{"hündchen": 1}'.encode('latin-1'))
  with pytest.raises(InputError, match=r'c\.json: not a text in UTF-8; convert it'):
    read_captions(tmp_path / 'c.json')
  with pytest.raises(InputError, match='cannot be read'):
    read_text('a\0b')


# Paths in tables.


def test_paths_of_a_table(tmp_path, monkeypatch):
  names = ['a.mp4', 'sub/b.mp4', 'c.mp4', 'sub/d.mp4', 'e.mp4', 'wei\\rd.mp4']
  source = tmp_path / 'source'
  empty_videos(source, *names)
  (tmp_path / 'link').symlink_to(source)
  written = [
    *('./a.mp4', 'sub\\b.mp4', f'{source}/c.mp4', f'{tmp_path}/link/sub//d.mp4'),
    *('sub/../e.mp4', 'wei\\rd.mp4'),
  ]
  table = source / 'captions.csv'
  table.write_text('Video, Caption\n' + ''.join(f'{name},"x, y"\n' for name in written))
  keys = ['a', 'sub/b', 'c', 'sub/d', 'e', 'wei\\rd']
  assert captions_of(source) == dict.fromkeys(keys, ('x, y', ''))
  monkeypatch.chdir(tmp_path)
  for root in (Path('source'), Path('link'), Path('source/../source')):
    videos = captioned(root)[0]
    assert [v.key for v in videos] == keys
    assert all(Path(v.path).is_file() for v in videos)


def test_two_endings_of_one_name(tmp_path):
  empty_videos(tmp_path, 'a.mp4', 'a.gif', 'b.gif')
  videos, unused = captioned(tmp_path)
  assert [Path(v.path).name for v in videos] == ['a.mp4', 'b.gif']
  assert unused == {'a.gif': 'another video of the same name is used; rename one to use both'}
  (tmp_path / 'captions.csv').write_text('video,caption\na.mp4,one\na.gif,two\n')
  assert captions_of(tmp_path) == {'a': ('one', ''), 'a.gif': ('two', '')}


@pytest.mark.parametrize(
  'name, said',
  [
    ('a\0b', 'the name of a file contains a NUL character'),
    ('a\udc80b', 'the name of a file is not valid Unicode'),
    ('x' * 300, 'a file or folder name has 300 bytes, more than 255; shorten it'),
    ('ok/' + 'ü' * 128, 'a file or folder name has 256 bytes'),
    ('..\\a', 'is outside of'),
    ('/etc/passwd', 'is outside of'),
  ],
)
def test_names_that_no_file_has(tmp_path, name, said):
  with pytest.raises(InputError, match=said):
    inside(tmp_path, name)
  (tmp_path / 'captions.jsonl').write_text(json.dumps({'video': name, 'caption': 'x'}))
  with pytest.raises(InputError, match=r'captions\.jsonl: entry 1: .*' + said):
    captioned(tmp_path)
  (tmp_path / 'c.json').write_text(json.dumps({name: SAID, 'dog': SAID}))
  one, other = vos_videos(tmp_path, read_captions(tmp_path / 'c.json'))
  assert said.rstrip('.') in one.problem and other.key == 'dog'
  one.key.encode()
  assert '\0' not in one.key


def test_long_keys_of_several_parts_are_fine(tmp_path):
  key = f'{"a" * 150}/{"b" * 150}'
  video_fixtures.object_video(tmp_path / key, np.ones((4, 32, 48), np.uint8))
  (tmp_path / 'c.json').write_text(json.dumps({key: SAID}))
  (video,) = vos_videos(tmp_path, read_captions(tmp_path / 'c.json'))
  (draft,) = drafts(video, Window(4, 4, 12, (16, 24)))
  assert draft.key == f'{key}/00000'


# Keys of captions.json.


@pytest.mark.parametrize(
  'key', ['park/dog', 'park/dog/', './park/dog', 'park\\dog', 'park//dog', '{}/park/dog']
)
def test_keys_of_a_captions_file(tmp_path, key):
  video_fixtures.object_video(tmp_path / 'park' / 'dog', np.ones((4, 32, 48), np.uint8))
  (tmp_path / 'c.json').write_text(json.dumps({key.format(tmp_path): SAID, '_note': 'x'}))
  (video,) = vos_videos(tmp_path, read_captions(tmp_path / 'c.json'))
  assert (video.key, video.problem) == ('park/dog', '')


@pytest.mark.parametrize(
  'entries, said',
  [
    ({'dog': SAID, './dog': SAID}, '"dog" and "./dog" name the same video; remove one'),
    ({'dog': SAID | {'c': 'x\ud800'}}, '"dog": "c" contains a lone surrogate'),
    ({'dog': SAID | {'c_local': {'1' * 5000: 'x'}}}, '"c_local" has the object id "1'),
    ({'dog': SAID | {'c_local': {'1': 'x', '01': 'y'}}}, 'two texts for one object id'),
  ],
)
def test_keys_are_checked(tmp_path, entries, said):
  (tmp_path / 'c.json').write_text(json.dumps(entries))
  with pytest.raises(InputError) as caught:
    read_captions(tmp_path / 'c.json')
  assert said in str(caught.value)


def test_json_that_is_nested_too_deeply(tmp_path):
  deep = '[' * 100_000
  (tmp_path / 'c.json').write_text(deep)
  with pytest.raises(InputError, match=r'c\.json: JSON that is nested too deeply'):
    read_captions(tmp_path / 'c.json')
  (tmp_path / 'captions.jsonl').write_text('{"video": "a.mp4"}\n' + deep)
  with pytest.raises(InputError, match='line 2: JSON that is nested too deeply'):
    captioned(tmp_path)


def test_names_on_disk_that_are_no_text(tmp_path):
  (tmp_path / 'good.mp4').write_bytes(b'')
  Path(os.fsdecode(bytes(tmp_path) + b'/bad\xff.mp4')).write_bytes(b'')
  bad, good = captioned(tmp_path)[0]
  assert bad.key == 'bad\\udcff' and 'not valid Unicode; rename it' in bad.problem
  assert good.key == 'good' and not good.problem
  with pytest.raises(InputError, match='two videos have the name'):
    unique([Video('a', 'x'), Video('a', 'y')], 'here')


# One caption file for all videos.


def test_lists_of_prompts(tmp_path):
  empty_videos(tmp_path, 'videos/b.mp4', 'videos/a.mp4', 'videos/c.mp4')
  (tmp_path / 'prompt.txt').write_text('says\u2028a\nsays b\n')
  (tmp_path / 'videos.txt').write_bytes(b'videos/a.mp4\r\nvideos/b.mp4\r\n')
  assert captions_of(tmp_path) == {
    'videos/a': ('says a', ''),
    'videos/b': ('says b', ''),
    'videos/c': ('', ''),
  }
  (tmp_path / 'videos.txt').unlink()
  videos, unused = captioned(tmp_path)
  assert not any(v.description.caption for v in videos)
  assert unused == {
    'prompt.txt': 'the video of each caption is not known; add videos.txt, with one path per line'
  }
  (tmp_path / 'videos.txt').write_text('videos/a.mp4')
  assert 'a different number of lines' in captioned(tmp_path)[1]['prompt.txt']


def test_one_prompt_for_one_video(tmp_path):
  empty_videos(tmp_path, 'a.mp4')
  (tmp_path / 'prompts.txt').write_text('A dog.\n')
  assert captions_of(tmp_path) == {'a': ('A dog.', '')}


@pytest.mark.parametrize(
  'content',
  [
    [{'file_path': './b.mp4', 'text': 'A cat.', 'type': 'video'}],
    {'b.mp4': 'A cat.'},
    {'b.mp4': {'caption': 'A cat.'}},
  ],
)
def test_captions_in_json(tmp_path, content):
  empty_videos(tmp_path, 'a.mp4', 'b.mp4')
  (tmp_path / 'a.txt').write_text('A dog.')
  (tmp_path / 'metadata.json').write_text(json.dumps(content))
  assert captions_of(tmp_path) == {'a': ('A dog.', ''), 'b': ('A cat.', '')}
  table = tmp_path / 'named.json'
  table.write_text(json.dumps(content))
  assert captions_of(tmp_path, table) == {'b': ('A cat.', '')}


def test_a_video_of_a_list_that_is_missing_is_reported(tmp_path):
  empty_videos(tmp_path, 'a.mp4')
  (tmp_path / 'metadata.json').write_text(json.dumps({'a.mp4': 'x', 'gone.mp4': 'y'}))
  gone, _ = captioned(tmp_path)[0]
  with pytest.raises(InputError, match=r'gone\.mp4: there is no such video file'):
    next(drafts(gone, Window(4, 4, 12, (16, 24))))


@pytest.mark.parametrize('content', ['{"a": 1}', '[1, 2]', '[', '[{"file_path": "z.mp4"}]', '{}'])
def test_json_that_is_something_else_is_left_alone(tmp_path, content):
  empty_videos(tmp_path, 'a.mp4')
  (tmp_path / 'metadata.json').write_text(content)
  (video,), unused = captioned(tmp_path)
  assert video.description.caption == '' and list(unused) == ['metadata.json']


# Unused files.


def unread(root, *arguments, **options):
  found = leftovers(root, *arguments, **options)
  return {one.name: (one.reason, one.files) for one in found}, lines(found)


def test_all_that_is_not_read_is_named(tmp_path):
  empty_videos(
    tmp_path,
    *('a.mp4', 'b.mov', 'b.gif', 'old.xyz', '._a.mp4', '__MACOSX/._b.mov', 'thumbs/a.jpg'),
    *('docs/one.md', 'docs/more/two.md', 'a.png', 'out/clips-train.array_record'),
  )
  for name in ('a', 'c'):
    (tmp_path / f'{name}.txt').write_text('A dog.')
  (tmp_path / 'metadata.json').write_text('[]')
  videos, known = captioned(tmp_path)
  found, said = unread(tmp_path, videos, known=known, outside=[tmp_path / 'out'])
  assert found == {
    'b.gif': ('another video of the same name is used; rename one to use both', 1),
    'old.xyz': ('not the extension of a video, image or table', 1),
    'docs/': ('not the extension of a video, image or table', 2),
    '._a.mp4': ('hidden', 1),
    '__MACOSX/': ('hidden', 1),
    'thumbs/': ('a video or image that does not fit the layout', 1),
    'a.png': ('an image beside a video', 1),
    'c.txt': ('not the captions of a video', 1),
    'metadata.json': ('not a list of the videos in this folder with their captions', 1),
  }
  assert 'not read 3: not the extension of a video, image or table (old.xyz, docs/)' in said


def test_what_a_table_does_not_name_is_named(tmp_path):
  empty_videos(tmp_path, 'videos/a.mp4', 'videos/b.mp4')
  (tmp_path / 'prompts.txt').write_text('x')
  table = tmp_path / 'metadata.csv'
  table.write_text('video,caption\nvideos/a.mp4,x\n')
  found, _ = unread(tmp_path, captioned(tmp_path)[0], table=table)
  assert found == {
    'videos/b.mp4': ('not in metadata.csv', 1),
    'prompts.txt': ('captions come from metadata.csv', 1),
  }


def test_videos_with_masks_that_no_caption_describes_are_named(tmp_path):
  for key in ('dog', 'cat'):
    video_fixtures.object_video(tmp_path / key, np.ones((4, 32, 48), np.uint8))
  (tmp_path / 'dog' / 'masks' / 'notes.md').write_text('x')
  table = tmp_path / 'captions.json'
  table.write_text(json.dumps({'dog': SAID}))
  videos = vos_videos(tmp_path, read_captions(table))
  found, said = unread(tmp_path, videos, table=table)
  assert found['dog/masks/notes.md'] == ('not the extension of a video, image or table', 1)
  assert found['cat/'] == ('not in captions.json', 5)  # A video and its masks.
  assert 'not read 5: not in captions.json (cat/)' in said


def test_masks_that_are_not_read_are_named(tmp_path):
  video_fixtures.object_video(tmp_path / 'dog', np.ones((2, 32, 48), np.uint8))
  empty_videos(tmp_path, 'dog/others/0.png', 'dog/others/1.png')
  found, _ = unread(tmp_path, vos_videos(tmp_path, None))
  assert found == {'dog/others/': ('other images of a video that is read', 2)}


def test_a_folder_without_videos_says_what_is_there(tmp_path):
  with pytest.raises(InputError, match=r'contains no videos \(empty\)'):
    captioned(tmp_path)
  empty_videos(tmp_path, 'a.jpg', 'b.JPG', 'c')
  with pytest.raises(InputError, match=r'contains no videos \(but 2 \.jpg, 1 without extension\)'):
    captioned(tmp_path)


# File extensions.


def test_videos_of_many_endings_are_read(tmp_path):
  frames = video_fixtures.levels(8)
  for name, kind, codec in (
    ('b.MTS', 'mpegts', 'libx264'),
    ('c.wmv', 'asf', 'mpeg4'),
    ('d.3gp', 'mov', 'mpeg4'),
    ('f.flv', 'flv', 'libx264'),
  ):
    with av.open(str(tmp_path / name), 'w', format=kind) as container:
      stream = container.add_stream(codec, 12)
      stream.height, stream.width, stream.pix_fmt = 32, 48, 'yuv420p'
      for frame in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
      container.mux(stream.encode(None))
  pictures = [Image.fromarray(frame) for frame in frames]
  pictures[0].save(tmp_path / 'e.gif', save_all=True, append_images=pictures[1:], duration=80)
  for name in 'bcdef':
    (tmp_path / f'{name}.txt').write_text(f'Film {name}.')
  videos, unused = captioned(tmp_path)
  assert [(v.key, v.description.caption) for v in videos] == [(n, f'Film {n}.') for n in 'bcdef']
  assert not unused and not leftovers(tmp_path, videos)
  for video in videos:
    (draft,) = drafts(video, Window(4, 8, 6, (16, 24)))
    np.testing.assert_allclose(draft.video[:, 8, 12, 0], [0, 20, 40, 60], atol=8, err_msg=video.key)
