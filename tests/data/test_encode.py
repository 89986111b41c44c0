"""From clips to the batch of a task: values stay equal, in order and in place."""

import dataclasses
import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import cli, tiny
from ttm_jax import tasks, trajectory
from ttm_jax.codecs.base import Moments, to_float
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.conditioning import EVERYONE
from ttm_jax.data.batch import text_condition, to_batch
from ttm_jax.data.context import Context, Encoding, read_encoding
from ttm_jax.data.encode import (
  TEXT_ENCODERS,
  Augmentation,
  EncodedClips,
  LatentEncoder,
  null_text,
  text_arrays,
)
from ttm_jax.data.latents import Latents, fill, trimmed, write_latents
from ttm_jax.errors import InputError
from ttm_jax.presets import preset
from ttm_jax.scenes.generator import SceneConfig, Scenes
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.text.word_ids import END, tokenize

SHAPE = (4, 16, 16)
ENCODING = Encoding(
  preset='dit',
  frames=4,
  height=16,
  width=16,
  fps=8.0,
  palette='spread8',
  max_objects=3,
  encoders={'words': TextEncoderSpec(dim=8, length=20, prompt_length=7)},
  grids=((2, 2),),
)
# Groups of the codec below, and grid of the preset for its latents.
GROUPS, GRID = [0, 0, 1, 1], (2, 2)


def scenes(count, start=0):
  config = SceneConfig(size=SHAPE[1:], frames=SHAPE[0], min_objects=2, max_objects=3)
  return Scenes(config, count, start)


@pytest.fixture(scope='module')
def context():
  clips = list(scenes(6))
  videos = [clip.video for clip in clips] + [trajectory.render(clip.ids) for clip in clips]
  codec = LinearCodec.fit(videos, patch=(2, 4, 4), channels=6)
  return Context(ENCODING, codec, null_text(ENCODING, TEXT_ENCODERS))


@pytest.fixture(scope='module')
def dataset(context, tmp_path_factory):
  directory = tmp_path_factory.mktemp('data') / 'latents'
  splits = {
    'train': EncodedClips(scenes(5), context, augmentation=Augmentation(variants=2), batch=3),
    'validation': EncodedClips(scenes(2, 50), context, augmentation=Augmentation(1, False)),
  }
  assert len(splits['train']) == 10
  write_latents(directory, context, splits)
  return directory


