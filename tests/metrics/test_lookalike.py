"""Metrics of look-alike scenes on videos whose attributes are planted."""

import dataclasses

import numpy as np
import pytest

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.lookalike import attributes
from ttm_jax.metrics.registry import MetricOptions, make
from ttm_jax.scenes.lookalikes import LookalikeConfig, change_of, lookalike_scene
from ttm_jax.scenes.shapes import COLORS

CLIPS = [lookalike_scene(LookalikeConfig(), i) for i in range(40)]
NAMES = ('attributes', 'attributes_told', 'attributes_kept', 'object_psnr', 'foreground_iou')


def scores(samples):
  return {m.name: m.measure(samples)[:, 0] for m in make(NAMES, MetricOptions())}


def flat(clip, colors):
  """Return a video of flat objects; colors are [T, 3] by object."""
  video = np.broadcast_to(np.uint8(120), clip.video.shape).copy()
  for label, of_object in enumerate(colors, 1):
    for frame, ids, color in zip(video, clip.ids, of_object, strict=True):
      frame[ids == label] = color
  return video


def true_colors(clip, swap=False, blink=True):
  """Return the colors of all objects; those of the next object if `swap`."""
  colors = []
  for label, prompt in enumerate(clip.prompts, 1):
    first = np.median(clip.video[0][clip.ids[0] == label], axis=0)
    last = np.array(COLORS[prompt.split()[-1]]) if change_of(prompt) == 'turn' else first
    path = np.array([first] * 4 + [last] * 4)
    if change_of(prompt) == 'blink' and blink:
      path[[2, 3, 6, 7]] *= 0.4
    colors.append(path)
  return colors[1:] + colors[:1] if swap else colors


def test_the_true_video_has_all_attributes():
  found = scores([Sample(clip, clip.video) for clip in CLIPS])
  for name in NAMES[:3]:
    values = found[name][~np.isnan(found[name])]
    assert len(values) > 15 and (values == 1).all()
  assert (found['object_psnr'] == 60).all()
  assert found['foreground_iou'].mean() > 0.9


def test_flat_objects_of_the_right_colors_are_right_and_without_blinking_not():
  right = scores([Sample(clip, flat(clip, true_colors(clip))) for clip in CLIPS])
  assert np.nanmean(right['attributes']) > 0.98
  still = scores([Sample(clip, flat(clip, true_colors(clip, blink=False))) for clip in CLIPS])
  blinking = [
    np.mean(
      [
        change_of(prompt) != 'blink'
        for label, prompt in enumerate(clip.prompts, 1)
        if attributes(clip.video, clip.ids, label)
      ]
      or [np.nan]
    )
    for clip in CLIPS
  ]
  difference = still['attributes'] - (blinking + right['attributes'] - 1)
  assert np.nanmax(np.abs(difference)) < 1e-9


def test_attributes_on_the_wrong_object_are_wrong():
  swapped = scores([Sample(clip, flat(clip, true_colors(clip, swap=True))) for clip in CLIPS])
  assert np.nanmean(swapped['attributes']) < 0.35


def test_objects_are_read_where_the_given_trajectory_has_them():
  clip = CLIPS[0]
  shifted = np.roll(clip.ids, 5, axis=2)
  moved = flat(dataclasses.replace(clip, ids=shifted), true_colors(clip))
  aware, unaware = scores([Sample(clip, moved, shifted), Sample(clip, moved)])['foreground_iou']
  assert aware == 1 and unaware < 0.6


def test_object_psnr_ignores_the_background():
  clip = CLIPS[3]
  video = clip.video.copy()
  video[clip.ids == 0] = 0
  assert scores([Sample(clip, video)])['object_psnr'] == 60
  video = np.clip(clip.video.astype(int) - 10, 0, 255).astype(np.uint8)
  dark = clip.video[1:][clip.ids[1:] > 0]
  wanted = 10 * np.log10(255**2 / np.mean((dark - np.clip(dark.astype(int) - 10, 0, 255)) ** 2.0))
  assert scores([Sample(clip, video)])['object_psnr'] == pytest.approx(wanted)


def test_a_hidden_object_has_no_attributes():
  clip = CLIPS[0]
  ids = clip.ids.copy()
  ids[6:][ids[6:] == 1] = 0
  assert attributes(clip.video, ids, 1) is None
  gone = dataclasses.replace(clip, ids=np.zeros_like(clip.ids))
  assert np.isnan(scores([Sample(gone, clip.video)])['attributes']).all()
