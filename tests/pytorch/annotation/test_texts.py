"""Empty and invalid texts give a value or one error message, never a traceback."""

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import transformers
from PIL import Image

from data_tools import describe
from tests.helpers import tiny_models
from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described
from ttm_jax.pytorch.annotation.grounding_dino import GroundingDino
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.text_encoder import TransformersText
from ttm_jax.pytorch.annotation.texts import name_from
from ttm_jax.pytorch.segmentation import Segmenter
from ttm_jax.pytorch.text_encoder import TTMTextEncoder, encode_words

transformers.utils.logging.disable_progress_bar()

PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
EMPTY = {'nothing': '', 'spaces': ' \n ', 'a dot': '.', 'marks': '?!...,', 'emoji': '\U0001f415'}
ODD = {'NUL': 'a\0b', 'escape': '\x1b[31mdog', 'direction': '\u202egod', 'emoji': 'dog \U0001f415'}
LONG, BROKEN = 'dog ' * 25_000, 'a\ud800b'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  names = ('grounding_dino', 'sam2_video', 'clip_text', 't5', 'byt5')
  return {name: str(getattr(tiny_models, name)(root / name)) for name in names}


@pytest.mark.parametrize('name', ['clip_text', 't5', 'byt5'])
def test_text_encoders(made, name):
  encode = TransformersText(ModelSource(made[name], 'cpu', offline=True))
  texts = [*EMPTY.values(), *ODD.values(), LONG]
  embeddings, counts = encode(texts, 16)
  assert embeddings.shape == (len(texts), 16, encode.dim) and np.isfinite(embeddings).all()
  assert counts[-1] == 16 and (counts >= 1).all()
  assert (embeddings[0] != embeddings[2]).any(), 'a dot is a text of its own'
  with pytest.raises(InputError, match=r"'a\\ud800b' holds bytes that are not valid UTF-8"):
    encode(['x', BROKEN], 16)
  for length in (0, -1, 10**11):
    with pytest.raises(InputError, match='give 1 to 65536'):
      encode(['x'], length)


def test_words():
  for said in EMPTY.values():
    ids, counts = encode_words([said], 8)
    assert ids.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]] and counts.tolist() == [1]
  (ids,), (count,) = encode_words([LONG], 8)
  assert count == 8 and len(set(ids[:7])) == 1 and ids[7] == 1
  # Characters other than letters separate words; half a surrogate pair is not a letter.
  both, counts = encode_words([BROKEN, 'a b'], 8)
  np.testing.assert_array_equal(*both)
  assert counts.tolist() == [3, 3]


def test_the_exported_text_encoder(made):
  encoder = {'name': 't5', 'dim': 16, 'length': 12, 'prompt_length': 4}
  stages = {'stage2': {'encoders': [encoder], 'max_objects': 1, 'prefix': ''}}
  encode = TTMTextEncoder(stages, {'t5': made['t5']})
  texts = [*EMPTY.values(), *ODD.values(), LONG]
  condition = encode('stage2', texts, [{1: said} for said in texts])
  assert condition.text['t5'].embedding.isfinite().all()
  with pytest.raises(InputError, match='holds bytes that are not valid UTF-8'):
    encode('stage2', [BROKEN], [{}])


def test_detection(made):
  find = GroundingDino(ModelSource(made['grounding_dino'], 'cpu', offline=True), 0.0)
  segment = Segmenter(made['grounding_dino'], made['sam2_video'], threshold=0.0)
  for said in EMPTY.values():
    for call in (
      lambda said=said: find([PHOTO, PHOTO], ['dog', said]),
      lambda said=said: segment(PHOTO, said),
      lambda said=said: segment(PHOTO, 'A dog runs.', ['dog', said]),
    ):
      with pytest.raises(InputError, match='names nothing that can be found; say what the object'):
        call()
  for said in ODD.values():
    ((boxes, scores),) = find([PHOTO], [said])
    assert len(boxes) == len(scores) and (boxes <= [120, 90, 120, 90]).all()
  with pytest.raises(InputError, match=r'has \d+ tokens, and the detector reads at most 256'):
    find([PHOTO], [LONG])
  with pytest.raises(InputError, match='holds bytes that are not valid UTF-8'):
    find([PHOTO], [BROKEN])


def test_names_from_prompts_that_name_nothing():
  assert name_from('.') == '.' and name_from('') == '' and name_from(' ') == ''
  assert name_from('The dog.') == 'dog' and name_from('a') == 'a'


@pytest.mark.parametrize('said', ['.', '!?', '\U0001f415', '...', '-'])
def test_describing_a_photo(made, tmp_path, capsys, said):
  Image.fromarray(PHOTO).save(tmp_path / 'photo.png')
  mask = np.zeros((90, 120), np.uint8)
  mask[10:40, 20:60] = 1
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  out = tmp_path / 'out.safetensors'
  given = [f'--image={tmp_path}/photo.png', f'--object=1: {said}', f'--out={out}', '--offline']
  models = [f'--detector={made["grounding_dino"]}', f'--sam={made["sam2_video"]}', '--device=cpu']
  with pytest.raises(SystemExit) as stopped:
    describe.main([*given, f'--prompt={said}', *models])
  assert stopped.value.code == 2 and 'names nothing that can be found' in capsys.readouterr().err
  assert not out.exists()
  describe.main([*given, f'--prompt={said}', f'--segmentation={tmp_path}/mask.png'])
  found = Described.load(out)
  assert found.caption == found.motion == said and found.prompts == {1: said}


def test_what_is_printed_of_a_photo_cannot_steer_the_terminal(tmp_path):
  mask = np.ones((4, 4), np.uint8)
  described = Described(PHOTO[:4, :4], mask, 'a\x1b[2J\nb', BROKEN, {1: '\r'}, {1: '\x9b'})
  described.save(tmp_path / 'd.safetensors')
  back = Described.load(tmp_path / 'd.safetensors')
  assert back.caption == 'a\x1b[2J\nb' and back.motion == BROKEN
  assert all(line.isprintable() for line in back.lines())
  assert back.lines()[0] == r'caption: a\x1b[2J b'
