"""Every step with a real model class, with small random weights loaded from folders like users'.

Ground truth replaces the model's outputs: results must then equal it exactly, to the pixel.
"""

import json

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import torch
import transformers

from data_tools.drafts import Draft, Rejected
from data_tools.steps import aesthetic, caption, detect, prompts, segment, text
from tests.helpers import tiny_models
from tests.helpers.model_inputs import video, weights
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation import captioner, language_model, sam2, text_encoder
from ttm_jax.pytorch.annotation.model_source import ModelSource

transformers.utils.logging.disable_progress_bar()


def test_a_model_that_talks_nonsense_gives_reasons(tiny_model, monkeypatch):
  monkeypatch.setattr(language_model, 'MAX_NEW_TOKENS', 5)
  step = prompts.PromptSettings(weights(tiny_model('llama'))).build()
  drafts = [Draft(k, video(1), 8.0, caption=f'A {k}.') for k in ('dog', 'cat')]
  outcomes = step(drafts)
  assert [o.draft.key for o in outcomes] == ['dog', 'cat']
  assert all('answer of the language model' in o.reason for o in outcomes)


def test_captions_from_three_frames(tiny_model, monkeypatch):
  monkeypatch.setattr(captioner, 'MAX_NEW_TOKENS', 4)
  step = caption.CaptionSettings(weights(tiny_model('vision_language'), batch=2)).build()
  seen = []
  describe = step._describe
  step._describe = lambda groups: seen.extend(groups) or describe(groups)
  one, two, three = video(5), video(4, (30, 30), 1), video(1, seed=2)
  drafts = [Draft('a', one, 8.0), Draft('b', two, 8.0, caption='Given.'), Draft('c', three, 8.0)]
  first, second, third = step(drafts)
  assert second is drafts[1] and first.caption and third.caption
  assert [len(group) for group in seen] == [3, 3]
  np.testing.assert_array_equal(seen[0][1], one[2])
  np.testing.assert_array_equal(seen[1][2], three[0])
  (alone,) = step([drafts[2]])
  assert alone.caption == third.caption
  monkeypatch.setattr(step, '_describe', lambda groups: [' \n'])
  (nothing,) = step([drafts[0]])
  assert nothing.reason == 'the vision language model returned no text'


def test_a_random_detector_finds_nothing_or_boxes_within(tiny_model):
  step = detect.DetectSettings(weights(tiny_model('grounding_dino')), threshold=0.0).build()
  (some,) = step([Draft('a', video(), 8.0, names={1: 'left dog', 2: 'ball'})])
  if isinstance(some, Draft):
    for box in some.boxes.values():
      assert (box >= 0).all() and (box <= [60, 40, 60, 40]).all()
  none = detect.DetectSettings(weights(tiny_model('grounding_dino')), threshold=1.0).build()
  (outcome,) = none([Draft('a', video(), 8.0, names={1: 'dog'})])
  assert isinstance(outcome, Rejected) and outcome.reason == 'not detected'


def test_planted_masks_give_the_true_label_map(tiny_model, monkeypatch):
  """If the network returns the ground truth, the label map equals it to the pixel."""
  track = sam2.TransformersTracker(weights(tiny_model('sam2_video')))
  truth = np.zeros((3, 16, 16), np.uint8)  # An image of the size of the model's masks.
  for t in range(3):
    truth[t, 2:6, 1 + 2 * t : 6 + 2 * t] = 1
    truth[t, 4:10, 10:14] = 2
  frames = video(3, (16, 16))
  plant(monkeypatch, track._model, truth)
  boxes = {7: np.array([1.0, 2, 6, 6]), 3: np.array([10.0, 4, 14, 10])}
  draft = Draft('a', frames, 8.0, names={7: 'dog', 3: 'ball'}, boxes=boxes)
  (done,) = segment.Segment(track)([draft])
  assert isinstance(done, Draft), done
  np.testing.assert_array_equal(done.ids, np.array([0, 7, 3], np.uint8)[truth])


