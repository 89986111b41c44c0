"""Read checkpoints whose values were written but never merged.

Each process writes its values to a store of its own, `ocdbt.process_N`, and the first one then
merges the lists of contents. Under a path with brackets Orbax found no such stores, merged nothing
and reported success: the values are there, the list is not. Here the list is made in a temporary
folder; the checkpoint stays as it is.
"""

from pathlib import Path

import tensorstore as ts
from etils import epath

from ttm_jax.data.storage import is_local

_MANIFEST = 'manifest.ocdbt'
_STORES = 'ocdbt.process_'


def unmerged(step: epath.Path) -> list[str]:
  """Return the names of the parts of a checkpoint whose values were not merged, sorted."""
  if not is_local(step) or not step.is_dir():
    return []
  return sorted(part.name for part in step.iterdir() if part.is_dir() and _stores(part))


def merged(step: epath.Path, folder: Path) -> epath.Path:
  """Make a readable view of a checkpoint with unmerged parts.

  Args:
    step: the checkpoint, under a path that TensorStore can read.
    folder: where the view is made, as a folder of the checkpoint's name; must exist.

  Returns:
    The view: links to the files of the checkpoint, and for each unmerged part a list of contents.

  Raises:
    Exception: whatever TensorStore raises for damaged stores.
  """
  view = folder / step.name
  view.mkdir()
  broken = unmerged(step)
  for entry in step.iterdir():
    if entry.name not in broken:
      (view / entry.name).symlink_to(entry)
      continue
    part = view / entry.name
    part.mkdir()
    for inner in entry.iterdir():
      (part / inner.name).symlink_to(inner)
    # Stores copy from each other if they share a context.
    context, together = ts.Context(), ts.Transaction(atomic=True)
    whole = _open(part, context)
    for name in _stores(entry):
      store = _open(part / name, context)
      store.experimental_copy_range_to(whole.with_transaction(together)).result()
    together.commit_sync()
  return epath.Path(view)


def _stores(part: epath.Path) -> list[str]:
  """Return the names of the processes' stores in a part, if they were not merged."""
  if (part / _MANIFEST).exists():
    return []
  return sorted(store.name for store in part.iterdir() if store.name.startswith(_STORES))


def _open(folder: Path, context: ts.Context) -> ts.KvStore:
  base = {'driver': 'file', 'path': f'{folder}/'}
  return ts.KvStore.open({'driver': 'ocdbt', 'base': base}, context=context).result()
