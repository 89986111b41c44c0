"""The interface of the page: a whole story, sessions, downloads, and every error that it shows."""

import base64
import dataclasses
import io
import json
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers.studio_stub import LIMITS, StubBackend
from ttm_jax import trajectory_edits
from ttm_jax.errors import InputError
from ttm_jax.inference.request import Sampling
from ttm_jax.studio import api, page_state, sessions
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.exports import png_archive
from ttm_jax.trajectory import PALETTES
from ttm_jax.trajectory_edits import merge, split

T, H, W = LIMITS.frames, LIMITS.height, LIMITS.width


def png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


def picture(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (H, W, 3)).astype(np.uint8)


def stroke(*points, radius=3):
  return {'tool': 'brush', 'points': [list(p) for p in points], 'radius': radius}


def painted(page):
  """Upload a picture and paint two objects; return their label map."""
  page.post('picture', content=png(picture()), **{'X-Name': 'a.png'})
  page.done('paint', object=1, stroke=stroke((10, 8)))
  page.done('paint', object=2, stroke=stroke((34, 20)))
  page.done('texts', caption='A dog and a ball.', motion='The dog runs.')
  page.done('object', object=1, name='dog', prompt='a dog that runs')
  return current(page)[0]


def current(page):
  """Return the trajectory that the page can download, uint8 [T, H, W]."""
  response = page.get('export/png')
  assert response.status_code == 200, response.text
  with zipfile.ZipFile(io.BytesIO(response.content)) as file:
    frames = [np.array(Image.open(file.open(name))) for name in sorted(file.namelist())]
  return np.stack(frames)


def layers_of(state):
  """Return the layers that a state sends, bool [T, H, W] by object."""
  found = {}
  for each in state['objects']:
    packed = zlib.decompress(base64.b64decode(state['layers'][each['layer']]))
    bits = np.frombuffer(packed, np.uint8).reshape(T, -1)
    found[each['id']] = np.unpackbits(bits, axis=1, count=H * W).reshape(T, H, W).astype(bool)
  return found


def test_a_whole_story(page, backend):
  first = painted(page)
  page.done('propose', seed=2, count=2)
  page.wait()
  one, two = page.state['proposals']
  assert (one['seed'], two['seed']) == (2, 3) and not one['current']
  page.done('pick', proposal=one['id'])
  assert page.state['proposals'][0]['current'] and page.state['origin'] == 'proposal, seed 2'
  moving = np.stack([np.roll(first, 3 * t, 1) for t in range(T)])
  assert (current(page) == moving).all()

  path = [[10, 8], [20, 20], [30, 10]]
  page.done('edit', edit={'kind': 'follow', 'object': 1, 'points': path})
  page.done('edit', edit={'kind': 'hide', 'object': 2, 'start': 6})
  layers = split(moving)
  layers[1] = trajectory_edits.follow(layers[1], 1, path)
  layers[2] = trajectory_edits.hide(layers[2], 2, 6)
  edited = merge(layers)
  assert (current(page) == edited).all()
  for obj, mask in layers_of(page.get('state').json()).items():
    assert (mask == (layers[obj] == obj)).all()

  page.done('undo')
  page.done('undo')
  assert (current(page) == moving).all()
  page.done('redo')
  page.done('redo')
  assert (current(page) == edited).all() and page.state['redo'] == ''

  page.done('render', seed=7, quality='preview')
  page.done('render', seed=7, steps=5)
  page.wait()
  preview, final = page.state['renders']
  assert (preview['steps'], preview['quality']) == (2, 'preview')
  assert (final['steps'], final['quality'], final['seed'], final['edits']) == (5, 'final', 7, 2)
  assert [(c.seed, c.steps) for c in backend.calls] == [(2, 4), (3, 4), (7, 2), (7, 5)]
  assert final['command'] == (
    'python -m ttm_jax.generate --stage1 runs/one --stage2 runs/two --image project/picture.png'
    ' --segmentation project/objects.png --trajectory project/trajectory'
    " --prompt 'A dog and a ball.' --motion 'The dog runs.' --object '1: a dog that runs'"
    ' --seed 7 --steps 5 --out video.mp4'
  )
  sheet = page.get(f'render/{final["id"]}/trajectory')
  with Image.open(io.BytesIO(sheet.content)) as image:
    columns = int(sheet.headers['X-Columns'])
    x, y = 11 % columns * W, 11 // columns * H
    shown = np.asarray(image.convert('RGB'))[y : y + H, x : x + W]
  assert (
    shown == np.concatenate([np.zeros((1, 3), np.uint8), PALETTES['spread8']])[edited[11]]
  ).all()

  page.done('undo')
  page.done('return', render=final['id'])
  assert (current(page) == edited).all() and page.state['undo'] == f'Motion of video {final["id"]}'


