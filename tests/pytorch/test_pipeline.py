"""The exported PyTorch pipeline against JAX: videos, options, errors, folders."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests.helpers import exported, tiny
from ttm_jax.codecs.base import to_uint8
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.presets import PRESETS
from ttm_jax.training.denoiser import Denoiser

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from tests.helpers import pytorch_parity as parity  # noqa: E402
from tests.helpers.exported import arguments  # noqa: E402
from ttm_jax.pytorch import TTMPipeline  # noqa: E402

torch.set_num_threads(1)  # Threads cost more than such small networks.
diffusers.utils.logging.set_verbosity_error()


@pytest.fixture(scope='module')
def pipes(folders):
  return {name: exported.pipe(folder) for name, (_, folder) in folders.items()}


@pytest.fixture
def pipe(pipes):
  return pipes['dit']


def noise(pipe, stage, seed):
  """Return the initial noise of a stage in JAX."""
  c, *grid = pipe.config.video['latents']
  drawn = jax.random.normal(stage.key(seed), (1, *grid, c))
  return parity.channels_first(drawn)


def seeded(seed=0):
  return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('preset', exported.NAMES)
def test_ten_steps_give_the_videos_of_ours(preset, folders, pipes, capsys):
  (one, two), folder = folders[preset]
  pipe, ours = pipes[preset], Pipeline(Stage(one, STAGE1), Stage(two, STAGE2))
  request, steps = exported.request(), []
  painted = ours.stage1.generate([request], 5)

  def seen(pipeline, step, timestep, given):
    steps.append((pipeline.stage, step))
    last['latents'] = given['latents']

  last = {}
  given = {k: v for k, v in arguments().items() if k != 'object_prompts'}
  pipe.generate_trajectory(
    **given, motion_latents=noise(pipe, ours.stage1, 5), callback_on_step_end=seen
  )
  got = to_uint8(parity.channels_last(pipe.codec.decode(last['latents'], tiny.FRAMES).sample))
  motion = np.abs(got.astype(float) - painted).mean()
  assert steps == [('stage1', i) for i in range(exported.STEPS)]
  ids = exported.moved(request.mask)
  wanted = ours.videos([request], ids[None], 6)
  begin = noise(pipe, ours.stage2, 6)
  output = pipe(**arguments(), trajectory=ids, latents=begin, output_type='np')
  video = np.abs(np.round(output.frames * 255) - wanted).mean()
  assert wanted.std() > 10 and painted.std() > 10
  half = TTMPipeline.from_pretrained(folder, torch.bfloat16)
  half.set_progress_bar_config(disable=True)
  rough = half(**arguments(), trajectory=ids, latents=begin, output_type='np').frames
  drift = 255 * np.abs(rough - output.frames).mean()
  with capsys.disabled():
    print(
      f'\n{preset}, {exported.STEPS} steps, mean difference in levels of 255: trajectory'
      f' {motion:.4f}, video {video:.4f}; bfloat16 against float32 {drift:.2f}'
    )
  assert motion < 1 and video < 1 and 0 < drift < 10


@pytest.mark.parametrize('preset', exported.NAMES)
def test_ten_steps_of_the_baseline(preset, capsys):
  """TI2V has no objects, so that masked layers become plain ones."""
  from ttm_jax.pytorch import conditioning
  from ttm_jax.pytorch.loading import CLASSES

  settings, where = exported.config(preset, exported.TI2V), exported.context(preset)
  denoiser, backbone = Denoiser(settings, where), PRESETS[preset].torch
  params = exported.parameters(settings, where)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: denoiser.build(0)))
  rng = np.random.default_rng(0)
  visual = rng.normal(size=(1, *where.latent_shape)).astype(np.float32)
  text = denoiser.null_text.text
  condition = type(denoiser.null_text)(
    {'words': text['words'].replace(embedding=text['words'].embedding + 5)}, visual
  )
  key = jax.random.key(3)
  latents = jax.jit(
    lambda params: denoiser.sample(nnx.merge(graphdef, params), condition, key, where.latent_shape)
  )(params)
  wanted = to_uint8(where.codec.decode(latents, tiny.FRAMES))
  model = CLASSES[backbone.network](
    **backbone.config_to_torch(denoiser.model_config, denoiser.encoders)
  )
  tensors = backbone.to_torch(params, denoiser.model_config)
  model.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in tensors})
  scheduler = CLASSES[backbone.scheduler](**backbone.scheduler_config(denoiser.process))
  scheduler.set_timesteps(exported.STEPS)
  predict = conditioning.guided(
    model.eval(), parity.condition(condition), parity.condition(denoiser.null_text), 1.5, 2.0, 0.5
  )
  x = parity.channels_first(jax.random.normal(key, (1, *where.latent_shape)))
  with torch.no_grad():
    for t in scheduler.timesteps:
      x = scheduler.step(predict(x, t.float().expand(1)), t, x).prev_sample
  got = to_uint8(where.codec.decode(parity.channels_last(x), tiny.FRAMES))
  difference = np.abs(got.astype(float) - wanted).mean()
  with capsys.disabled():
    print(f'\nTI2V, {preset}: mean difference in levels of 255: {difference:.3f}')
  assert difference < 1 and wanted.std() > 10


def test_callbacks_seeds_and_outputs(pipe):
  stages, ids = [], exported.moved(exported.request().mask)

  def seen(pipeline, step, timestep, given):
    stages.append((pipeline.stage, step, tuple(given['latents'].shape)))
    return given

  first = pipe(**arguments(), generator=seeded(), output_type='np', callback_on_step_end=seen)
  shape = (1, *pipe.config.video['latents'])
  assert stages == [
    (stage, step, shape) for stage in ('stage1', 'stage2') for step in range(exported.STEPS)
  ]
  assert pipe.stage == ''
  assert first.frames.shape == (1, tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3)
  assert first.trajectory.dtype == np.uint8
  np.testing.assert_array_equal(first.trajectory[0, 0], exported.request().mask)
  # The trajectory of stage 1, passed back with the same seeds, gives the same video.
  again = pipe.generate_trajectory(
    **{k: v for k, v in arguments().items() if k != 'object_prompts'}, generator=seeded()
  )
  np.testing.assert_array_equal(again, first.trajectory)
  given = pipe(**arguments(), trajectory=again, generator=seeded(), output_type='np')
  np.testing.assert_array_equal(given.frames, first.frames)
  outputs = {
    kind: pipe(
      **arguments(),
      trajectory=ids,
      generator=seeded(1),
      output_type=kind,
      num_inference_steps=2,
    )
    for kind in ('pil', 'np', 'pt', 'latent')
  }
  values = outputs['np'].frames
  np.testing.assert_array_equal(outputs['pt'].frames.permute(0, 1, 3, 4, 2), values)
  pixels = np.stack([np.asarray(frame) for frame in outputs['pil'].frames[0]])
  np.testing.assert_allclose(pixels, values[0] * 255, atol=0.51)
  assert outputs['latent'].frames.shape == shape
  np.testing.assert_array_equal(outputs['np'].trajectory[0], ids)
  frames, given = pipe(
    **arguments(),
    trajectory=ids,
    generator=seeded(2),
    output_type='np',
    num_inference_steps=2,
    return_dict=False,
  )
  assert np.abs(frames - values).max() > 0.01 and given.shape == (1, *ids.shape)


def test_a_callback_may_change_latents_and_stop(pipe):
  ids, steps = exported.moved(exported.request().mask), []

  def cleared(pipeline, step, timestep, given):
    steps.append(step)
    pipeline._interrupt = step == 2
    return {'latents': torch.zeros_like(given['latents'])}

  output = pipe(**arguments(), trajectory=ids, output_type='latent', callback_on_step_end=cleared)
  assert steps == [0, 1, 2] and not output.frames.any()
  with pytest.raises(InputError, match='may name'):
    pipe(**arguments(), callback_on_step_end_tensor_inputs=['noise'])


def test_several_pictures_at_once_are_as_one_by_one(pipe):
  both = {k: [arguments(0)[k], arguments(1)[k]] for k in arguments()}
  options = {'num_inference_steps': 2, 'output_type': 'np'}
  joint = pipe(**both, generator=[seeded(0), seeded(1)], **options)
  for i in range(2):
    alone = pipe(**arguments(i), generator=seeded(i), **options)
    np.testing.assert_array_equal(joint.trajectory[i], alone.trajectory[0])
    np.testing.assert_allclose(joint.frames[i], alone.frames[0], atol=1e-4)


def test_guidance_and_texts_matter(pipe):
  ids = exported.moved(exported.request().mask)

  def made(**changes):
    options = {'trajectory': ids, 'generator': seeded(), 'num_inference_steps': 2}
    return pipe(**{**arguments(), **options, **changes}, output_type='np').frames

  plain = made()
  for changes in (
    {'visual_scale': 3.0},
    {'text_scale': 1.0},
    {'guidance_rescale': 0.0},
    {'prompt': 'Something else.'},
    {'object_prompts': {1: 'a red circle that jumps'}},
    {'trajectory': np.roll(ids, 1, 2)},
  ):
    assert np.abs(made(**changes) - plain).mean() > 1e-4, changes
  np.testing.assert_array_equal(made(motion_prompt='Only stage 1 reads this.'), plain)


def test_other_sizes_are_fitted_and_pictures_of_pillow_will_do(pipe):
  request = exported.request()
  large = Image.fromarray(request.picture).resize((3 * tiny.SIDE, 2 * tiny.SIDE))
  mask = Image.fromarray(request.mask).resize(large.size, Image.Resampling.NEAREST)
  mask.putpalette([0, 0, 0, 255, 0, 0])
  output = pipe(large, request.caption, mask, num_inference_steps=2, generator=seeded())
  assert output.frames[0][0].size == (tiny.SIDE, tiny.SIDE) and output.trajectory[0, 0].any()


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'prompt': ' '}, 'the prompt is empty'),
    ({'segmentation': np.zeros((tiny.SIDE, tiny.SIDE), np.uint8)}, 'has no object'),
    ({'segmentation': np.ones((4, 4), np.uint8)}, 'the mask is 4 x 4'),
    ({'segmentation': None}, 'no segmentation was given'),
    ({'segmentation': Image.new('RGB', (tiny.SIDE, tiny.SIDE))}, 'has no object'),
    ({'segmentation': np.full((tiny.SIDE, tiny.SIDE), 7, np.uint8)}, 'stage1 knows 3'),
    ({'image': 'photo.png'}, 'image must be'),
    ({'prompt': ['a', 'b']}, 'has 2 entries for 1'),
    ({'object_prompts': {3: 'a star'}}, 'no pixel in the mask'),
    ({'trajectory': np.zeros((3, 9, 9), np.uint8)}, '1 clips of 3 frames, needed are 1 of 4'),
    ({'trajectory': np.zeros((4, 9, 9))}, 'must be uint8'),
    ({'latents': torch.zeros(1, 2, 3)}, 'the noise of stage2 must be'),
    ({'num_inference_steps': 7}, 'must be even'),
    ({'output_type': 'gif'}, 'output_type must be one of'),
  ],
)
def test_what_cannot_be_is_said_in_a_sentence(pipe, changes, message):
  given = {**arguments(), 'trajectory': exported.moved(exported.request().mask), **changes}
  if message.startswith('stage1'):
    del given['trajectory']
    given['object_prompts'] = {}
  with pytest.raises(InputError, match=message):
    pipe(**given)


def test_memory_options(pipe, folders):
  assert pipe.model_cpu_offload_seq.split('->') == ['text_encoder', 'stage1', 'stage2', 'codec']
  assert {n for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)} == set(
    pipe.model_cpu_offload_seq.split('->')
  )
  for method in ('enable_vae_slicing', 'enable_vae_tiling', 'disable_vae_slicing'):
    getattr(pipe, method)()  # A linear codec needs almost no memory.
  ids = exported.moved(exported.request().mask)
  one = TTMPipeline.from_pretrained(folders['dit'][1], stage1=None, motion_scheduler=None)
  one.set_progress_bar_config(disable=True)
  output = one(**arguments(), trajectory=ids, num_inference_steps=2, output_type='latent')
  assert output.frames.shape == (1, *one.config.video['latents'])
  with pytest.raises(InputError, match='no stage 1: give a trajectory'):
    one(**arguments())


def test_other_schedulers_of_diffusers_fit(pipes):
  pipe = pipes['unet']
  kept = pipe.scheduler
  pipe.scheduler = diffusers.DDIMScheduler.from_config(kept.config)
  given = {'trajectory': exported.moved(exported.request().mask), 'output_type': 'np'}
  try:
    other = pipe(**arguments(), **given, generator=seeded()).frames
  finally:
    pipe.scheduler = kept
  np.testing.assert_allclose(
    pipe(**arguments(), **given, generator=seeded()).frames, other, atol=1e-3
  )


def test_it_saves_itself_and_comes_back(pipe, tmp_path):
  pipe.save_pretrained(tmp_path)
  again = TTMPipeline.from_pretrained(tmp_path, verify=False)
  again.set_progress_bar_config(disable=True)
  options = {'num_inference_steps': 2, 'output_type': 'latent'}
  one, two = (p(**arguments(), generator=seeded(), **options).frames for p in (pipe, again))
  torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
  'part, change, message',
  [
    ('stage2/W', lambda data: data[:-100], 'changed or cut off'),
    ('stage2/W', lambda data: data[:-1] + bytes([data[-1] ^ 1]), 'changed or cut off'),
    ('stage1/config.json', lambda data: data.replace(b'"ffn": 48', b'"ffn": 40'), 'changed'),
    ('codec/W', None, 'cannot be read'),
    ('SHA256SUMS', None, 'has no SHA256SUMS'),
  ],
)
def test_a_damaged_folder_is_refused(folders, tmp_path, part, change, message):
  copy = shutil.copytree(folders['dit'][1], tmp_path / 'copy')
  path = copy / part.replace('W', 'diffusion_pytorch_model.safetensors')
  if change is None:
    path.unlink()
  else:
    path.write_bytes(change(path.read_bytes()))
  with pytest.raises(InputError, match=message):
    TTMPipeline.from_pretrained(copy)
  # Without checksums, a component that fails to load still gives one error message.
  if 'stage' in part and change(b'12345678') != bytes([49, 50, 51, 52, 53, 54, 55, 57]):
    with pytest.raises(InputError, match=r'cannot be loaded|are not those of config'):
      TTMPipeline.from_pretrained(copy, verify=False)


def test_what_is_no_folder_is_refused(tmp_path):
  for name, message in (
    (tmp_path / 'none', 'is neither an exported folder nor a repository id'),
    (tmp_path, 'model_index.json is missing'),
  ):
    with pytest.raises(InputError, match=message):
      TTMPipeline.from_pretrained(name)


SCRIPT = """
import sys
import importlib.abc

