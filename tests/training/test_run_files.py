"""The small files of a run: corrupt ones do not stop it, and their contents are correct."""

import os

import numpy as np
import pytest

from tests.helpers import cli, tiny
from tests.helpers.mean_task import Mean, settings
from ttm_jax import json_lines
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.report.results import charts, read_metrics
from ttm_jax.training import runs, telemetry
from ttm_jax.training.denoising import Denoising, same_codec
from ttm_jax.training.loop import train

EVERY = {'train__checkpoint_every': 2, 'optimizer__schedule': 'constant'}

GARBAGE = [
  b'garbage\n',
  b'{"step": 1, "train/lo\n',
  bytes(100) + b'\n',
  b'\xff\xfe\n',
  b'[1, 2]\n5\nnull\n',
  b'{"step": "one", "train/busy_s": 2}\n{"step": 99, "train/busy_s": "x"}\n{"time": "now"}\n',
  b'[' * 100_000 + b'\n',
  '{"step": 1, "note": "a\u2028b"}\n'.encode(),
  b'\n\n',
]


@pytest.mark.parametrize('garbage', GARBAGE)
def test_garbage_lines_block_no_run(tmp_path, capfd, garbage):
  train(settings(train__steps=2, **EVERY), Mean(), tmp_path)
  names = ('metrics.jsonl', 'starts.jsonl')
  for name in names:
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(garbage + before + garbage)
  bad = [json_lines.read(tmp_path / name)[1] for name in names]
  capfd.readouterr()
  train(settings(train__steps=4, **EVERY), Mean(), tmp_path)
  said = capfd.readouterr().err
  for name, count in zip(names, bad, strict=True):
    assert (f'{name}: {count} damaged line(s) are left out' in said) == (count > 0)
  lines = [line for line in read_metrics(tmp_path) if 'train/loss' in line]
  assert [line['step'] for line in lines] == [1, 2, 3, 4]
  assert all(0 <= line['train/goodput'] <= 1 for line in lines)
  assert [len(v) for chart in charts({'a': tmp_path}) for v in chart.series.values()] == [4]
  # Existing lines are kept.
  assert (tmp_path / 'metrics.jsonl').read_bytes().count(garbage) == 2 or not garbage.strip()


def test_a_loss_of_training_records_is_not_called_validation(tmp_path, capfd):
  class Nothing(Mean):
    has_validation = False

  changes = {'train__steps': 2, 'train__evaluate_every': 1}
  train(settings(**changes), Nothing(), tmp_path / 'run')
  lines = read_metrics(tmp_path / 'run')
  assert not any(key.startswith('validation') for line in lines for key in line)
  assert [line['step'] for line in lines if 'train_subset/loss' in line] == [0, 1, 2]
  said = capfd.readouterr().err
  assert 'has no split "validation": the loss called train_subset/ is of fixed records' in said
  assert 'train_subset/step 2: loss' in said and 'validation/step' not in said
  events = b''.join(p.read_bytes() for p in (tmp_path / 'run' / 'tensorboard').iterdir())
  assert b'train_subset/loss' in events and b'validation/' not in events
  (chart,) = charts({'a': tmp_path / 'run'})
  assert sorted(chart.series) == ['fixed training records', 'training']


def test_a_dataset_tells_whether_it_holds_clips_out(latents, clips, tmp_path):
  assert Denoising(tiny.shrunk('demo_stage1', latents)).has_validation
  made = cli.run(*[a for a in tiny.scenes_command(tmp_path / 'c')], '--validation=0')
  assert made.code == 0, made.err
  encoded = cli.run(*tiny.encode_command(tmp_path / 'c', tmp_path / 'l', f'--codec={tiny.CODEC}'))
  assert encoded.code == 0, encoded.err
  objective = Denoising(tiny.shrunk('demo_stage1', tmp_path / 'l'))
  assert not objective.has_validation
  assert next(objective.batches('validation', 0))['video'].shape[0] == 4


