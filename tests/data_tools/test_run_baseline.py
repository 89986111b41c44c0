"""The runner of baselines: names, seeds, resuming and settings, with a stand-in pipeline."""

import json
import types

import numpy as np
import pytest

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('diffusers', reason="not installed: pip install 'ttm_jax[torch]'")

from data_tools import run_baseline
from ttm_jax.data.clips import Clips, write_clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.references import headers_of
from ttm_jax.metrics.scored_videos import inspect
from ttm_jax.pytorch.baselines.generator import Generator
from ttm_jax.pytorch.baselines.models import BASELINES


def clip(number, frames=4, size=(32, 48)):
  video = np.full((frames, *size, 3), 40 * number + 10, np.uint8)
  video[1:] = 255  # Not given to the model.
  ids = np.zeros(video.shape[:3], np.uint8)
  return Clip(f'dog {number}/00000', video, ids, 8.0, f'A dog {number}.', 'It runs.', (), ())


class Pipeline:
  """A stand-in for a pipeline of diffusers: each frame is the image plus its seed's noise."""

  def __init__(self):
    self.calls = []

  def __call__(self, *, image, height, width, num_frames, generator, **others):
    import torch

    self.calls.append({'size': (height, width), 'frames': num_frames, **others})
    assert image.size == (width, height)
    shade = np.asarray(image, np.float32) / 255
    step = float(torch.rand((), generator=generator)) * 0.2
    frames = np.stack([shade + step * (k > 0) for k in range(num_frames)])
    return types.SimpleNamespace(frames=frames[None])


@pytest.fixture
def pipeline(monkeypatch):
  made = Pipeline()

  def load(model, weights, offload, steps, negative):
    return Generator(model, made, steps, negative)

  monkeypatch.setattr(Generator, 'load', load)
  return made


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp('clips') / 'clips'
  write_clips(path, {'validation': [clip(n) for n in range(3)]})
  return path


def command(dataset, out, *more):
  return ['--model=wan-i2v', f'--clips={dataset}', f'--out={out}', '--size=32x48', *more]


def test_every_clip_and_seed_gets_a_video_that_evaluation_reads(dataset, pipeline, tmp_path):
  out = tmp_path / 'out'
  run_baseline.main(command(dataset, out, '--seeds=3,5', '--steps=2'))
  names = sorted(path.name for path in out.glob('*.mp4'))
  assert names == [f'dog_{n}_00000__{seed}.mp4' for n in range(3) for seed in (3, 5)]
  found = inspect(out, headers_of(Clips(dataset, 'validation')))
  assert found.seeds == (3, 5) and not found.notes and {*found.lengths.values()} == {4}
  videos = [read_video(out / f'dog_2_00000__{seed}.mp4')[0].astype(int) for seed in (3, 5)]
  assert videos[0].shape == (4, 32, 48, 3)
  assert abs(videos[0][0].mean() - 90) < 2 and abs(videos[0][3].mean() - videos[1][3].mean()) > 1
  assert [call['prompt'] for call in pipeline.calls[:3]] == ['A dog 0.', 'A dog 0.', 'A dog 1.']
  call = pipeline.calls[0]
  assert (call['size'], call['frames']) == ((32, 48), 9)  # 4 frames at 8 fps last 7 at 16 fps.
  assert call['num_inference_steps'] == 2 and call['guidance_scale'] == 5.0
  said = json.loads((out / 'baseline.json').read_text())
  assert (said['model'], said['weights']) == ('wan-i2v', BASELINES['wan-i2v'].weights)
  (shape,) = said['shapes'].values()
  assert shape['clip'] == [4, 32, 48] and shape['size'] == [32, 48] and shape['frames'] == 9
  assert shape['generated_fps'] == 16 and shape['speed'] == 1 and shape['indices'] == [0, 2, 4, 6]
  assert {*said['versions']} == {'torch', 'diffusers', 'transformers'}


def test_existing_videos_are_kept(dataset, pipeline, tmp_path):
  out = tmp_path / 'out'
  run_baseline.main(command(dataset, out, '--count=1'))
  (first,) = out.glob('*.mp4')
  before = first.read_bytes(), first.stat().st_mtime_ns
  run_baseline.main(command(dataset, out))
  assert len(pipeline.calls) == 3 and len([*out.glob('*.mp4')]) == 3
  assert (first.read_bytes(), first.stat().st_mtime_ns) == before
  run_baseline.main(command(dataset, out))
  assert len(pipeline.calls) == 3
  with pytest.raises(InputError, match='were generated with steps 50, not 4; name another --out'):
    run_baseline.main(command(dataset, out, '--steps=4'))


