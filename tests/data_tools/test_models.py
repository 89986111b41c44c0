"""Every step with a real model class, with small random weights loaded from folders like users'.

Random weights detect nothing. The tests check that inputs arrive in the format that the model
expects, and that outputs are mapped back to the coordinates of the images. Ground truth replaces
the model's outputs: results must then equal it exactly, to the pixel.
"""

import json

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import torch
import transformers

from data_tools.drafts import Draft, Rejected
from data_tools.steps import aesthetic, caption, detect, prompts, sam2_transformers, segment, text
from data_tools.steps.weights import ModelSource
from tests.helpers import tiny_models
from ttm_jax.errors import InputError
from ttm_jax.pytorch import tracking

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Make each tiny model once, on demand."""
  root, made = tmp_path_factory.mktemp('models'), {}

  def model(name, **options):
    key = f'{name}{"".join(map(str, options.values()))}'
    if key not in made:
      made[key] = getattr(tiny_models, name)(root / key.replace(' ', ''), **options)
    return made[key]

  return model


def weights(path, **options):
  return ModelSource(str(path), device='cpu', offline=True, **options)


def video(frames=3, size=(40, 60), seed=0):
  return np.random.default_rng(seed).integers(0, 255, (frames, *size, 3), np.uint8)


# Weights.


def test_weights_are_refused_with_the_remedy(folder, tmp_path):
  with pytest.raises(InputError, match='no/such/folder: there is no such folder'):
    weights('no/such/folder').load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='nobody/nothing: cannot be loaded as AutoConfig'):
    weights('nobody/nothing').load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='is a t5, not a llama; give another model'):
    weights(folder('t5')).load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match=r'lacks \d+ weights of a T5Model, such as decoder'):
    weights(folder('t5')).load(transformers.T5Model)
  source = transformers.AutoModelForCausalLM.from_pretrained(folder('llama'))
  source.config.save_pretrained(tmp_path)
  torch.save(source.state_dict(), tmp_path / 'pytorch_model.bin')
  with pytest.raises(InputError, match='cannot be loaded as LlamaForCausalLM'):
    weights(tmp_path).load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='--dtype int8: choose auto, float32'):
    ModelSource('x', dtype='int8')


def test_dtypes(folder):
  model = weights(folder('llama'), dtype='bfloat16').load(transformers.AutoModelForCausalLM)
  assert next(model.parameters()).dtype == torch.bfloat16 and not model.training


# Language model.


@pytest.mark.parametrize('template', [None, "{{ messages[0]['content'] }} ->"])
def test_language_model_answers_each_prompt_alone(folder, template, monkeypatch):
  monkeypatch.setattr(prompts, 'MAX_NEW_TOKENS', 6)
  path = folder('llama', template=template)
  asked = ['A dog.', 'A much longer caption of a cat and a dog.', 'x']
  batched = prompts.LanguageModel(weights(path, batch=3))(asked)
  alone = prompts.LanguageModel(weights(path, batch=1))(asked)
  assert batched == alone and len(set(batched)) > 1  # Padding changes nothing.
  # The same with the library's own functions.
  model = transformers.AutoModelForCausalLM.from_pretrained(path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  ids = tokenizer(asked[0] + (' ->' if template else ''), return_tensors='pt').input_ids
  for _ in range(6):
    ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
  assert batched[0] == tokenizer.decode(ids[0, -6:], skip_special_tokens=True)


def test_a_model_that_talks_nonsense_gives_reasons(folder, monkeypatch):
  monkeypatch.setattr(prompts, 'MAX_NEW_TOKENS', 5)
  step = prompts.PromptSettings(weights(folder('llama'))).build()
  drafts = [Draft(k, video(1), 8.0, caption=f'A {k}.') for k in ('dog', 'cat')]
  outcomes = step(drafts)
  assert [o.draft.key for o in outcomes] == ['dog', 'cat']
  assert all('answer of the language model' in o.reason for o in outcomes)


def test_captions_from_three_frames(folder, monkeypatch):
  monkeypatch.setattr(caption, 'MAX_NEW_TOKENS', 4)
  step = caption.CaptionSettings(weights(folder('vision_language'), batch=2)).build()
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
  assert nothing.reason == 'the vision language model said nothing'


# Detection.


def test_planted_boxes_come_back_in_pixels(folder, monkeypatch):
  """The model returns center, width and height relative to the image size."""
  detector = detect.GroundingDino(weights(folder('grounding_dino'), batch=2))
  tall, wide = video(1, (90, 30))[0], video(1, (40, 80))[0]
  seen = []
  forward = type(detector._model).forward

  def planted(self, **inputs):
    seen.append({k: v.clone() for k, v in inputs.items()})
    output = forward(self, **inputs)
    output.pred_boxes[:] = torch.tensor([0.5, 0.5, 0.1, 0.1])
    output.pred_boxes[:, 3] = torch.tensor([0.5, 0.25, 0.4, 0.3])
    output.pred_boxes[:, 4] = torch.tensor([0.95, 0.9, 0.2, 0.4])  # Beyond the edge.
    output.logits[:] = -20
    output.logits[:, 3, 1], output.logits[:, 4, 1] = 2.0, 0.0
    return output

  monkeypatch.setattr(type(detector._model), 'forward', planted)
  found = detector([tall, wide, tall], ['Dog', 'red ball', 'v. small cat'])
  for (boxes, scores), (h, w) in zip(found, [(90, 30), (40, 80), (90, 30)], strict=True):
    np.testing.assert_allclose(
      boxes, [[0.3 * w, 0.1 * h, 0.7 * w, 0.4 * h], [0.85 * w, 0.7 * h, w, h]], rtol=1e-5
    )
    np.testing.assert_allclose(scores, [1 / (1 + np.exp(-2)), 0.5], rtol=1e-5)
  assert [len(inputs['input_ids']) for inputs in seen] == [2, 1]
  tokenizer = detector._processor.tokenizer
  texts = [tokenizer.decode(r, skip_special_tokens=True) for s in seen for r in s['input_ids']]
  assert [t.replace(' ', '') for t in texts] == ['dog.', 'redball.', 'vsmallcat.']
  # Images are scaled to 64 at the shorter side or 96 at the longer side, and padded together.
  assert seen[0]['pixel_mask'][0].any(1).sum() == 96 and seen[0]['pixel_mask'][1].any(0).sum() == 96


def test_a_random_detector_finds_nothing_or_boxes_within(folder):
  step = detect.DetectSettings(weights(folder('grounding_dino')), threshold=0.0).build()
  (some,) = step([Draft('a', video(), 8.0, names={1: 'left dog', 2: 'ball'})])
  if isinstance(some, Draft):
    for box in some.boxes.values():
      assert (box >= 0).all() and (box <= [60, 40, 60, 40]).all()
  none = detect.DetectSettings(weights(folder('grounding_dino')), threshold=1.0).build()
  (outcome,) = none([Draft('a', video(), 8.0, names={1: 'dog'})])
  assert isinstance(outcome, Rejected) and outcome.reason == 'not detected'


# Segmentation.

BOXES = np.array([[5.0, 8, 25, 30], [30.0, 4, 50, 36]])


def test_boxes_reach_sam2_in_its_frame_and_masks_come_back(folder, monkeypatch):
  track = sam2_transformers.TransformersTracker(weights(folder('sam2_video')))
  seen, side = [], tiny_models.SIDE
  run = type(track._model)._single_frame_forward

  def planted(self, pixel_values=None, input_points=None, input_labels=None, **others):
    output = run(
      self,
      pixel_values=pixel_values,
      input_points=input_points,
      input_labels=input_labels,
      **others,
    )
    if input_points is not None:
      seen.append((input_points.clone(), input_labels.clone()))
    return output

  monkeypatch.setattr(type(track._model), '_single_frame_forward', planted)
  logits = track(video(), BOXES)
  assert logits.shape == (3, 2, 40, 60) and logits.dtype == np.float32
  boxed = [(p, k) for p, k in seen if k.shape[-1] >= 2 and set(k.ravel().tolist()) >= {2, 3}]
  for (points, labels), box in zip(boxed[:2], BOXES, strict=True):
    corners = points.reshape(-1, 2)[:2].numpy()
    np.testing.assert_allclose(corners, box.reshape(2, 2) * [side / 60, side / 40], rtol=1e-5)
    assert labels.ravel()[:2].tolist() == [2, 3]
  # The library's own coordinates and images, except for its resizing filter.
  prepared = tracking.prepared(video(), side)
  assert prepared.shape == (3, 3, side, side)
  flat = tracking.prepared(np.full((1, 9, 9, 3), 128, np.uint8), 4)
  np.testing.assert_allclose(
    flat[0, :, 0, 0],
    (128 / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225],
    rtol=1e-5,
  )


def test_planted_masks_give_the_true_label_map(folder, monkeypatch):
  """If the network returns the ground truth, the label map equals it to the pixel."""
  track = sam2_transformers.TransformersTracker(weights(folder('sam2_video')))
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


def test_auto_takes_what_reads_the_weights(folder, monkeypatch, tmp_path, capsys):
  import importlib

  monkeypatch.setattr(importlib, 'import_module', lambda name: None)  # Both backends are installed.
  assert segment.tracker(weights(folder('sam2_video'))) is not None
  assert 'SAM 2 by the package transformers' in capsys.readouterr().err
  assert segment._usable('sam2', weights(tmp_path)) and not segment._usable('sam2', weights('a/b'))


def test_backends_are_named(folder, capsys):
  with pytest.raises(InputError, match='--sam_backend other: choose auto, sam2, transformers'):
    segment.tracker(weights(folder('sam2_video')), 'other')
  made = segment.SegmentSettings(weights(folder('sam2_video')), 'transformers').build()
  (outcome,) = made([Draft('a', video(), 8.0, boxes={1: BOXES[0]})])
  assert isinstance(outcome, Draft | Rejected)


# Aesthetic score.


def test_aesthetic_score(folder, tmp_path):
  head = tiny_models.aesthetic_head(tmp_path / 'head.safetensors')
  path = folder('clip_vision')
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


def test_heads_are_checked(folder, tmp_path):
  wrong = tiny_models.aesthetic_head(tmp_path / 'wide.safetensors', width=7)
  with pytest.raises(InputError, match=r'takes embeddings of 7, but .* gives 12'):
    aesthetic.ClipScore(weights(folder('clip_vision')), str(wrong))
  (tmp_path / 'x').write_text('x')
  with pytest.raises(InputError, match='no readable safetensors'):
    aesthetic.read_head(str(tmp_path / 'x'))


# Texts.


def test_t5_keeps_lengths(folder):
  for name, options in (('t5', {}), ('t5', {'multilingual': True}), ('byt5', {})):
    path = folder(name, **options)
    encode = text.TransformersText(weights(path))
    embeddings, lengths = encode(['a dog', '', 'a much longer text'], 8)
    assert encode.dim == 16 and embeddings.shape == (3, 8, 16) and embeddings.dtype == np.float16
    # Byte tokens and the end token; the last text is truncated.
    assert lengths.tolist() == [6, 1, 8]
    assert not embeddings[0, 6:].any() and not embeddings[1, 1:].any()
    # Padding and other texts change nothing: compare with the library on each text alone.
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = encode._model
    ids = tokenizer('a dog', return_tensors='pt').input_ids
    wanted = model(ids).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(embeddings[0, :6], wanted, rtol=2e-3, atol=2e-3)


def test_all_places_of_clip_count(folder):
  path = folder('clip_text')
  encode = text.TransformersText(weights(path))
  embeddings, lengths = encode(['a dog', ''], 12)
  assert encode.dim == 12 and lengths.tolist() == [12, 12]
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  ids = tokenizer('a dog', padding='max_length', max_length=12, return_tensors='pt').input_ids
  model = transformers.CLIPTextModel.from_pretrained(path)
  np.testing.assert_allclose(
    embeddings[0], model(ids).last_hidden_state[0].detach().numpy(), rtol=2e-3, atol=2e-3
  )
  with pytest.raises(InputError, match='a text encoder of 77 places cannot give 78 tokens'):
    encode(['x'], 78)


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


def test_text_flags():
  got = text.TextSettings.parse('t5=C:/a/b:128:64', ModelSource('x', device='cpu'))
  assert (got.name, got.length, got.prompt_length) == ('t5', 128, 64)
  assert got.weights == ModelSource('C:/a/b', device='cpu')


# Run single steps from the command line.


def test_steps_run_alone(folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(prompts, 'MAX_NEW_TOKENS', 4)
  from PIL import Image

  from ttm_jax.media import video_io

  picture, film = str(tmp_path / 'a.png'), str(tmp_path / 'a.mp4')
  Image.fromarray(video(1)[0]).save(picture)
  video_io.write_video(film, video(), 8.0)

  def flags(name):
    return ['--model', str(folder(name)), '--device', 'cpu', '--offline']

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


def test_pretrained_texts_reach_the_latents_dataset(folder, clips, tmp_path):
  """Run the command as users do; the embeddings equal those of the library."""
  from tests.helpers import cli, tiny
  from ttm_jax.data.clips import Clips
  from ttm_jax.data.context import Context
  from ttm_jax.data.latents import Latents

  clip_path, t5_path = folder('clip_text'), folder('t5')
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
  encode = text.TransformersText(weights(t5_path))
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
  assert twice.code == 2 and 'the name t5 is taken' in twice.err