def test_a_picture_of_another_shape(page):
  large = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
  answer = page.post('picture', content=png(large), **{'X-Name': 'a%20b.png'})
  assert answer['notes_of_this'] == ['a b.png: resized and cropped from 70 x 90 to 48 x 32']
  page.done('paint', object=1, stroke=stroke((10, 8)))
  assert current(page).shape == (T, H, W)


def test_a_reload_gives_the_same_state(page):
  painted(page)
  page.done('handle', kind='translate', object=1, frame=5, by=[3, 1])
  before, again = page.get('state').json(), page.get('state').json()
  for state in (before, again):
    del state['milliseconds']
  assert before == again and before['edits'][0]['keys'] == [0, 5]
  assert page.get('picture').content == png(picture())


def test_only_layers_that_are_new_are_sent(page):
  painted(page)
  state = page.get('state').json()
  have = ','.join(each['layer'] for each in state['objects'])
  answer = page.post(
    'change/handle',
    json={'kind': 'translate', 'object': 1, 'frame': 5, 'by': [3, 1]},
    **{'X-Have': have},
  )
  assert [*answer['layers']] == [answer['objects'][0]['layer']]
  assert page.post('change/undo', json={}, **{'X-Have': have})['layers'] == {}


def test_a_project_file_brings_all_back(page, new_page):
  painted(page)
  page.done('edit', edit={'kind': 'rotate', 'object': 1, 'degrees': {'0': 0, '11': 180}})
  expected = current(page)
  saved = page.get('export/project')
  assert saved.headers['content-disposition'] == ('attachment; filename="a-dog-and-a-ball.ttm.zip"')
  other = new_page()
  assert other.post('project', content=saved.content)['status'] == 200
  assert (current(other) == expected).all() and other.state['caption'] == 'A dog and a ball.'
  assert other.state['objects'][0]['name'] == 'dog' and other.state['undo'].startswith('Rotate')


def test_sessions_do_not_mix(page, new_page):
  first, second = page, new_page()
  painted(first)
  second.post('picture', content=png(picture(1)), **{'X-Name': 'b.png'})
  second.done('paint', object=3, stroke=stroke((24, 16)))
  first.done('handle', kind='translate', object=1, frame=5, by=[3, 1])
  assert [each['id'] for each in second.get('state').json()['objects']] == [3]
  assert second.get('picture').content == png(picture(1)) != first.get('picture').content
  first.done('render', seed=1)
  first.wait()
  assert second.get('state').json()['renders'] == [] == second.get('jobs').json()
  number = first.state['renders'][0]['id']
  assert first.get(f'render/{number}/video').status_code == 200
  assert 'there is no render' in second.get(f'render/{number}/video').json()['error']
  assert first.headers['X-Session'] != second.headers['X-Session']
  assert len(first.headers['X-Session']) >= 32


@pytest.mark.parametrize('token', ['', 'guess', '../state', 'x' * 10_000])
def test_without_a_session_nothing_is_told(client, token):
  for call in (client.get, client.post):
    for path in ('state', 'picture', 'jobs', 'change/undo', 'export/project'):
      answer = call(f'/studio/api/{path}', headers={'X-Session': token})
      assert answer.status_code in (404, 405)
      assert answer.status_code == 405 or answer.json()['lost']


def test_idle_sessions_make_room(client, studio, monkeypatch, new_page):
  monkeypatch.setattr(sessions, 'MOST_SESSIONS', 2)
  first, second, third = new_page(), new_page(), new_page()
  assert first.get('state').status_code == 404
  assert second.get('state').status_code == third.get('state').status_code == 200


