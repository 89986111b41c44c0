"""Project files: a zip archive of PNGs and JSON.

project.json                version, size, texts, objects, edits and the origin of the motion
picture.png                 RGB
segmentation.png            objects of the picture, a palette PNG
objects.png                 the same and those that enter later, as `--segmentation` reads them
base/00000.png ...          the motion before edits; value v of a pixel has bit l - 1 set where
                            object l is, also behind others
trajectory/00000.png ...    the motion after edits, palette PNGs, as `--trajectory` reads them

The trajectory is for other programs; reading a project computes it again from base and edits.
Archives are untrusted. Nothing is extracted to disk: only the names above are read, each within its
size, and other entries are refused.
"""

import dataclasses
import functools
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.media.images import open_content
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.motion import STILL, Base, Motion
from ttm_jax.studio.motion_edits import Edit
from ttm_jax.studio.project import Project, Scene, checked_text, named_mask
from ttm_jax.trajectory import PALETTES

VERSION = 1
SUFFIX = '.ttm.zip'
MOST_EDITS = 10_000
_JSON = 'project.json'
_MOST_JSON = 32 * 2**20
_MOST_PNG = 64 * 2**20
DAMAGE = zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError
"""What reading a damaged zip archive raises; the last one, for compression that is not known."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save(project: Project, command: str = '', scene: Scene | None = None) -> bytes:
  """Return a project as a file.

  Args:
    project: A project with a picture.
    command: Command line that renders it, for the reader.
    scene: The scene to save; by default the current one.

  Raises:
    InputError: If there is no picture.
  """
  return packer(project, command, scene)()


def packer(project: Project, command: str = '', scene: Scene | None = None) -> Callable[[], bytes]:
  """Return a function that packs a project as it is now, whatever becomes of it meanwhile.

  Args:
    project: A project with a picture.
    command: See `save`.
    scene: See `save`.

  Raises:
    InputError: If there is no picture.
  """
  scene, limits = project.scene if scene is None else scene, project.limits
  about = {
    'format': 'ttm_jax studio project',
    'version': VERSION,
    'frames': limits.frames,
    'height': limits.height,
    'width': limits.width,
    'fps': limits.fps,
    'caption': project.caption,
    'motion': project.motion,
    'objects': {str(obj): dataclasses.asdict(thing) for obj, thing in project.things.items()},
    'origin': scene.base.origin,
    'edits': [edit.to_json() for edit in scene.edits],
    'command': command,
  }
  return functools.partial(_packed, scene, project.computed(scene), about)


def _packed(scene: Scene, motion: Motion, about: dict[str, Any]) -> bytes:
  content: dict[str, bytes] = {
    'picture.png': png(scene.picture),
    'segmentation.png': palette_png(scene.mask),
  }
  for frame, sets in enumerate(scene.base.sets):
    content[f'base/{frame:05d}.png'] = png(sets)
  if motion.layers:
    ids = motion.ids()
    content['objects.png'] = palette_png(named_mask(ids))
    content |= trajectory_pngs(ids)
  content[_JSON] = json.dumps(about, indent=1, ensure_ascii=False).encode()
  return archive(content)


def load(content: bytes, limits: Limits) -> Project:
  """Return the project of a file.

  Args:
    content: The file.
    limits: What the networks can generate; the project must be of their size.

  Raises:
    InputError: If the file is damaged, of another version or size, or has unknown entries.
  """
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
      return _load(file, limits)
  except InputError:
    raise
  except (*DAMAGE, ValueError) as error:
    raise InputError('the project file is damaged or cut off: save or copy it again') from error
  except RuntimeError as error:  # An encrypted entry.
    raise InputError('the project file is encrypted: save it again without a password') from error


def _load(file: zipfile.ZipFile, limits: Limits) -> Project:
  base = [f'base/{frame:05d}.png' for frame in range(limits.frames)]
  trajectory = {f'trajectory/{frame:05d}.png' for frame in range(limits.frames)}
  names = [entry.filename for entry in file.infolist()]
  about = _about(file, names)
  size = {name: about.get(name) for name in ('frames', 'height', 'width')}
  wanted = {name: getattr(limits, name) for name in size}
  if size != wanted:
    raise InputError(
      f'the project has {size["frames"]} frames of {size["width"]} x {size["height"]}, this model'
      f' generates {limits.frames} of {limits.width} x {limits.height}: open it with the model that'
      ' it was made with'
    )
  known = {_JSON, 'picture.png', 'segmentation.png', 'objects.png', *base, *trajectory}
  if unknown := [name for name in names if name not in known]:
    raise InputError(f'the project file has an entry {unknown[0]!r:.80}, which no project has')
  if len(names) != len(set(names)):
    raise InputError('the project file has an entry twice: save it again')
  area = limits.height, limits.width
  project = Project(limits)
  picture = _png(file, 'picture.png', 'RGB', (*area, 3))
  mask = _png(file, 'segmentation.png', 'P', area)
  sets = np.stack([_png(file, name, 'L', area) for name in base])
  origin = _text(about, 'origin', 'the origin')
  edits = about.get('edits')
  if not isinstance(edits, list) or len(edits) > MOST_EDITS:
    raise InputError(f'the project file must list at most {MOST_EDITS} edits')
  things = about.get('objects')
  if not isinstance(things, dict):
    raise InputError('the project file lists no objects: save it again')
  if origin == STILL and (sets == sets[0]).all():
    sets = np.broadcast_to(sets[0], sets.shape)
  scene = Scene(picture, mask, Base(origin, sets), tuple(map(Edit.from_json, edits)))
  project.say(_text(about, 'caption', 'the caption'), _text(about, 'motion', 'the motion prompt'))
  project.restore(scene)
  for number, thing in things.items():
    if not number.isdecimal() or len(number) > 2 or not isinstance(thing, dict):
      raise InputError('the project file describes an object that there cannot be: save it again')
    shown = thing.get('shown', True) is True
    project.describe(
      int(number), name=thing.get('name', ''), prompt=thing.get('prompt', ''), shown=shown
    )
  return project


def _about(file: zipfile.ZipFile, names: list[str]) -> dict[str, Any]:
  if _JSON not in names:
    raise InputError('this is not a project of the studio: project.json is missing')
  try:
    about = json.loads(_bytes(file, _JSON, _MOST_JSON))
  except (ValueError, RecursionError) as error:
    raise InputError('project.json of the project file is damaged: save it again') from error
  if not isinstance(about, dict) or 'version' not in about:
    raise InputError('this is not a project of the studio: project.json has no version')
  if about['version'] != VERSION:
    raise InputError(
      f'the project file has version {about["version"]!r:.20}, this studio reads version {VERSION}:'
      ' open it with the version that saved it'
    )
  return about


def _text(about: dict[str, Any], name: str, what: str) -> str:
  return checked_text(about.get(name, ''), what)


def _bytes(file: zipfile.ZipFile, name: str, most: int) -> bytes:
  """Read an entry, at most `most` bytes, whatever size it declares."""
  try:
    with file.open(name) as entry:
      content = entry.read(most + 1)
  except KeyError as error:
    raise InputError(f'the project file lacks {name}: save it again') from error
  if len(content) > most:
    raise InputError(f'{name} in the project file is too large: it is not of a project')
  return content


def _png(file: zipfile.ZipFile, name: str, mode: str, shape: tuple[int, ...]) -> np.ndarray:
  content = _bytes(file, name, _MOST_PNG)
  try:
    with open_content(content, ['PNG']) as image:
      if image.mode != mode or image.size != (shape[1], shape[0]):
        raise InputError(f'{name} in the project file must be a PNG of {shape[1]} x {shape[0]}')
      return np.array(image)
  except InputError:
    raise
  except Exception as error:  # Decoders raise many types of exceptions.
    raise InputError(f'{name} in the project file is damaged: save it again') from error


def archive(content: dict[str, bytes]) -> bytes:
  """Return a zip archive; equal content gives equal bytes."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as made:
    for name, data in content.items():
      packed = zipfile.ZIP_STORED if name.endswith('.png') else zipfile.ZIP_DEFLATED
      made.writestr(zipfile.ZipInfo(name, _EPOCH), data, packed)
  return file.getvalue()


def trajectory_pngs(ids: np.ndarray) -> dict[str, bytes]:
  """Return a label map, uint8 [T, H, W], as palette PNGs by their names in an archive."""
  return {f'trajectory/{i:05d}.png': palette_png(frame) for i, frame in enumerate(ids)}


def palette_png(ids: np.ndarray) -> bytes:
  """Encode a label map, uint8 [H, W], as a palette PNG in the colors of its objects."""
  image = Image.fromarray(ids)
  image.putpalette(bytes(3) + PALETTES['spread8'].tobytes())
  return _encoded(image)


def png(pixels: np.ndarray) -> bytes:
  """Encode pixels, uint8 [H, W] or [H, W, 3], as PNG."""
  return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _encoded(image: Image.Image) -> bytes:
  file = io.BytesIO()
  image.save(file, 'PNG')
  return file.getvalue()
