"""A progress bar on stderr."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
  """Show a bar, and yield the function to call with the number of items that are done."""
  with Progress(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    console=Console(stderr=True),
  ) as bar:
    task = bar.add_task(name, total=total)
    yield lambda count: bar.advance(task, count)