def plant(monkeypatch, model, truth):
  """Replace the network's outputs per frame: object i of frame t is truth[t] == i + 1."""
  forward = type(model).forward

  def planted(self, inference_session, frame_idx=None, **others):
    output = forward(self, inference_session, frame_idx=frame_idx, **others)
    for i in range(len(output.pred_masks)):
      output.pred_masks[i, 0] = torch.where(torch.tensor(truth[frame_idx] == i + 1), 8.0, -8.0)
    return output

  monkeypatch.setattr(type(model), 'forward', planted)


def test_backends_are_named(tiny_model, capsys):
  with pytest.raises(InputError, match='--sam_backend other: choose auto, sam2, transformers'):
    sam2.tracker(weights(tiny_model('sam2_video')), 'other')
  made = segment.SegmentSettings(weights(tiny_model('sam2_video')), 'transformers').build()
  (outcome,) = made([Draft('a', video(), 8.0, boxes={1: np.array([5.0, 8, 25, 30])})])
  assert isinstance(outcome, Draft | Rejected)


def test_aesthetic_score(tiny_model, tmp_path):
  head = tiny_models.aesthetic_head(tmp_path / 'head.safetensors')
  path = tiny_model('clip_vision')
  clips = [video(5), video(1, (16, 16), 1)]
  step = aesthetic.AestheticSettings(weights(path, batch=3), str(head)).build()
  first, second = step([Draft(k, v, 8.0) for k, v in zip('ab', clips, strict=True)])
  model = transformers.CLIPVisionModelWithProjection.from_pretrained(path)
  pixels = (clips[1][0].transpose(2, 0, 1) / 255 - 0.5) / 0.25  # Already 16 x 16.
  embedding = model(torch.tensor(pixels[None], dtype=torch.float32)).image_embeds[0]
  embedding = (embedding / embedding.norm()).detach().numpy()
  t = safetensors_of(head)
  hidden = t['layers.0.weight'] @ embedding + t['layers.0.bias']
  wanted = (t['layers.2.weight'] @ hidden + t['layers.2.bias'])[0]
  assert second.scores['aesthetic'] == pytest.approx(wanted, abs=1e-4)
  thirds = [step([Draft('x', clips[0][i : i + 1], 8.0)])[0].scores['aesthetic'] for i in (0, 2, 4)]
  assert first.scores['aesthetic'] == pytest.approx(np.mean(thirds), abs=1e-4)
  strict = aesthetic.AestheticSettings(weights(path), str(head), least=1e6).build()
  (outcome,) = strict([Draft('a', clips[0], 8.0)])
  assert outcome.reason == 'aesthetic score below 1e+06'


def safetensors_of(path):
  import safetensors.numpy

  return safetensors.numpy.load_file(path)


@pytest.mark.parametrize(
  'given, said',
  [
    ('clip', 'write NAME=MODEL:LENGTH:PROMPT_LENGTH'),
    ('clip=x:77', 'write NAME=MODEL'),
    ('my clip=x:77:77', 'write NAME=MODEL'),
    ('clip=x:a:77', 'lengths are whole numbers from 1 to 65536'),
    ('clip=x:77:0', 'lengths are whole numbers from 1 to 65536'),
  ],
)
def test_text_flags_are_checked(given, said):
  with pytest.raises(InputError, match=said):
    text.TextSettings.parse(given, ModelSource('x'))


def test_lengths_on_the_command_line():
  for length in ('100000000000', '9' * 5000, '0', '\u00b2'):
    with pytest.raises(InputError, match='lengths are whole numbers from 1 to 65536'):
      text.TextSettings.parse(f't5=x:{length}:8', ModelSource(''))


def test_text_flags():
  got = text.TextSettings.parse('t5=C:/a/b:128:64', ModelSource('x', device='cpu'))
  assert (got.name, got.length, got.prompt_length) == ('t5', 128, 64)
  assert got.weights == ModelSource('C:/a/b', device='cpu')


