"""The tables of a run on a GPU, short enough to be read whole at the end of a log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.bars import Outcome
from benchmarks.harness import MODES, Row
from benchmarks.report import (
    BARS,
    bar_lines,
    bars_summary,
    bytes_text,
    params_text,
    print_left_out,
    print_plain_table,
)

CONTENDERS = (
    "contender",
    "ms",
    "quartiles",
    "TFLOP/s",
    "% of product",
    "time / ours",
    "extra MB",
    "launches",
    "error",
    "note",
)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.4g}"


def cells(row: Row) -> tuple[str, ...]:
    """TFLOP/s are the operations that the entry needs at least over the time, whatever a contender does."""
    spread = row.q1_s is not None and row.q3_s is not None and row.rounds > 1
    rate = row.flops / row.median_s * 1e-12 if row.median_s and row.flops else None
    return (
        row.contender,
        _ms(row.median_s),
        f"{_ms(row.q1_s)} to {_ms(row.q3_s)}" if spread else "",
        "" if rate is None else f"{rate:.1f}",
        "" if row.ratio_to_floor is None else f"{100 / row.ratio_to_floor:.1f}",
        "" if row.ratio_to_ours is None else f"{row.ratio_to_ours:.2f}",
        bytes_text(row.peak_extra_bytes),
        "" if row.launches is None else str(row.launches),
        "" if row.error is None else f"{row.error:.1e}",
        row.note,
    )


def print_rows(rows: Sequence[Row]) -> None:
    """A table a case, of what was timed; what was not comes after them all, once a reason."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.median_s is not None:
            groups[row.entry, params_text(row), row.mode].append(row)
    for (entry, case, mode), members in groups.items():
        print_plain_table(f"{entry}, {case}, {MODES[mode]}", CONTENDERS, [cells(row) for row in members])
    print()
    print_left_out(rows)


def print_bars(outcomes: Sequence[Outcome], *, partial: bool) -> None:
    """Every bar: met, missed, or why it was not measured; of a partial run, only those it measured."""
    shown = [outcome for outcome in outcomes if outcome.met is not None or not partial]
    if shown:
        print_plain_table("Must reach", BARS, bar_lines(shown))
    print(bars_summary(outcomes))


def print_rates(rates: dict[str, float]) -> None:
    if rates:
        print("\nmatrix products: " + ", ".join(f"{name} {rate:.1f} TFLOP/s" for name, rate in rates.items()))


def print_kernels(kernels: dict[str, dict[str, list[str]]]) -> None:
    for case, contenders in kernels.items():
        for contender, names in contenders.items():
            print(f"\n{len(names)} launches of {contender}, {case}:")
            for name in names:
                print(f"  {name[:100]}")


def print_steps(steps: dict[str, dict[str, Any]]) -> None:
    print()
    for name, step in steps.items():
        print(f"{name:<12} {step['status']:<8} {step['seconds']:>6.1f} s  {step['summary']}")