def expected(clip, order, codec):
  """Return the expected record of a clip whose object order[i] + 1 became object i + 1."""
  ids = np.zeros_like(clip.ids)
  for i, old in enumerate(order):
    ids[clip.ids == old + 1] = i + 1
  rendered = trajectory.render(ids)

  def latents(pixels):
    return np.asarray(codec.encode(jnp.asarray(to_float(pixels)[None])).mean[0])

  arrays = {
    'video': latents(clip.video),
    'trajectory': latents(rendered),
    'first_frame': latents(clip.video[:1]),
    'first_mask': latents(rendered[:1]),
    'token_masks.0.region': trajectory.token_regions(ids, GROUPS, GRID),
    'token_masks.0.box': trajectory.token_presence(ids, GROUPS, GRID, 'box'),
    'token_masks.0.seg': trajectory.token_presence(ids, GROUPS, GRID, 'seg'),
  }
  for field, text in (('caption', clip.caption), ('motion', clip.motion)):
    words, count = tokenize(text, 20)
    arrays |= {f'text.words.{field}': words, f'text.words.{field}_length': count}
  prompts, counts = np.zeros((3, 7), np.int32), np.zeros(3, np.int32)
  for i, old in enumerate(order):
    prompts[i], counts[i] = tokenize(clip.prompts[old], 7)
  return ids, arrays | {'text.words.prompts': prompts, 'text.words.prompts_length': counts}


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_records(dataset, context, split):
  source = Latents(dataset, split)
  clips, variants = {'train': (scenes(5), 2), 'validation': (scenes(2, 50), 1)}[split]
  assert len(source) == len(clips) * variants
  moved = 0
  for i in range(len(source)):
    clip, record = clips[i // variants], source[i]
    count = len(clip.prompts)
    order = record.pop('permutation').astype(int) - 1
    assert sorted(order[:count]) == list(range(count)) and (order[count:] == -1).all()
    moved += not np.array_equal(order[:count], range(count))
    ids, arrays = expected(clip, order[:count], context.codec)
    assert source.key(i) == clip.key and record.pop('corrupted') == 0
    np.testing.assert_array_equal(source.ids(i, SHAPE), ids)
    assert set(record) == set(arrays)
    for name, array in arrays.items():
      if np.asarray(array).dtype == np.float32:
        assert record[name].dtype == np.float16
        np.testing.assert_allclose(record[name], array, rtol=1e-3, atol=1e-3)
      else:
        assert record[name].dtype == np.asarray(array).dtype or name.endswith('_length')
        np.testing.assert_array_equal(record[name], array)
  assert (moved > 3) == (split == 'train')  # Validation clips keep their object ids.


def test_variants_differ_and_follow_from_the_clip_alone(context):
  augmentation = Augmentation(variants=4, corrupt=0.5)

  def records(clips, **options):
    return dict(EncodedClips(clips, context, augmentation=augmentation, **options))

  every = records(scenes(4))
  assert len(every) == 16
  again = records(scenes(2, 2), batch=3)
  for key, record in again.items():
    for name in ('ids', 'permutation', 'corrupted', 'text.words.prompts', 'token_masks.0.box'):
      np.testing.assert_array_equal(record[name], every[key][name])
  assert any((records(scenes(4), seed=1)[k]['ids'] != every[k]['ids']) for k in every)
  assert len({str(r['permutation']) for k, r in every.items() if k.startswith('scene-0-1#')}) > 1
  assert 3 < sum(int(r['corrupted']) for r in every.values()) < 13


def test_damaged_masks_reach_latents_and_places_but_not_frame_0(context):
  options = {'permute': False, 'variants': 6}
  clean = dict(EncodedClips(scenes(1), context, augmentation=Augmentation(**options)))
  damaged = dict(
    EncodedClips(
      scenes(1), context, augmentation=Augmentation(corrupt=1.0, true_masks=True, **options)
    )
  )
  differ = {name: 0 for name in clean['scene-0-0#0']}
  for key, record in damaged.items():
    assert record['corrupted'] == 1
    np.testing.assert_array_equal(record.pop('true_trajectory'), clean[key]['trajectory'])
    for name, value in record.items():
      differ[name] += not np.array_equal(value, clean[key][name])
  assert min(differ[name] for name in ('ids', 'trajectory', 'token_masks.0.seg')) >= 2
  for name in ('video', 'first_frame', 'first_mask', 'text.words.prompts', 'permutation'):
    assert differ[name] == 0


def test_batch(dataset, context):
  source = Latents(dataset, 'train')
  arrays = {name: np.stack([source[i][name] for i in (0, 7)]) for name in source[0]}
  batch = to_batch(arrays, ['words'], 'box', jax.random.key(0))
  for name in ('video', 'trajectory'):
    assert getattr(batch, name).dtype == jnp.float32
    np.testing.assert_array_equal(getattr(batch, name), arrays[name].astype(np.float32))
  for name in ('first_frame', 'first_mask'):
    still = np.broadcast_to(arrays[name].astype(np.float32), (2, 2, 4, 4, 6))
    np.testing.assert_array_equal(getattr(batch, name), still)
  (masks,) = batch.objects.token_masks
  region = arrays['token_masks.0.region']
  np.testing.assert_array_equal(masks.region, 1 << region.astype(np.int32))
  np.testing.assert_array_equal(masks.present, arrays['token_masks.0.box'])
  assert masks.region.dtype == masks.present.dtype == jnp.int32
  seg = to_batch(arrays, ['words'], 'seg', jax.random.key(0)).objects.token_masks[0]
  np.testing.assert_array_equal(seg.present, arrays['token_masks.0.seg'])
  # Tokens get the prompt of the object that owns them.
  owner = np.asarray(masks.region)
  assert ((owner == 1) | (owner & np.asarray(masks.present) != 0)).all() and (owner > 1).any()
  for text, field in ((batch.caption, 'caption'), (batch.motion, 'motion')):
    ids, length = arrays[f'text.words.{field}'], arrays[f'text.words.{field}_length']
    np.testing.assert_array_equal(text['words'].embedding, ids)
    np.testing.assert_array_equal(text['words'].bits == EVERYONE, np.arange(20) < length[:, None])
    np.testing.assert_array_equal(text['words'].bits != 0, ids != 0)
  prompts = batch.objects.prompts['words']
  np.testing.assert_array_equal(prompts.embedding, arrays['text.words.prompts'].reshape(2, 21))
  speaks_to = np.where(arrays['text.words.prompts'] != 0, np.array([[[2], [4], [8]]]), 0)
  np.testing.assert_array_equal(prompts.bits, speaks_to.reshape(2, 21))
  with pytest.raises(InputError, match="cross_mask must be 'box' or 'seg', got 'boxes'"):
    to_batch(arrays, ['words'], 'boxes', jax.random.key(0))


def test_latents_are_drawn_from_their_distribution(dataset):
  source = Latents(dataset, 'train')
  arrays = {name: np.stack([source[i][name] for i in range(10)]) for name in source[0]}
  for name in ('video', 'trajectory'):
    arrays[f'{name}_logvar'] = np.full(arrays[name].shape, np.log(0.25), np.float16)
  batch, same, other = (to_batch(arrays, ['words'], 'box', jax.random.key(k)) for k in (0, 0, 1))
  noise = {name: (getattr(batch, name) - arrays[name]) / 0.5 for name in ('video', 'trajectory')}
  assert np.std(noise['video']) == pytest.approx(1, abs=0.05)
  assert np.std(noise['trajectory']) == pytest.approx(1, abs=0.05)
  assert abs(np.corrcoef(noise['video'].ravel(), noise['trajectory'].ravel())[0, 1]) < 0.1
  np.testing.assert_array_equal(batch.video, same.video)
  assert np.abs(batch.video - other.video).max() > 0.1
  np.testing.assert_array_equal(batch.first_frame[:, :1], arrays['first_frame'])


@flax.struct.dataclass
class Uncertain:
  """A codec with one latent per frame: the mean pixel, with a variance."""

  logvar: jax.Array

  def encode(self, video):
    mean = video.mean((2, 3), keepdims=True)
    return Moments(mean, jnp.full_like(mean, 1) * self.logvar)


def test_variances_are_kept_where_there_are_some():
  clip = scenes(1)[0]
  encoder = LatentEncoder(Uncertain(jnp.asarray(-3.0)), 'spread8')  # type: ignore[arg-type]
  arrays = encoder.clips(clip.video[None], trajectory.render(clip.ids[None]))
  assert set(arrays) == {
    *('video', 'trajectory', 'first_frame', 'first_mask'),
    *('video_logvar', 'trajectory_logvar'),
  }
  assert (arrays['video_logvar'] == -3).all() and arrays['video_logvar'].dtype == np.float16
  wanted = clip.video[:1].mean((1, 2), keepdims=True) / 127.5 - 1
  np.testing.assert_allclose(arrays['first_frame'][0], wanted, atol=1e-3)


def test_empty_text(context):
  end = tokenize('', 20)[0]
  arrays = context.null_text
  np.testing.assert_array_equal(arrays['text.words.caption'], end[None])
  np.testing.assert_array_equal(arrays['text.words.prompts'], np.tile(end[:7], (1, 3, 1)))
  condition = text_condition(arrays, ['words'], 'motion')
  assert condition.text['words'].bits.tolist() == [[EVERYONE] + [0] * 19]
  bits = np.zeros((3, 7), int)
  bits[:, 0] = [2, 4, 8]  # Each object reads its own empty prompt.
  np.testing.assert_array_equal(condition.objects.prompts['words'].bits, bits.reshape(1, 21))


def test_prompts_of_some_objects():
  arrays = text_arrays(ENCODING, TEXT_ENCODERS, 'a', '', {3: 'a star', 1: 'the ball'})
  star, ball = tokenize('a star', 7)[0], tokenize('the ball', 7)[0]
  np.testing.assert_array_equal(arrays['text.words.prompts'], [ball, 0 * ball, star])
  assert arrays['text.words.prompts_length'].tolist() == [3, 0, 3]
  assert arrays['text.words.motion'][0] == END and arrays['text.words.motion_length'] == 1
  arrays = text_arrays(ENCODING, TEXT_ENCODERS, 'a', 'b', {})
  assert not arrays['text.words.prompts'].any()
  with pytest.raises(InputError, match='object 4 has a prompt, but the dataset has slots for 3'):
    text_arrays(ENCODING, TEXT_ENCODERS, 'a', 'b', {4: 'a star'})


def test_a_prefix_is_for_pretrained_encoders_and_for_sentences():
  asked = []

  def encode(texts, length):
    asked.append((list(texts), length))
    return np.ones((len(texts), length, 2), np.float16), np.full(len(texts), length, np.int32)

  both = {'t5': TextEncoderSpec(2, 9, 5), 'words': TextEncoderSpec(8, 20, 7)}
  encoding = dataclasses.replace(ENCODING, encoders=both, prefix='FPS-24')
  arrays = text_arrays(encoding, {'t5': encode, **TEXT_ENCODERS}, 'A dog.', '', {2: 'a dog'})
  assert asked == [(['FPS-24 A dog.', ''], 9), (['a dog'], 5)]
  np.testing.assert_array_equal(arrays['text.words.caption'], tokenize('A dog.', 20)[0])
  asked.clear()
  null_text(encoding, {'t5': encode, **TEXT_ENCODERS})
  assert asked == [(['', ''], 9), ([''] * 3, 5)]


def test_texts_lie_trimmed_and_come_back_padded(context, tmp_path):
  """Texts are stored without padding and padded again when they are read."""
  encoded = EncodedClips(scenes(3), context, augmentation=Augmentation(permute=False))
  write_latents(tmp_path / 'd', context, {'train': encoded})
  source = Latents(tmp_path / 'd', 'train')
  for i, (_, given) in enumerate(encoded):
    raw, read = source.records[i], source[i]
    for name in ('caption', 'prompts'):
      name = f'text.words.{name}'
      assert len(raw[name]) == given[f'{name}_length'].sum()
      np.testing.assert_array_equal(read[name], given[name])
      assert read[name].dtype == given[name].dtype
  counts = np.array([0, 2])
  rows = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
  stored = trimmed(rows, counts)
  np.testing.assert_array_equal(stored, rows[1, :2])
  whole = np.zeros_like(rows)
  fill(whole, stored, counts)
  np.testing.assert_array_equal(whole[1, :2], rows[1, :2])
  assert not whole[0].any()
  # A batch equals the stacked padded records.
  batch = source.collate([source.stored[i] for i in (2, 0)])
  for name, array in batch.items():
    np.testing.assert_array_equal(array, np.stack([source[2][name], source[0][name]]))
  assert batch['text.words.prompts'].shape == (2, 3, 7) and len(source.stored) == 3


class Buckets:
  """Map gs:// addresses to a folder."""

  def __init__(self, root):
    self.root = root

  def __getattr__(self, name):
    from etils.epath import backend

    def on_disk(path):
      return str(self.root / str(path).removeprefix('gs://')) if '://' in str(path) else path

    function = getattr(backend.os_backend, name)
    return lambda *paths, **options: function(*map(on_disk, paths), **options)


def test_contexts_at_addresses(context, tmp_path, monkeypatch):
  """Write, read and replace a dataset in a bucket."""
  from etils.epath import gpath

  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', Buckets(tmp_path))
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  place = 'gs://bucket/data'
  with pytest.raises(InputError, match='gs://bucket/data is neither a latents dataset nor a run'):
    Context.load(place)
  context.save(place)
  (tmp_path / 'bucket' / 'data' / 'context' / 'stale').write_text('')
  other = dataclasses.replace(ENCODING, fps=30.0)
  Context(other, context.codec, null_text(other, TEXT_ENCODERS)).save(place)
  back = Context.load(place)
  assert back.encoding.fps == read_encoding(place).fps == 30
  np.testing.assert_array_equal(back.codec.basis, context.codec.basis)
  files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()}
  assert files == {
    f'bucket/data/context/{name}'
    for name in (
      'context.json',
      'null_text.safetensors',
      'codec/codec.json',
      'codec/codec.safetensors',
    )
  }


