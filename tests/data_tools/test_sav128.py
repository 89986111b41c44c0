"""SA-V-128 from scores of a tree of 2 000 videos, and scoring with stand-in models."""

import collections
import json
import random

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import layouts, prepare, sav128, scoring
from data_tools.commands import prepare as preparation
from data_tools.commands import sav128 as command
from data_tools.drafts import Draft, Rejected
from data_tools.selection import CATEGORIES
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Description
from data_tools.steps import category
from tests.helpers import tiny_models, video_fixtures
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation import captioner, language_model

COUNT = 2000


def record(number, **changes):
  rng = random.Random(number)
  return {
    'id': f'sav_{number:06d}',
    # Half of all videos are of one category, and few are of another.
    'category': CATEGORIES[0] if number % 2 else CATEGORIES[1 + (number // 2) % 9],
    'aesthetic': round(rng.uniform(3, 7), 1),  # Coarse, so that there are ties.
    'motion': round(rng.expovariate(0.5), 1),
    'objects': rng.choice([1, 1, 2, 3]),
    'caption': f'Video {number}.',
    **changes,
  }


@pytest.fixture(scope='module')
def scores(tmp_path_factory):
  path = tmp_path_factory.mktemp('scores') / 'scores.jsonl'
  records = [record(n) for n in range(COUNT)]
  records[5] = {'id': 'sav_000005', 'problem': 'no caption'}
  random.Random(1).shuffle(records)
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


@pytest.fixture(scope='module')
def chosen(scores, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'sav128'
  sav128.main([f'--scores={scores}', f'--out={out}'])
  return out


def ids_of(folder):
  return [line.split()[0] for line in (folder / 'ids.txt').read_text().splitlines()]


def test_64_and_64_of_a_balanced_pool(chosen, scores):
  found = json.loads((chosen / 'sav128.json').read_text())
  assert found['settings'] == {
    **{'pool': 500, 'each': 64, 'seed': 0},
    **{'scored': COUNT - 1, 'unusable': 1},
  }
  pool = {entry['id']: entry for entry in found['pool']}
  assert len(pool) == 500
  counts = collections.Counter(entry['category'] for entry in pool.values())
  assert counts == dict.fromkeys(CATEGORIES, 50)
  drawn = [pool[name] for name in found['ids']]
  assert len(drawn) == len({entry['id'] for entry in drawn}) == 128
  groups = collections.Counter(entry['group'] for entry in drawn)
  assert groups == {'single': 64, 'multi': 64}
  assert all((e['group'] == 'single') == (e['objects'] == 1) for e in drawn)
  assert ids_of(chosen) == found['ids']
  given = {r['id']: r for r in map(json.loads, scores.read_text().splitlines())}
  for name, entry in pool.items():
    assert {key: entry[key] for key in given[name]} == given[name]
    assert 0 <= entry['score'] <= 1 and 'of the pool' in entry['reason']
  by_rank = sorted(pool.values(), key=lambda entry: entry['rank'])
  for one in CATEGORIES:
    best = [entry['score'] for entry in by_rank if entry['category'] == one]
    assert best == sorted(best, reverse=True)


def test_the_order_of_the_scores_does_not_matter(chosen, scores, tmp_path):
  lines = sorted(scores.read_text().splitlines())
  (tmp_path / 'sorted.jsonl').write_text('\n'.join(lines))
  sav128.main([f'--scores={tmp_path}/sorted.jsonl', f'--out={tmp_path}/out'])
  for name in ('ids.txt', 'sav128.json'):
    assert (tmp_path / 'out' / name).read_text() == (chosen / name).read_text()


def test_the_benchmark_is_kept_out_of_training_and_can_be_read_alone(chosen, tmp_path, capsys):
  tree = tmp_path / 'sav'
  tree.mkdir()
  for number in range(COUNT):
    (tree / f'sav_{number:06d}.mp4').touch()
    (tree / f'sav_{number:06d}_manual.json').touch()

  def listed(*options):
    # No video is decoded until the first clip is cut.
    args = prepare.parser().parse_args(
      [*(f'--source={tree}', f'--out={tmp_path}/out', '--clip=16x32x32', '--fps=24'), *options]
    )
    preparation.check(args)
    videos, unread = layouts.list_videos(args, layouts.layout(args))
    return [video.key for video in videos], unread

  benchmark = ids_of(chosen)
  training, unread = listed(f'--exclude={chosen}/ids.txt')
  assert len(training) == COUNT - 128 and not {*training} & {*benchmark}
  assert sum(one.files for one in unread) == 2 * 128
  assert {one.reason for one in unread} == {'of a video that --exclude or --ids leaves out'}
  alone, unread = listed(f'--ids={chosen}/ids.txt')
  assert alone == sorted(benchmark) and sum(one.files for one in unread) == 2 * (COUNT - 128)
  assert 'the 128 videos that --ids' in capsys.readouterr().out
  with pytest.raises(InputError, match='--exclude and --ids: give one of the two'):
    listed(f'--ids={chosen}/ids.txt', f'--exclude={chosen}/ids.txt')
  (tree / f'{benchmark[0]}.mp4').unlink()
  with pytest.raises(InputError, match=f'{benchmark[0]} not in the source; add the videos'):
    listed(f'--ids={chosen}/ids.txt')
  with pytest.raises(InputError, match='--ids: lists videos of SA-V, but --kind is captioned'):
    listed(f'--ids={chosen}/ids.txt', '--kind=captioned')


@pytest.mark.parametrize(
  'text, options, said',
  [
    (None, [], 'there is no such file; give --source to make it'),
    ('no json', [], 'holds no record; write one JSON object per line'),
    ('{"objects": 1}', [], 'a record has no "id"; add it'),
    (json.dumps(record(1, category='Animals')), [], "the category 'Animals' (did you mean"),
    (json.dumps(record(1, motion=None)), [], 'has the motion score None; give a finite number'),
    (json.dumps(record(1, objects=-1)), [], 'has -1 objects; give their number, 0 or more'),
    (json.dumps(record(1)), [], 'there are 1 usable videos, fewer than the 500 of --pool'),
    (json.dumps(record(1)), ['--each=0'], '--each 0 must be at least 1'),
  ],
)
def test_bad_scores_give_one_sentence(text, options, said, tmp_path):
  if text is not None:
    (tmp_path / 'scores.jsonl').write_text(text)
  with pytest.raises(InputError) as error:
    sav128.main([f'--scores={tmp_path}/scores.jsonl', f'--out={tmp_path}/out', *options])
  assert said in str(error.value) and not (tmp_path / 'out').exists()


# Scoring.


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """Two usable videos, one that is too short and one that is corrupt; 12 frames a second."""
  root = tmp_path_factory.mktemp('videos')
  for name, frames in (('a', 70), ('b', 66), ('c', 60)):
    video_fixtures.save(root / f'{name}.mp4', video_fixtures.film(frames, (16, 24)))
  (root / 'd.mp4').write_text('none')
  said = Description('A dog runs.', 'It runs.', {1: 'dog'}, {1: 'a dog that runs'})
  return [Video(name, str(root / f'{name}.mp4'), said) for name in 'abcd']


class Steps:
  """Stand-ins for the models; `seen` holds the keys that each step received."""

  def __init__(self):
    self.seen = []

  def flow(self, drafts):
    self.seen += [draft.key for draft in drafts]
    return [Draft(**{**vars(d), 'scores': {'motion': float(len(d.video))}}) for d in drafts]

  def aesthetic(self, drafts):
    scored = [Draft(**{**vars(d), 'scores': {**d.scores, 'aesthetic': 5.0}}) for d in drafts]
    return [Rejected(d, 'too dark', '1%') if d.key == 'b' else d for d in scored]


def how(steps, batch=8):
  named = {'flow': steps.flow, 'aesthetic': steps.aesthetic}
  return scoring.Scoring(6, (8, 8), named, batch)


def test_videos_are_scored_and_problems_recorded(videos, tmp_path):
  path = tmp_path / 'scores.jsonl'
  scoring.score(videos, path, how(Steps()), dict.fromkeys('abcd', 'Animal'), {'fps': 6})
  usable, records, problems = scoring.candidates(path)
  (one,) = usable
  assert (one.id, one.category, one.aesthetic, one.motion, one.objects) == ('a', 'Animal', 5, 35, 1)
  assert records['a']['names'] == ['dog'] and records['a']['seconds'] == pytest.approx(35 / 6, 1e-3)
  assert problems['b'] == 'too dark (1%)'
  assert 'lasts 5.00 s, less than 5.33 s' in problems['c'] and 'd.mp4' in problems['d']


def test_an_interrupted_job_resumes(videos, tmp_path):
  path = tmp_path / 'scores.jsonl'
  categories = dict.fromkeys('abcd', 'Animal')
  scoring.score(videos[:1], path, how(Steps()), categories, {'fps': 6})
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"id": "b", "cate')  # Killed within a line.
  steps = Steps()
  scoring.score(videos, path, how(steps, 2), categories, {'fps': 6})
  assert steps.seen == ['b'] and path.read_bytes().startswith(whole)
  usable, _, problems = scoring.candidates(path)
  assert [c.id for c in usable] == ['a'] and [*problems] == ['b', 'c', 'd']
  with pytest.raises(InputError, match=r'was made with other options .* name another --scores'):
    scoring.score(videos, path, how(steps), categories, {'fps': 8})


def test_categories_come_from_a_file_or_from_a_language_model(videos, tmp_path):
  asked = []

  def generate(prompts):
    asked.extend(prompts)
    return ['Vehicles\n\nCaption: x' for _ in prompts]

  path = tmp_path / 'scores.jsonl'
  scoring.score(videos, path, how(Steps()), category.Categorize(generate), {})
  assert scoring.candidates(path)[0][0].category == 'Vehicles'
  (prompt,) = asked
  assert prompt.endswith('Caption: A dog runs.\nCategory:')
  with pytest.raises(InputError, match='has no category of b and 2 other videos; add them'):
    scoring.score(videos, tmp_path / 'other', how(Steps()), {'a': 'Food'}, {})
  (tmp_path / 'categories.json').write_text('{"a": "Foods"}')
  with pytest.raises(InputError, match=r"the category 'Foods' \(did you mean .Food.\?"):
    command.read_categories(f'{tmp_path}/categories.json')
  (tmp_path / 'categories.json').write_text('["a"]')
  with pytest.raises(InputError, match='must be a JSON object that maps video ids to categories'):
    command.read_categories(f'{tmp_path}/categories.json')


@pytest.mark.parametrize(
  'answer, found',
  [
    (' Animal', 'Animal'),
    ('\n**Category:** visual art.', 'Visual Art'),
    ('The category is Vehicle, not Food.', 'Vehicles'),
    ('Plants\nCaption: A car.\nCategory: Vehicles', 'Plant'),
    ('I cannot tell.', 'Other'),
    ('', 'Other'),
  ],
)
def test_answers_are_parsed(answer, found):
  assert category.parse(answer) == found


def test_missing_models_are_named(tmp_path):
  (tmp_path / 'sav_000001.mp4').touch()
  (tmp_path / 'sav_000001_manual.json').touch()
  place = [f'--source={tmp_path}', f'--scores={tmp_path}/new/s', f'--out={tmp_path}/out']
  with pytest.raises(
    InputError, match='--source needs --flow for the motion score; give the model'
  ):
    sav128.main(place)
  with pytest.raises(InputError, match='--fps 30: SA-V has 24 frames per second'):
    sav128.main([*place, '--fps=30'])
  assert not (tmp_path / 'new' / 's').exists() and not (tmp_path / 'out').exists()


def test_real_model_classes_score_a_tree(tiny_model, tmp_path, monkeypatch):
  """Tiny random models of the real classes: nonsense is recorded, given texts are used."""
  monkeypatch.setattr(command.FlowSettings, 'build', lambda _: Steps().flow)
  for module in (captioner, language_model):
    monkeypatch.setattr(module, 'MAX_NEW_TOKENS', 3)
  tree = tmp_path / 'sav'
  video_fixtures.save(tree / 'sav_000001.mp4', video_fixtures.film(70, (16, 24)))
  (tree / 'sav_000001_manual.json').touch()
  head = tiny_models.aesthetic_head(tmp_path / 'head.safetensors')
  said = {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a dog', '2': 'a ball'}}
  (tmp_path / 'captions.json').write_text(json.dumps({'sav_000001': said}))
  options = [
    *(f'--source={tree}', f'--out={tmp_path}/out', '--flow=x', '--size=16', '--device=cpu'),
    *(f'--clip_model={tiny_model("clip_vision")}', f'--aesthetic_head={head}'),
    f'--llm={tiny_model("llama")}',
  ]
  scores = tmp_path / 'nonsense'
  with pytest.raises(InputError, match='there are 0 usable videos, fewer than the 1 of --pool'):
    sees = f'--captioner={tiny_model("vision_language")}'
    sav128.main([*options, sees, f'--scores={scores}', '--pool=1', '--each=1'])
  assert [*scoring.candidates(scores)[2]] == ['sav_000001']
  scores = tmp_path / 'given'
  with pytest.raises(InputError, match='the pool of 1 has 0 videos with one object'):
    texts = f'--captions={tmp_path}/captions.json'
    sav128.main([*options, texts, f'--scores={scores}', '--pool=1', '--each=1'])
  ((one,), records, _) = scoring.candidates(scores)
  assert (one.category, one.objects) == ('Other', 2) and np.isfinite(one.aesthetic)
  assert records['sav_000001']['caption'] == 'A dog.'
