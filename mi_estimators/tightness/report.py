"""What a benchmark writes when its cells are done: tables, plots, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_estimators import _extras
from mi_estimators._files import replacing, write_text
from mi_estimators.console import rich_table
from mi_estimators.tightness import leaderboard
from mi_estimators.tightness.leaderboard import Line, Result, checks, is_close, main_n, ranking
from mi_estimators.tightness.plots import PLOTS

if TYPE_CHECKING:
    from rich.table import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: .6rem 0 1.4rem }
th, td { padding: .2rem .55rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { position: sticky; top: 0; background: #f4f4f4 }
.close { background: #d7efd9 } .above { background: #f8d3cf } .below { background: #fdf3d0 } .failed { color: #999 }
.no { color: #b00020; font-weight: 600 } img { max-width: 100% } .wide { overflow-x: auto }
"""


def save_report(results: Sequence[Result], out: str | Path, *, environment: dict[str, Any] | None = None) -> list[Path]:
    """Write ``results.csv``, ``leaderboard.md``, the plots as PNG and ``report.html`` that holds all in one file.

    Also ``results.parquet`` where pandas and pyarrow are installed. Without Matplotlib (extra ``[plots]``) a warning
    says so, and the page has the tables alone. Each file appears whole or not at all.

    Args:
        results: what :func:`~mi_estimators.tightness.run_benchmark` returned.
        out: folder; created if missing.
        environment: versions and machine, for the page.

    Returns:
        The paths written.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("results: want at least one; no estimator takes the variables of these tasks")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    found = leaderboard.lines(results)
    written = [out / "results.csv", out / "leaderboard.md"]
    write_text(written[0], leaderboard.to_csv(results))
    write_text(written[1], leaderboard.markdown(found))
    if importlib.util.find_spec("pandas") and importlib.util.find_spec("pyarrow"):
        written.append(out / "results.parquet")
        table = _extras.require("pandas", "train").DataFrame(list(results))[list(leaderboard.COLUMNS)]
        with replacing(written[-1]) as partial:
            table.to_parquet(partial)
    pictures = _pictures(found)
    for name, picture in pictures.items():
        written.append(out / f"{name}.png")
        with replacing(written[-1]) as partial:
            partial.write_bytes(picture)
    written.append(out / "report.html")
    write_text(written[-1], _page(found, pictures, environment or {}))
    return written


def _pictures(found: Sequence[Line]) -> dict[str, bytes]:
    try:
        _extras.require("matplotlib.figure", "plots")
    except ImportError as error:
        warnings.warn(f"no plots: {error}", stacklevel=3)
        return {}
    pictures = {}
    for name, (draw, _) in PLOTS.items():
        figure = draw(found)
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100)
            pictures[name] = buffer.getvalue()
    return pictures


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already: ``<td ...>`` or plain text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(line: Line | None) -> str:
    if line is None:
        return "<td></td>"
    if line.mean is None:
        return f'<td class="failed" title="{html.escape(str(line.error))}">failed</td>'
    if line.violations:
        kind = "above" if line.kind != "upper" else "below"
    elif is_close(line.mean, line.truth):
        kind = "close"
    else:
        kind = ""
    spread = "" if line.spread is None else f" ± {line.spread:.3f}"
    return f'<td class="{kind}" title="{line.mean:.4f}{spread}">{line.mean:.3f}{"▲" * line.violations}</td>'


def _page(found: Sequence[Line], pictures: dict[str, bytes], environment: dict[str, Any]) -> str:
    n = main_n(found)
    check_rows = [
        [html.escape(check.claim), "yes" if check.passed else '<td class="no">no</td>', html.escape(check.detail)]
        for check in checks(found)
    ]
    header, rows = leaderboard.ranking_table(ranking(found, n))
    parts = [
        "<h1>Mutual information estimators against the truth</h1>",
        f"<p>{html.escape(', '.join(f'{key} {value}' for key, value in environment.items()))}</p>",
        "<h2>Checks</h2>",
        _html_table(("claim", "holds", "seen"), check_rows),
        f"<h2>Ranking at n = {n}</h2>",
        _html_table(header, [[html.escape(cell) for cell in row] for row in rows]),
    ]
    for size in sorted({line.n for line in found}, key=lambda value: (value != n, value)):
        variants, grouped = leaderboard.by_task(found, size)
        body = [[f"<td>{html.escape(task)}</td>", f"{truth:.3f}", *map(_cell, own)] for task, truth, own in grouped]
        parts += [
            f"<h2>Tasks at n = {size}</h2>",
            "<p>Means over seeds, in nats. Green: close to the truth. Red: at least one seed on the wrong side of it "
            "by more than three standard errors, one ▲ each.</p>",
            _html_table(("task", "truth", *variants), body),
        ]
    for name, picture in pictures.items():
        title = html.escape(PLOTS[name][1])
        data = base64.b64encode(picture).decode()
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    body_text = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Tightness</title>'
        f"<style>{_STYLE}</style></head><body>\n{body_text}\n</body></html>\n"
    )


def ranking_as_rich(results: Sequence[Result]) -> Table:
    """The ranking as a Rich table.

    Args:
        results: what :func:`~mi_estimators.tightness.run_benchmark` returned.

    Raises:
        ImportError: Rich is not installed.
    """
    found = leaderboard.lines(results)
    header, rows = leaderboard.ranking_table(ranking(found))
    return rich_table(f"Ranking at n = {main_n(found)}; errors in nats", header, rows)
