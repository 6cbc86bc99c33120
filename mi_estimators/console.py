"""Progress bars and tables on a terminal; Rich, of the extra [train], is imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error; yields ``report(done, total, row)``, where the row's loss and bounds are shown."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[row]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None, row="")

        def report(done: int, total: int, row: Mapping[str, float] = {}) -> None:
            names = [name for name in ("test_loss", "infonce") if name in row]
            progress.update(
                task, completed=done, total=total, row="  ".join(f"{name} {row[name]:.3f}" for name in names)
            )

        yield report


def print_table(table: Table) -> None:
    """Print a table at the terminal's width; into a file or a pipe, at 120 columns."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