def test_cancel_and_progress(page, backend):
  painted(page)
  backend.gate.clear()
  page.done('render', seed=1)
  page.done('render', seed=2)
  running, waiting = page.get('jobs').json()
  assert waiting['status'] == 'waiting' and waiting['before'] == 1
  page.post('cancel', json={'job': waiting['id']})
  page.post('cancel', json={'job': running['id']})
  backend.gate.set()
  assert [job['status'] for job in page.wait()] == ['cancelled', 'cancelled']
  assert page.state['renders'] == []


def test_a_backend_that_dies_leaves_the_project(page, backend):
  painted(page)
  page.done('handle', kind='translate', object=1, frame=5, by=[3, 1])
  before = current(page)
  for error, message in (
    (RuntimeError('device lost'), 'RuntimeError: device lost). Your project is unchanged.'),
    (MemoryError(), 'ran out of memory'),
    (SystemError('x'), 'failed'),
  ):
    backend.error = error
    page.done('render', seed=1)
    (job,) = page.wait()
    assert job['status'] == 'failed' and message in job['message']
    assert (current(page) == before).all() and page.state['renders'] == []
  page.done('render', seed=1)
  page.wait()
  assert len(page.state['renders']) == 1


def test_a_new_picture_cancels_what_was_for_the_old_one(page, backend):
  painted(page)
  backend.gate.clear()
  page.done('render', seed=1)
  page.post('picture', content=png(picture(1)), **{'X-Name': 'b.png'})
  backend.gate.set()
  page.wait()
  assert page.state['renders'] == [] and page.state['objects'] == []


def test_models_find_and_segment(page):
  page.post('picture', content=png(picture()), **{'X-Name': 'a.png'})
  assert 'caption is empty' in page.change('find')['error']
  page.done('texts', caption='Two corners.')
  page.done('find')
  page.wait()
  names = [(each['id'], each['name'], each['prompt']) for each in page.state['objects']]
  assert names == [(1, 'corner', 'it moves'), (2, 'other corner', '')]
  assert page.state['motion'] == 'The corner moves.'
  page.done('segment', object=3, points=[[24, 16], [25, 16]], inside=[True, False])
  page.done('segment', object=4, box=[30, 2, 36, 8])
  page.wait()
  assert (current(page)[0] == 4).sum() == 36 and (current(page)[0] == 3).any()
  page.done('texts', caption='nothing')
  page.done('find')
  assert page.wait()[-1]['message'] == 'nothing was found in the picture'
  assert len(page.state['objects']) == 4
  assert 'click on the object' in page.change('segment', object=1)['error']
  assert 'clicks must be' in page.change('segment', object=1, points=[1])['error']


def test_examples(page):
  listed = page.get('examples').json()
  assert len(listed) == 6 and listed[0]['image'].startswith('data:image/png;base64,')
  page.post('example', json={'number': 2})
  assert page.state['caption'] == listed[2]['caption'] and page.state['objects'][0]['prompt']
  assert current(page).shape == (T, H, W)


@pytest.mark.parametrize(
  'kind', ['project', 'png', 'rle', 'tracks', 'mp4', 'gif', 'webp', 'overlay']
)
def test_downloads(page, kind):
  painted(page)
  page.done('render', seed=1)
  page.wait()
  number = page.state['renders'][0]['id']
  response = page.get(f'export/{kind}?number={number}')
  starts = {'project': b'PK', 'png': b'PK', 'tracks': b'PK', 'gif': b'GIF89a', 'webp': b'RIFF'}
  start = starts.get(kind, b'{' if kind == 'rle' else b'\0\0\0')
  assert response.status_code == 200 and response.content.startswith(start)
  assert response.headers['content-disposition'].startswith(
    'attachment; filename="a-dog-and-a-ball'
  )
  assert response.headers['x-content-type-options'] == 'nosniff'


