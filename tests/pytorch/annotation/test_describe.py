"""Describe one image: the detected objects, the file, the errors if nothing is found."""

import json

import numpy as np
import pytest

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

from tests.helpers import tiny_models
from tests.helpers.planted import Planted
from tests.helpers.planted import photo as make_photo
from ttm_jax.data.context import Encoding
from ttm_jax.data.encode import text_arrays
from ttm_jax.errors import InputError
from ttm_jax.inference.embedded_texts import encoders_of
from ttm_jax.inference.image_description import Described, Embeddings
from ttm_jax.inference.pretrained_texts import with_embeddings
from ttm_jax.pytorch.annotation.describe import Models, describe
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.text_encoder import TransformersText
from ttm_jax.text.encoders import TextEncoderSpec

CPU = ModelSource('', device='cpu', offline=True)
NAMED = Models(llm='LLM', detector='DINO', sam='SAM', weights=CPU)


def encoding(**changes):
  values = {
    'preset': 'dit',
    'frames': 4,
    'height': 16,
    'width': 16,
    'fps': 8.0,
    'palette': 'spread8',
    'max_objects': 3,
    'encoders': {},
    'grids': ((2, 2),),
  }
  return Encoding(**(values | changes))


@pytest.fixture
def photo():
  return make_photo()


@pytest.fixture
def planted(photo, monkeypatch):
  return Planted(monkeypatch, photo[1])


def told():
  lines = []
  return lines, lines.append


def test_everything_is_found(photo, planted):
  picture, ids = photo
  lines, tell = told()
  found = describe(picture, 'Two dogs and a ball.', NAMED, tell=tell)
  assert found.caption == 'Two dogs and a ball.' and found.motion == 'The dogs run.'
  assert found.names == {1: 'right dog', 2: 'ball', 3: 'left dog'}
  assert found.prompts == {1: 'a white dog', 2: 'a red ball', 3: 'a brown dog'}
  np.testing.assert_array_equal(found.segmentation, np.array([0, 3, 1, 2], np.uint8)[ids])
  np.testing.assert_array_equal(found.picture, picture)
  assert lines == ['prompts by LLM', 'boxes by DINO', 'masks by SAM']
  assert found.lines()[2] == 'object 1, right dog: a white dog'
  assert found.overlay().shape == picture.shape


def test_what_is_not_found_is_left_out_and_said(photo, planted):
  picture, ids = photo
  del planted.boxes['ball'], planted.scores['ball']
  lines, tell = told()
  found = describe(picture, 'Dogs.', NAMED, tell=tell)
  assert lines[-2:] == ['not found: ball', 'masks by SAM']
  assert found.names == {1: 'right dog', 2: 'left dog'}
  np.testing.assert_array_equal(found.segmentation, np.array([0, 2, 1, 0], np.uint8)[ids])
  # One detected dog: position words do not help, and one of the two named dogs has no box.
  planted.boxes['dog'], planted.scores['dog'] = planted.boxes['dog'][:1], [0.5]
  found = describe(picture, 'Dogs.', NAMED, tell=tell)
  assert found.names == {1: 'right dog'} and lines[-2] == 'not found: ball, left dog'
  planted.boxes.clear(), planted.scores.clear()
  with pytest.raises(InputError, match=r'none of the objects right dog, .* was found in the pict'):
    describe(picture, 'Dogs.', NAMED, tell=tell)


def test_what_is_given_is_kept(photo, planted):
  picture, ids = photo
  said = {2: 'a red ball that rolls', 5: 'the left dog'}
  planted.boxes = {'red ball': planted.boxes['ball'], 'dog': planted.boxes['dog'][:1]}
  planted.scores = {'red ball': [1.0], 'dog': [1.0]}
  found = describe(picture, 'x', NAMED, motion='Given.', prompts=said, tell=lambda _: None)
  assert found.motion == 'Given.' and found.prompts == said and not planted.asked
  np.testing.assert_array_equal(found.segmentation, np.array([0, 5, 0, 2], np.uint8)[ids])