def test_steps_run_alone(tiny_model, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(language_model, 'MAX_NEW_TOKENS', 4)
  from PIL import Image

  from ttm_jax.media import video_io

  picture, film = str(tmp_path / 'a.png'), str(tmp_path / 'a.mp4')
  Image.fromarray(video(1)[0]).save(picture)
  video_io.write_video(film, video(), 8.0)

  def flags(name):
    return ['--model', str(tiny_model(name)), '--device', 'cpu', '--offline']

  prompts.main([*flags('llama'), '--caption', 'A dog.'])
  said = json.loads(capsys.readouterr().out)
  assert said['caption'] == 'A dog.' and 'language model' in said['rejected']
  options = ['--image', picture, '--name', 'dog', '--threshold', '1']
  detect.main([*flags('grounding_dino'), *options])
  assert json.loads(capsys.readouterr().out)['rejected'] == 'not detected'
  head = str(tiny_models.aesthetic_head(tmp_path / 'head.safetensors'))
  aesthetic.main([*flags('clip_vision'), '--head', head, '--image', picture, '--image', film])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines] == [picture, film]
  out = str(tmp_path / 't.safetensors')
  text.main([*flags('t5'), '--text', 'a dog', '--length', '9', '--out', out])
  assert safetensors_of(out)['lengths'].tolist() == [6]
  assert 'tokens [6]' in capsys.readouterr().out


def test_pretrained_texts_reach_the_latents_dataset(tiny_model, clips, tmp_path):
  """Run the command as users do; the embeddings equal those of the library."""
  from tests.helpers import cli, tiny
  from ttm_jax.data.clips import Clips
  from ttm_jax.data.context import Context
  from ttm_jax.data.latents import Latents

  clip_path, t5_path = tiny_model('clip_text'), tiny_model('t5')
  out = tmp_path / 'latents'
  made = cli.run(
    'data_tools.encode',
    f'--clips={clips}',
    f'--out={out}',
    f'--codec={tiny.CODEC}',
    f'--text=clip={clip_path}:77:20',
    f'--text=t5={t5_path}:32:16',
    '--max_objects=3',
    '--no-permute',
    '--text_device=cpu',
    '--offline',
  )
  assert made.code == 0, made.err
  context = Context.load(out)
  assert {n: (e.dim, e.length, e.prompt_length) for n, e in context.encoding.encoders.items()} == {
    'clip': (12, 77, 20),
    't5': (16, 32, 16),
  }
  assert context.encoding.prefix == 'FPS-8'
  assert context.encoding.models == {'clip': str(clip_path), 't5': str(t5_path)}
  record, clip = Latents(out, 'train')[5], Clips(clips, 'train')[5]
  encode = text_encoder.TransformersText(weights(t5_path))
  for field, said in (('caption', clip.caption), ('motion', clip.motion)):
    wanted, lengths = encode([f'FPS-8 {said}'], 32)
    np.testing.assert_allclose(record[f'text.t5.{field}'], wanted[0], rtol=2e-3, atol=2e-3)
    assert record[f'text.t5.{field}_length'] == lengths[0]
  count = len(clip.prompts)
  wanted, lengths = encode(list(clip.prompts), 16)
  np.testing.assert_allclose(record['text.t5.prompts'][:count], wanted, rtol=2e-3, atol=2e-3)
  assert record['text.t5.prompts_length'].tolist() == [*lengths, *[0] * (3 - count)]
  assert record['text.clip.caption'].shape == (77, 12) and record['text.clip.caption_length'] == 77
  empty = encode([''], 32)[0]
  np.testing.assert_allclose(context.null_text['text.t5.caption'], empty, rtol=2e-3, atol=2e-3)
  twice = cli.run(
    'data_tools.encode',
    f'--clips={clips}',
    f'--out={tmp_path}/no',
    f'--codec={tiny.CODEC}',
    f'--text=t5={t5_path}:8:8',
    f'--text=t5={t5_path}:8:8',
  )
  assert twice.code == 2 and 'the name t5 is already used' in twice.err
