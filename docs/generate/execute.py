"""Run docs/quickstart.ipynb and keep its outputs, so that readers see them.

    python -m docs.generate.execute

Run it after a change of the notebook, on a machine that is otherwise idle.
"""

import resource
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / 'quickstart.ipynb'


def executed(folder: Path, limit: int = 3600) -> nbformat.NotebookNode:
  """Return the notebook with its outputs.

  Args:
    folder: where it runs and writes its files.
    limit: seconds that a cell may take.

  Raises:
    CellExecutionError: if a cell fails.
  """
  notebook = nbformat.read(NOTEBOOK, 4)
  client = NotebookClient(
    notebook, timeout=limit, kernel_name='python3', resources={'metadata': {'path': str(folder)}}
  )
  client.execute()
  return notebook


def tidy(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
  """Return a notebook without what differs between machines: paths, times, stages of bars."""
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)
    if cell.cell_type != 'code':
      continue
    kept: list[nbformat.NotebookNode] = []
    for output in cell.outputs:
      text = output.get('text') or output.get('data', {}).get('text/plain', '')
      if 'image/png' in output.get('data', {}):
        output.data.pop('text/plain', None)
        kept.append(output)
        continue
      lines = (line.split('\r')[-1].rstrip() for line in text.splitlines())
      # Of a progress bar, its end.
      lines = (line for line in lines if line and ('%|' not in line or '100%|' in line))
      text = '\n'.join(line.replace(f'{folder}/', '') for line in lines)
      if kept and kept[-1].output_type == 'stream':
        kept[-1].text += f'{text}\n' if text else ''
      elif text:
        kept.append(nbformat.v4.new_output('stream', name='stdout', text=f'{text}\n'))
    cell.outputs = kept
  return notebook


def main() -> None:
  """Run the notebook and write it."""
  begin = time.perf_counter()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name).resolve()
    nbformat.write(tidy(executed(folder), folder), NOTEBOOK)
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  print(
    f'{NOTEBOOK}: {(time.perf_counter() - begin) / 60:.1f} minutes;'
    f' CPU time {used.ru_utime:.0f} s in the program, {used.ru_stime:.0f} s in the kernel'
  )


if __name__ == '__main__':
  main()
