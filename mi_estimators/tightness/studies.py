"""Small studies beside the benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_estimators.console import rich_table
from mi_estimators.tightness.consistency import run_consistency
from mi_estimators.tightness.negatives import run_negatives

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Study:
    """One entry of :data:`STUDIES`.

    Attributes:
        run: ``(..., progress) -> dict`` ready for JSON, with the list ``rows``.
        summary: what it shows.
        header: of the table.
        cells: a line of that table from a row.
    """

    run: Callable[..., dict[str, Any]]
    summary: str
    header: tuple[str, ...]
    cells: Callable[[dict[str, Any], dict[str, Any]], tuple[str, ...]]


def _number(value: float | None, digits: int = 3) -> str:
    return "overflow" if value is None else f"{value:.{digits}f}"


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _consistency_cells(result: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    estimates = ", ".join(_number(value, 2) for value in row["estimates"])
    truths = ", ".join(map(_known, row["truths"]))
    return row["bound"], row["test"], _number(row["ratio"], 2), _known(row["should_be"]), estimates, truths


def _negatives_cells(result: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    mean = f"{_number(row['mean'], 4)} ± {_number(row['standard_error'], 4)}"
    return row["bound"], row["negatives"], mean, _number(result["truth"], 4), "yes" if row["exceeds"] else "no"


STUDIES: dict[str, Study] = {
    "consistency": Study(
        run_consistency,
        "Whether bounds obey what mutual information does: baseline, data processing, additivity.",
        ("bound", "test", "ratio", "should be", "estimates (nats)", "truths (nats)"),
        _consistency_cells,
    ),
    "negatives": Study(
        run_negatives,
        "What becomes of lower bounds when the negatives are not independent.",
        ("bound", "negatives", "mean (nats)", "truth (nats)", "exceeds the truth"),
        _negatives_cells,
    ),
}
"""Studies by the name of their command."""


def study_table(name: str, result: dict[str, Any]) -> Table:
    """The rows of a study as a Rich table.

    Args:
        name: of the study.
        result: what its ``run`` returned.

    Raises:
        ImportError: Rich is not installed.
    """
    study = STUDIES[name]
    return rich_table(study.summary, study.header, [study.cells(result, row) for row in result["rows"]])