# The codec of the latents.


def other_basis(codec: LinearCodec, scale: float = 1.0) -> LinearCodec:
  return codec.replace(basis=codec.basis[:, ::-1] * scale)


def test_a_run_does_not_go_on_with_latents_of_another_codec(latents, tmp_path):
  config, context = tiny.shrunk('demo_stage1', latents), Context.load(latents)
  Denoising(config, context).begin(tmp_path)
  Denoising(config, context).begin(tmp_path)
  other = Context(context.encoding, other_basis(context.codec), context.null_text)
  with pytest.raises(InputError, match='was begun with latents of another codec than those of'):
    Denoising(config, other).begin(tmp_path)
  assert same_codec(Context.load(tmp_path).codec, context.codec)


def test_codecs_are_told_apart_by_what_they_make(latents):
  codec = Context.load(latents).codec
  noise = 1 + 1e-6 * np.random.default_rng(0).normal(size=codec.basis.shape).astype(np.float32)
  assert same_codec(codec, codec.replace(basis=codec.basis * noise))
  assert same_codec(codec, codec.replace(psnr=1.0))
  assert not same_codec(codec, other_basis(codec))
  assert not same_codec(codec, codec.replace(basis=-codec.basis))
  assert not same_codec(codec, codec.replace(mean=codec.mean + 0.1))
  assert not same_codec(codec, codec.replace(scale=codec.scale * 1.1))


def test_the_front_door_refuses_latents_of_another_codec(clips, latents, stage2, tmp_path):
  fewer = cli.run(
    *['data_tools.make_scenes', f'--out={tmp_path / "c"}', '--train=5', '--validation=1'],
    *[f'--size={tiny.SIDE}', f'--frames={tiny.FRAMES}', f'--fps={tiny.FPS}', '--max_objects=3'],
    *['--seed=7'],
  )
  if fewer.code:
    pytest.skip(fewer.err)
  made = cli.run(*tiny.encode_command(tmp_path / 'c', tmp_path / 'l', f'--codec={tiny.CODEC}'))
  assert made.code == 0, made.err
  changes = {'train__steps': 41, 'train__evaluate_every': 20, 'train__sample_every': 40}
  ended = cli.run(*tiny.train_command('demo_stage2', stage2, tmp_path / 'l', **changes))
  assert ended.code == 2 and 'Traceback' not in ended.err
  assert 'latents of another codec' in ended.err.splitlines()[-1]


# Files that a power loss must not affect.


def test_small_files_are_flushed(tmp_path, monkeypatch):
  flushed = []
  fsync = os.fsync

  def noted(number):
    flushed.append(os.path.basename(os.readlink(f'/proc/self/fd/{number}')))
    return fsync(number)

  monkeypatch.setattr(os, 'fsync', noted)
  train(settings(train__steps=2, train__sample_every=2, **EVERY), Mean(), tmp_path / 'run')
  names = ' '.join(flushed)
  for name in ('.config.json.', 'metrics.jsonl', 'starts.jsonl', '.newest.gif.', 'checkpoints'):
    assert name in names, name
  assert 'run' in flushed and '_CHECKPOINT_METADATA' in flushed
  assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == [
    *['checkpoints', 'config.json', 'metrics.jsonl', 'samples', 'starts.jsonl', 'tensorboard']
  ]


def test_a_configuration_nested_too_deep_is_one_sentence(tmp_path):
  (tmp_path / 'config.json').write_text('[' * 100_000)
  with pytest.raises(InputError, match=r'config\.json is damaged'):
    runs.read_config(tmp_path)


def test_a_dead_disk_does_not_end_the_log(tmp_path, monkeypatch):
  def refuse(number):
    raise OSError(22, 'cannot')

  monkeypatch.setattr(telemetry.os, 'fsync', refuse)
  with open(tmp_path / 'a', 'w') as file:
    telemetry._to_disk(file)