def test_older_contexts_are_read(context, tmp_path):
  context.save(tmp_path)
  file = tmp_path / 'context' / 'context.json'
  values = json.loads(file.read_text())
  assert values.pop('prefix') == '' and values.pop('models') == {}
  file.write_text(json.dumps(values))
  assert Context.load(tmp_path).encoding == ENCODING


def test_context_comes_back(dataset, context):
  back = Context.load(dataset)
  assert back.encoding == context.encoding
  assert back.latent_shape == (2, 4, 4, 6) and back.encoding.grids == (GRID,)
  np.testing.assert_array_equal(back.codec.basis, context.codec.basis)
  assert set(back.null_text) == set(context.null_text)
  for name, array in context.null_text.items():
    np.testing.assert_array_equal(back.null_text[name], array)
    assert back.null_text[name].dtype == array.dtype


def test_context_is_replaced_whole(context, tmp_path):
  context.save(tmp_path)
  other = dataclasses.replace(ENCODING, fps=30.0)
  Context(other, context.codec, null_text(other, TEXT_ENCODERS)).save(tmp_path)
  assert Context.load(tmp_path).encoding.fps == 30
  assert [f.name for f in tmp_path.iterdir()] == ['context']


@pytest.mark.parametrize(
  'file, content',
  [
    ('context.json', '{"preset": "dit"'),
    ('context.json', '[]'),
    ('context.json', '{"encoders": []}'),
    ('context.json', json.dumps({'encoders': {'words': {'size': 3}}})),
    ('context.json', json.dumps(dataclasses.asdict(ENCODING) | {'colour': 'red'})),
    ('null_text.safetensors', 'x' * 40),
    ('null_text.safetensors', None),
  ],
)
def test_damaged_context(context, tmp_path, file, content):
  context.save(tmp_path)
  path = tmp_path / 'context' / file
  path.unlink()
  if content is not None:
    path.write_text(content)
  complaint = r'context(\.json: | is damaged ).*; encode the dataset again'
  with pytest.raises(InputError, match=complaint) as error:
    Context.load(tmp_path)
  assert str(tmp_path) in str(error.value)


