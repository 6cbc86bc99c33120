"""Progress bars and tables on a terminal; Rich, of the extra [train], is imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mi_estimators import _extras

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


def rich_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0, 1),
    no_wrap: bool = False,
) -> Table:
    """A Rich table of texts.

    Args:
        title: above it.
        header: names of the columns.
        rows: the cells.
        left: columns that are aligned to the left; all others to the right.
        no_wrap: keep every cell on one line.

    Raises:
        ImportError: Rich is not installed.
    """
    table: Table = _extras.require("rich.table", "train").Table(title=title)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in left else "right", no_wrap=no_wrap)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts in Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


def print_table(table: Table) -> None:
    """Print a table at the terminal's width; into a file or a pipe, at 120 columns."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
