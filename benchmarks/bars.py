"""Bars: what a suite must reach, written as data, and how far a run got."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness import Params, Row, is_library, is_peer, paired_ratio

FASTEST = "fastest peer"
LIBRARY = "fastest library"
GROUPS: dict[str, Callable[[str], bool]] = {FASTEST: is_peer, LIBRARY: is_library}
"""Names in a bar that stand for the fastest of several contenders."""


def _memory(row: Row) -> float | None:
    return None if row.peak_extra_bytes is None else row.peak_extra_bytes + max(0, row.kept_bytes or 0)


QUANTITIES: dict[str, Callable[[Row], float | None]] = {
    "time": lambda row: row.median_s,
    "memory": _memory,
    "launches": lambda row: row.launches,
    "error": lambda row: row.error,
}
"""What a bar may bound: how it is read from a row, None where it was not taken."""
UNITS = {"time": "seconds", "memory": "peak MB", "launches": "launches", "error": "error"}


@dataclass(frozen=True)
class Bar:
    """A bound on one number of a run: a quantity of ``over``, divided by that of ``under`` where one is named.

    It is read from the rows of ``entry`` and ``mode`` that have the parameters ``where`` (and perhaps others) and the
    run's number of threads. ``over`` and ``under`` are names of contenders, or FASTEST: the fastest of all that are not
    ours, or LIBRARY: of those that are not torch written out either.
    ``of``: the quantity, one of QUANTITIES; by default the time for a quotient and the memory for a single contender.
    Memory is the peak extra one in bytes, with what the call before has kept for use.
    ``needs``: a feature of the CPU without which the bar does not hold. Exactly one of the bounds is given.
    """

    entry: str
    where: Params
    over: str
    under: str | None = None
    mode: str = "both"
    at_least: float | None = None
    at_most: float | None = None
    needs: str | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"bar of {self.entry}: want one of at_least and at_most")
        if self.of not in (None, *QUANTITIES):
            raise ValueError(f"bar of {self.entry}: want of one of {tuple(QUANTITIES)}, got {self.of!r}")

    @property
    def quantity(self) -> str:
        return self.of or ("memory" if self.under is None else "time")

    @property
    def case(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.where.items())

    @property
    def number(self) -> str:
        if self.under is None:
            return f"{UNITS[self.quantity]} of {self.over}"
        kind = "" if self.quantity == "time" else f"{self.quantity}, "
        return f"{kind}{self.over} / {self.under}"

    @property
    def bound(self) -> str:
        value = self.at_least if self.at_least is not None else self.at_most
        assert value is not None
        return f"{'>=' if self.at_least is not None else '<='} {self.shown(value)}"

    def shown(self, value: float) -> str:
        """A value in the unit of ``number``."""
        if self.quantity == "time" and self.under is not None:
            return f"{value:.2f}"
        return f"{value / 1e6:.0f}" if self.quantity == "memory" and self.under is None else f"{value:.3g}"

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound; NaN is not."""
        return value >= self.at_least if self.at_least is not None else value <= self.at_most  # type: ignore[operator]


@dataclass(frozen=True)
class Outcome:
    """A bar and what was measured. ``met`` is None where nothing was measured, for the ``reason``."""

    bar: Bar
    measured: float | None
    met: bool | None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "number": self.bar.number, "bound": self.bar.bound}


def evaluate(bars: Sequence[Bar], rows: Sequence[Row], threads: int, features: Sequence[str]) -> list[Outcome]:
    """Every bar against the rows of a run on ``threads`` threads of a CPU with ``features``."""
    return [_outcome(bar, [row for row in rows if row.threads == threads], features) for bar in bars]


def _outcome(bar: Bar, rows: Sequence[Row], features: Sequence[str]) -> Outcome:
    if bar.needs is not None and bar.needs not in features:
        return Outcome(bar, None, None, f"needs a CPU with {bar.needs}")
    of_case = {
        row.contender: row
        for row in rows
        if (row.entry, row.mode) == (bar.entry, bar.mode) and bar.where.items() <= row.params.items()
    }
    if not of_case:
        return Outcome(bar, None, None, "not in this run")
    named = {name: _row(name, of_case) for name in (bar.over, bar.under) if name is not None}
    values = {name: None if row is None else QUANTITIES[bar.quantity](row) for name, row in named.items()}
    for name, row in named.items():
        if row is None or values[name] is None:
            why = row.note or f"no {bar.quantity} taken" if row is not None else "not in this run"
            return Outcome(bar, None, None, why if bar.under is None else f"{name}: {why}")
    over, above = named[bar.over], values[bar.over]
    assert over is not None
    assert above is not None
    note = over.contender if bar.over in GROUPS else ""
    if bar.under is None:
        return _judged(bar, above, note)
    under, below = named[bar.under], values[bar.under]
    assert under is not None
    assert below is not None
    if bar.quantity == "time":
        return _judged(bar, paired_ratio(over.samples_s, under.samples_s), note)
    return _judged(bar, above / below if below else math.nan, note)


def _judged(bar: Bar, value: float, note: str = "") -> Outcome:
    return Outcome(bar, value, bar.holds(value), note)


def _row(name: str, of_case: dict[str, Row]) -> Row | None:
    return fastest(list(of_case.values()), GROUPS[name]) if name in GROUPS else of_case.get(name)


def fastest(rows: Sequence[Row], of: Callable[[str], bool] = is_peer) -> Row | None:
    """The row of one case whose contender is the fastest of a group, by default of those that are not ours."""
    chosen = [(row.median_s, row) for row in rows if of(row.contender) and row.median_s is not None]
    return min(chosen, key=lambda pair: pair[0], default=(None, None))[1]
