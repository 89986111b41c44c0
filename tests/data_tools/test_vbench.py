"""VBench-I2V: clips of its prompts, and the file names that its tool reads."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import vbench
from data_tools.commands import vbench as command
from data_tools.drafts import Draft, Rejected
from data_tools.sources.descriptions import Window
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.media import video_io, video_reader

SHARED = Path(os.environ.get('TTM_SHARED_DATA', '../shared/data'))
REAL = SHARED / 'prompts' / 'vbench' / 'vbench2_i2v_full_info.json'
ENTRIES = [
  {'prompt_en': 'a dog, running', 'image_name': 'a dog.jpg', 'dimension': ['i2v_subject']},
  {'prompt_en': 'a hill', 'image_name': 'a hill.jpg', 'dimension': 'i2v_background'},
  {'prompt_en': 'a hill, camera pans left', 'image_name': 'a hill.jpg', 'dimension': ['camera']},
]


@pytest.fixture
def info(tmp_path):
  (tmp_path / 'info.json').write_text(json.dumps(ENTRIES))
  for name, color in (('a dog', 200), ('a hill', 90)):
    Image.fromarray(np.full((20, 30, 3), color, np.uint8)).save(tmp_path / f'{name}.jpg')
  return tmp_path / 'info.json'


def clips_command(info, *more):
  root = info.parent
  return [
    *('clips', f'--info={info}', f'--images={root}', f'--out={root}/out', '--clip=3x16x16'),
    *('--fps=8', *more),
  ]


def test_images_and_prompts_become_clips(info):
  vbench.main(clips_command(info))
  dog, _, pan = Clips(info.parent / 'out', 'validation')
  assert (dog.key, dog.caption, dog.motion) == ('0000', 'a dog, running', 'a dog, running')
  assert dog.video.shape == (3, 16, 16, 3) and abs(int(dog.video.mean()) - 200) < 3
  assert not dog.ids.any() and dog.prompts == () and dog.fps == 8
  assert pan.caption == 'a hill, camera pans left'
  vbench.main([a.replace('/out', '/few') for a in clips_command(info, '--dimension=camera')])
  assert [clip.key for clip in Clips(info.parent / 'few', 'validation')] == ['0002']


def test_models_find_the_objects_or_the_clip_has_none(info):
  def prompts(drafts):
    return [
      Draft(**{**vars(d), 'motion': 'It runs.', 'names': {1: 'dog'}, 'prompts': {1: 'a dog'}})
      if 'dog' in d.caption
      else Rejected(d, 'no object in the list')
      for d in drafts
    ]

  def segment(drafts):
    assert [d.caption for d in drafts] == ['a dog, running']
    ids = np.zeros((1, 16, 16), np.uint8)
    ids[:, 2:9, 3:7] = 1
    return [Draft(**{**vars(d), 'ids': ids}) for d in drafts]

  told: list[str] = []
  steps = {'prompts': prompts, 'segment': segment}
  window = Window(2, 2, 8, (16, 16))
  entries = command.read_entries(str(info))
  dog, hill, _ = command.clips_of(entries, info.parent, window, steps, told)
  assert (dog.ids[1, 2:9, 3:7] == 1).all() and dog.ids.sum() == 2 * 28
  assert (dog.motion, dog.names, dog.prompts) == ('It runs.', ('dog',), ('a dog',))
  assert not hill.ids.any() and told == ['no object in the list'] * 2


def generate(folder, names, count=2):
  for number, name in enumerate(names):
    frames = np.full((count, 16, 16, 3), 20 * number, np.uint8)
    video_io.write_video(folder / name, frames, 8)


def test_videos_get_the_names_of_the_tool(info, tmp_path):
  seeds = (3, 11, 2, 40, 5)
  generate(tmp_path / 'made', [f'0001__{seed}.mp4' for seed in seeds])
  out = tmp_path / 'named'
  where = [f'--info={info}', f'--generated={tmp_path}/made', f'--out={out}']
  vbench.main(['names', *where, '--dimension=i2v_background'])
  assert sorted(p.name for p in out.iterdir()) == [f'a hill-{i}.mp4' for i in range(5)]
  # Index 0 has the lowest seed, 2, which was made third.
  shades = [int(video_reader.read_video(out / f'a hill-{i}.mp4')[0].mean()) for i in range(5)]
  np.testing.assert_allclose(shades, [40, 0, 80, 20, 60], atol=3)
  told = json.loads((tmp_path / 'named.json').read_text())
  assert told == {'a hill': [f'0001__{seed}.mp4' for seed in sorted(seeds)]}
  with pytest.raises(InputError, match=r'has 0 videos of 0000 .* VBench needs 5; generate them'):
    vbench.main(['names', *where[:2], f'--out={tmp_path}/all'])
  with pytest.raises(InputError, match='the folder is not empty'):
    vbench.main(['names', *where, '--dimension=i2v_background'])
  assert not (tmp_path / 'all').exists()


@pytest.mark.parametrize(
  'content, said',
  [
    ('{}', 'must be a JSON list of prompts'),
    ('[{"prompt_en": "a"}]', 'entry 1 needs the texts prompt_en and image_name'),
    ('[{"prompt_en": "a/b", "image_name": "a"}]', 'entry 1 needs the texts'),
    ('[{"prompt_en": "a", "image_name": "../a"}]', 'entry 1 needs the texts'),
    ('nothing', 'not valid JSON'),
  ],
)
def test_bad_lists_give_one_sentence(content, said, tmp_path):
  (tmp_path / 'info.json').write_text(content)
  with pytest.raises(InputError, match=said):
    command.read_entries(str(tmp_path / 'info.json'))


def test_other_bad_input(info):
  with pytest.raises(InputError, match=r'--dimension i2v_subjekt \(did you mean "i2v_subject"\?\)'):
    vbench.main(clips_command(info, '--dimension=i2v_subjekt'))
  with pytest.raises(InputError, match='--llm: objects need --llm, --detector and --sam; give all'):
    vbench.main(clips_command(info, '--llm=x'))
  (info.parent / 'a hill.jpg').unlink()
  with pytest.raises(InputError, match=r'there is no a hill\.jpg, and 1 more are missing'):
    vbench.main(clips_command(info))
  assert not (info.parent / 'out').exists()


@pytest.mark.skipif(not REAL.exists(), reason=f'no prompt lists under {SHARED}')
def test_the_published_list():
  assert len(command.read_entries(str(REAL))) == 1118
  counts = [
    len(command.read_entries(str(REAL), [name]))
    for name in ('i2v_subject', 'i2v_background', 'camera_motion', 'aesthetic_quality')
  ]
  assert counts == [246, 109, 763, 355]  # As in the table of VBench's README.
  entries = command.read_entries(str(REAL))
  assert max(len(f'{entry.prompt}-4.mp4'.encode()) for entry in entries) <= 255
