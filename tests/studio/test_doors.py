"""The command line of the studio, and the models that find objects for it."""

import numpy as np
import pytest

from tests.helpers import cli
from ttm_jax.inference.image_description import Described
from ttm_jax.pytorch.annotation.describe import Models
from ttm_jax.studio import annotation_finder, exported_app
from ttm_jax.studio.annotation_finder import AnnotationFinder

MASK = np.zeros((8, 12), np.uint8)
MASK[2:5, 3:7] = 1
PICTURE = np.zeros((8, 12, 3), np.uint8)


@pytest.mark.parametrize(
  'given, message',
  [
    ([], 'give --stage1 RUN --stage2 RUN, or an exported FOLDER'),
    (['folder', '--stage2', 'run'], 'or an exported FOLDER'),
    (['nowhere', '--port', '0'], 'nowhere is neither an exported folder nor a repository id'),
    (['--stage2', 'nowhere', '--port', '0'], 'nowhere'),
  ],
)
def test_what_cannot_be_started(given, message):
  ended = cli.run('ttm_jax.studio', *given)
  assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1


def test_the_language_model_the_detector_and_sam(monkeypatch):
  asked = {}

  def describe(picture, caption, models, **given):
    asked.update(given, caption=caption)
    return Described(picture, MASK, caption, 'It runs.', {1: 'dog'}, {1: 'a dog that runs'})

  monkeypatch.setattr(annotation_finder, 'describe', describe)
  finder = AnnotationFinder(Models('llm', 'dino', 'sam'))
  assert finder.by_text and finder.by_click
  found = finder.named(PICTURE, 'A dog.', '', 3)
  assert (found.mask == MASK).all() and found.names == {1: 'dog'} and found.motion == 'It runs.'
  assert asked['max_objects'] == 3 and asked['caption'] == 'A dog.'
  alone = AnnotationFinder(Models(sam='sam'))
  assert alone.by_click and not alone.by_text


def test_the_finder_of_an_exported_folder(monkeypatch):
  class Segmenter:
    def __init__(self, detector, sam, device):
      self.max_objects = None

    def __call__(self, picture, sentence):
      assert self.max_objects == 2
      return MASK, {1: sentence}

  monkeypatch.setattr(exported_app, 'Segmenter', Segmenter)
  finder = exported_app.PromptFinder('dino', 'sam', 'cpu', True)
  found = finder.named(PICTURE, 'A dog.', 'The dog runs.', 2)
  assert (found.mask == MASK).all() and found.prompts == {1: 'The dog runs.'}
  assert not exported_app.PromptFinder('', 'sam', 'cpu', True).by_text
