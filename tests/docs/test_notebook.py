"""The notebook runs, and shows what it says."""

import base64
import io
import os

import nbformat
import numpy as np
import pytest
from PIL import Image

from docs.generate import execute


def pictures(notebook: nbformat.NotebookNode) -> list[Image.Image]:
  """Return the images that a notebook shows, in order."""
  return [
    Image.open(io.BytesIO(base64.b64decode(output.data['image/png'])))
    for cell in notebook.cells
    if cell.cell_type == 'code'
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]


def test_it_is_stored_with_its_outputs():
  notebook = nbformat.read(execute.NOTEBOOK, 4)
  nbformat.validate(notebook)
  assert len(pictures(notebook)) == 5
  assert execute.tidy(nbformat.read(execute.NOTEBOOK, 4), execute.NOTEBOOK) == notebook
  first = next(cell for cell in notebook.cells if cell.cell_type == 'code')
  assert '%pip install' in first.source and not first.outputs


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
  # Compiled as users have it, not as the tests do.
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.setenv('PYTHONPATH', str(execute.NOTEBOOK.parents[1]))
  monkeypatch.setenv('JAX_PLATFORMS', os.environ.get('JAX_PLATFORMS', 'cpu'))
  notebook = execute.executed(tmp_path)
  scene, _, proposed, edited, videos = pictures(notebook)
  assert [image.n_frames for image in (scene, proposed, edited, videos)] == [8, 8, 8, 8]
  # The edit moves an object, and the video follows it.
  for image, columns in ((edited, 2), (videos, 3)):
    image.seek(7)
    parts = np.array_split(np.asarray(image.convert('RGB'), int), columns, axis=1)
    assert np.abs(parts[0][:, :140] - parts[1][:, :140]).mean() > 2