def test_prompts_find_the_given_masks(photo, planted):
  picture, ids = photo
  planted.objects = '[[ball: a red ball] [left dog: a brown dog] [cat: a cat]]'
  lines, tell = told()
  found = describe(picture, 'x', NAMED, segmentation=ids, tell=tell)
  assert found.segmentation is ids
  assert found.names == {3: 'ball', 1: 'left dog'} and found.prompts[3] == 'a red ball'
  assert lines[-1] == 'not found: cat'
  assert found.lines()[-1] == 'object 2 has no prompt of its own'
  # One object and one mask need no detector.
  planted.objects = '[[dog: a dog]]'
  alone = describe(
    picture, 'x', Models(llm='LLM', weights=CPU), segmentation=(ids == 2) * np.uint8(7), tell=tell
  )
  assert alone.prompts == {7: 'a dog'}


@pytest.mark.parametrize(
  'models, given, said',
  [
    ({}, {}, r'no segmentation: give --segmentation MASK\.png, or --detector and --sam'),
    ({'detector': 'DINO', 'sam': 'SAM'}, {}, 'no object is named: give --llm to find'),
    ({'llm': 'LLM'}, {}, 'give --segmentation MASK.png, or --detector and --sam'),
    ({'detector': 'DINO'}, {'prompts': {1: 'a dog'}}, 'give --segmentation MASK.png, or'),
    ({'llm': 'LLM'}, {'segmentation': 1}, r'the mask has 3 objects, .* give --detector to match'),
    (
      {},
      {'segmentation': 1, 'prompts': {9: 'x'}},
      'object 9 has a prompt, but no pixel in the mask, which has objects .1, 2, 3.;',
    ),
    ({'detector': 'DINO', 'sam': 'SAM'}, {'prompts': {9: 'x'}}, '--object 9: number the objects'),
    ({}, {'segmentation': 0}, 'the mask is 9 x 9 but the picture is 30 x 20 pixels'),
  ],
)
def test_what_is_missing_is_named(photo, planted, models, given, said):
  picture, ids = photo
  if 'segmentation' in given:
    given = given | {'segmentation': ids if given['segmentation'] else ids[:9, :9]}
  with pytest.raises(InputError, match=said):
    describe(picture, 'x', Models(**models, weights=CPU), **given, tell=lambda _: None)


@pytest.mark.parametrize(
  'answer, said',
  [
    ('no', r'no list of objects in the answer .* give --motion and --object yourself'),
    ('[[a: x] [b: x] [c: x]]', r'too many objects \(3, at most 2\): give --motion'),
  ],
)
def test_answers_that_cannot_be_used(photo, planted, answer, said):
  planted.objects = answer
  with pytest.raises(InputError, match=said):
    describe(photo[0], 'x', NAMED, max_objects=2, tell=lambda _: None)


def test_hosts_without_pytorch_are_told_what_to_do(photo, monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, 'torch', None)
  said = r"pip install 'ttm_jax\[data\]', or describe the picture on a host that has them"
  with pytest.raises(InputError, match=said):
    describe(photo[0], 'x', NAMED)
  # If nothing has to be found, no model is needed.
  given = {'segmentation': photo[1], 'prompts': {1: 'a dog'}}
  found = describe(photo[0], 'x', **given)
  assert with_embeddings([found], [encoding()], CPU)[0].prompts == {1: 'a dog'}


# Texts.


@pytest.fixture(scope='module')
def clip_text(tmp_path_factory):
  return str(tiny_models.clip_text(tmp_path_factory.mktemp('models') / 'clip'))


