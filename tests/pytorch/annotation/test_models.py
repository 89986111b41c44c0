"""Every model with its real class, with small random weights loaded from folders like users'.

Random weights detect nothing. The tests check that inputs arrive in the format that the model
expects, and that outputs are mapped back to the coordinates of the images. Ground truth replaces
the model's outputs: results must then equal it exactly, to the pixel.
"""

import types

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import torch
import transformers

from tests.helpers import tiny_models
from tests.helpers.model_inputs import video, weights
from ttm_jax.errors import InputError
from ttm_jax.pytorch import tracking
from ttm_jax.pytorch.annotation import (
  clip_score,
  grounding_dino,
  language_model,
  sam2,
  text_encoder,
)
from ttm_jax.pytorch.annotation.model_source import ModelSource

transformers.utils.logging.disable_progress_bar()


def test_weights_are_refused_with_the_remedy(tiny_model, tmp_path):
  with pytest.raises(InputError, match='no/such/folder: there is no such folder'):
    weights('no/such/folder').load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='nobody/nothing: cannot be loaded as AutoConfig'):
    weights('nobody/nothing').load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='is a t5, not a llama; give another model'):
    weights(tiny_model('t5')).load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match=r'lacks \d+ weights of a T5Model, such as decoder'):
    weights(tiny_model('t5')).load(transformers.T5Model)
  source = transformers.AutoModelForCausalLM.from_pretrained(tiny_model('llama'))
  source.config.save_pretrained(tmp_path)
  torch.save(source.state_dict(), tmp_path / 'pytorch_model.bin')
  with pytest.raises(InputError, match='cannot be loaded as LlamaForCausalLM'):
    weights(tmp_path).load(transformers.LlamaForCausalLM)
  with pytest.raises(InputError, match='--dtype int8: choose auto, float32'):
    ModelSource('x', dtype='int8')


def test_dtypes(tiny_model):
  model = weights(tiny_model('llama'), dtype='bfloat16').load(transformers.AutoModelForCausalLM)
  assert next(model.parameters()).dtype == torch.bfloat16 and not model.training


@pytest.mark.parametrize('template', [None, "{{ messages[0]['content'] }} ->"])
def test_language_model_answers_each_prompt_alone(tiny_model, template, monkeypatch):
  monkeypatch.setattr(language_model, 'MAX_NEW_TOKENS', 6)
  path = tiny_model('llama', template=template)
  asked = ['A dog.', 'A much longer caption of a cat and a dog.', 'x']
  batched = language_model.LanguageModel(weights(path, batch=3))(asked)
  alone = language_model.LanguageModel(weights(path, batch=1))(asked)
  assert batched == alone and len(set(batched)) > 1  # Padding changes nothing.
  # The same with the library's own functions.
  model = transformers.AutoModelForCausalLM.from_pretrained(path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  ids = tokenizer(asked[0] + (' ->' if template else ''), return_tensors='pt').input_ids
  for _ in range(6):
    ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
  assert batched[0] == tokenizer.decode(ids[0, -6:], skip_special_tokens=True)


def test_planted_boxes_come_back_in_pixels(tiny_model, monkeypatch):
  """The model returns center, width and height relative to the image size."""
  detector = grounding_dino.GroundingDino(weights(tiny_model('grounding_dino'), batch=2))
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


BOXES = np.array([[5.0, 8, 25, 30], [30.0, 4, 50, 36]])


def test_boxes_reach_sam2_in_its_frame_and_masks_come_back(tiny_model, monkeypatch):
  track = sam2.TransformersTracker(weights(tiny_model('sam2_video')))
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


def test_auto_takes_what_reads_the_weights(tiny_model, monkeypatch, tmp_path, capsys):
  installed = types.SimpleNamespace(import_module=lambda name: None)  # Both backends.
  monkeypatch.setattr(sam2, 'importlib', installed)
  assert sam2.tracker(weights(tiny_model('sam2_video'))) is not None
  assert 'SAM 2 by the package transformers' in capsys.readouterr().err
  assert sam2._usable('sam2', weights(tmp_path)) and not sam2._usable('sam2', weights('a/b'))


def test_heads_are_checked(tiny_model, tmp_path):
  wrong = tiny_models.aesthetic_head(tmp_path / 'wide.safetensors', width=7)
  with pytest.raises(InputError, match=r'needs embeddings of width 7, but .* have 12'):
    clip_score.ClipScore(weights(tiny_model('clip_vision')), str(wrong))
  (tmp_path / 'x').write_text('x')
  with pytest.raises(InputError, match='not a valid safetensors file'):
    clip_score.read_head(str(tmp_path / 'x'))


def test_t5_keeps_lengths(tiny_model):
  for name, options in (('t5', {}), ('t5', {'multilingual': True}), ('byt5', {})):
    path = tiny_model(name, **options)
    encode = text_encoder.TransformersText(weights(path))
    embeddings, lengths = encode(['a dog', '', 'a much longer text'], 8)
    assert encode.dim == 16 and embeddings.shape == (3, 8, 16) and embeddings.dtype == np.float16
    # Byte tokens and the end token; the last text is truncated.
    assert lengths.tolist() == [6, 1, 8]
    assert not embeddings[0, 6:].any() and not embeddings[1, 1:].any()
    # Padding and other texts change nothing: compare with the library on each text alone.
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path).encoder
    ids = tokenizer('a dog', return_tensors='pt').input_ids
    wanted = model(ids).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(embeddings[0, :6], wanted, rtol=2e-3, atol=2e-3)


def test_all_places_of_clip_count(tiny_model):
  path = tiny_model('clip_text')
  encode = text_encoder.TransformersText(weights(path))
  embeddings, lengths = encode(['a dog', ''], 12)
  assert encode.dim == 12 and lengths.tolist() == [12, 12]
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  ids = tokenizer('a dog', padding='max_length', max_length=12, return_tensors='pt').input_ids
  model = transformers.CLIPTextModel.from_pretrained(path)
  np.testing.assert_allclose(
    embeddings[0], model(ids).last_hidden_state[0].detach().numpy(), rtol=2e-3, atol=2e-3
  )
  with pytest.raises(InputError, match='a length of 78 tokens: the text encoder reads at most 77'):
    encode(['x'], 78)
