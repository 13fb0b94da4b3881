"""Progress bars on stderr, silent where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(task: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the context lasts; call what it gives with (steps done, steps in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(task, total=None)
        yield lambda done, steps: bar.update(shown, completed=done, total=steps)


@contextmanager
def loss_bar(task: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar on stderr that shows the loss of the last step; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    loss_column = TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn()
    with Progress(*columns, *loss_column, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(task, total=None, loss=float("nan"))
        yield lambda done, steps, loss: bar.update(shown, completed=done, total=steps, loss=loss)
