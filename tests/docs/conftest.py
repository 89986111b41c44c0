"""What the commands of the documentation read, by its name there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import parts
from data_tools.stats import Tally
from tests.helpers import cli, masked_video, movebench, tiny, video_fixtures
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics.scored_videos import stem_of
from ttm_jax.metrics.votes import QUESTIONS, read_study

CAPTION = '{"c": "A dog runs.", "c_motion": "The dog runs.", "c_local": {"3": "a dog that runs"}}'


@pytest.fixture(scope='session')
def makers(shared, clips, latents_for, stage1, stage2):
  """What makes the things that commands read, by their names in the documentation."""

  def link(target):
    return lambda place: place.symlink_to(target() if callable(target) else target)

  def run(name, *options, **changes):
    def make(path):
      data = latents_for(tiny.shipped(name).preset)
      command = tiny.train_command(name, path, data, train__steps=1, **changes)
      ended = cli.run(*command, *options)
      assert ended.code == 0, ended.err

    return lambda: shared(f'documented_{name}_{len(changes)}', make)

  pretrained = run('pretrain_dit')

  def lora():
    return run('stage2_dit', init_from=str(pretrained()), lora__rank=2)()

  def image(place, of):
    Image.fromarray(of(Clips(clips, 'validation')[0])).save(place)

  def videos(place):
    (place / 'park').mkdir(parents=True)
    masked_video.make_source(place / 'park', masked_video.label_maps())
    (place / 'captions.json').write_text(f'{{"park": {CAPTION}}}')

  def exported():
    def make(path):
      ended = cli.run('ttm_jax.export', f'--stage1={stage1}', f'--stage2={stage2}', f'--out={path}')
      assert ended.code == 0, ended.err

    return shared('documented_folder', make)

  def generated():
    def make(path):
      given = f'--stage1={stage1}', f'--stage2={stage2}', f'--clips={clips}', '--draws=20'
      ended = cli.run('ttm_jax.evaluate', *given, f'--out={path}')
      assert ended.code == 0, ended.err

    return shared('documented_videos', make) / 'videos'

  def moving(place):
    """A trajectory of two objects."""
    found = next(x for x in Clips(clips, 'train') if {1, 2} <= set(np.unique(x.ids)))
    trajectory.write_folder(place, np.repeat(found.ids, 4, axis=0))  # Pages edit frame 6.

  def requests(place):
    clip = Clips(clips, 'validation')[0]
    Image.fromarray(clip.video[0]).save(place.with_name('a.png'))
    Image.fromarray(clip.ids[0]).save(place.with_name('a_mask.png'))
    one = {'image': 'a.png', 'segmentation': 'a_mask.png', 'prompt': 'A circle moves.'}
    place.write_text(''.join(json.dumps({**one, 'seed': seed}) + '\n' for seed in (0, 1)))

  def baseline(place):
    place.mkdir()
    for clip in Clips(clips, 'train'):
      write_video(place / f'{stem_of(clip.key)}.mp4', np.array(clip.video), clip.fps)

  def shard(place):
    with parts.new_part(place.parent, 'digest', Tally()) as writer:
      writer.write('16x256x256', 'train', Clips(clips, 'train')[0])

  def votes(place):
    study = read_study(place.parent / 'study')
    answers = {pair.id: dict.fromkeys(QUESTIONS, pair.a) for pair in study.pairs}
    for rater in '12':
      content = {'study': study.id, 'rater': rater, 'name': rater, 'answers': answers}
      place.with_name(f'votes-{rater}.json').write_text(json.dumps(content))

  makers = {
    **dict.fromkeys(('datasets/clips', 'datasets/scenes', 'datasets/sav128', 'CLIPS'), link(clips)),
    **dict.fromkeys(
      ('datasets/scenes-dit', 'datasets/clips-dit', 'datasets/videos-dit', 'DATASET'),
      link(lambda: latents_for('dit')),
    ),
    'datasets/images-dit': lambda place: copied(latents_for('dit'), place),
    'datasets/clips-unet': link(lambda: latents_for('unet')),
    **dict.fromkeys(
      ('datasets/clips-wan', 'datasets/clips-wan22', 'datasets/sav-wan'),
      link(lambda: latents_for('wan')),
    ),
    'datasets/clips.incomplete/parts/00004/16x256x256.train.array_record': shard,
    'runs/stage1': link(stage1),
    'runs/stage2': link(stage2),
    'runs/pretrain': link(pretrained),
    'runs/stage2-lora': link(lora),
    'runs/teacher': link(run('stage2_dit')),
    'runs/ti2v': link(run('ti2v_dit')),
    'photo.png': lambda place: image(place, lambda clip: clip.video[0]),
    'mask.png': lambda place: image(place, lambda clip: clip.ids[0]),
    'requests.jsonl': requests,
    'out_trajectory': moving,
    'videos/other': link(generated),
    'votes-*.json': votes,
    'folder': link(exported),
    'baselines/wan': baseline,
    'MoveBench': lambda place: movebench.make(place, frames=12),
    'SA-V': sav,
  }
  return {'videos': videos, **makers}


def copied(source: Path, place: Path) -> None:
  """Link the content of a dataset, so that it counts as another one."""
  place.mkdir()
  for inner in source.iterdir():
    (place / inner.name).symlink_to(inner)


def sav(place: Path) -> None:
  """Make a video in the layout of SA-V: one object, which is annotated on every fourth frame."""
  rle = pytest.importorskip('pycocotools.mask', reason='not installed: pip install pycocotools')
  place.mkdir()
  frames = 41
  masks = np.zeros((1 + frames // 4, *movebench.SIZE), np.uint8)
  masks[:, 8:20, 16:30] = 1
  found = [rle.encode(np.asfortranarray(mask)) for mask in masks]
  written = [[{'size': [*map(int, x['size'])], 'counts': x['counts'].decode()}] for x in found]
  about = {'video_id': 'sav_1', 'masklet_id': [0], 'masklet': written}
  (place / 'sav_1_manual.json').write_text(json.dumps(about))
  video_fixtures.save(place / 'sav_1.mp4', video_fixtures.film(frames, movebench.SIZE), 24)
  said = {'c': 'A dog runs.', 'c_motion': 'The dog runs.', 'c_local': {'1': 'a dog that runs'}}
  (place / 'captions.json').write_text(json.dumps({'sav_1': said}))