def test_missing_context(tmp_path):
  with pytest.raises(InputError, match=r'neither a latents dataset nor a run: .*/context\.json is'):
    Context.load(tmp_path)


def test_clips_that_do_not_fit(context, tmp_path):
  large = Scenes(SceneConfig(size=(32, 16), frames=4), 1)
  with pytest.raises(InputError, match=r'clip scene-0-0 has \(4, 32, 16\) .* takes \(4, 16, 16\)'):
    list(EncodedClips(large, context))
  slow = dataclasses.replace(context, encoding=dataclasses.replace(ENCODING, fps=6.0))
  with pytest.raises(InputError, match='scene-0-0 has 8 frames per second; the dataset takes 6'):
    list(EncodedClips(scenes(1), slow))
  few = dataclasses.replace(context, encoding=dataclasses.replace(ENCODING, max_objects=1))
  with pytest.raises(InputError, match=r'clip scene-0-0 has [23] objects; .* at most 1'):
    list(EncodedClips(scenes(1), few))
  # A clip that does not fit leaves no dataset behind.
  with pytest.raises(InputError):
    write_latents(tmp_path / 'out', context, {'train': EncodedClips(large, context)})
  with pytest.raises(InputError, match='no clips to encode'):
    write_latents(tmp_path / 'out', context, {'train': EncodedClips([], context)})
  assert not list(tmp_path.iterdir())


