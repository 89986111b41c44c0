"""Optical flow as a trajectory: colors and motions in closed form, and both stages on it."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from data_tools import encode
from data_tools.commands.encode import check
from tests.helpers import cli, exported, tiny
from ttm_jax import optical_flow
from ttm_jax.codecs.base import to_float
from ttm_jax.commands.generate import encodings_of
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import Context
from ttm_jax.data.encode import EncodedClips, LatentEncoder
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.exporting import stages
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.metrics.evaluation import request_of

WHITE = 255


def moving(size=(32, 48), frames=4):
  """Return label maps: object 1 moves by (3, -1) per frame, object 2 rests, then disappears."""
  ids = np.zeros((frames, *size), np.uint8)
  for t in range(frames):
    ids[t, 10 - t : 18 - t, 4 + 3 * t : 14 + 3 * t] = 1
    ids[t, 22:30, 30:40] = 2 * (t < frames - 1)
  return ids


def test_the_flow_of_label_maps_is_the_motion_of_each_object():
  ids = moving()
  flow = optical_flow.of_labels(ids)
  assert flow.shape == (3, 32, 48, 2) and flow.dtype == np.float32
  for t in range(3):
    np.testing.assert_allclose(flow[t][ids[t] == 1], np.tile([3, -1], (80, 1)), atol=1e-5)
    assert not flow[t][ids[t] != 1].any()
  assert optical_flow.of_labels(ids[:1]).shape == (0, 32, 48, 2)


def test_colors_tell_direction_and_length():
  flow = np.zeros((1, 1, 5, 2))
  flow[0, 0, 1:] = [(4, 0), (-4, 0), (2, 0), (9, 0)]
  colors = optical_flow.render(flow, longest=4)[0, 0]
  assert colors.tolist() == [[255] * 3, [255, 0, 0], [0, 255, 255], [255, 128, 128], [255, 0, 0]]


def test_a_trajectory_starts_at_rest_and_has_a_fixed_scale():
  ids = moving()
  shown = optical_flow.as_trajectory(optical_flow.of_labels(ids))
  assert shown.shape == (4, 32, 48, 3) and (shown[0] == WHITE).all()
  for t in (1, 2, 3):
    # Frame t has the motion at the pixels of frame t - 1.
    assert (shown[t][ids[t - 1] != 1] == WHITE).all()
    assert len(np.unique(shown[t][ids[t - 1] == 1], axis=0)) == 1
  # The shorter side is 32, so that motions from 2 pixels on are saturated, and 1 is half of it.
  slow = np.broadcast_to(np.array([1.0, 0.0]), (1, 32, 48, 2))
  assert optical_flow.as_trajectory(slow)[1, 0, 0].tolist() == [255, 128, 128]
  assert shown[1][ids[0] == 1][0].min() == 0


# Both stages.


@pytest.fixture(scope='module')
def where():
  masks = exported.context('dit')
  return dataclasses.replace(masks, encoding=dataclasses.replace(masks.encoding, trajectory=FLOW))


@pytest.fixture(scope='module')
def runs(where, tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  found = []
  for number in (exported.STAGE1, exported.STAGE2):
    settings = exported.config('dit', number)
    params = exported.parameters(settings, where, number)
    found.append(exported.save_run(root / f'stage{number}', settings, where, params))
  return found


def test_records_hold_flow_and_no_objects(where, clips):
  some = [Clips(clips, 'validation')[i] for i in range(2)]
  records = [record for _, record in EncodedClips(some, where)]
  for clip, record in zip(some, records, strict=True):
    shown = optical_flow.as_trajectory(optical_flow.of_labels(clip.ids))
    wanted = where.codec.encode(jnp.asarray(to_float(shown)[None])).mean[0]
    np.testing.assert_allclose(record['trajectory'], wanted, rtol=1e-3, atol=2e-3)
    for mask in ('region', 'box', 'seg'):
      assert not record[f'token_masks.0.{mask}'].any()
  given = list(EncodedClips(some, where, flow=lambda clip: np.ones((3, 16, 16, 2))))
  still = LatentEncoder(where.codec, 'spread8')(np.full((1, 1, 16, 16, 3), WHITE, np.uint8)).mean
  np.testing.assert_allclose(given[0][1]['first_mask'], still[0], rtol=1e-3, atol=2e-3)
  assert (given[0][1]['trajectory'] != records[0]['trajectory']).any()


def test_inference_gives_the_network_what_training_does(where, runs, clips):
  clip = Clips(clips, 'validation')[0]
  (_, record) = next(iter(EncodedClips([clip], where)))
  stage1, stage2 = (Stage(run, task) for run, task in zip(runs, (STAGE1, STAGE2), strict=True))
  request = request_of(clip)

  def given_to(stage, ids=None):
    arrays = stage.sampler.record(stage.context.codec, stage.batch([request], ids))
    return {name: x[0] for name, x in arrays.items()}

  asked = given_to(stage1)
  for name in ('first_frame', 'first_mask', 'token_masks.0.region', 'text.words.motion'):
    np.testing.assert_allclose(asked[name], record[name], rtol=1e-3, atol=2e-3)
  shown = optical_flow.as_trajectory(optical_flow.of_labels(clip.ids))
  for given in (shown, clip.ids):  # A rendering, or label maps that are rendered.
    asked = given_to(stage2, given[None])
    for name in ('trajectory', 'token_masks.0.region', 'token_masks.0.box'):
      np.testing.assert_allclose(asked[name], record[name], rtol=1e-3, atol=2e-3)


def test_stage_2_gets_the_pixels_of_stage_1(runs, clips):
  requests = [request_of(Clips(clips, 'validation')[i]) for i in range(2)]
  stage1, stage2 = (Stage(run, task) for run, task in zip(runs, (STAGE1, STAGE2), strict=True))
  pipeline = Pipeline(stage1, stage2)
  shown = pipeline.trajectories(requests, 3)
  assert shown.shape == (2, *tiny_size(), 3) and (shown[:, 0] == WHITE).all()
  np.testing.assert_array_equal(shown[:, 1:], stage1.generate(requests, 3)[:, 1:])
  videos = pipeline.videos(requests, shown, 3)
  assert videos.shape == shown.shape
  assert (pipeline.videos(requests, 255 - shown, 3) != videos).any()
  with pytest.raises(InputError, match=r'the trajectory has 3 frames of 16 x 16, this run takes 4'):
    stage2.check(requests[0], shown[0, 1:])


def tiny_size():
  return tiny.FRAMES, tiny.SIDE, tiny.SIDE


def test_both_stages_are_scored(runs, clips, tmp_path):
  ended = cli.run(
    'ttm_jax.evaluate',
    *(f'--stage1={runs[0]}', f'--stage2={runs[1]}', f'--clips={clips}', '--count=2'),
    *('--metrics=psnr', f'--out={tmp_path}/out'),
  )
  assert ended.code == 0, ended.err
  assert 'both stages' in ended.out
  scored = [path.name for path in (tmp_path / 'out').iterdir()]
  assert 'report.html' not in scored  # The report of a pair is about masks.


def test_what_needs_masks_refuses_flow(runs, clips, tmp_path):
  with pytest.raises(InputError, match=r'was trained on optical flow: score it with'):
    encodings_of([str(run) for run in runs])
  with pytest.raises(InputError, match='was trained on optical flow, which exported folders do'):
    stages.StageRun(runs[0], STAGE1)
  masks = exported.context('dit')
  stage1 = Stage(runs[0], STAGE1)
  settings = exported.config('dit', exported.STAGE2)
  params = exported.parameters(settings, masks, 1)
  other = Stage(exported.save_run(tmp_path / 'masks', settings, masks, params), STAGE2)
  with pytest.raises(InputError, match='the stages differ in trajectory: flow in stage 1'):
    Pipeline(stage1, other)
  command = tiny.encode_command(clips, tmp_path / 'out', f'--codec={tiny.CODEC}')[1:]
  for options, said in (
    (['--trajectory=flow', '--corrupt=0.5'], '--corrupt damages masks, but --trajectory is flow;'),
    (['--flow=raft.safetensors'], '--flow is for --trajectory flow; remove this flag, or add'),
  ):
    with pytest.raises(InputError, match=said):
      check(encode.parser().parse_args([*command, *options]))


def test_a_dataset_says_that_it_holds_flow(clips, tmp_path):
  path = tmp_path / 'flow'
  command = tiny.encode_command(clips, path, f'--codec={tiny.CODEC}', '--trajectory=flow')
  ended = cli.run(*command)
  assert ended.code == 0, ended.err
  assert Context.load(path).encoding.trajectory == FLOW
  stored = path / 'context' / 'context.json'
  content = json.loads(stored.read_text())
  stored.write_text(json.dumps({**content, 'trajectory': 'maps'}))
  with pytest.raises(InputError, match="unknown trajectory 'maps'"):
    Context.load(path)
  del content['trajectory']  # Datasets of earlier versions hold masks.
  stored.write_text(json.dumps(content))
  assert Context.load(path).encoding.trajectory == 'masks'