def test_imports(page):
  painted(page)
  boxes = json.dumps({'boxes': {'1': {'0': [8, 5, 14, 11], '11': [20, 5, 32, 17]}}}).encode()
  answer = page.post('import/boxes', content=boxes, **{'X-Name': 'b.json'})
  assert answer['notes_of_this'] == ['b.json: the motion of object 1']
  tracks = b'[[{"x": 34, "y": 20}, {"x": 14, "y": 20}]]'
  assert page.post('import/tracks', content=tracks)['status'] == 200
  assert [edit['kind'] for edit in page.state['edits']] == ['fit_boxes', 'translate']
  clip = np.zeros((T, H, W), np.uint8)
  clip[:, :5, :5] = 3
  assert page.post('import/clip?object=3', content=png_archive(clip))['status'] == 200
  assert (current(page)[:, :5, :5] == 3).all()
  assert 'nothing to import' in page.post('import/poem', content=b'')['error']
  assert "no object 'x'" in page.post('import/clip?object=x', content=b'')['error']


def test_where_a_path_leads(page):
  painted(page)
  places = page.post('path', json={'object': 1, 'points': [[0, 0], [11, 0]], 'start': 0})
  start = page.state['objects'][0]['centers'][0]
  assert places == [[round(start[0] + t, 2), start[1]] for t in range(T)]
  assert 'at most' in page.post('path', json={'object': 1, 'points': [[0, 0]] * 5000})['error']
  assert 'none of' in page.post('path', json={'object': 1, 'points': [[0, 0]], 'stop': 99})['error']


def test_every_message_of_bad_input(page, backend):
  """Each change is refused with one sentence, and the project stays as it was."""
  assert 'no picture yet' in page.change('paint', object=1, stroke=stroke((1, 1)))['error']
  assert 'no picture yet' in page.post('mask', content=b'')['error']
  painted(page)
  page.done('propose', seed=0, count=1)
  page.wait()
  before, state = current(page), page.get('state').json()
  cases = [
    ('edit', {'edit': {'kind': 'translate', 'object': 1, 'path': {'99': [0, 0]}}}, 'frame 99'),
    ('edit', {'edit': 'all'}, 'there is no edit'),
    ('edit', {'edit': {'kind': 'follow', 'object': 1, 'points': [[-9, -9], [-5, 0]]}}, 'outside'),
    ('handle', {'kind': 'translate', 'object': 'x', 'frame': 1, 'by': [0, 0]}, 'whole number'),
    ('remove_edit', {'index': 0}, 'there is no edit 1'),
    ('keyframe', {'index': 0, 'frame': 0}, 'no keyframe'),
    ('texts', {'caption': 'word ' * 2000}, '2000 words'),
    ('texts', {'motion': '<img src=x onerror=alert(1)>'}, 'contains markup'),
    ('object', {'object': 1, 'name': '<b>'}, 'contains markup'),
    ('object', {'object': 77}, 'no object 77'),
    ('paint', {'object': 1}, 'a stroke needs a tool'),
    ('pick', {'proposal': 99}, 'there is no proposal 99'),
    ('return', {'render': 99}, 'there is no render 99'),
    ('propose', {'seed': -1}, 'the seed must be'),
    ('propose', {'seed': 1.5}, 'whole number'),
    ('propose', {'count': 99}, '99 proposals at once'),
    ('propose', {'steps': 0}, '0 steps'),
    ('render', {'steps': 10**6}, '1000000 steps'),
    ('dance', {}, "there is no change 'dance'"),
  ]
  for what, values, message in cases:
    answer = page.change(what, **values)
    assert answer['status'] == 422 and message in answer['error'], (what, answer)
    assert '\n' not in answer['error'] and answer['error'].isprintable()
  files = [
    ('picture', b'no image', 'not a readable image'),
    ('picture', png(picture()[:8]), 'each side must have 16'),
    ('mask', png(np.zeros((H, W), np.uint8)), 'shows no object'),
    ('mask', png(np.arange(320, dtype=np.uint16).reshape(20, 16)), 'holds 319 values'),
    ('mask', png(np.full((H, W), 5, np.uint8)), 'number the objects 1 to 4'),
    ('project', b'PK', 'damaged or cut off'),
    ('import/boxes', b'{}', 'must hold'),
    ('import/tracks', b'{}', 'list of tracks'),
    ('import/clip', b'', 'the file'),
  ]
  for path, content, message in files:
    answer = page.post(path, content=content)
    assert answer['status'] == 422 and message in answer['error'], (path, answer)
  after = page.get('state').json()
  for each in (state, after):
    del each['milliseconds'], each['jobs']
  assert (current(page) == before).all() and after == state


