"""Fill the tables of a page from recorded results: ``python -m benchmarks.publish RESULTS.json [PAGE.md]``.

The page has a pair of comments for each table, ``<!-- KIND: WHAT -->`` and ``<!-- end -->``; what stands between them
is replaced where the results are of that kind. So no number of a page is typed by hand. KIND is ``run`` for a run of a
suite, and WHAT then ``machine``, ``bars``, ``plot``, ``ratios ENTRY``, ``memory ENTRY`` or ``contenders ENTRY``; for a
study KIND is its name, or ``er-DATA`` or ``collapse-DATA``, and WHAT ``machine``, ``plot``, ``plot NAME`` or a table
of :mod:`benchmarks.studies.tables`. ``sinkhorn_scores`` shares a page with another suite, and is ``scores-run``
there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Outcome
from benchmarks.files import write_text
from benchmarks.harness import FLOOR, Row, heaviest
from benchmarks.provenance import ROOT
from benchmarks.report import BARS, CONTENDERS, RATIOS, bar_lines, bytes_text, contender_cells, ratio_lines
from benchmarks.studies.tables import STUDIES, Table
from mi_estimators.console import markdown_table

SINKHORN_PAGE = ROOT / "docs" / "sinkhorn_results.md"
TRAINERS_PAGE = ROOT / "docs" / "trainers.md"
PAGES = {  # by suite or study; all others:
    "infonce": ROOT / "docs" / "performance.md",
    "sinkhorn": SINKHORN_PAGE,
    "sinkhorn_scores": SINKHORN_PAGE,
    "oracles": SINKHORN_PAGE,
    "nonparametric-mi": ROOT / "docs" / "nonparametric.md",
    "trainers": TRAINERS_PAGE,
    "halves": TRAINERS_PAGE,
    "sweep": TRAINERS_PAGE,
    "collapse": TRAINERS_PAGE,
}
RESULTS_PAGE = ROOT / "docs" / "entropy_results.md"
KINDS = {"sinkhorn_scores": "scores-run"}  # of a suite that shares its page with another; all others: run
BLOCK = re.compile(r"(<!-- (?P<kind>[\w-]+): (?P<what>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Results:
    """A run as its JSON tells it."""

    path: Path
    document: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which blocks of a page these results fill."""
        study = self.document.get("study")
        if study is None:
            return KINDS.get(self.document.get("settings", {}).get("suite"), "run")
        return f"{study}-{self.document['plan']['data']}" if study in ("er", "collapse") else study

    @property
    def tables(self) -> dict[str, Callable[[Results, str, Path], str]]:
        study = self.document.get("study")
        if study is None:
            return TABLES
        return {"machine": machine, "plot": plot} | {name: _of_study(make) for name, make in STUDIES[study].items()}

    @property
    def page(self) -> Path:
        name = self.document.get("study") or self.document.get("settings", {}).get("suite")
        return PAGES.get(name, RESULTS_PAGE)

    @property
    def rows(self) -> list[Row]:
        return [Row(**row) for row in self.document["rows"]]

    @property
    def outcomes(self) -> list[Outcome]:
        return [Outcome(Bar(**b["bar"]), b["measured"], b["met"], b["reason"]) for b in self.document["bars"]]

    def of(self, entry: str) -> list[Row]:
        rows = [row for row in self.rows if row.entry == entry]
        if not rows:
            raise ValueError(f"{self.path.name} has no entry {entry!r}")
        return rows


def machine(results: Results, _: str, __: Path) -> str:
    about = results.document
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version is not None)
    dirty = " with uncommitted changes" if about["dirty"] else ""
    added = about.get("added_later")  # rows that do not depend on the machine, computed without the rest
    later = f" Added {added['date']}: {'; '.join(added['rows'])}." if added else ""
    return (
        f"{about['machine']['cpu']}, {about['threads']} threads unless said; {versions}. Commit "
        f"{about['commit'][:12]}{dirty}, {about['date'][:10]}.{later}\n"
    )


def bars(results: Results, _: str, __: Path) -> str:
    return markdown_table(BARS, bar_lines(results.outcomes))


def plot(results: Results, which: str, page: Path) -> str:
    """The picture beside the results; ``which`` one, where there are several."""
    path = results.path.with_name(f"{results.path.stem}{f'-{which}' if which else ''}.png")
    picture = os.path.relpath(path.resolve(), page.resolve().parent)
    what = {
        "run": "Time and peak extra memory against N",
        "entropy": "Bias against dimension",
        "trainers": "Accuracy above pixels",
        "sweep": "Entropy, reconstruction and InfoNCE over training",
        "collapse": "Entropies over training",
    }
    kind = results.document.get("study") or results.kind
    return f"![{what.get(kind, 'Accuracy against concentration')}]({picture})\n"


def ratios(results: Results, entry: str, _: Path) -> str:
    return markdown_table(RATIOS[1:], [line[1:] for line in ratio_lines(results.of(entry))])


def memory(results: Results, entry: str, _: Path) -> str:
    """Peak extra megabytes of the heaviest pass: a line a size, a column a contender."""
    rows = [row for row in results.of(entry) if row.peak_extra_bytes is not None]
    mode = heaviest({row.mode for row in rows})
    rows = [row for row in rows if row.mode == mode]
    names = [name for name in dict.fromkeys(row.contender for row in rows) if name != FLOOR]
    cells = {(row.params["n"], row.params["d"], row.contender): bytes_text(row.peak_extra_bytes) for row in rows}
    sizes = sorted({key[:2] for key in cells})
    return markdown_table(
        ("N", "d", *names), [(str(n), str(d), *(cells.get((n, d, m), "") for m in names)) for n, d in sizes]
    )


def contenders(results: Results, entry: str, _: Path) -> str:
    """Every contender of the entry's largest size, those that were wrong or too slow with the reason."""
    rows = results.of(entry)
    largest = max(row.params["n"] for row in rows)
    chosen = [contender_cells(row) for row in rows if row.params["n"] == largest]
    columns = [CONTENDERS.index(name) for name in ("case", "contender", "ms", "time / ours", "error", "note")]
    return markdown_table([CONTENDERS[c] for c in columns], [tuple(cells[c] for c in columns) for cells in chosen])


def _of_study(make: Callable[[dict[str, Any], str], Table]) -> Callable[[Results, str, Path], str]:
    return lambda results, argument, _: markdown_table(*make(results.document, argument))


TABLES: dict[str, Callable[[Results, str, Path], str]] = {
    "machine": machine,
    "bars": bars,
    "plot": plot,
    "ratios": ratios,
    "memory": memory,
    "contenders": contenders,
}


def filled(text: str, results: Results, page: Path) -> str:
    """The page's text with its tables from these results."""

    def table(match: re.Match[str]) -> str:
        if match["kind"] != results.kind:
            return match[0]
        name, _, argument = match["what"].partition(" ")
        tables = results.tables
        if name not in tables:
            raise ValueError(
                f"{page.name}: want one of {sorted(tables)} after '{results.kind}:', got {match['what']!r}"
            )
        return f"{match[1]}\n{tables[name](results, argument, page)}\n{match[4]}"

    return BLOCK.sub(table, text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, help="the JSON of a whole run")
    parser.add_argument("page", type=Path, nargs="?", help="the page to fill (default: the one of such results)")
    arguments = parser.parse_args(argv)
    results = Results(arguments.results, json.loads(arguments.results.read_text()))
    page = arguments.page or results.page
    write_text(page, filled(page.read_text(), results, page))
    print(f"filled {page}")


if __name__ == "__main__":
    main()