class Blocker(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'ttm_jax'):
      raise ImportError(f'{name} is not here')

sys.meta_path.insert(0, Blocker())
import numpy as np
import torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline

given, *folders = sys.argv[1:]
arrays = np.load(given)
for number, folder in enumerate(folders):
  for options in ({'custom_pipeline': 'pipeline'}, {'custom_pipeline': folder}, {}):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options)
    assert type(pipe).__name__ == 'TTMPipeline' and 'ttm_jax' not in sys.modules
  output = pipe(
    arrays['image'], 'A red circle and a blue star.', arrays['segmentation'],
    object_prompts={1: 'a red circle that moves', 2: 'a blue star that stays'},
    generator=torch.Generator().manual_seed(0), output_type='np', num_inference_steps=2,
  )
  np.savez(f'{number}.npz', frames=output.frames, trajectory=output.trajectory)
"""


def test_the_folders_run_without_jax_and_without_this_package(folders, pipes, tmp_path):
  request = exported.request()
  np.savez(tmp_path / 'given.npz', image=request.picture, segmentation=request.mask)
  (tmp_path / 'script.py').write_text(SCRIPT)
  command = [sys.executable, 'script.py', 'given.npz', *(folder for _, folder in folders.values())]
  home = {'HF_HOME': str(tmp_path / 'home'), 'PATH': '/usr/bin', 'HF_HUB_OFFLINE': '1'}
  ended = subprocess.run(
    list(map(str, command)), cwd=tmp_path, env=home, capture_output=True, text=True
  )
  assert ended.returncode == 0, ended.stderr
  for number, preset in enumerate(folders):
    wanted = pipes[preset](
      request.picture,
      request.caption,
      request.mask,
      object_prompts=dict(request.prompts),
      generator=seeded(),
      output_type='np',
      num_inference_steps=2,
    )
    with np.load(tmp_path / f'{number}.npz') as got:
      np.testing.assert_array_equal(got['trajectory'], wanted.trajectory)
      np.testing.assert_allclose(got['frames'], wanted.frames, atol=1e-5)
