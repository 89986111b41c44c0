"""The motion of a project: layers of objects, computed from a base and a list of edits.

Layers are cached by what they were computed from, so that an edit costs the layers that it changes,
and undo costs nothing. A cached layer is packed to one bit per pixel and compressed, which takes
some kilobytes per edit.
"""

import dataclasses
import functools
import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.mask_sampling import centroids
from ttm_jax.studio.motion_edits import Edit, apply, apply_depth
from ttm_jax.trajectory import MAX_OBJECTS
from ttm_jax.trajectory_layers import merge, order_by_area

CACHE_BYTES = 64 * 2**20
STILL = 'still'


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
  """The motion before edits.

  Attributes:
    origin: Where it comes from, in words; `STILL` if all objects stand still.
    sets: Objects at each pixel, uint8 [T, H, W]: bit l - 1 is set where object l is, also behind
      others.
  """

  origin: str
  sets: np.ndarray

  @classmethod
  def still(cls, mask: np.ndarray, frames: int) -> 'Base':
    """Return the base of objects, label map uint8 [H, W], that stand still for some frames."""
    return cls(STILL, np.broadcast_to(as_sets(mask), (frames, *mask.shape)))

  @property
  def is_still(self) -> bool:
    """Whether all objects stand still."""
    return self.origin == STILL

  @property
  def objects(self) -> list[int]:
    """The objects that it has."""
    bits = int(np.bitwise_or.reduce(self.sets, axis=None))
    return [obj for obj in range(1, MAX_OBJECTS + 1) if bits >> (obj - 1) & 1]

  def layer(self, obj: int) -> np.ndarray:
    """Return the layer of an object, uint8 [T, H, W]."""
    return (self.sets >> np.uint8(obj - 1) & np.uint8(1)) * np.uint8(obj)

  @functools.cached_property
  def digest(self) -> bytes:
    """A digest of `sets`."""
    return hashlib.blake2b(np.ascontiguousarray(self.sets).data, digest_size=16).digest()

  def replaced(self, origin: str, layers: dict[int, np.ndarray]) -> 'Base':
    """Return a base in which some layers, uint8 [T, H, W], are replaced."""
    sets = self.sets.copy()
    for obj, layer in layers.items():
      bit = np.uint8(1 << (obj - 1))
      sets = np.where(layer > 0, sets | bit, sets & ~bit)
    return Base(origin, sets)


def as_sets(ids: np.ndarray) -> np.ndarray:
  """Convert a label map to object sets, uint8 of the same shape; see `Base.sets`."""
  return np.take(np.array([0, *(1 << np.arange(MAX_OBJECTS))], np.uint8), ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
  """The computed layer of one object.

  Attributes:
    obj: The object.
    shape: (T, H, W).
    packed: Its mask: for each frame H * W bits, padded to bytes, most significant bit first;
      compressed by zlib.
    version: Digest of the mask; equal masks have equal versions.
    area: Pixels in each frame, int [T].
    centers: Centroid (x, y) in each frame, float [T, 2].
  """

  obj: int
  shape: tuple[int, int, int]
  packed: bytes
  version: str
  area: np.ndarray
  centers: np.ndarray

  @classmethod
  def of(cls, ids: np.ndarray, obj: int) -> 'Layer':
    """Pack a layer, uint8 [T, H, W]."""
    mask = ids == obj
    bits = np.packbits(mask.reshape(len(mask), -1), axis=1).data
    version = hashlib.blake2b(bits, digest_size=12, key=bytes([obj])).hexdigest()
    centers, area = centroids(mask)
    return cls(obj, mask.shape, zlib.compress(bits, 1), version, area, centers)

  def ids(self) -> np.ndarray:
    """Return the layer, uint8 [T, H, W]."""
    return self._first(self.shape[0])

  def first(self) -> np.ndarray:
    """Return its mask in frame 0, bool [H, W]."""
    return self._first(1)[0] > 0

  def _first(self, frames: int) -> np.ndarray:
    """Return the first frames of the layer, uint8 [frames, H, W]."""
    _, height, width = self.shape
    size = frames * -(-height * width // 8)
    bits = np.frombuffer(zlib.decompressobj().decompress(self.packed, size), np.uint8)
    mask = np.unpackbits(bits.reshape(frames, -1), axis=1, count=height * width)
    mask *= np.uint8(self.obj)
    return mask.reshape(frames, height, width)


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
  """A computed trajectory.

  Attributes:
    layers: Layers of the objects that some frame shows.
    order: Depth order, uint8 [T, n], these objects from back to front.
  """

  layers: dict[int, Layer]
  order: np.ndarray

  def ids(self) -> np.ndarray:
    """Return the label map, uint8 [T, H, W].

    Raises:
      InputError: If no frame shows an object.
    """
    if not self.layers:
      raise InputError('no frame shows an object: paint one, or undo what removed it')
    return merge({obj: layer.ids() for obj, layer in self.layers.items()}, self.order)


class Cache:
  """Computed layers, the most recently used ones up to `CACHE_BYTES`."""

  def __init__(self) -> None:
    self._layers: OrderedDict[bytes, Layer] = OrderedDict()
    self._bytes = 0

  def compute(self, base: Base, edits: Sequence[Edit]) -> Motion:
    """Return the motion after edits.

    Raises:
      InputError: If an edit does not fit what is before it.
    """
    recipes: dict[bytes, tuple[Edit | None, int, bytes]] = {}
    current: dict[int, bytes] = {}
    for obj in base.objects:
      current[obj] = _digest(base.digest, str(obj))
      recipes[current[obj]] = None, obj, b''
    for edit in edits:
      made = {}
      for obj in edit.changes:
        before = current.get(edit.source(obj), b'')
        made[obj] = _digest(before, f'{obj} {edit.key}')
        recipes[made[obj]] = edit, obj, before
      current |= made
    layers = {obj: self._layer(base, recipes, digest) for obj, digest in sorted(current.items())}
    layers = {obj: layer for obj, layer in layers.items() if layer.area.any()}
    order = order_by_area({obj: layer.area for obj, layer in layers.items()})
    for edit in edits:
      if edit.kind == 'depth' and edit.values['object'] in layers:
        order = apply_depth(edit, order)
    return Motion(layers, order)

  def _layer(
    self, base: Base, recipes: dict[bytes, tuple[Edit | None, int, bytes]], digest: bytes
  ) -> Layer:
    """Return a layer: from the cache, or made from the nearest one before it that is cached."""
    waiting = []
    while digest and digest not in self._layers:
      waiting.append(digest)
      digest = recipes[digest][2]
    ids = self._get(digest).ids() if digest and waiting else None
    layer = self._get(digest) if digest and not waiting else None
    for digest in reversed(waiting):
      edit, obj, _ = recipes[digest]
      if edit is None:
        ids = base.layer(obj)
      else:
        ids = apply(edit, np.zeros(base.sets.shape, np.uint8) if ids is None else ids, obj)
      layer = Layer.of(ids, obj)
      self._put(digest, layer)
    assert layer is not None
    return layer

  def _get(self, digest: bytes) -> Layer:
    self._layers.move_to_end(digest)
    return self._layers[digest]

  def _put(self, digest: bytes, layer: Layer) -> None:
    self._layers[digest] = layer
    self._bytes += len(layer.packed)
    while self._bytes > CACHE_BYTES and len(self._layers) > 1:
      self._bytes -= len(self._layers.popitem(last=False)[1].packed)


def _digest(before: bytes, text: str) -> bytes:
  return hashlib.blake2b(before + text.encode(), digest_size=16).digest()
