"""Train the temporal autoencoder with `ttm_jax.train`, then encode a dataset with it."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests.helpers import cli, tiny
from ttm_jax import trajectory
from ttm_jax.codecs.base import to_float
from ttm_jax.codecs.folder import load_codec
from ttm_jax.codecs.tae import INITIAL_LOGVAR
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context
from ttm_jax.data.latents import Latents
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.errors import InputError
from ttm_jax.report.results import read_metrics
from ttm_jax.training.codec import CodecTraining, both

STEPS = 24
CHANGES = {
  'train__sample_every': STEPS,
  'train__evaluate_every': STEPS,
  'train__checkpoint_every': STEPS,
  'optimizer__learning_rate': 3e-3,
}


@pytest.fixture(scope='module')
def run(clips, tmp_path_factory):
  """A codec run of the shipped configuration, at the size of the tests."""
  path = tmp_path_factory.mktemp('codec') / 'run'
  ended = cli.run(*tiny.train_command('codec_tae', path, clips, **CHANGES, train__steps=STEPS))
  assert ended.code == 0, ended.err
  return path


def test_the_loss_falls(run):
  lines = read_metrics(run)
  training = [line for line in lines if 'train/loss' in line]
  assert [line['step'] for line in training] == list(range(1, STEPS + 1))
  names = ('absolute', 'kl', 'outlier', 'psnr', 'grad_norm')
  assert all(np.isfinite(line[f'train/{name}']) for line in training for name in names)
  held_out = {line['step']: line for line in lines if 'validation/loss' in line}
  assert sorted(held_out) == [0, STEPS]
  assert held_out[STEPS]['validation/absolute'] < 0.8 * held_out[0]['validation/absolute']
  assert held_out[STEPS]['validation/psnr'] > held_out[0]['validation/psnr'] + 1


def test_a_run_resumes(run, clips, tmp_path):
  path = tmp_path / 'run'
  shutil.copytree(run, path)
  ended = cli.run(*tiny.train_command('codec_tae', path, clips, **CHANGES, train__steps=STEPS + 2))
  assert ended.code == 0, ended.err
  assert f'continues after step {STEPS}' in ended.err
  steps = [line['step'] for line in read_metrics(path) if 'train/loss' in line]
  assert steps[-2:] == [STEPS + 1, STEPS + 2]


def test_a_run_may_start_from_another(run, clips):
  objective = CodecTraining(tiny.shrunk('codec_tae', clips))
  source = objective.source(str(run)).params
  initial = nnx.to_pure_dict(nnx.state(objective.build(1)))
  params = objective.transfer(source, initial)
  assert jax.tree.structure(params) == jax.tree.structure(initial)
  loaded, given = jax.tree.leaves(params), jax.tree.leaves(source)
  assert len(loaded) == len(given)
  total = sum(float(np.square(x).sum()) for x in loaded)
  assert total == pytest.approx(sum(float(np.square(np.asarray(x)).sum()) for x in given))
  assert total != pytest.approx(sum(float(np.square(x).sum()) for x in jax.tree.leaves(initial)))


def test_each_clip_counts_as_pixels_and_as_trajectory(clips):
  clip = Clips(clips, 'train')[0]
  pixels = both(clip.video, clip.ids, 'spread8')
  np.testing.assert_array_equal(pixels[0], clip.video)
  np.testing.assert_array_equal(pixels[1], trajectory.render(clip.ids, 'spread8'))


def test_labels_of_trajectories_count_in_the_loss(clips):
  plain = CodecTraining(tiny.shrunk('codec_tae', clips))
  weighed = CodecTraining(tiny.shrunk('codec_tae', clips, loss__labels=2.0))
  model, arrays = plain.build(0), next(plain.batches('train', 0))
  before, _ = plain.loss(model, arrays, jax.random.key(0))
  after, terms = weighed.loss(model, arrays, jax.random.key(0))
  labels = float(terms['labels'][0])
  assert labels > 0.1
  assert float(after - before) == pytest.approx(2 * labels, rel=1e-3)


def test_every_fourth_batch_is_of_still_pictures(clips):
  objective = CodecTraining(tiny.shrunk('codec_tae', clips, data__frames=3))
  stream = objective.batches('train', 0)
  batches = [next(stream)['pixels'] for _ in range(8)]
  size = (tiny.SIDE, tiny.SIDE, 3)
  # Two clips, each as pixels and as trajectory; windows of three of the four frames.
  assert [b.shape for b in batches] == [(4, n, *size) for n in (3, 3, 3, 1, 3, 3, 3, 1)]
  # A resumed run sees the same batches.
  later = objective.batches('train', 3)
  np.testing.assert_array_equal(next(later)['pixels'], batches[3])
  np.testing.assert_array_equal(next(later)['pixels'], batches[4])
  # Windows start at either of two frames and stay within their clips.
  known = [Clips(clips, 'train')[i] for i in range(12)]
  begins, colors = set(), set()
  for batch in (b for b in batches if b.shape[1] == 3):
    found = [
      (begin, clip.ids[begin : begin + 3])
      for begin in (0, 1)
      for clip in known
      if np.array_equal(batch[0], clip.video[begin : begin + 3])
    ]
    assert found
    begins.add(found[0][0])
    # The trajectory is that of the window, with other colors of the palette.
    labels = trajectory.decode(batch[1], None)
    np.testing.assert_array_equal(trajectory.render(labels), batch[1])
    drawn = dict(zip(found[0][1].flat, labels.flat, strict=True))
    np.testing.assert_array_equal(trajectory.relabel(found[0][1], drawn), labels)
    assert len(set(drawn.values())) == len(drawn)
    colors.update(drawn.values())
  assert begins == {0, 1}
  assert max(colors) > 3, 'clips have three objects at most'


def test_training_starts_from_principal_components(clips):
  objective = CodecTraining(tiny.shrunk('codec_tae', clips, model__linear_path=True))
  train = Clips(clips, 'train')
  pixels = to_float(Clips(clips, 'validation')[0].video)[None]
  source = objective.source('linear').params

  @jax.jit
  def started():
    graphdef, state = nnx.split(objective.build(0))
    params = objective.transfer(source, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, params)
    codec = nnx.merge(graphdef, state).codec
    latents = codec.posterior(pixels)
    return latents, codec.decode(latents.mean, pixels.shape[1])

  latents, shown = started()
  config = objective.model_config
  size = 'x'.join(map(str, (*config.cell, config.channels)))
  fitted = choose_codec(f'linear:{size}', train, lambda clip: trajectory.render(clip.ids))
  np.testing.assert_allclose(latents.mean, fitted.encode(pixels).mean, atol=1e-4)
  np.testing.assert_allclose(latents.logvar, INITIAL_LOGVAR)
  np.testing.assert_allclose(shown, fitted.decode(latents.mean, pixels.shape[1]), atol=1e-4)


def test_without_a_linear_path_there_is_nothing_to_fit(clips):
  objective = CodecTraining(tiny.shrunk('codec_tae', clips))
  with pytest.raises(InputError, match=r'has no linear path: set --config.model.linear_path=True'):
    objective.source('linear')


def test_the_videos_of_a_clip_stay_together(clips):
  objective = CodecTraining(tiny.shrunk('codec_tae', clips, data__batch_size=3))
  with pytest.raises(InputError, match='batch_size 3 must give each process the two videos'):
    next(objective.batches('train', 0))


def test_samples_show_videos_beside_their_truth(run):
  names = sorted(path.name for path in (run / 'samples').iterdir())
  assert names == ['newest.gif', 'step_0000000.png', f'step_00000{STEPS}.png']
  first, last = (np.asarray(Image.open(run / 'samples' / name)) for name in names[1:])
  assert first.shape == last.shape and (first != last).any()
  with Image.open(run / 'samples' / names[0]) as moving:
    assert moving.n_frames == tiny.FRAMES


@pytest.fixture(scope='module')
def encoded(run, clips, tmp_path_factory):
  """The clips, encoded by the codec of the run."""
  out = tmp_path_factory.mktemp('encoded') / 'latents'
  options = [f'--{name}={value}' for name, value in tiny.WORDS.items()]
  made = cli.run(
    'data_tools.encode', f'--clips={clips}', f'--out={out}', f'--codec={run}', *options
  )
  assert made.code == 0, made.err
  return out


def test_the_run_encodes_a_dataset(run, clips, encoded):
  assert Context.load(encoded).latent_shape == (2, 8, 8, 4)
  source, clip = Latents(encoded, 'validation'), Clips(clips, 'validation')[0]
  encode = jax.jit(lambda codec, video: codec.encode(video))
  expected = encode(load_codec(run / 'codec'), to_float(clip.video)[None])
  np.testing.assert_allclose(source[0]['video'], expected.mean[0], atol=0.02)
  np.testing.assert_allclose(source[0]['video_logvar'], expected.logvar[0], atol=0.02)


def test_latents_are_normalized(encoded):
  source = Latents(encoded, 'train')
  records = [source[i] for i in range(len(source))]
  names = ('video', 'trajectory')
  mean = np.stack([record[name] for record in records for name in names]).astype(np.float64)
  variance = np.exp([record[f'{name}_logvar'] for record in records for name in names])
  # Trained on these clips; here the colors of their objects are swapped.
  np.testing.assert_allclose(mean.mean((0, 1, 2, 3)), 0, atol=0.1)
  np.testing.assert_allclose((mean**2 + variance).mean(), 1, atol=0.1)


@pytest.mark.slow
def test_the_small_configuration_trains(clips, tmp_path):
  changes = {'train__steps': 1, 'data__image_every': 0, 'data__batch_size': 2}
  ended = cli.run(*tiny.train_command('scenes_codec', tmp_path / 'run', clips, **changes))
  assert ended.code == 0, ended.err
  lines = [m for m in read_metrics(tmp_path / 'run') if 'train/loss' in m]
  assert np.isfinite([m['train/loss'] for m in lines]).all()
  assert load_codec(tmp_path / 'run' / 'codec').channels == 4