def test_latents_that_do_not_divide_into_tokens():
  assert preset('dit').grids(preset('dit').config(), 32, 48) == ((16, 24),)
  with pytest.raises(InputError, match='latents of 5 x 4 do not divide into tokens of 2 x 2'):
    preset('dit').grids(preset('dit').config(), 5, 4)
  with pytest.raises(InputError, match=r"preset 'dti' is unknown: .* \(did you mean \"dit\"\?\)"):
    preset('dti')


def test_stage_1_learns_true_masks_and_stage_2_is_given_means_of_damaged_ones(context):
  """As in generation, where stage 2 gets the codec's means of stage 1's masks, not samples."""
  options = {'permute': False, 'variants': 6, 'corrupt': 1.0, 'true_masks': True}
  damaged = [r for _, r in EncodedClips(scenes(2), context, augmentation=Augmentation(**options))]
  arrays = {name: np.stack([r[name] for r in damaged]) for name in damaged[0] if name != 'key'}
  arrays.pop('ids')
  for name in ('video', 'trajectory', 'true_trajectory'):
    arrays[f'{name}_logvar'] = np.full(arrays[name].shape, -30.0, np.float16)
  batch = to_batch(arrays, ['words'], 'box', jax.random.key(0))
  target, _ = tasks.IMAGE_TO_MOTION.split(batch)
  np.testing.assert_allclose(target, arrays['true_trajectory'].astype(np.float32), atol=1e-5)
  assert np.abs(target - arrays['trajectory']).max() > 0.1
  arrays['trajectory_logvar'] = np.full(arrays['trajectory'].shape, 2.0, np.float16)
  _, condition = tasks.MOTION_TO_VIDEO.split(to_batch(arrays, ['words'], 'box', jax.random.key(1)))
  given = arrays['trajectory'].astype(np.float32)
  np.testing.assert_array_equal(condition.visual[..., given.shape[-1] :], given)


def test_datasets_without_damage_stay_as_they_were(context):
  (_, record), *_ = EncodedClips(scenes(1), context)
  assert 'true_trajectory' not in record


def test_damage_in_one_split_leaves_both_masks_in_all(clips, tmp_path):
  options = (f'--codec={tiny.CODEC}', '--corrupt=0.5')
  made = cli.run(*tiny.encode_command(clips, tmp_path / 'out', *options))
  assert made.code == 0, made.err
  train, held_out = (Latents(tmp_path / 'out', split) for split in ('train', 'validation'))
  for record in (train[i] for i in range(len(train))):
    equal = np.array_equal(record['true_trajectory'], record['trajectory'])
    assert equal or record['corrupted']
  assert any(train[i]['corrupted'] for i in range(len(train)))
  np.testing.assert_array_equal(held_out[0]['true_trajectory'], held_out[0]['trajectory'])
