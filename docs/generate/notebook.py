"""The page of the notebook."""

from pathlib import Path


def page(path: Path) -> dict[str, str | bytes]:
  """Return the page of a notebook and its pictures, by path relative to the documentation.

  Args:
    path: the notebook, with its outputs.
  """
  from nbconvert import MarkdownExporter

  text, resources = MarkdownExporter().from_filename(str(path))
  pictures = resources.get('outputs', {})
  for name in pictures:
    text = text.replace(f'({name})', f'(notebook/{name})')
  return {'notebook.md': text, **{f'notebook/{name}': data for name, data in pictures.items()}}
