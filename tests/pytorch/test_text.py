"""Texts in exported folders are embedded as in training."""

import json

import numpy as np
import pytest

from tests.helpers import exported, tiny_models
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.text_encoder import TransformersText

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch.text_encoder import TTMTextEncoder  # noqa: E402

torch.set_num_threads(1)


def test_pretrained_text_encoders_give_what_datasets_have(tmp_path):
  sources = {
    'clip': tiny_models.clip_text(tmp_path / 'clip'),
    't5': tiny_models.t5(tmp_path / 't5'),
  }
  lengths = {'clip': (77, 77), 't5': (12, 7)}
  dims = {'clip': 12, 't5': 16}
  encoders = [
    {'name': name, 'dim': dims[name], 'length': a, 'prompt_length': b}
    for name, (a, b) in lengths.items()
  ]
  stages = {'stage2': {'encoders': encoders, 'max_objects': 2, 'prefix': 'FPS-8'}}
  made = TTMTextEncoder(stages, {name: str(path) for name, path in sources.items()})
  condition = made('stage2', ['A dog runs.', ''], [{2: 'a dog'}, {}])
  for name, path in sources.items():
    encode = TransformersText(ModelSource(str(path), 'cpu'))
    embedding, counts = encode(['FPS-8 A dog runs.', ''], lengths[name][0])
    tokens = condition.text[name]
    np.testing.assert_allclose(tokens.embedding, embedding, atol=2e-3)
    np.testing.assert_array_equal((tokens.bits == -1).sum(1), counts)
    prompt, count = encode(['a dog'], lengths[name][1])
    local = condition.objects.prompts[name]
    np.testing.assert_allclose(local.embedding[0, lengths[name][1] :], prompt[0], atol=2e-3)
    assert (local.bits == 4).sum() == count[0] and not local.bits[1].any()
  assert not any('clip' in name and 'empty' not in name for name in made.state_dict())
  broken = TTMTextEncoder(stages, {'clip': str(tmp_path / 'none'), 't5': str(sources['t5'])})
  with pytest.raises(InputError, match="the text encoder 'clip' cannot be loaded"):
    broken('stage2', ['A dog.'], [{}])


def test_the_empty_text_is_that_of_the_runs(folders):
  where = exported.context('dit')
  null = exported.pipe(folders['dit'][1]).text_encoder.null('stage2')
  np.testing.assert_array_equal(null.text['words'].embedding, where.null_text['text.words.caption'])
  wanted = where.null_text['text.words.prompts'].reshape(1, -1)
  np.testing.assert_array_equal(null.objects.prompts['words'].embedding, wanted)
  assert (
    json.loads((folders['dit'][1] / 'text_encoder' / 'config.json').read_text())['models'] == {}
  )
