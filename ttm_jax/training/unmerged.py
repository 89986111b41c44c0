"""Read checkpoints whose per-process stores were never merged.

In Orbax each process writes its values to its own OCDBT store, `ocdbt.process_N`; process 0 then
merges their manifests. Under a path with brackets Orbax found no such stores, merged nothing and
reported success: the values exist, the manifest does not. This module builds the manifest in a
temporary folder and leaves the checkpoint unchanged.
"""

from pathlib import Path

import tensorstore as ts
from etils import epath

from ttm_jax.data.storage import is_local

_MANIFEST = 'manifest.ocdbt'
_STORES = 'ocdbt.process_'


def unmerged(step: epath.Path) -> list[str]:
  """Return the sorted names of the items of a checkpoint that were not merged."""
  if not is_local(step) or not step.is_dir():
    return []
  return sorted(part.name for part in step.iterdir() if part.is_dir() and _stores(part))


def merged(step: epath.Path, folder: Path) -> epath.Path:
  """Create a readable view of a checkpoint with unmerged items.

  Args:
    step: the checkpoint, under a path that TensorStore can read.
    folder: an existing folder; the view becomes its subfolder with the name of the checkpoint.

  Returns:
    The view: symbolic links to the files of the checkpoint, and a manifest for each unmerged item.

  Raises:
    Exception: from TensorStore, for corrupt stores.
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
    # TensorStore copies between stores only if they share a context.
    context, together = ts.Context(), ts.Transaction(atomic=True)
    whole = _open(part, context)
    for name in _stores(entry):
      store = _open(part / name, context)
      store.experimental_copy_range_to(whole.with_transaction(together)).result()
    together.commit_sync()
  return epath.Path(view)


def _stores(part: epath.Path) -> list[str]:
  """Return the names of the per-process stores of an item, if they were not merged."""
  if (part / _MANIFEST).exists():
    return []
  return sorted(store.name for store in part.iterdir() if store.name.startswith(_STORES))


def _open(folder: Path, context: ts.Context) -> ts.KvStore:
  base = {'driver': 'file', 'path': f'{folder}/'}
  return ts.KvStore.open({'driver': 'ocdbt', 'base': base}, context=context).result()
