"""The exported pipeline in PyTorch against ours: videos, options, errors, the command."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests import doors, exported, tiny
from ttm_jax import trajectory
from ttm_jax.codecs.base import to_uint8
from ttm_jax.data.described import Described, Embeddings
from ttm_jax.errors import InputError
from ttm_jax.exporting.folder import export
from ttm_jax.exporting.stages import BACKBONES
from ttm_jax.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.processes.flow_matching import FlowMatching, linear_quadratic_schedule
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion
from ttm_jax.training.denoising import Denoiser

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from tests import pytorch_parity as parity  # noqa: E402
from ttm_jax.pytorch import TTMPipeline, generate  # noqa: E402
from ttm_jax.pytorch.schedulers import FlowMatchingScheduler, ZeroSNRScheduler  # noqa: E402

torch.set_num_threads(1)  # Threads cost more than such small networks.
diffusers.utils.logging.set_verbosity_error()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Of each preset, the runs and the folder exported from them in float32."""
  made = {}
  for preset in exported.NAMES:
    path = tmp_path_factory.mktemp(preset)
    runs = exported.make_runs(path, preset)
    export(*runs, path / 'folder', 'fp32')
    made[preset] = runs, path / 'folder'
  return made


@pytest.fixture(scope='module')
def pipes(folders):
  loaded = {name: TTMPipeline.from_pretrained(folder) for name, (_, folder) in folders.items()}
  for pipe in loaded.values():
    pipe.set_progress_bar_config(disable=True)
  return loaded


@pytest.fixture
def pipe(pipes):
  return pipes['dit']


def arguments(seed=0):
  request = exported.request(seed)
  return {
    'image': request.picture,
    'prompt': request.caption,
    'segmentation': request.mask,
    'motion_prompt': request.motion,
    'object_prompts': dict(request.prompts),
  }


def noise(pipe, seed):
  """What ours begins with."""
  c, *grid = pipe.config.video['latents']
  drawn = jax.random.normal(jax.random.key(seed), (1, *grid, c))
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
  pipe.generate_trajectory(**given, motion_latents=noise(pipe, 5), callback_on_step_end=seen)
  got = to_uint8(parity.channels_last(pipe.codec.decode(last['latents'], tiny.FRAMES).sample))
  motion = np.abs(got.astype(float) - painted).mean()
  assert steps == [('stage1', i) for i in range(exported.STEPS)]
  ids = exported.moved(request.mask)
  wanted = ours.videos([request], ids[None], 6)
  output = pipe(**arguments(), trajectory=ids, latents=noise(pipe, 6), output_type='np')
  video = np.abs(np.round(output.frames * 255) - wanted).mean()
  assert wanted.std() > 10 and painted.std() > 10
  half = TTMPipeline.from_pretrained(folder, torch.bfloat16)
  half.set_progress_bar_config(disable=True)
  rough = half(**arguments(), trajectory=ids, latents=noise(pipe, 6), output_type='np').frames
  drift = 255 * np.abs(rough - output.frames).mean()
  with capsys.disabled():
    print(
      f'\n{preset}, {exported.STEPS} steps, mean difference in levels of 255: trajectory'
      f' {motion:.4f}, video {video:.4f}; bfloat16 against float32 {drift:.2f}'
    )
  assert motion < 1 and video < 1 and 0 < drift < 10


@pytest.mark.parametrize('preset', exported.NAMES)
def test_ten_steps_of_the_baseline(preset, capsys):
  """TI2V: no objects, so that the extra layers are plain ones."""
  from ttm_jax.pytorch import conditioning
  from ttm_jax.pytorch.loading import CLASSES

  settings, where = exported.config(preset, exported.TI2V), exported.context(preset)
  denoiser, backbone = Denoiser(settings, where), BACKBONES[preset]
  params = exported.parameters(settings, where)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: denoiser.build(0)))
  rng = np.random.default_rng(0)
  visual = rng.normal(size=(1, *where.latent_shape)).astype(np.float32)
  text = denoiser.null_text.text
  condition = type(denoiser.null_text)(
    {'words': text['words'].replace(embedding=text['words'].embedding + 5)}, visual
  )
  key = jax.random.key(3)
  latents = jax.jit(lambda params: denoiser.sample(nnx.merge(graphdef, params), condition, key))(
    params
  )
  wanted = to_uint8(where.codec.decode(latents, tiny.FRAMES))
  model = CLASSES[backbone.network](**backbone.config(denoiser.model_config, denoiser.encoders))
  tensors = backbone.tensors(params, denoiser.model_config)
  model.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in tensors})
  scheduler = CLASSES[backbone.scheduler](**backbone.process(denoiser.process))
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


