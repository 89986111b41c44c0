"""What the page can ask for, apart from HTTP: each request changes one session."""

import base64
import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import Range, out_of_range
from ttm_jax.inference.request import Sampling
from ttm_jax.keyframes import along_path
from ttm_jax.media.animations import webp
from ttm_jax.studio import exports, imports, project_file, uploads
from ttm_jax.studio.backends import Backend, Finder, Progress
from ttm_jax.studio.examples import COUNT, Example, example
from ttm_jax.studio.jobs import Queue
from ttm_jax.studio.kept_sessions import KeptSessions
from ttm_jax.studio.motion import Base
from ttm_jax.studio.motion_edits import MOST_POINTS
from ttm_jax.studio.painting import Stroke
from ttm_jax.studio.project import proposal
from ttm_jax.studio.server_flags import OFF, TIME_LIMIT
from ttm_jax.studio.sessions import Proposal, Render, Session, Sessions
from ttm_jax.trajectory import overlay, render

MOST_STEPS = 1000
PREVIEW_SHARE = 4  # A preview takes the usual number of steps over this.
_MOST_SEED = 2**63 - 1
_MOST_AT_ONCE = 4


class Studio:
  """The studio of one backend.

  Attributes:
    backend: The networks.
    finder: Models that find objects, or None.
    queue: Jobs of all sessions.
    sessions: The sessions.
  """

  def __init__(
    self,
    backend: Backend,
    finder: Finder | None = None,
    time_limit: float = TIME_LIMIT,
    work: str = OFF,
  ):
    """Start the queue of jobs.

    Args:
      backend: The networks.
      finder: Models that find objects, or None.
      time_limit: The most seconds that a job may run.
      work: Folder in which sessions are kept over restarts, or 'off'.

    Raises:
      InputError: If the folder cannot be written.
    """
    self.backend, self.finder = backend, finder
    self.limits = backend.limits
    self._kept = None if work == OFF else KeptSessions(work, backend.limits)
    self.queue = Queue(time_limit)
    self.sessions = Sessions(backend.limits, self.queue, self._kept)
    self._examples: dict[int, Example] = {}
    if self._kept is not None:
      self._kept.watch(self.sessions.all)

  def close(self) -> None:
    """Cancel all jobs, and write the projects that have changed."""
    self.queue.close()
    if self._kept is not None:
      self._kept.close()

  def example(self, number: int) -> Example:
    """Return an example, number 0 to `examples.COUNT` - 1.

    Raises:
      InputError: If there is no such example.
    """
    if type(number) is not int or not 0 <= number < COUNT:
      raise InputError(f'there is no example {number}')
    if number not in self._examples:
      self._examples[number] = example(self.limits, number)
    return self._examples[number]

  def open_picture(self, session: Session, content: bytes, name: str) -> list[str]:
    """Begin a project with an uploaded picture; return notes about it."""
    size = self.limits.height, self.limits.width
    picture, notes = uploads.read_picture(content, uploads.safe_name(name), size)
    self._restart(session)
    session.project.start(picture)
    return notes

  def open_example(self, session: Session, number: int) -> list[str]:
    """Begin a project with an example."""
    chosen = self.example(number)
    self._restart(session)
    project = session.project
    project.start(chosen.picture, chosen.mask)
    project.say(chosen.caption, chosen.motion)
    for obj, name in chosen.names.items():
      project.describe(obj, name=name, prompt=chosen.prompts[obj])
    return []

  def open_project(self, session: Session, content: bytes) -> list[str]:
    """Open a project file."""
    opened = project_file.load(content, self.limits)
    self._restart(session)
    session.project = opened
    return []

  def open_mask(self, session: Session, content: bytes, name: str) -> list[str]:
    """Take the objects of the picture from an uploaded mask; return notes about it."""
    _ = session.project.scene
    size = self.limits.height, self.limits.width
    mask, notes = uploads.read_mask(content, uploads.safe_name(name), size)
    session.project.set_mask(mask, 'Mask file')
    return notes

  def paint(self, session: Session, asked: Mapping[str, Any]) -> None:
    """Paint the objects of the picture, or of frames of the trajectory if a frame is given."""
    stroke, obj, frame = Stroke.from_json(asked.get('stroke')), whole(asked, 'object'), None
    if asked.get('frame') is not None:
      frame = whole(asked, 'frame')
    if frame is None:
      session.project.paint(obj, stroke)
    else:
      stop = None if asked.get('stop') is None else whole(asked, 'stop')
      session.project.repaint(obj, stroke, frame, stop)

  def find(self, session: Session) -> None:
    """Have models find the objects."""
    finder = self.finder
    if finder is None or not finder.by_text:
      raise InputError('no models that find objects were given: paint them, or load a mask')
    project = session.project
    picture, caption, motion = project.scene.picture, project.caption, project.motion
    if not caption.strip():
      raise InputError('the caption is empty: write what the video shows, to find its objects')

    def work(progress: Progress) -> None:
      found = finder.named(picture, caption, motion, self.limits.max_objects)
      with session.lock:
        progress(1, 1)
        project.adopt(found)

    self._add(session, 'Finding the objects', work)

  def segment(self, session: Session, asked: Mapping[str, Any]) -> None:
    """Have a model segment one object around clicks and a box."""
    finder = self.finder
    if finder is None or not finder.by_click:
      raise InputError('no model that segments clicked objects was given (--sam): paint instead')
    project, obj = session.project, whole(asked, 'object')
    picture = project.scene.picture
    try:
      points = np.array(asked.get('points') or [], np.float64).reshape(-1, 2)
      inside = np.array(asked.get('inside') or [], bool)
      box = None if asked.get('box') is None else np.array(asked['box'], np.float64).reshape(4)
    except (TypeError, ValueError) as error:
      raise InputError('clicks must be points (x, y) and a box (x0, y0, x1, y1)') from error
    if len(points) != len(inside) or len(points) > 100 or (not len(points) and box is None):
      raise InputError('click on the object, or draw a box around it')

    def work(progress: Progress) -> None:
      mask = finder.clicked(picture, points, inside, box)
      if not mask.any():
        raise InputError('the model segmented nothing there: click elsewhere, or draw a box')
      with session.lock:
        progress(1, 1)
        before = project.scene.mask
        ids = np.where(mask, np.uint8(obj), np.where(before == obj, 0, before)).astype(np.uint8)
        project.set_mask(ids, f'Segment object {obj}')

    self._add(session, f'Segmenting object {obj}', work)

  def propose(self, session: Session, asked: Mapping[str, Any]) -> None:
    """Have stage 1 generate trajectories with consecutive seeds."""
    if not self.limits.motion_steps:
      raise InputError('there is no stage 1: start the studio with --stage1, or draw the motion')
    first = _sampling(asked, self.limits.motion_scales)
    count = whole(asked, 'count', 1)
    if not 1 <= count <= _MOST_AT_ONCE:
      raise InputError(f'{count} proposals at once: ask for 1 to {_MOST_AT_ONCE}')
    if not (session.project.motion.strip() or session.project.caption.strip()):
      raise InputError('the motion prompt is empty: write what moves, and how')
    request, mask = session.project.request(), session.project.scene.mask

    def one(sampling: Sampling) -> None:
      seed = sampling.seed

      def work(progress: Progress) -> None:
        ids = self.backend.propose(request, sampling, progress)
        with session.lock:
          progress(1, 1)
          base = proposal(ids, seed)
          session.keep_proposal(
            Proposal(next(session.proposal_numbers), seed, request.motion, ids, base, mask)
          )

      self._add(session, f'Proposal, seed {seed}', work)

    for i in range(count):
      one(dataclasses.replace(first, seed=(first.seed + i) % (_MOST_SEED + 1)))

  def pick(self, session: Session, number: int) -> None:
    """Make a proposal the motion."""
    chosen = session.proposal(number)
    if (chosen.mask != session.project.scene.mask).any():
      raise InputError('the objects changed since this proposal was made: propose again')
    session.project.set_base(chosen.base, f'Pick proposal, seed {chosen.seed}')

  def be_still(self, session: Session) -> None:
    """Let all objects stand still."""
    project = session.project
    project.set_base(Base.still(project.scene.mask, self.limits.frames), 'Stand still')

  def path(self, session: Session, asked: Mapping[str, Any]) -> list[list[float]]:
    """Return where a path leads an object in each frame, to show it while it is drawn."""
    points, start = asked.get('points'), whole(asked, 'start', 0)
    stop = self.limits.frames - 1 if asked.get('stop') is None else whole(asked, 'stop')
    if not isinstance(points, list) or len(points) > MOST_POINTS:
      raise InputError(f'a path has at most {MOST_POINTS} points')
    if not 0 <= start <= stop < self.limits.frames:
      raise InputError(f'frames {start} to {stop} are none of 0 to {self.limits.frames - 1}')
    place = along_path(points, stop - start + 1, asked.get('speed') or [[0, 0], [1, 1]])
    layer = session.project.computed().layers.get(whole(asked, 'object'))
    if layer is not None and layer.area[start]:
      place = place - place[0] + layer.centers[start]
    return place.round(2).tolist()

  def render(self, session: Session, asked: Mapping[str, Any]) -> None:
    """Have stage 2 generate the video of the current motion."""
    sampling = _sampling(asked, self.limits.video_scales)
    quality = 'preview' if asked.get('quality') == 'preview' else 'final'
    if sampling.steps is None and quality == 'preview' and not self.limits.fixed_steps:
      few = max(1, self.limits.video_steps // PREVIEW_SHARE)
      sampling = dataclasses.replace(sampling, steps=few)
    project = session.project
    scene, ids = project.scene, project.trajectory()
    request = project.request(ids)
    settings = {
      'seed': sampling.seed,
      'steps': sampling.steps or self.limits.video_steps,
      'scales': sampling.scales,
      'quality': quality,
      'caption': request.caption,
      'motion': request.motion,
      'prompts': {str(obj): prompt for obj, prompt in request.prompts.items()},
      'edits': len(scene.edits),
      'origin': scene.base.origin,
    }

    def work(progress: Progress) -> int:
      start = time.monotonic()
      video = self.backend.render(request, ids, sampling, progress)
      done = {**settings, 'seconds': round(time.monotonic() - start, 1)}
      with session.lock:
        progress(1, 1)
        number = next(session.render_numbers)
        session.keep_render(Render(number, done, scene, ids, video))
      return number

    self._add(session, f'{quality.capitalize()} video, seed {sampling.seed}', work)

  def go_back(self, session: Session, number: int) -> None:
    """Return to the motion that a render was made from."""
    kept = session.render(number)
    project = session.project
    if kept.scene.picture is not project.scene.picture:
      raise InputError('this video is of another picture: open its project file instead')
    project.revisit(kept.scene, f'Motion of video {number}')

  def command(self, settings: Mapping[str, Any]) -> str:
    """Return the command line that renders again, from the unpacked project file `project/`."""
    prompts = [('--object', f'{obj}: {text}') for obj, text in settings['prompts'].items()]
    scales = [(f'--{name}', str(value)) for name, value in settings['scales'].items()]
    words = [
      *self.backend.command,
      *('--image', 'project/picture.png', '--segmentation', 'project/objects.png'),
      *('--trajectory', 'project/trajectory', '--prompt', settings['caption']),
      *('--motion', settings['motion']),
      *(word for pair in (*prompts, *scales) for word in pair),
      *('--seed', str(settings['seed']), '--steps', str(settings['steps']), '--out', 'video.mp4'),
    ]
    return shlex.join(words)

  def bring_in(self, session: Session, kind: str, content: bytes, asked: Mapping[str, str]) -> str:
    """Import motion; return what was imported, in words."""
    project = session.project
    name = uploads.safe_name(asked.get('name'))
    if kind == 'clip':
      number = asked.get('object', '1')
      if not number.isdecimal() or len(number) > 1:
        raise InputError(f'there is no object {number!r:.20}')
      layers = imports.clip(content, name, int(number), self.limits)
      project.replace_layers(layers, f'Clip {name}')
      return f'{name}: the motion of object {", ".join(map(str, layers))}'
    if kind == 'boxes':
      edits = imports.boxes(content, self.limits)
    elif kind == 'tracks':
      edits = imports.tracks(content, project.computed(), self.limits)
    else:
      raise InputError(f'there is nothing to import as {kind!r:.20}')
    project.edit_all(edits, f'Import {kind}')
    moved = ', '.join(str(edit.values['object']) for edit in edits)
    return f'{name}: the motion of object {moved}'

  def export(self, session: Session, kind: str, number: int | None) -> tuple[bytes, str, str]:
    """Return a download: its content, media type and file name.

    Args:
      session: The session.
      kind: 'project', 'png', 'rle', 'tracks', or 'mp4', 'gif', 'webp', 'overlay' of a render.
      number: The render; None for the current motion.
    """
    project = session.project
    kept = None if number is None else session.render(number)
    scene = project.scene if kept is None else kept.scene
    stem = exports.stem(project.caption if kept is None else kept.settings['caption'])
    if kind == 'project':
      command = '' if kept is None else self.command(kept.settings)
      content = project_file.save(project, command, scene)
      return content, 'application/zip', stem + project_file.SUFFIX
    motion = project.computed(scene)
    if kind == 'png':
      return exports.png_archive(motion.ids()), 'application/zip', f'{stem}-trajectory.zip'
    if not motion.layers:
      raise InputError('no frame shows an object: there is no trajectory to download')
    if kind == 'rle':
      content = exports.run_lengths(motion, self.limits.fps)
      return content, 'application/json', f'{stem}-rle.json'
    if kind == 'tracks':
      return exports.track_archive(motion), 'application/zip', f'{stem}-tracks.zip'
    if kept is None:
      raise InputError('there is no video yet: render one')
    enlarge = max(1, round(256 / max(kept.video.shape[1:3])))
    if kind == 'overlay':
      video = overlay(kept.video, kept.ids)
      content = exports.video(video, self.limits.fps, 'mp4', enlarge)
      return content, 'video/mp4', f'{stem}-overlay.mp4'
    if kind not in exports.VIDEO_KINDS:
      raise InputError(f'there is no download {kind!r:.20}')
    # The mp4 has the pixels of the model, as `ttm_jax.generate` writes them.
    content = exports.video(kept.video, self.limits.fps, kind, 1 if kind == 'mp4' else enlarge)
    kinds = {'mp4': 'video/mp4', 'gif': 'image/gif', 'webp': 'image/webp'}
    return content, kinds[kind], f'{stem}.{kind}'

  def proposal_animation(self, session: Session, number: int) -> bytes:
    """Return a proposal over the picture as an animated WebP."""
    kept = session.proposal(number)
    picture = session.project.scene.picture
    over = overlay(np.broadcast_to(picture // 2, (*kept.ids.shape, 3)), kept.ids)
    return webp(over, self.limits.fps)

  def render_sheet(self, session: Session, number: int, what: str) -> tuple[bytes, int]:
    """Return the frames of a render in one image, and its columns.

    Args:
      session: The session.
      number: The render.
      what: 'video', 'trajectory', or 'overlay' of both.
    """
    kept = session.render(number)
    frames = {
      'video': lambda: kept.video,
      'trajectory': lambda: render(kept.ids),
      'overlay': lambda: overlay(kept.video, kept.ids),
    }
    if what not in frames:
      raise InputError(f'a video has no {what!r:.20}')
    grid, columns = exports.sheet(frames[what]())
    return webp(grid[None], 1.0, lossless=what == 'trajectory' or grid.size < 2**22), columns

  def _restart(self, session: Session) -> None:
    """Cancel the jobs of a session and drop what belongs to its old picture."""
    self.queue.cancel_all(session.token)
    session.clear()

  def _add(self, session: Session, what: str, work: Callable[[Progress], Any]) -> None:
    job = self.queue.add(session.token, what, work)
    session.jobs = [*[j for j in session.jobs if not j.is_over], job]


def data_uri(content: bytes, kind: str) -> str:
  """Return bytes as a data URI."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def whole(asked: Mapping[str, Any], name: str, default: int | None = None) -> int:
  """Return a whole number of a request; raise InputError if it is missing or something else."""
  value = asked.get(name, default)
  if type(value) is not int:
    raise InputError(f'"{name}" must be a whole number, got {value!r:.40}')
  return value


def _sampling(asked: Mapping[str, Any], allowed: Mapping[str, Range]) -> Sampling:
  """Return how a request wants a stage to sample; `allowed` are the scales that it takes."""
  return Sampling(_seed(asked), _steps(asked), _scales(asked, allowed))


def _seed(asked: Mapping[str, Any]) -> int:
  seed = whole(asked, 'seed', 0)
  if not 0 <= seed <= _MOST_SEED:
    raise InputError(f'the seed must be from 0 to {_MOST_SEED}')
  return seed


def _steps(asked: Mapping[str, Any]) -> int | None:
  if asked.get('steps') is None:
    return None
  steps = whole(asked, 'steps')
  if not 1 <= steps <= MOST_STEPS:
    raise InputError(f'{steps} steps: choose 1 to {MOST_STEPS}')
  return steps


def _scales(asked: Mapping[str, Any], allowed: Mapping[str, Range]) -> dict[str, float]:
  """Return the guidance scales of a request, those that the network takes."""
  given = asked.get('scales') or {}
  if not isinstance(given, dict) or any(type(x) not in (int, float) for x in given.values()):
    raise InputError('"scales" must be numbers by name')
  if unknown := sorted(given.keys() - allowed.keys()):
    raise InputError(f'the network takes no {unknown[0]!r:.40}: leave it out')
  if wrong := out_of_range(allowed, given):
    raise InputError(f'{wrong}: choose a scale in this range')
  return {name: float(value) for name, value in given.items()}
