"""A converted copy of open weights, from which later runs start without reading them again.

The copy is one Orbax checkpoint of the parameters in our layout: sharded, written atomically, and
restored to any mesh. It describes what it was made from. If that has changed, or if the copy is
damaged, it is made again.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from ttm_jax.data.storage import absolute, is_local
from ttm_jax.parallel.peers import Peers
from ttm_jax.settings import first_difference
from ttm_jax.training import digests
from ttm_jax.training.checkpoint import DESCRIPTION, Durable
from ttm_jax.training.orbax_errors import refusal
from ttm_jax.training.place import PlainPath, check_address
from ttm_jax.training.placing import place
from ttm_jax.training.stored_arrays import StoredArray, open_arrays

FORMAT = 1  # Version of the conversion; a copy of another version is made again.
_COPY = 'converted'  # Name of the checkpoint in the folder.
# Chunks of few layers, so that `place` can read a few layers without reading others.
_CHUNKS = ocp.SaveArgs(chunk_byte_size=2**22, shard_axes=(0,))


def key(init_from: str, files: Iterable[Path], like: Any) -> dict[str, Any]:
  """Return what a converted copy is made from.

  Args:
    init_from: source of the parameters, as configured.
    files: the files that hold them; they are told apart by name, size and time of modification.
    like: nested dict of the arrays' shapes and dtypes.
  """
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator='.'): f'{x.dtype}{list(x.shape)}'
    for path, x in jax.tree.leaves_with_path(like)
  }
  stats = [(path.name, path.stat()) for path in sorted(files)]
  return {
    'format': FORMAT,
    'init_from': init_from,
    'files': [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
    'arrays': arrays,
  }


class InitCache:
  """The converted copy in a folder, which may be on gs:// and need not exist."""

  def __init__(
    self, folder: epath.PathLike, key: dict[str, Any], peers: Peers, say: Callable[[str], None]
  ):
    """Open the folder.

    Args:
      folder: the folder; all processes of a job share it.
      key: see `key`; that of process 0 counts.
      peers: the processes of this job.
      say: called with each message for the user.

    Raises:
      InputError: if checkpoints cannot be saved at this address.
    """
    self._folder = absolute(folder)
    check_address(self._folder)
    self._key, self._peers, self._say = key, peers, say
    self._place = PlainPath(self._folder)

  def restore(self, like: Any) -> tuple[Any, list[int]] | None:
    """Return the parameters and their checksums, or None if there is no copy that fits.

    Args:
      like: nested dict of jax.ShapeDtypeStruct with shardings.
    """
    about = self._description()
    about, problem = self._peers.agree('the converted copy', (about, self._problem(about)))[0]
    if about is None:
      return None
    arrays: Any = None
    sums: list[int] = []
    if not problem:
      try:
        arrays, sums = self._read(like)
      except Exception as error:  # Orbax and TensorStore raise many types for corrupt files.
        problem = f'cannot be read ({self._place.original(str(error)).strip()[:200]})'
      problem = next(filter(None, self._peers.agree('reading the converted copy', problem)), '')
    if not problem and digests.of_sums(sums) != about['digest']:
      problem = 'is damaged: its values are not those that were saved'
    if problem:
      self._say(f'the converted copy in {self._folder} {problem}; it is made again')
      return None
    return arrays, about['sums']

  def _read(self, like: Any) -> tuple[Any, list[int]]:
    """Return the arrays, and the checksums of the values that were read."""
    structure = jax.tree.structure(like)
    stores = open_arrays(self._path, list(self._key['arrays']))

    def stored(store: ts.TensorStore) -> StoredArray:
      return StoredArray(store.shape, lambda i: store[... if i is None else i].read().result())

    return place(
      jax.tree.unflatten(structure, map(stored, stores)),
      jax.tree.map(lambda x: x.sharding, like),
      jax.tree.map(lambda x: x.dtype, like),
      self._peers.progress,
    )

  def save(self, arrays: Any, sums: list[int]) -> None:
    """Write the copy; return when it is complete. A failure is told and ignored.

    Args:
      arrays: nested dict of the parameters.
      sums: their checksums, see `placing.place`.
    """
    size = sum(x.nbytes for x in jax.tree.leaves(arrays))
    told = ''
    if jax.process_index() == 0:
      told = self._prepared(size)
    told = self._peers.agree('room for the converted copy', told)[0]
    if not told:
      about = {'key': self._key, 'digest': int(digests.of_tree(arrays)), 'sums': sums}
      durable = Durable if is_local(self._folder) else None
      with ocp.Checkpointer(
        _handler(jax.tree.leaves(arrays)), temporary_path_class=durable
      ) as writer:
        try:
          wanted = ocp.args.PyTreeSave(arrays, jax.tree.map(lambda _: _CHUNKS, arrays))
          writer.save(self._path, wanted, force=True, custom_metadata=about)
        except Exception as error:
          told = refusal(error)
          if not told:
            raise
    if told:
      self._say(f'no converted copy is kept in {self._folder} ({told})')

  def close(self) -> None:
    """Release resources."""
    self._place.close()

  @property
  def _path(self) -> epath.Path:
    return self._place.path / _COPY

  def _description(self) -> Any:
    """Return what the copy says about itself; None if there is no copy or no description."""
    if not (self._folder / _COPY).exists():
      return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
      return json.loads((self._folder / _COPY / DESCRIPTION).read_text())['custom_metadata']
    return {}

  def _problem(self, about: Any) -> str:
    """Return why the copy cannot be used, given its description; empty if it can be tried."""
    if about is None:
      return ''
    if not isinstance(about, dict) or not isinstance(about.get('key'), dict):
      return f'is damaged: {DESCRIPTION} does not say what it was made from'
    found = first_difference(about['key'], self._key)
    return f'was made from something else ({found[0]} differs)' if found else ''

  def _prepared(self, size: int) -> str:
    """Create the folder; return why the copy cannot be written, or an empty string."""
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      return error.strerror or str(error)
    if is_local(self._folder) and (free := shutil.disk_usage(self._folder).free) < size:
      return f'it takes {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free'
    return ''


def _handler(tree: Any) -> ocp.PyTreeCheckpointHandler:
  """Return the Orbax handler, which copies a few arrays at a time to host memory."""
  largest = max(sum(shard.data.nbytes for shard in x.addressable_shards) for x in tree)
  # Orbax counts in whole GB, and refuses an array that exceeds the limit. Weights hardly compress,
  # and decompression takes longer than reading.
  return ocp.PyTreeCheckpointHandler(
    save_device_host_concurrent_gb=1 + math.ceil(2 * largest / 1e9), use_compression=False
  )
