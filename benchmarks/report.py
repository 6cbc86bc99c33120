"""The tables of a run."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.bars import Outcome, fastest
from benchmarks.harness import COMPILE, EAGER, MODES, OURS, Row, is_peer

Lines = Sequence[tuple[str, ...]]


def params_text(row: Row) -> str:
    return " ".join(f"{key}={value}" for key, value in row.params.items())


def _time_text(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def bytes_text(value: int | None) -> str:
    """Megabytes."""
    return "" if value is None else f"{value / 1e6:.1f}"


def _ratio_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def print_plain_table(title: str, header: tuple[str, ...], lines: Lines) -> None:
    """One table without a frame, on lines as long as they need to be."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    print(f"\n{title}")
    for line in (header, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_table(title: str, header: tuple[str, ...], lines: Lines, left: Sequence[int] = (0,)) -> None:
    """One table, with columns ``left`` aligned left; by rich where it is installed, plain text elsewhere."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print_plain_table(title, header, lines)
        return
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in left else "right", overflow="fold")
    previous = None
    for line in lines:
        new = line[0] != previous
        if new and previous is not None:
            table.add_section()
        table.add_row(line[0] if new else "", *line[1:])
        previous = line[0]
    Console(width=None if sys.stdout.isatty() else 190).print(table)


# --------------------------------------------------------------------------------------------------------------- tables

CONTENDERS = ("case", "contender", "ms", "IQR", "time / ours", "time / products", "extra MB", "error", "note")


def contender_cells(row: Row) -> tuple[str, ...]:
    spread = None if row.q1_s is None or row.q3_s is None or row.rounds < 2 else row.q3_s - row.q1_s
    return (
        params_text(row),
        row.contender,
        _time_text(row.median_s) or "-",
        _time_text(spread) or "-",
        _ratio_text(row.ratio_to_ours),
        _ratio_text(row.ratio_to_floor),
        bytes_text(row.peak_extra_bytes),
        "" if row.error is None else f"{row.error:.1e}",
        row.note,
    )


def print_contenders(rows: Sequence[Row]) -> None:
    """Every row: one table an entry, pass and number of threads."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entry, row.mode, row.threads].append(row)
    for (entry, mode, threads), members in groups.items():
        title = f"{entry}, {MODES[mode]}, {threads_text(threads)}"
        print_table(title, CONTENDERS, [contender_cells(row) for row in members], left=(0, 1, 8))


RATIOS = (
    "entry",
    "case",
    "pass",
    "threads",
    "ours ms",
    "eager / ours",
    "compile / ours",
    "best peer / ours",
    "best peer",
    "ours / products",
    "ours MB",
)


def threads_text(threads: int) -> str:
    """Threads in words."""
    return f"{threads} thread" + ("s" if threads != 1 else "")


def ratio_lines(rows: Sequence[Row]) -> Lines:
    """One line a case and pass: how much slower the others are than ours, and ours than its products."""
    groups: dict[tuple[str, str, str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        groups[row.entry, params_text(row), row.mode, row.threads][row.contender] = row
    lines = []
    for (entry, case, mode, threads), members in groups.items():
        ours, best = members.get(OURS), fastest(list(members.values()))
        ratios = {name: _ratio_text(row.ratio_to_ours) for name, row in members.items()}
        lines.append(
            (
                entry,
                case,
                mode,
                str(threads),
                _time_text(ours.median_s) if ours is not None else "",
                ratios.get(EAGER, ""),
                ratios.get(COMPILE, ""),
                _ratio_text(best.ratio_to_ours) if best is not None else "",
                best.contender if best is not None else "",
                _ratio_text(ours.ratio_to_floor) if ours is not None else "",
                bytes_text(ours.peak_extra_bytes) if ours is not None else "",
            )
        )
    return lines


def print_ratios(rows: Sequence[Row]) -> None:
    print_table("Ratios", RATIOS, ratio_lines(rows), left=(0, 1, 2, 8))


MET = {True: "yes", False: "NO", None: "not measured"}


BARS = ("entry", "case", "pass", "number", "must be", "measured", "met", "note")


def bar_lines(outcomes: Sequence[Outcome]) -> Lines:
    """One line a bar."""
    return [
        (
            outcome.bar.entry,
            outcome.bar.case,
            outcome.bar.mode,
            outcome.bar.number,
            outcome.bar.bound,
            "" if outcome.measured is None else outcome.bar.shown(outcome.measured),
            MET[outcome.met],
            outcome.reason,
        )
        for outcome in outcomes
    ]


def print_bars(outcomes: Sequence[Outcome], *, partial: bool) -> None:
    """The bars and how far they are reached; of a partial run, only those it measured."""
    shown = [outcome for outcome in outcomes if outcome.met is not None or not partial]
    if shown:
        print_table("Must reach", BARS, bar_lines(shown), left=(0, 1, 2, 3, 6, 7))
    print(bars_summary(outcomes))


def bars_summary(outcomes: Sequence[Outcome]) -> str:
    """How many bars there are of each kind."""
    met, judged = sum(o.met is True for o in outcomes), sum(o.met is not None for o in outcomes)
    return f"bars: {met} of {judged} met, {len(outcomes) - judged} not measured"


def left_out(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """Contenders that could not be timed: by name and reason, the cases."""
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if is_peer(row.contender) and row.median_s is None:
            missing[row.contender, row.note].append(f"{row.entry} {params_text(row)} {row.mode}")
    return missing


def print_left_out(rows: Sequence[Row]) -> None:
    for (name, note), cases in left_out(rows).items():
        where = cases[0] if len(cases) == 1 else f"{len(cases)} cases"
        print(f"left out: {name}, {where}: {note}")
