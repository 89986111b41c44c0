"""The engine: each input comes out once despite kills, and every rejection has a reason."""

import contextlib
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import encode, parts, prepare, shard
from data_tools.drafts import Draft, Rejected
from data_tools.sources import decode
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import Crop, drafts
from data_tools.stats import Tally
from tests.helpers import tiny, video_fixtures
from ttm_jax.data import mixture, records
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.training.denoising import Denoising
from ttm_jax.trajectory import read_folder

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get('TTM_SHARED_DATA', '../shared/data'))
SAID = {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a dog that runs'}}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Ten videos, two of them unusable, with captions."""
  root = tmp_path_factory.mktemp('source')
  for number in range(10):
    ids = np.zeros((12 + number, 32, 48), np.uint8)
    for t in range(len(ids)):
      ids[t, 4 + number : 14 + number, 4 + t : 16 + t] = 1
    video_fixtures.object_video(root / f'v{number}', ids)
  video_fixtures.truncate(root / 'v3' / 'video.mp4', 0.9)
  (root / 'v7' / 'video.mp4').write_text('none')
  captions = {f'v{number}': SAID for number in range(10)}
  (root / 'captions.json').write_text(json.dumps(captions))
  return root


def options(source, out, *more):
  return [
    f'--source={source}',
    f'--captions={source}/captions.json',
    f'--out={out}',
    '--clip=6x16x24',
    '--fps=12',
    '--stride=3',
    '--validation=2',
    '--videos_per_shard=2',
    *more,
  ]


def all_clips(folder):
  found = {}
  for split in records.splits(folder):
    for clip in Clips(folder, split):
      assert (split, clip.key) not in found
      found[split, clip.key] = clip
  return found


def check_same(one, other):
  assert one.keys() == other.keys()
  for key, clip in one.items():
    np.testing.assert_array_equal(clip.video, other[key].video)
    np.testing.assert_array_equal(clip.ids, other[key].ids)
    assert (clip.caption, clip.prompts, clip.fps) == (
      other[key].caption,
      other[key].prompts,
      other[key].fps,
    )


@pytest.fixture(scope='module')
def undisturbed(source, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'clips'
  prepare.main(options(source, out))
  return out


def test_clips_are_those_of_the_source(source, undisturbed):
  found = all_clips(undisturbed)
  wanted = {}
  captions = read_captions(source / 'captions.json')
  for number in range(10):
    if number in (3, 7):
      continue
    key, split = f'v{number}', 'validation' if number >= 8 else 'train'
    masks = vos_videos(source, captions)[number].masks
    video = Video(key, str(source / key / 'video.mp4'), captions[key], masks)
    for draft in drafts(video, Window(6, 3, 12, (16, 24))):
      wanted[split, draft.key] = draft
  assert found.keys() == wanted.keys() and len(found) > 20
  for key, draft in wanted.items():
    np.testing.assert_array_equal(found[key].video, draft.video)
    np.testing.assert_array_equal(found[key].ids, draft.ids)
    assert found[key].prompts == ('a dog that runs',) and found[key].caption == 'A dog.'


def test_the_report_adds_up(undisturbed):
  found = json.loads((undisturbed / 'report.json').read_text())
  assert found['videos'] == {
    'in': 10,
    'unused': 2,
    'too_short': 0,
    'reasons': {'damaged, N of N frames are there': 1, 'not a readable video': 1},
  }
  windows = found['windows']
  assert windows['in'] == windows['accepted'] + windows['rejected'] == len(all_clips(undisturbed))
  assert found['objects_per_clip'] == {'1': windows['accepted']}
  assert found['sources']['v3'].startswith('not used: ')
  assert found['sources']['v0'].startswith('12 frames at 12 fps -> 12 at 12, 48x32 cropped')
  page = (undisturbed / 'report.html').read_text()
  assert page.count('data:image/webp;base64,') > 5 and 'damaged, N of N' in page
  assert '<script' not in page and 'http' not in page.replace('http-equiv', '')
  assert sorted(f.name for f in undisturbed.iterdir() if not f.name.startswith('clips-')) == [
    'dataset_info.json',
    'features.json',
    'metadata.json',
    'report.html',
    'report.json',
    'shards.json',
  ]
  assert Clips(undisturbed, 'train').records.metadata['videos'] == 10


def test_a_finished_job_is_left_alone(source, undisturbed, capsys):
  before = (undisturbed / 'report.json').stat().st_mtime
  prepare.main(options(source, undisturbed))
  assert 'is finished already' in capsys.readouterr().out
  assert (undisturbed / 'report.json').stat().st_mtime == before
  with pytest.raises(InputError, match=r'already in use by another job: fps is 12\.0 there and 6'):
    prepare.main([*options(source, undisturbed), '--fps=6'])


def command(source, out, *more):
  return [sys.executable, '-m', 'data_tools.prepare', *options(source, out, *more)]


def test_two_workers_give_the_same_set(source, undisturbed, tmp_path):
  out = tmp_path / 'clips'
  ended = subprocess.run(
    command(source, out, '--workers=2'), cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert ended.returncode == 0, ended.stderr
  check_same(all_clips(out), all_clips(undisturbed))
  assert 'rejected' not in ended.stdout and 'not used v3: ' in ended.stdout


@pytest.mark.slow
def test_killed_five_times_and_restarted(source, undisturbed, tmp_path):
  out = tmp_path / 'clips'
  rng = random.Random(0)
  kept = []
  for _ in range(5):
    process = subprocess.Popen(
      command(source, out, '--videos_per_shard=1'),
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    # Wait until it works; there is nothing to interrupt before.
    end = time.monotonic() + 120
    parts = tmp_path / 'clips.incomplete' / 'parts'
    before = set(parts.glob('*'))
    while time.monotonic() < end and process.poll() is None and before == set(parts.glob('*')):
      time.sleep(0.005)
    time.sleep(rng.random() * 0.1)
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept.append(len(list(parts.glob('0*/tally.json'))))
  assert kept[0] < 10 and (kept == sorted(kept) or out.exists())
  prepare.main(options(source, out, '--videos_per_shard=1'))
  check_same(all_clips(out), all_clips(undisturbed))
  one, other = (json.loads((o / 'report.json').read_text()) for o in (out, undisturbed))
  for name in ('videos', 'windows', 'sources', 'rejections', 'clips'):
    assert one[name] == other[name]


def test_another_job_does_not_go_on_with_this_one(source, tmp_path, monkeypatch):
  out = tmp_path / 'clips'

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(parts, 'assemble', interrupted)
  with pytest.raises(KeyboardInterrupt):
    prepare.main(options(source, out))
  with pytest.raises(InputError, match=r'belongs to another job: fps is 12\.0 there and 6\.0 here'):
    prepare.main(options(source, out, '--fps=6'))


def test_when_no_clip_comes_out_other_options_may_follow(source, tmp_path):
  out = tmp_path / 'clips'
  none = _captions(source, tmp_path, {'2': 'a cat'})
  with pytest.raises(InputError) as caught:
    prepare.main([*options(source, out), f'--captions={none}'])
  said = str(caught.value)
  assert said.startswith('no clip was accepted: 1 video not used (')
  assert f'{source}/v7/video.mp4: not a readable video; convert it to mp4' in said
  assert 'windows rejected (no described object is visible in the first frame)' in said
  assert said.endswith(f'; see {out}.incomplete/report.html')
  assert not out.exists()
  prepare.main(options(source, out))
  assert len(all_clips(out)) > 20


def _captions(source, folder, prompts):
  entries = json.loads((source / 'captions.json').read_text())
  path = folder / 'other.json'
  path.write_text(json.dumps({k: e | {'c_local': prompts} for k, e in entries.items()}))
  return path


def test_buckets_become_datasets_of_their_own(tmp_path, monkeypatch):
  source = tmp_path / 'source'
  for key, size in (('wide', (16, 32)), ('tall', (32, 16))):
    ids = np.zeros((8, *size), np.uint8)
    ids[:, 4:12, 4:12] = 1
    video_fixtures.object_video(source / key, ids)
  (source / 'captions.json').write_text(json.dumps({'wide': SAID, 'tall': SAID}))
  out = tmp_path / 'out'
  prepare.main(
    [
      f'--source={source}',
      f'--captions={source}/captions.json',
      f'--out={out}',
      '--clip=4x8x16',
      '--clip=8x16x8',
      '--fps=12',
    ]
  )
  assert [c.key for c in Clips(out / '4x8x16', 'train')] == ['wide/00000', 'wide/00004']
  (tall,) = Clips(out / '8x16x8', 'train')
  assert tall.video.shape == (8, 16, 8, 3)
  # All buckets are encoded at once, and the folder of the latents is a mixture of them.
  latents = tmp_path / 'latents'
  options = [f'--clips={out}', f'--out={latents}', f'--codec={tiny.CODEC}']
  monkeypatch.setattr(sys, 'argv', ['encode', *options])
  encode.main()
  parts = mixture.datasets(str(latents))
  assert [(part.path, round(3 * part.weight)) for part in parts] == [
    (f'{latents}/4x8x16', 2),
    (f'{latents}/8x16x8', 1),
  ]
  objective = Denoising(tiny.shrunk('demo_stage1', latents, model__grid=(4, 4, 4)))
  shapes = [batch['video'].shape for batch in itertools.islice(objective.batches('train', 0), 6)]
  assert sorted(shapes) == 4 * [(4, 2, 2, 4, 6)] + 2 * [(4, 4, 4, 2, 6)]
  with pytest.raises(InputError, match='latents/4x8x16: already in use'):
    encode.main()


# Steps within the engine.


class FailsOn:
  """A step that fails on one draft and rejects another."""

  def __call__(self, drafts):
    if any(draft.key.startswith('v1/') for draft in drafts):
      raise RuntimeError('out of memory\nat 0x0')
    return [Rejected(d, 'dull', 'grey') if d.key.startswith('v2/') else d for d in drafts]


class FailingSettings:
  def build(self):
    return FailsOn()


def work(tmp_path, **changes):
  return shard.Work(str(tmp_path), (Window(6, 6, 12, (16, 24)),), **changes)


def test_a_step_that_fails_costs_only_its_clip(source, tmp_path):
  videos = tuple(
    (v, 'train') for v in vos_videos(source, read_captions(source / 'captions.json'))[:3]
  )
  shard.run(shard.Shard(0, videos), work(tmp_path, measures=(FailingSettings(),)))
  tally = parts.read_part(parts.part_folder(tmp_path, 0)).tally
  assert [c['key'] for c in tally.clips] == ['v0/00000', 'v0/00006']
  reasons = {r['key']: (r['reason'], r['detail']) for r in tally.rejected}
  assert reasons['v1/00000'] == ('the step failing failed', 'RuntimeError: out of memory')
  assert reasons['v2/00006'] == ('dull', 'grey')
  assert {s['reason'] for s in tally.strips} == {'', 'the step failing failed', 'dull'}


class Refusing:
  def build(self):
    raise InputError('model: there is no such folder; check the path')


def test_a_model_that_is_not_there_stops_the_job(source, tmp_path, capsys):
  with pytest.raises(InputError, match='no/such/llm: there is no such folder; check the path'):
    prepare.main([*options(source, tmp_path / 'out'), '--llm=no/such/llm', '--offline'])
  assert not (tmp_path / 'out').exists()


def test_a_full_disk_is_said(source, tmp_path, monkeypatch):
  def full(self, *_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(parts.PartWriter, 'write', full)
  with pytest.raises(InputError, match=r'cannot write .* \(No space left on device\); free space'):
    prepare.main(options(source, tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()
  assert not list((tmp_path / 'out.incomplete' / 'parts').glob('*/*.array_record'))


@pytest.fixture
def small_files():
  """Limit the file size of this process until it is reset."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
  yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_said_and_the_job_goes_on_later(tmp_path, small_files):
  """Use a real limit: the record writer gets the error when it closes its file."""
  size = (96, 144)
  source, out = tmp_path / 'source', tmp_path / 'clips'
  for name in ('a', 'b'):
    video_fixtures.object_video(source / name, np.ones((12, *size), np.uint8))
  noise = np.random.default_rng(0).integers(0, 255, (12, *size, 3), np.uint8)
  times = [Fraction(t, 12) for t in range(12)]
  video_fixtures.save_with(source / 'b' / 'video.mp4', noise, times, codec='mpeg4')
  (source / 'captions.json').write_text(json.dumps({'a': SAID, 'b': SAID}))
  given = [f'--source={source}', f'--captions={source}/captions.json', f'--out={out}']
  given += ['--clip=12x96x144', '--fps=12', '--videos_per_shard=1']
  with pytest.raises(InputError) as caught:
    prepare.main(given)
  assert str(caught.value) == (
    f'cannot write {out}.incomplete/parts/00001 (write() failed: File too large); free space, then'
    ' run the same command again'
  )
  assert not out.exists()
  left = [part.name for part in (tmp_path / 'clips.incomplete' / 'parts').iterdir()]
  assert left in ([], ['00000'])
  small_files()
  prepare.main(given)
  assert [clip.key for clip in Clips(out, 'train')] == ['a/00000', 'b/00000']


def test_an_encoding_on_a_full_disk_leaves_nothing(clips, tmp_path, small_files, monkeypatch):
  monkeypatch.setattr(
    sys, 'argv', ['encode', f'--clips={clips}', f'--out={tmp_path}/a', f'--codec={tiny.CODEC}']
  )
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
  with pytest.raises(InputError) as caught:
    encode.main()
  assert str(caught.value) == (
    f'cannot write {tmp_path}/a (write() failed: File too large); free space or name another folder'
  )
  assert not list(tmp_path.iterdir())


def test_endless_captions_are_rejected(source, tmp_path):
  captions = _captions(source, tmp_path, {'1': 'a dog'})
  entries = json.loads(captions.read_text())
  entries['v0']['c'] = 'word ' * 2000
  captions.write_text(json.dumps(entries))
  out = tmp_path / 'out'
  prepare.main([*options(source, out), f'--captions={captions}'])
  report = json.loads((out / 'report.json').read_text())
  reasons = {r['key'].split('/')[0]: (r['reason'], r['detail']) for r in report['rejections']}
  assert reasons == {'v0': ('caption of more than 400 words', '2000 words')}


def test_described_windows_need_no_step(source, tmp_path):
  videos = vos_videos(source, read_captions(source / 'captions.json'))[1:2]
  found = (FailingSettings(),)
  shard.run(shard.Shard(0, ((videos[0], 'train'),)), work(tmp_path, finders=found))
  tally = parts.read_part(parts.part_folder(tmp_path, 0)).tally
  assert len(tally.clips) == 2 and not tally.rejected


def test_tallies_come_back():
  draft = Draft('a', np.zeros((3, 40, 60, 3), np.uint8), 8.0)
  tally = Tally()
  tally.reject(draft, 'dull', '')
  tally.backgrounded['x'] += 2
  again = Tally.from_json(json.loads(json.dumps(tally.to_json())))
  assert again == tally
  again.add(tally)
  assert again.backgrounded['x'] == 4 and len(again.rejected) == 2


@pytest.mark.parametrize(
  'change, said',
  [
    (['--clip=16'], 'write FRAMESxHEIGHTxWIDTH'),
    ([f'--clip={"1" * 5000}x16x24'], 'write FRAMESxHEIGHTxWIDTH'),
    ([f'--clip=4x{"1" * 5000}'], 'is not a size'),
    (['--fps=inf'], '--fps inf: give frames per second'),
    (['--source_fps=-1'], '--source_fps -1: give frames per second'),
    (['--source=/' + 'x' * 300], 'xxx: there is no such folder'),
    (['--clip=6x16x24'], 'two clips have the same size'),
    (['--validation=10'], 'no training video remains, since the source has 10'),
    (['--workers=0'], '--workers 0 must be at least 1'),
    (['--masklets=manuel'], r'--masklets manuel .did you mean "manual"'),
    (['--kind=sav', '--offline'], r'cannot be read from GuyYariv/SA-V-128-Benchmark'),
    (['--sam=x'], 'a source of kind vos has masks already'),
    (['--clip_model=x'], 'needs both --clip_model and --aesthetic_head'),
    (['--source=/nowhere'], '/nowhere: there is no such folder'),
    (['--', '--direct_num_workers=2'], 'options of Apache Beam need --runner='),
    (
      ['--', '--runner=DirectRunner', '--direct_running_mode=multi_processing'],
      'multi_processing: opens ports on all network interfaces',
    ),
    (
      ['--', '--runner', 'FnApiRunner', '--direct_running_mode', 'multi_threading'],
      'multi_threading: opens ports on all network interfaces',
    ),
  ],
)
def test_options_are_checked(source, tmp_path, change, said):
  with pytest.raises(InputError, match=said):
    prepare.main([*options(source, tmp_path / 'out'), *change])
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
  not (SHARED / 'captions.json').is_file(),
  reason=f'no real clips under {SHARED}; set TTM_SHARED_DATA to their folder',
)
def test_real_videos_keep_their_masks_to_the_pixel(tmp_path):
  """Nearest neighbor from the central part that fills the clip gives an IoU of 1."""
  captions = json.loads((SHARED / 'captions.json').read_text())
  entries = {k.split('/')[1]: v for k, v in captions.items() if k.startswith('sam2_pseudo/')}
  (tmp_path / 'c.json').write_text(json.dumps(entries))
  out = tmp_path / 'out'
  prepare.main(
    [
      f'--source={SHARED}/sam2_pseudo',
      f'--captions={tmp_path}/c.json',
      f'--out={out}',
      '--kind=vos',
      '--clip=16x64x96',
      '--fps=8',
      '--videos_per_shard=1',
    ]
  )
  found = list(all_clips(out).values())
  assert len(found) >= 4
  for clip in found:
    name, start = clip.key.split('/')
    masks = read_folder(SHARED / 'sam2_pseudo' / name / 'masks')
    crop = Crop.central(masks.shape[1:], (64, 96))
    rate = float(decode.probe(SHARED / 'sam2_pseudo' / name / 'video.mp4').fps)
    numbers = np.floor(np.arange(16) * rate / 8 + 0.5).astype(int) + int(start)
    true = np.stack([crop.labels(masks[i]) for i in numbers])
    seen = [i for i in np.unique(true[0]) if i]
    for new, old in enumerate(seen, 1):
      np.testing.assert_array_equal(clip.ids == new, true == old)