def test_embeddings_are_those_that_runs_ask_for(photo, clip_text, tmp_path):
  picture, ids = photo
  clip = {'clip': TextEncoderSpec(12, 20, 10)}
  longer = {'clip': TextEncoderSpec(12, 30, 10), 'words': TextEncoderSpec(8, 20, 7)}
  first = encoding(encoders=clip, models={'clip': clip_text}, prefix='FPS-8')
  second = encoding(encoders=longer, models={'clip': clip_text})
  said = {'motion': 'It runs.', 'segmentation': ids, 'prompts': {1: 'a dog', 3: 'a ball'}}
  made = describe(picture, 'A dog.', **said)
  (made,) = with_embeddings([made], [first, second], CPU, tell=lambda _: None)
  made.save(tmp_path / 'd.safetensors')
  back = Described.load(tmp_path / 'd.safetensors')
  np.testing.assert_array_equal(back.picture, picture)
  np.testing.assert_array_equal(back.segmentation, ids)
  assert (back.caption, back.motion, back.prompts) == (
    'A dog.',
    'It runs.',
    {1: 'a dog', 3: 'a ball'},
  )
  true = TransformersText(ModelSource(clip_text, 'cpu', offline=True))
  for wanted in (first, second):
    encoders = encoders_of([back], wanted, 'RUN')
    got = text_arrays(wanted, encoders, back.caption, back.motion, dict(back.prompts))
    one = text_arrays(
      wanted, encoders | {'clip': true}, 'A dog.', 'It runs.', {1: 'a dog', 3: 'a ball'}
    )
    assert got.keys() == one.keys()
    for name in got:
      np.testing.assert_array_equal(got[name], one[name])
    said = [wanted.prefixed('A dog.')]
    np.testing.assert_array_equal(
      got['text.clip.caption'], true(said, wanted.encoders['clip'].length)[0][0]
    )
  assert ('FPS-8 A dog.', 20) in back.texts['clip'].rows and ('A dog.', 30) in back.texts[
    'clip'
  ].rows
  with pytest.raises(
    InputError, match=r'no embedding of "FPS-8 A cat." by clip, 20 tokens long; describe'
  ):
    text_arrays(first, encoders_of([back], first, 'RUN'), 'A cat.', '', {})
  with pytest.raises(InputError, match='run RUN reads text by t5, of which the description'):
    encoders_of([back], encoding(encoders={'t5': TextEncoderSpec(8, 9, 9)}), 'RUN')
  with pytest.raises(InputError, match='run RUN reads text by clip = other, but'):
    encoders_of([back], encoding(encoders=clip, models={'clip': 'other'}), 'RUN')


def test_runs_must_agree_on_their_models(photo, clip_text):
  clip = {'clip': TextEncoderSpec(12, 20, 10)}
  found = describe(photo[0], 'x', segmentation=photo[1])
  two = [encoding(encoders=clip, models={'clip': name}) for name in ('a', 'b')]
  with pytest.raises(InputError, match='different models for the text encoder clip, a and b; use'):
    with_embeddings([found], two, CPU)
  old = encoding(encoders=clip)
  said = 'does not record the model of the text encoder clip; give --text clip=MODEL'
  with pytest.raises(InputError, match=said):
    with_embeddings([found], [old], CPU)
  (made,) = with_embeddings([found], [old], CPU, {'clip': clip_text}, lambda _: None)
  assert isinstance(encoders_of([made], old, 'RUN')['clip'], Embeddings)


@pytest.mark.parametrize('how', ['missing', 'text', 'cut', 'other', 'newer', 'bare'])
def test_files_are_checked(photo, tmp_path, how):
  import safetensors.numpy

  path = tmp_path / 'd.safetensors'
  Described(*photo, 'c', 'm', {1: 'dog'}, {1: 'a dog'}).save(path)
  content = path.read_bytes()
  said = {
    'missing': 'there is no such file; make it with python -m data_tools.describe',
    'text': 'not a complete safetensors file',
    'cut': 'not a complete safetensors file',
    'other': 'describes no picture; make one with',
    'newer': r'damaged \(version 2, this program reads 1\); describe the picture again',
    'bare': r"damaged \('segmentation'\); describe the picture again",
  }[how]
  path.unlink()
  if how == 'text':
    path.write_text('none')
  elif how == 'cut':
    path.write_bytes(content[:-100])
  elif how == 'other':
    safetensors.numpy.save_file({'a': np.zeros(3)}, path)
  elif how == 'newer':
    path.write_bytes(content.replace(rb'\"version\": 1', rb'\"version\": 2'))
  elif how == 'bare':
    length = int.from_bytes(content[:8], 'little')
    metadata = json.loads(content[8 : 8 + length])['__metadata__']
    safetensors.numpy.save_file({'picture': photo[0]}, path, metadata)
  with pytest.raises(InputError, match=said):
    Described.load(path)