@pytest.mark.parametrize('prediction', ['velocity', 'data'])
def test_flow_matching_steps_as_ours(prediction):
  rng = np.random.default_rng(0)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  for steps in (10, 50):
    process = FlowMatching(steps=steps, emulated_steps=100, prediction=prediction, sigma_min=1e-2)
    wanted = process.sample(lambda x, t: 0.3 * x + goal * (1 + t[:, None, None]), x)
    schedule = linear_quadratic_schedule(steps, 100).astype(np.float32)
    times = np.asarray(process.network_time(schedule))[:-1]
    scheduler = FlowMatchingScheduler(100, 1e-2, prediction)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.timesteps, times, rtol=1e-6, atol=1e-4)
    y = torch.from_numpy(x)
    for t in scheduler.timesteps:
      prediction_at = 0.3 * y + torch.from_numpy(goal) * (2 - t / 1000)
      y = scheduler.step(prediction_at, t, y).prev_sample
    np.testing.assert_allclose(y, wanted, atol=2e-5)
  with pytest.raises(ValueError, match='even and at most 100, got 7'):
    scheduler.set_timesteps(7)


@pytest.mark.parametrize('schedule, prediction', [('linear', 'v'), ('scaled_linear', 'data')])
def test_ddim_steps_as_ours_and_as_diffusers(schedule, prediction):
  rng = np.random.default_rng(0)
  x, goal = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  process = ZeroSNRDiffusion(beta_schedule=schedule, prediction=prediction)
  scheduler = ZeroSNRScheduler(**BACKBONES['unet'].process(process))
  other = diffusers.DDIMScheduler.from_config(scheduler.config)
  for steps in (8, 30, 50):
    process = dataclasses.replace(process, steps=steps)
    wanted = process.sample(lambda x, t: 0.3 * x + goal, x)
    found = []
    for one in (scheduler, other):
      one.set_timesteps(steps)
      y = torch.from_numpy(x)
      for t in one.timesteps:
        y = one.step(0.3 * y + torch.from_numpy(goal), t, y).prev_sample
      found.append(y.numpy())
    np.testing.assert_allclose(found[0], wanted, atol=2e-5)
    # There a step of 1000 / 30 ends beside where the next begins.
    assert (np.abs(found[1] - wanted).max() < 1e-4) == (1000 % steps == 0)
  with pytest.raises(ValueError, match='prediction_type must be'):
    ZeroSNRScheduler(prediction_type='epsilon')


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
  # The trajectory of stage 1 given back, with the same seeds, is the same video.
  again = pipe.generate_trajectory(
    **{k: v for k, v in arguments().items() if k != 'object_prompts'}, generator=seeded()
  )
  np.testing.assert_array_equal(again, first.trajectory)
  outputs = {
    kind: pipe(
      **arguments(), trajectory=ids, generator=seeded(1), output_type=kind, num_inference_steps=2
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
    ({'segmentation': Image.new('RGB', (tiny.SIDE, tiny.SIDE))}, 'mode RGB'),
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
    getattr(pipe, method)()  # A linear codec takes no memory to speak of.
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
  # Without checksums what does not load is still told in a sentence.
  if 'stage' in part and change(b'12345678') != bytes([49, 50, 51, 52, 53, 54, 55, 57]):
    with pytest.raises(InputError, match=r'cannot be loaded|are not those of config'):
      TTMPipeline.from_pretrained(copy, verify=False)


def test_what_is_no_folder_is_refused(tmp_path):
  for name, message in (
    (tmp_path / 'none', 'is no exported folder, and no id'),
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


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  """The arguments of the command, but for the folder and what it writes."""
  path, request = tmp_path_factory.mktemp('picture'), exported.request()
  Image.fromarray(request.picture).save(path / 'photo.png')
  trajectory.write_folder(path / 'masks', request.mask[None])
  return [
    f'--image={path}/photo.png',
    f'--segmentation={path}/masks/00000.png',
    f'--prompt={request.caption}',
    f'--motion={request.motion}',
    *(f'--object={i}: {text}' for i, text in request.prompts.items()),
    '--steps=2',
  ]


def test_the_command_writes_what_that_of_jax_does(folders, pipe, command, tmp_path, monkeypatch):
  folder = folders['dit'][1]
  ended = doors.run('ttm_jax.pytorch.generate', folder, *command, f'--out={tmp_path}/a/out.mp4')
  assert ended.code == 0, ended.err
  names = ['out.mp4', 'out_trajectory/', 'out_trajectory.mp4', 'out_side_by_side.mp4']
  assert ended.out.split() == [f'{tmp_path}/a/{name}' for name in names]
  assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == sorted(n.strip('/') for n in names)
  wanted = pipe(**arguments(), generator=seeded(), num_inference_steps=2).trajectory[0]
  ids = trajectory.read_folder(tmp_path / 'a' / 'out_trajectory')
  np.testing.assert_array_equal(ids, wanted)
  mine = exported.moved(exported.request().mask)
  trajectory.write_folder(tmp_path / 'mine', mine)
  options = f'--trajectory={tmp_path}/mine', f'--out={tmp_path}/b.mp4'
  monkeypatch.setattr(sys, 'argv', ['generate', str(folder), *command, *options])
  generate.main()
  np.testing.assert_array_equal(trajectory.read_folder(tmp_path / 'b_trajectory'), mine)


def test_the_command_takes_a_described_picture(folders, command, tmp_path, monkeypatch, capsys):
  def ids(name, *options):
    argv = ['generate', str(folders['dit'][1]), *options, '--steps=2', f'--out={tmp_path}/{name}']
    monkeypatch.setattr(sys, 'argv', argv)
    generate.main()
    return trajectory.read_folder(tmp_path / f'{name[:-4]}_trajectory')

  request, path = exported.request(), tmp_path / 'photo.safetensors'
  texts = {'clip': Embeddings('clip', 'CLIP', {('A text.', 4): (np.ones((4, 2), np.float16), 2)})}
  said = request.caption, request.motion, {1: 'circle', 2: 'star'}, request.prompts
  Described(request.picture, request.mask, *said, texts).save(path)
  wanted = ids('a.mp4', *command)
  np.testing.assert_array_equal(ids('b.mp4', f'--described={path}'), wanted)
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()
  assert f'motion: {request.motion}' in capsys.readouterr().out
  # What is given besides counts instead.
  said = 'Other.', 'Nothing moves.', {}, {1: 'no circle'}
  Described(255 - request.picture, request.mask[::-1], *said).save(path)
  np.testing.assert_array_equal(ids('c.mp4', f'--described={path}', *command), wanted)
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'c.mp4').read_bytes()
  ids('d.mp4', f'--described={path}')
  assert (tmp_path / 'a.mp4').read_bytes() != (tmp_path / 'd.mp4').read_bytes()


@pytest.mark.parametrize(
  'changes, message',
  [
    (['--out=out.gif'], '--out out.gif: give a name that ends in .mp4'),
    (['--object=1: twice'], '--object gives object 1 two prompts'),
    (['--object=one'], '--object "one": write the id in the mask'),
    (['--image=none.png'], 'none.png'),
    (['--image='], 'give --image PICTURE, or --described FILE'),
    (['--segmentation='], 'give --segmentation MASK.png; or --detector and --sam'),
    (['--described=x', '--sam=y'], '--described and models exclude each other'),
    (['--described=/none'], '/none: there is no such file; make it with python -m data_tools'),
    (['--steps=3'], 'the number of steps must be even'),
  ],
)
def test_the_command_refuses_in_a_sentence(folders, command, changes, message, monkeypatch):
  argv = ['generate', str(folders['dit'][1]), *command, '--out=out.mp4', *changes]
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(InputError, match='.*'.join(map(str, [message])).replace('(', r'\(')):
    generate.main()


def test_objects_are_found_where_no_masks_are_given(pipe, tmp_path):
  from tests import tiny_models
  from ttm_jax.pytorch.segmentation import Segmenter

  detector = tiny_models.grounding_dino(tmp_path / 'dino')
  sam = tiny_models.sam2_video(tmp_path / 'sam')
  segmenter = Segmenter(str(detector), str(sam), threshold=0.0, max_objects=3)
  picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
  mask, prompts = segmenter(picture, 'A dog runs, and a ball rolls.', ['dog', 'ball'])
  assert mask.shape == (40, 48) and mask.dtype == np.uint8 and mask.any()
  assert set(prompts) == set(np.unique(mask)) - {0}
  assert set(prompts.values()) <= {'A dog runs', 'a ball rolls'}
  pipe.segmenter = segmenter
  try:
    output = pipe(picture, 'A dog runs.', num_inference_steps=2, output_type='np')
  finally:
    pipe.segmenter = None
  assert output.trajectory[0, 0].any()
  nothing = Segmenter(str(detector), str(sam), threshold=1.0)
  with pytest.raises(InputError, match=r'nothing of "A dog." was found'):
    nothing(picture, 'A dog.')
  with pytest.raises(InputError, match='cannot be loaded as AutoProcessor'):
    Segmenter(str(tmp_path), str(sam))


def test_who_owns_a_pixel_and_what_is_said_of_it():
  from ttm_jax.pytorch.segmentation import iou, label_map, prompt_of

  logits = np.full((2, 2, 3), -1.0)
  logits[0] = 2.0
  logits[1, 0, :2] = 2.0, 3.0
  np.testing.assert_array_equal(label_map(logits), [[2, 2, 1], [1, 1, 1]])
  assert iou(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
  said = 'A dog runs left and the red ball rolls, while a cat sleeps.'
  assert prompt_of('ball', said) == 'the red ball rolls'
  assert prompt_of('cat', said) == 'a cat sleeps'
  assert prompt_of('horse', said) == said


def test_pretrained_text_encoders_give_what_datasets_have(tmp_path):
  from data_tools.steps.text import TransformersText
  from data_tools.steps.weights import Weights
  from tests import tiny_models
  from ttm_jax.pytorch.text_encoder import TTMTextEncoder

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
    encode = TransformersText(Weights(str(path), 'cpu'))
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


def test_the_empty_text_is_that_of_the_runs(pipe, folders):
  where = exported.context('dit')
  null = pipe.text_encoder.null('stage2')
  np.testing.assert_array_equal(null.text['words'].embedding, where.null_text['text.words.caption'])
  wanted = where.null_text['text.words.prompts'].reshape(1, -1)
  np.testing.assert_array_equal(null.objects.prompts['words'].embedding, wanted)
  assert (
    json.loads((folders['dit'][1] / 'text_encoder' / 'config.json').read_text())['models'] == {}
  )
