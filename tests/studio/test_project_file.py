"""Project files: nothing is lost in them, and nothing hostile comes out of them."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.helpers.studio_stub import LIMITS
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.studio import project_file
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.motion_edits import Edit
from ttm_jax.studio.project import Project, proposal


def project(moving=True):
  made = Project(LIMITS)
  rng = np.random.default_rng(0)
  ids = np.zeros((LIMITS.height, LIMITS.width), np.uint8)
  ids[4:10, 4:12], ids[20:28, 30:40] = 1, 2
  made.start(rng.integers(0, 256, (*ids.shape, 3)).astype(np.uint8), ids)
  made.say('Two squares äöü 方.', 'They move.')
  made.describe(2, name='right', prompt='it "stays"', shown=False)
  if moving:
    clip = np.stack([np.roll(ids, t, 1) for t in range(LIMITS.frames)])
    made.set_base(proposal(clip, 5), 'Pick')
    # Over the other object, so that a part of it is hidden.
    made.handle('translate', 1, 6, [26, 16])
    made.edit(Edit.from_json({'kind': 'depth', 'object': 1, 'step': 'front'}))
    made.edit(Edit.from_json({'kind': 'hide', 'object': 2, 'start': 8}))
  return made


def entries(content):
  with zipfile.ZipFile(io.BytesIO(content)) as file:
    return {name: file.read(name) for name in file.namelist()}


def changed(content, **changes):
  """Return a project file with entries replaced; '__' stands for '/', `about` for the JSON."""
  files = entries(content)
  about = json.loads(files['project.json'])
  about.update(changes.pop('about', {}))
  files['project.json'] = json.dumps(about).encode()
  for name, data in changes.items():
    files[name.replace('__', '/')] = data
  return project_file.archive({k: v for k, v in files.items() if v is not None})


@pytest.mark.parametrize('moving', [True, False])
def test_nothing_is_lost(moving):
  saved = project(moving)
  content = project_file.save(saved, 'run this')
  opened = project_file.load(content, LIMITS)
  assert (opened.trajectory() == saved.trajectory()).all()
  assert (opened.scene.picture == saved.scene.picture).all()
  assert (opened.scene.mask == saved.scene.mask).all()
  assert opened.scene.base.is_still == saved.scene.base.is_still == (not moving)
  assert opened.things == saved.things
  assert (opened.caption, opened.motion) == (saved.caption, saved.motion)
  assert [e.key for e in opened.scene.edits] == [e.key for e in saved.scene.edits]
  while saved.undoable and saved.scene.edits:
    saved.undo()
    opened.undo()
    assert (opened.trajectory() == saved.trajectory()).all()
  assert project_file.save(project_file.load(content, LIMITS), 'run this') == content


def test_other_programs_can_read_it(tmp_path):
  saved = project()
  with zipfile.ZipFile(io.BytesIO(project_file.save(saved))) as file:
    file.extractall(tmp_path)
  assert (trajectory.read_folder(tmp_path / 'trajectory') == saved.trajectory()).all()
  assert (trajectory.read_mask(tmp_path / 'segmentation.png') == saved.scene.mask).all()
  assert sorted(np.unique(trajectory.read_mask(tmp_path / 'objects.png'))) == [0, 1, 2]


def test_it_has_no_code_and_no_pickle():
  names = {name.rsplit('.')[-1] for name in entries(project_file.save(project()))}
  assert names == {'json', 'png'}


def png(array, mode=None):
  file = io.BytesIO()
  Image.fromarray(array, mode).save(file, 'PNG')
  return file.getvalue()


CONTENT = project_file.save(project())
SMALL = png(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'damaged or cut off'),
    (b'GIF89a', 'damaged or cut off'),
    (CONTENT[: len(CONTENT) // 2], 'damaged or cut off'),
    (CONTENT[:-1], 'damaged or cut off'),
    (changed(CONTENT, about={'version': 2}), 'has version 2, this studio reads version 1'),
    (changed(CONTENT, about={'version': None}), 'has version None'),
    (changed(CONTENT, **{'project.json': b'{'}), 'project.json of the project file is damaged'),
    (changed(CONTENT, **{'project.json': b'[1]'}), 'has no version'),
    (project_file.archive({'a.png': SMALL}), 'project.json is missing'),
    (changed(CONTENT, about={'frames': 99}), '99 frames of 48 x 32, this model generates 12'),
    (changed(CONTENT, about={'edits': 'x'}), 'must list'),
    (changed(CONTENT, about={'edits': [{'kind': 'explode'}]}), 'there is no edit'),
    (changed(CONTENT, about={'edits': [{'kind': 'delete', 'object': 4}]}), 'no object 4'),
    (changed(CONTENT, about={'objects': {'x': {}}}), 'describes an object that there cannot be'),
    (changed(CONTENT, about={'objects': {'7': {}}}), 'no object 7'),
    (changed(CONTENT, about={'objects': None}), 'lists no objects'),
    (changed(CONTENT, about={'caption': 7}), 'the caption must be a text'),
    (changed(CONTENT, about={'caption': '<script>'}), 'contains markup'),
    (changed(CONTENT, **{'picture.png': None}), 'lacks picture.png'),
    (changed(CONTENT, **{'picture.png': b'PNG'}), 'picture.png in the project file is damaged'),
    (changed(CONTENT, **{'picture.png': SMALL}), 'must be a PNG of 48 x 32'),
    (changed(CONTENT, base__00003__png=b''), 'an entry'),
    (changed(CONTENT, **{'base/00003.png': None}), 'lacks base/00003.png'),
    (changed(CONTENT, **{'../evil.png': SMALL}), "an entry '../evil.png', which no project has"),
    (changed(CONTENT, **{'/etc/passwd': SMALL}), "an entry '/etc/passwd'"),
    (changed(CONTENT, **{'trajectory/..\\evil': SMALL}), 'which no project has'),
    (changed(CONTENT, **{'run.py': b'print()'}), "an entry 'run.py'"),
  ],
)
def test_bad_files(content, message):
  with pytest.raises(InputError, match=message):
    project_file.load(content, LIMITS)


def test_a_project_of_another_model():
  other = Limits(**{**LIMITS.__dict__, 'max_objects': 1})
  with pytest.raises(InputError, match='object 2, but this model knows 1'):
    project_file.load(CONTENT, other)


def test_an_entry_that_unpacks_to_too_much(monkeypatch):
  monkeypatch.setattr(project_file, '_MOST_PNG', 10_000)
  bomb = io.BytesIO()
  with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as file:
    for name, data in entries(CONTENT).items():
      file.writestr(name, bytes(10**7) if name == 'picture.png' else data)
  with pytest.raises(InputError, match=r'picture\.png in the project file is too large'):
    project_file.load(bomb.getvalue(), LIMITS)


def test_an_entry_twice():
  twice = io.BytesIO()
  with zipfile.ZipFile(twice, 'w') as file:
    for name, data in entries(CONTENT).items():
      file.writestr(name, data)
    with pytest.warns(UserWarning, match='Duplicate'):
      file.writestr('picture.png', SMALL)
  with pytest.raises(InputError, match='an entry twice'):
    project_file.load(twice.getvalue(), LIMITS)


def test_damage_in_the_middle_is_found():
  found = 0
  for place in range(200, len(CONTENT), 997):
    damaged = bytearray(CONTENT)
    damaged[place] ^= 0xFF
    try:
      opened = project_file.load(bytes(damaged), LIMITS)
    except InputError:
      found += 1
    else:
      # Only what is computed again may differ: the trajectory and the command.
      assert (opened.trajectory() == project().trajectory()).all()
  assert found