def test_a_failed_video_leaves_nothing(dataset, pipeline, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  right = Pipeline.__call__

  def fails(self, **options):
    if options['prompt'] == 'A dog 1.':
      raise RuntimeError('out of memory')
    return right(self, **options)

  monkeypatch.setattr(Pipeline, '__call__', fails)
  with pytest.raises(RuntimeError, match='out of memory'):
    run_baseline.main(command(dataset, out))
  assert sorted(p.name for p in out.iterdir()) == ['baseline.json', 'dog_0_00000__0.mp4']
  monkeypatch.setattr(Pipeline, '__call__', right)
  run_baseline.main(command(dataset, out))
  assert len([*out.glob('*.mp4')]) == 3


def test_parts_divide_the_videos(dataset, pipeline, tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  run_baseline.main(command(dataset, whole, '--seeds=0,1'))
  for part in ('1/4', '2/4', '3/4', '4/4'):
    run_baseline.main(command(dataset, parts, '--seeds=0,1', f'--part={part}'))
  assert len(pipeline.calls) == 12
  for path in whole.glob('*.mp4'):
    assert (parts / path.name).read_bytes() == path.read_bytes()


def test_models_without_captions_get_none(dataset, pipeline, tmp_path):
  options = [f'--clips={dataset}', '--count=1', '--negative=ugly', '--size=64']
  run_baseline.main(['--model=svd', f'--out={tmp_path}/svd', *options])
  (call,) = pipeline.calls
  assert 'prompt' not in call and 'negative_prompt' not in call
  assert (call['max_guidance_scale'], call['fps'], call['frames']) == (3.0, 7, 25)
  run_baseline.main(['--model=i2vgen-xl', f'--out={tmp_path}/i2v', *options])
  assert pipeline.calls[-1]['negative_prompt'] == 'ugly'


@pytest.mark.parametrize(
  'options, said',
  [
    (['--seeds=0,a'], '--seeds 0,a: write whole numbers with commas, as in 0,1,2'),
    (['--seeds='], '--seeds : write whole numbers'),
    (['--seeds=1,1'], '--seeds 1,1: a seed occurs twice; remove one'),
    (['--part=5/4'], '--part 5/4: write PART/PARTS, from 1/4 to 4/4'),
    (['--part=0/4'], '--part 0/4: write PART/PARTS'),
    (['--steps=0'], '--steps 0 must be at least 1'),
    (['--count=0'], '--count 0 must be at least 1'),
    (['--size=30x48'], '--size 30x48: sides of wan-i2v are multiples of 16; give 32x48'),
    (['--size=1600'], 'wan-i2v was trained at 480x832; give at most four times its area'),
    (['--model=cogvideox-i2v', '--size=480'], 'cogvideox-i2v takes 480x720 only'),
  ],
)
def test_bad_options_give_one_sentence(options, said, dataset, pipeline, tmp_path):
  with pytest.raises(InputError) as error:
    run_baseline.main(command(dataset, tmp_path / 'out', *options))
  assert said in str(error.value) and not (tmp_path / 'out').exists()


def test_a_pipeline_that_makes_another_size_is_reported(dataset, pipeline, tmp_path, monkeypatch):
  monkeypatch.setattr(
    Pipeline, '__call__', lambda self, **o: types.SimpleNamespace(frames=np.zeros((1, 5, 8, 8, 3)))
  )
  with pytest.raises(InputError, match=r'made a video \[5, 8, 8, 3\] instead of \[9, 32, 48, 3\]'):
    run_baseline.main(command(dataset, tmp_path / 'out'))


def test_weights_that_do_not_exist(dataset, tmp_path):
  with pytest.raises(InputError, match='/none: there is no such folder; check the path'):
    run_baseline.main(command(dataset, tmp_path / 'out', '--weights=/none'))
  with pytest.raises(InputError, match=r'a/b: cannot be downloaded .* give --weights FOLDER'):
    run_baseline.main(command(dataset, tmp_path / 'out', '--weights=a/b', '--offline'))