def test_proposals_of_other_objects_are_refused(page):
  painted(page)
  page.done('propose', seed=0, count=1)
  page.wait()
  page.done('paint', object=3, stroke=stroke((24, 16)))
  assert page.state['proposals'][0]['stale']
  answer = page.change('pick', proposal=page.state['proposals'][0]['id'])
  assert 'the objects changed since this proposal was made' in answer['error']


@pytest.mark.parametrize('content', [b'{', b'[1]', b'7', b'\xff\xfe', b'[' * 100_000])
def test_requests_that_are_no_json(page, content):
  assert page.post('change/undo', content=content)['status'] == 422


def test_too_much_at_once(page, monkeypatch):
  monkeypatch.setattr(api, '_JSON_BYTES', 1000)
  answer = page.post('change/texts', content=b'{"caption": "' + b'x' * 2000 + b'"}')
  assert answer['status'] == 413 and 'use a smaller file' in answer['error']


def test_an_error_of_the_studio_is_one_sentence(page, monkeypatch):
  painted(page)

  def broken(*_):
    raise ZeroDivisionError('secret path /home')

  monkeypatch.setattr('ttm_jax.studio.page_state.notes', broken)
  answer = page.post('change/undo', json={})
  assert answer['status'] == 500 and 'secret' not in json.dumps(answer)


def test_a_backend_without_stage_1():
  studio = Studio(StubBackend(dataclasses.replace(LIMITS, motion_steps=0)))
  session = studio.sessions.create()
  studio.open_example(session, 0)
  with pytest.raises(ValueError, match='there is no stage 1'):
    studio.propose(session, {})
  with pytest.raises(ValueError, match='no models that find objects'):
    studio.find(session)
  with pytest.raises(ValueError, match='no model that segments'):
    studio.segment(session, {'object': 1})
  studio.close()


def test_a_student_takes_guidance_scales_and_no_other_steps():
  ranges = {'visual_scale': (1.0, 3.0), 'text_scale': (1.0, 10.0)}
  limits = dataclasses.replace(LIMITS, fixed_steps=True, video_scales=ranges)
  backend = StubBackend(limits)
  studio = Studio(backend)
  session = studio.sessions.create()
  told = page_state.about(studio)
  assert told['fixed_steps'] and told['video_scales'] == ranges and told['motion_scales'] == {}
  studio.open_example(session, 0)
  studio.render(session, {'quality': 'preview', 'scales': {'text_scale': 2.5}})
  while not session.renders:
    assert session.jobs[-1].status in ('waiting', 'running', 'done')
    time.sleep(0.01)
  assert backend.calls == [Sampling(0, LIMITS.video_steps, {'text_scale': 2.5})]
  assert '--text_scale 2.5 --seed 0' in studio.command(session.renders[0].settings)
  for wrong, message in (
    ({'text_scale': 11}, 'text_scale 11 is not in 1 to 10: choose a scale in this range'),
    ({'rescale': 1}, "the network takes no 'rescale': leave it out"),
    ({'text_scale': '2'}, '"scales" must be numbers by name'),
    ([2], '"scales" must be numbers by name'),
  ):
    with pytest.raises(InputError, match=message):
      studio.render(session, {'scales': wrong})
  with pytest.raises(InputError, match="takes no 'text_scale'"):
    studio.propose(session, {'scales': {'text_scale': 2.0}})
  studio.close()


@pytest.mark.parametrize(
  'path', ['../api.py', '..%2fapi.py', '%2e%2e/api.py', '/etc/passwd', '....//api.py', 'x/../../a']
)
def test_files_of_the_page_only(client, path):
  assert client.get('/studio/web/main.js').status_code == 200
  assert client.get(f'/studio/web/{path}').status_code == 404
