"""From real videos to training, and from raw videos through every step, with the commands."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")

import torch
from PIL import Image

from data_tools import describe, prepare
from tests.helpers import cli, tiny, tiny_models, video_fixtures
from ttm_jax.data.clips import Clips
from ttm_jax.data.latents import Latents
from ttm_jax.inference.image_description import Described
from ttm_jax.pytorch.annotation import language_model

SHARED = Path(os.environ.get('TTM_SHARED_DATA', '../shared/data'))
real_data = pytest.mark.skipif(
  not (SHARED / 'captions.json').is_file(),
  reason=f'no real clips under {SHARED}; set TTM_SHARED_DATA to their folder',
)
CLIP = f'--clip={tiny.FRAMES}x{tiny.SIDE}x{tiny.SIDE}'


@real_data
@pytest.mark.slow
def test_real_videos_to_training(tmp_path):
  captions = json.loads((SHARED / 'captions.json').read_text())
  entries = {k.split('/')[1]: v for k, v in captions.items() if k.startswith('sam2_pseudo/')}
  (tmp_path / 'c.json').write_text(json.dumps(entries))
  clips, latents = tmp_path / 'clips', tmp_path / 'latents'
  prepare.main(
    [
      f'--source={SHARED}/sam2_pseudo',
      f'--captions={tmp_path}/c.json',
      f'--out={clips}',
      '--kind=vos',
      CLIP,
      f'--fps={tiny.FPS}',
      '--validation=1',
    ]
  )
  words = [f'--{name}={value}' for name, value in (tiny.WORDS | {'max_objects': 4}).items()]
  made = cli.run(
    'data_tools.encode', f'--clips={clips}', f'--out={latents}', f'--codec={tiny.CODEC}', *words
  )
  assert made.code == 0, made.err
  # Training reads the label maps of the clips, with objects renumbered as recorded.
  by_key = {clip.key: clip for clip in Clips(clips, 'train')}
  source = Latents(latents, 'train')
  assert len(source) == len(by_key) > 5
  for i in range(len(source)):
    clip, table = by_key[source.key(i)], np.zeros(256, np.uint8)
    for new, old in enumerate(source[i]['permutation'], 1):
      table[old] = new if old else 0
    ids = source.ids(i, (tiny.FRAMES, tiny.SIDE, tiny.SIDE))
    np.testing.assert_array_equal(ids, table[clip.ids])
  for name in ('demo_stage1', 'demo_stage2'):
    run = tmp_path / name
    ended = cli.run(*tiny.train_command(name, run, latents, train__steps=20))
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['train/loss'] for line in lines if 'train/loss' in line]
    assert len(losses) == 20 and np.isfinite(losses).all()


@pytest.fixture
def planted(monkeypatch, tmp_path):
  """Tiny models of the real classes whose outputs are replaced by the ground truth."""
  import transformers

  truth = np.zeros((tiny.FRAMES, tiny.SIDE, tiny.SIDE), np.uint8)
  for t in range(tiny.FRAMES):
    truth[t, 4:10, 2 + 2 * t : 8 + 2 * t] = 1
    truth[t, 9:14, 11:15] = 2

  def answer(self, texts):
    return [
      'Answer: [[left dog: a brown dog] [ball: a red ball]]'
      if 'Answer: [[' in asked
      else 'Motion-specific prompt: "The dog runs."'
      for asked in texts
    ]

  monkeypatch.setattr(language_model.LanguageModel, '__call__', answer)
  dino = transformers.GroundingDinoForObjectDetection
  see = dino.forward

  def detect(self, **inputs):
    output = see(self, **inputs)
    # Two dogs and a ball: center, width and height relative to the image size.
    output.pred_boxes[:, 0] = torch.tensor([5, 7, 6, 6]) / 16
    output.pred_boxes[:, 1] = torch.tensor([13, 3, 4, 4]) / 16
    output.pred_boxes[:, 2] = torch.tensor([13, 11.5, 4, 5]) / 16
    output.logits[:] = -20
    is_dog = inputs['input_ids'][:, 1] == inputs['input_ids'][0, 1]
    output.logits[is_dog, 0, 1], output.logits[is_dog, 1, 1] = 1.0, 2.0
    output.logits[~is_dog, 2, 1] = 1.0
    return output

  monkeypatch.setattr(dino, 'forward', detect)
  sam = transformers.Sam2VideoModel
  track, boxes = sam.forward, []

  def follow(self, inference_session, frame_idx=None, **others):
    output = track(self, inference_session, frame_idx=frame_idx, **others)
    if not frame_idx:
      boxes.append([p[0]['point_coords'] for p in inference_session.point_inputs_per_obj.values()])
    for i in range(len(output.pred_masks)):
      mask = torch.tensor(truth[frame_idx] == i + 1)
      output.pred_masks[i, 0] = torch.where(mask, 8.0, -8.0)
    return output

  monkeypatch.setattr(sam, 'forward', follow)
  models = [
    f'--llm={tiny_models.llama(tmp_path / "llm")}',
    f'--detector={tiny_models.grounding_dino(tmp_path / "dino")}',
    f'--sam={tiny_models.sam2_video(tmp_path / "sam")}',
    '--sam_backend=transformers',
    f'--clip_model={tiny_models.clip_vision(tmp_path / "clip")}',
    f'--aesthetic_head={tiny_models.aesthetic_head(tmp_path / "head.safetensors")}',
    '--device=cpu',
    '--offline',
  ]
  return models, truth, boxes


def check_planted(out, truth, boxes):
  clips = list(Clips(out, 'train'))
  for clip in clips:
    np.testing.assert_array_equal(clip.ids, truth)
    assert clip.names == ('left dog', 'ball') and clip.motion == 'The dog runs.'
    assert clip.prompts == ('a brown dog', 'a red ball')
  # SAM 2 gets the tight boxes, in the pixels of its own square.
  scale = tiny_models.SIDE / tiny.SIDE
  for first, second in boxes:
    np.testing.assert_allclose(first.ravel(), np.array([2, 4, 8, 10]) * scale, atol=1e-4)
    np.testing.assert_allclose(second.ravel(), np.array([11, 9, 15, 14]) * scale, atol=1e-4)
  return clips


def test_raw_videos_through_all_steps(planted, tmp_path):
  models, truth, boxes = planted
  source = tmp_path / 'source'
  source.mkdir()
  video_fixtures.save(source / 'a.mp4', video_fixtures.levels(9, (32, 32)))
  video_fixtures.save(source / 'b.mp4', video_fixtures.levels(5, (40, 64)))
  video_fixtures.save(source / 'silent.mp4', video_fixtures.levels(5, (40, 64)))
  (source / 'captions.csv').write_text(
    'video,caption\na.mp4,A [brown] dog and a ball.\nb.mp4,Two dogs.\nsilent.mp4,\n'
  )
  out = tmp_path / 'out'
  prepare.main([f'--source={source}', f'--out={out}', CLIP, '--fps=12', *models])
  clips = check_planted(out, truth, boxes)
  assert [clip.key for clip in clips] == ['a/00000', 'a/00004', 'b/00000']
  report = json.loads((out / 'report.json').read_text())
  assert report['windows']['reasons'] == {'no caption': 1}
  assert report['scores']['aesthetic']['least'] <= report['scores']['aesthetic']['most']


@real_data
def test_real_raw_videos_through_all_steps(planted, tmp_path):
  models, truth, boxes = planted
  for name, frames in (('clips_without_masks', 289), ('captioned_clips/tora', None)):
    source, out = tmp_path / name.replace('/', '-'), tmp_path / f'out-{frames}'
    source.mkdir()
    for path in (SHARED / name).rglob('*'):
      if path.suffix in ('.mp4', '.txt'):
        (source / path.name).write_bytes(path.read_bytes())
    if frames:
      (source / '01_dog.txt').write_text('A dog runs over a lawn.')
    prepare.main([f'--source={source}', f'--out={out}', CLIP, '--fps=8', '--stride=60', *models])
    clips = check_planted(out, truth, boxes)
    assert clips and all(clip.video.std() > 5 for clip in clips)


def test_a_photo_through_all_models(planted, tmp_path, capsys):
  """Run the models of a job on one image."""
  models, truth, boxes = planted
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 255, (tiny.SIDE, tiny.SIDE, 3), np.uint8)
  Image.fromarray(photo).save(tmp_path / 'photo.png')
  used = [flag for flag in models if 'clip_model' not in flag and 'aesthetic' not in flag]
  out = tmp_path / 'photo.safetensors'
  describe.main([f'--image={tmp_path}/photo.png', '--prompt=A dog.', f'--out={out}', *used])
  found = Described.load(out)
  np.testing.assert_array_equal(found.segmentation, truth[0])
  np.testing.assert_array_equal(found.picture, photo)
  assert found.names == {1: 'left dog', 2: 'ball'} and found.motion == 'The dog runs.'
  assert found.prompts == {1: 'a brown dog', 2: 'a red ball'}
  scale = tiny_models.SIDE / tiny.SIDE
  np.testing.assert_allclose(boxes[0][0].ravel(), np.array([2, 4, 8, 10]) * scale, atol=1e-4)
  assert 'object 2, ball: a red ball' in capsys.readouterr().out
