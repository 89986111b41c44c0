"""The state of a session as the page reads it."""

import base64
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

from ttm_jax.studio.actions import Studio
from ttm_jax.studio.jobs import Job
from ttm_jax.studio.motion import Motion
from ttm_jax.studio.observations import notes, spans
from ttm_jax.studio.project import Project, Thing, title
from ttm_jax.studio.sessions import Session
from ttm_jax.trajectory import PALETTES


def about(studio: Studio) -> dict[str, Any]:
  """Return what does not change: the networks, their limits, and the colors of the objects."""
  limits, finder = studio.limits, studio.finder
  return {
    'name': studio.backend.name,
    'frames': limits.frames,
    'height': limits.height,
    'width': limits.width,
    'fps': limits.fps,
    'max_objects': limits.max_objects,
    'motion_steps': limits.motion_steps,
    'video_steps': limits.video_steps,
    'fixed_steps': limits.fixed_steps,
    'motion_scales': dict(limits.motion_scales),
    'video_scales': dict(limits.video_scales),
    'colors': [f'#{r:02x}{g:02x}{b:02x}' for r, g, b in PALETTES['spread8'].tolist()],
    'by_text': finder is not None and finder.by_text,
    'by_click': finder is not None and finder.by_click,
  }


def state(studio: Studio, session: Session, have: Collection[str] = ()) -> dict[str, Any]:
  """Return the state of a session.

  Args:
    studio: The studio.
    session: The session; its lock is held.
    have: Versions of layers that the page has; the others are sent along.
  """
  project = session.project
  found: dict[str, Any] = {
    'caption': project.caption,
    'motion': project.motion,
    'jobs': jobs(studio, session),
    'proposals': [
      {
        'id': p.id,
        'seed': p.seed,
        'motion': p.motion,
        'current': not project.is_empty and p.base is project.scene.base,
        'stale': project.is_empty or bool((p.mask != project.scene.mask).any()),
      }
      for p in session.proposals
    ],
    'renders': [
      {'id': r.id, **r.settings, 'command': studio.command(r.settings)} for r in session.renders
    ],
  }
  if project.is_empty:
    return {**found, 'picture': None}
  motion = project.computed()
  sent = {
    layer.version: base64.b64encode(layer.packed).decode()
    for layer in motion.layers.values()
    if layer.version not in have
  }
  scene = project.scene
  return {
    **found,
    'picture': zlib.crc32(scene.picture.tobytes()),
    'objects': _objects(project, motion),
    'order': _ranges(motion.order),
    'origin': scene.base.origin,
    'edits': [
      {'title': title(e), 'keys': e.keyframes, 'changes': e.changes, **_summary(e.to_json())}
      for e in scene.edits
    ],
    'pinned': project.pinned(),
    'undo': project.undoable,
    'redo': project.redoable,
    'notes': notes(motion, scene.mask),
    'layers': sent,
  }


def jobs(studio: Studio, session: Session) -> list[dict[str, Any]]:
  """Return the jobs of a session as JSON values."""

  def described(job: Job) -> dict[str, Any]:
    return {
      'id': job.id,
      'what': job.what,
      'status': job.status,
      'done': job.done,
      'total': job.total,
      'before': studio.queue.position(job),
      'message': job.message,
      'seconds': round(job.seconds, 1),
      'result': job.result,
    }

  return [described(job) for job in session.jobs]


def _objects(project: Project, motion: Motion) -> list[dict[str, Any]]:
  known = sorted({*project.things, *motion.layers, *np.unique(project.scene.mask).tolist()} - {0})
  listed = []
  for obj in known:
    thing, layer = project.things.get(obj, Thing(f'object {obj}')), motion.layers.get(obj)
    listed.append(
      {
        'id': obj,
        'name': thing.name,
        'prompt': thing.prompt,
        'shown': thing.shown,
        'layer': None if layer is None else layer.version,
        'spans': [] if layer is None else spans(layer.area > 0),
        'centers': []
        if layer is None
        else [
          [round(float(x), 2), round(float(y), 2)] if area else None
          for (x, y), area in zip(layer.centers, layer.area, strict=True)
        ],
      }
    )
  return listed


def _ranges(order: np.ndarray) -> list[dict[str, Any]]:
  """Return a depth order, uint8 [T, n], as runs of frames."""
  runs: list[dict[str, Any]] = []
  for frame, line in enumerate(order.tolist()):
    if not runs or runs[-1]['order'] != line:
      runs.append({'from': frame, 'order': line})
  return runs


def _summary(edit: dict[str, Any]) -> dict[str, Any]:
  """Leave out the mask of an edit, which the page does not need."""
  return {name: value for name, value in edit.items() if name != 'mask'}
