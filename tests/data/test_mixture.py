"""Mixtures of latents datasets: how they are written, and whether they fit each other."""

import json
import math

import numpy as np
import pytest

from tests.helpers import mixtures
from tests.helpers.mixtures import IMAGES, SQUARE, WIDE
from ttm_jax.data import mixture
from ttm_jax.data.context import Context, read_encoding, read_mixed
from ttm_jax.data.mixture import Dataset
from ttm_jax.errors import InputError
from ttm_jax.text.encoders import TextEncoderSpec


@pytest.mark.parametrize(
  'text, wanted',
  [
    ('', {'': 1.0}),
    ('a/b', {'a/b': 1.0}),
    ('gs://bucket/a', {'gs://bucket/a': 1.0}),
    # Without weights, or alone, a text is one path.
    ('a:7', {'a:7': 1.0}),
    ('a, b:c,d', {'a, b:c,d': 1.0}),
    ('a:0.7,b:0.3', {'a': 0.7, 'b': 0.3}),
    ('a:3, b:1', {'a': 0.75, 'b': 0.25}),
    ('gs://x/a:1,gs://x:80/b:1,c:2:2', {'gs://x/a': 0.25, 'gs://x:80/b': 0.25, 'c:2': 0.5}),
  ],
)
def test_what_a_mixture_names(text, wanted, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(mixture, '_inside', lambda path: [Dataset(path, 1.0)])  # Reads no bucket.
  found = mixture.datasets(text)
  assert [dataset.path for dataset in found] == list(wanted)
  np.testing.assert_allclose([dataset.weight for dataset in found], list(wanted.values()))


@pytest.mark.parametrize(
  'text, said',
  [
    ('a:0.7,b', "'b' is not a dataset with its weight: write DIR_A:0.7,DIR_B:0.3"),
    ('a:0.7,', "'' is not a dataset with its weight"),
    ('a:0.7,:0.3', "':0.3' is not a dataset with its weight"),
    ('a:1,b:0', 'the weight of b must be above 0, got 0'),
    ('a:-1,b:1', 'the weight of a must be above 0, got -1'),
    ('a:nan,b:1', 'the weight of a must be above 0, got nan'),
    ('a:inf,b:1', 'the weight of a must be above 0, got inf'),
    ('a:1,b:1,a:2', 'names a twice: name it once'),
  ],
)
def test_mixtures_that_are_refused(text, said):
  with pytest.raises(InputError, match=said):
    mixture.datasets(text)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Return the path of a dataset of a size, made once; changes are those of `mixtures.dataset`."""
  folder = tmp_path_factory.mktemp('datasets')
  found = {}

  def make(size, name='', **changes):
    key = name or 'x'.join(map(str, size))
    if key not in found:
      found[key] = mixtures.dataset(folder / key, size, **changes)
    return found[key]

  return make


def test_a_folder_of_datasets_is_all_of_them(tmp_path):
  for name, size, train in (('a', SQUARE, 6), ('b', WIDE, 2), ('c', IMAGES, 0)):
    mixtures.dataset(tmp_path / 'all' / name, size, train, validation=1)
  (tmp_path / 'all' / 'other').mkdir()
  found = mixture.datasets(str(tmp_path / 'all'))
  assert found == (
    Dataset(f'{tmp_path}/all/a', 0.75),
    Dataset(f'{tmp_path}/all/b', 0.25),  # Of `c` there are no training records.
  )
  mixed = mixture.datasets(f'{tmp_path}/all:0.8,{tmp_path}/all/c:0.2')
  np.testing.assert_allclose([dataset.weight for dataset in mixed], [0.6, 0.2, 0.2])


def test_the_context_of_a_mixture(made, tmp_path):
  parts = (Dataset(made(IMAGES), 0.2), Dataset(made(WIDE), 0.5), Dataset(made(SQUARE), 0.3))
  context = mixture.load(parts)
  # The first videos give the default size.
  assert context.encoding == read_encoding(made(WIDE))
  assert [shape.size for shape in context.shapes] == [IMAGES, WIDE, SQUARE]
  assert [shape.weight for shape in context.shapes] == [0.2, 0.5, 0.3]
  latents = [context.at(shape).latent_shape[:3] for shape in context.shapes]
  assert latents == [(1, 4, 4), (3, 4, 6), (2, 4, 4)]
  assert context.at(context.shapes[2]).encoding == read_encoding(made(SQUARE))
  context.save(tmp_path)
  assert Context.load(tmp_path).shapes == read_mixed(tmp_path) == context.shapes


def test_the_context_of_one_dataset_lists_no_shapes(made, tmp_path):
  context = mixture.load([Dataset(made(SQUARE), 1.0)])
  context.save(tmp_path)
  assert Context.load(tmp_path).mixed == read_mixed(tmp_path) == ()
  (shape,) = context.shapes
  assert (shape.size, shape.grids, shape.weight) == (SQUARE, ((2, 2),), 1.0)
  assert not (tmp_path / 'context' / 'shapes.json').exists()


@pytest.mark.parametrize(
  'entry',
  [
    {},
    {'frames': -1},
    {'height': '16'},
    {'width': 21},  # The codec takes multiples of 4.
    {'grids': 5},
    {'weight': 0},
    {'weight': math.nan},
    {'more': 1},
  ],
)
def test_damaged_shapes_are_named(made, tmp_path, entry):
  mixture.load((Dataset(made(SQUARE), 0.5), Dataset(made(WIDE), 0.5))).save(tmp_path)
  path = tmp_path / 'context' / 'shapes.json'
  shapes = json.loads(path.read_text())
  shapes['shapes'][1] = entry and {**shapes['shapes'][1], **entry}
  path.write_text(json.dumps(shapes))
  with pytest.raises(InputError, match=f'{tmp_path}/context is damaged'):
    Context.load(tmp_path)


OTHERS = [
  ({'palette': 'supervision_half'}, "palette is 'spread8' and 'supervision_half'"),
  ({'max_objects': 4}, 'max_objects is 3 and 4'),
  ({'fps': 6}, 'fps is 8 and 6'),
  ({'prefix': 'FPS-8'}, "prefix is '' and 'FPS-8'"),
  ({'encoders': {'words': TextEncoderSpec(16, 20, 8)}}, 'encoders.words.length is 16 and 20'),
  ({'preset': 'unet'}, "preset is 'dit' and 'unet'"),
]


@pytest.mark.parametrize('changes, said', OTHERS, ids=[next(iter(c)) for c, _ in OTHERS])
def test_datasets_that_differ_cannot_be_mixed(made, changes, said):
  first, other = made(SQUARE), made(WIDE, next(iter(changes)), **changes)
  with pytest.raises(InputError) as error:
    mixture.load((Dataset(first, 0.5), Dataset(other, 0.5)))
  assert str(error.value) == f'{first} and {other} cannot be mixed: {said}; encode both alike'


def test_another_codec_cannot_be_mixed(made):
  codec = mixtures.codec()
  other = made(WIDE, 'codec', coded=codec.replace(basis=-codec.basis))
  with pytest.raises(InputError) as error:
    mixture.load((Dataset(made(SQUARE), 0.5), Dataset(other, 0.5)))
  assert str(error.value) == (
    f'{made(SQUARE)} and {other} cannot be mixed: they were encoded by different codecs'
    f' (--codec={made(SQUARE)} of data_tools.encode takes one); encode both alike'
  )


def test_another_text_encoder_of_the_same_name_cannot_be_mixed(made, tmp_path):
  context = Context.load(made(SQUARE))
  texts = {name: array + (array.ndim > 1) for name, array in context.null_text.items()}
  Context(context.encoding, context.codec, texts).save(tmp_path)
  with pytest.raises(InputError) as error:
    mixture.load((Dataset(made(SQUARE), 0.5), Dataset(str(tmp_path), 0.5)))
  assert str(error.value) == (
    f'{made(SQUARE)} and {tmp_path} cannot be mixed: they were embedded by different text encoders'
    ' (text.words.caption of the empty text differs); encode both alike'
  )


def test_images_have_no_frame_rate(made):
  images = made(IMAGES, 'still', fps=1, prefix='FPS-1')
  context = mixture.load((Dataset(images, 0.5), Dataset(made(SQUARE), 0.5)))
  assert (context.encoding.fps, context.encoding.prefix) == (8, '')
