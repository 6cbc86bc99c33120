"""Run the benchmarks: ``python -m benchmarks.run [--suite NAME] [--threads N] [--quick] [--only REGEX] [--out FILE]``.

Prints tables and how far the suite's bars are reached, writes the results as JSON and, beside them, a plot of time and
memory against N.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import bars, harness, report
from benchmarks.bars import Outcome
from benchmarks.files import write_json
from benchmarks.harness import FLOOR, MODES, OURS, Budget, Case, Entry, Row
from benchmarks.limits import History
from benchmarks.memory import MemoryProbe
from benchmarks.plot import plot
from benchmarks.provenance import ROOT, cpu_model, provenance
from benchmarks.suites import SUITES

FULL = Budget(seconds=1.0, rounds=30, min_rounds=3)
QUICK = Budget(seconds=0.3, rounds=10, min_rounds=3, call_s=2.0)


@dataclasses.dataclass
class Run:
    """What all cases of a run have in common."""

    budget: Budget
    threads: int
    quick: bool
    probe: MemoryProbe
    history: History
    save: Callable[[Sequence[Row]], None]
    rows: list[Row] = dataclasses.field(default_factory=list)

    def entry(self, entry: Entry) -> None:
        """Every case and pass of one entry, saved as they come: a run may be killed before its end."""
        for case in entry.quick if self.quick else entry.cases:
            if case.threads == self.threads:
                continue  # the run has the same case at its own number already
            for mode in case.modes:
                start = time.perf_counter()
                rows = self.alone(entry, case, mode) if case.alone else self.against_others(entry, case, mode)
                self.rows += rows
                self.save(self.rows)
                seconds = time.perf_counter() - start
                what = f"{report.params_text(rows[-1])}, {MODES[mode]}, {report.threads_text(rows[-1].threads)}"
                print(f"{entry.name}: {what}: {seconds:.0f} s", file=sys.stderr)

    def alone(self, entry: Entry, case: Case, mode: str) -> list[Row]:
        row = harness.row_alone(entry, case, mode, threads=case.threads or self.threads)
        memory = self.probe.take(row, entry, fresh=True)
        if memory is not None:
            row.take_times([memory.seconds], 1)
        return [row]

    def against_others(self, entry: Entry, case: Case, mode: str) -> list[Row]:
        threads = case.threads or self.threads
        rows = harness.measure(entry, case, mode, self.budget, threads=threads, history=self.history, quick=self.quick)
        for row in rows:
            if row.contender != FLOOR and row.note:
                print(f"  {row.contender}: {row.note}", file=sys.stderr)
        # Where it is largest, and of those that may take part at this size.
        if case.memory and mode == harness.heaviest(case.modes):
            for row in rows:
                if row.contender == OURS or (row.rounds > 1 and row.contender != FLOOR):
                    self.probe.take(row, entry)
                    self.history.memory(entry.name, row.contender, threads, case.params["n"], row.peak_extra_bytes)
        return rows


def default_path(suite: str, threads: int, *, partial: bool) -> Path:
    """Whole runs go among the recorded results, under the machine's name; partial ones never replace them."""
    if partial:
        return ROOT / "runs" / "benchmarks" / f"{suite}-partial.json"
    machine = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{suite}-{machine}-{threads}t.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n\n")[1])
    parser.add_argument("--suite", choices=sorted(SUITES), default="core", help="which entries (default: core)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of every case that names no number itself"
    )
    parser.add_argument("--quick", action="store_true", help="a small case of every entry, under two minutes")
    parser.add_argument("--only", metavar="REGEX", help="only entries whose name matches")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes; the plot is written beside it")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error(f"--threads: want at least 1, got {arguments.threads}")
    return arguments


def document(
    about: dict[str, Any], settings: dict[str, Any], rows: Sequence[Row], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """What the JSON holds."""
    return {
        **about,
        "settings": settings,
        "bars": [outcome.as_dict() for outcome in outcomes],
        "rows": [row.as_dict() for row in rows],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen entries; 1 when our own contender failed or was wrong anywhere."""
    arguments = parse(argv)
    suite = SUITES[arguments.suite]
    chosen = [entry for entry in suite.entries if re.search(arguments.only or "", entry.name)]
    if not chosen:
        print(f"--only {arguments.only}: no entry of suite {arguments.suite} matches", file=sys.stderr)
        return 2
    start = time.perf_counter()
    about = provenance(arguments.threads, suite.packages)
    budget = QUICK if arguments.quick else FULL
    partial = bool(arguments.quick or arguments.only)
    path = arguments.out or default_path(arguments.suite, arguments.threads, partial=partial)
    settings = {"suite": arguments.suite, "quick": arguments.quick, "budget": dataclasses.asdict(budget)}
    unfinished = path.with_suffix(".unfinished.json")

    def judged(rows: Sequence[Row]) -> list[Outcome]:
        return bars.evaluate(suite.bars, rows, arguments.threads, about["machine"]["features"])

    def save(rows: Sequence[Row], to: Path = unfinished) -> None:
        write_json(to, document(about, settings, rows, judged(rows)))

    with MemoryProbe() as probe:
        history = History(budget.call_s if arguments.quick else suite.patience_s or budget.call_s)
        run = Run(budget, arguments.threads, arguments.quick, probe, history, save)
        for entry in chosen:
            run.entry(entry)
    rows, outcomes = run.rows, judged(run.rows)
    save(rows, path)
    unfinished.unlink()

    report.print_contenders(rows)
    report.print_left_out(rows)
    report.print_ratios(rows)
    if outcomes:
        report.print_bars(outcomes, partial=partial)
    kernels = "compiled" if about["mi_estimators"]["cpu_kernels"] else "torch reference"
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{cpu_model()}, {arguments.threads} threads, torch {torch.__version__}, kernels: {kernels}, {minutes:.1f} min"
    )
    print(f"results: {path}")
    picture = path.with_suffix(".png")
    drawn = plot(rows, picture, arguments.threads)
    print(f"plot: {picture}" if drawn else "no plot: it takes matplotlib (extra [bench]) and two sizes of an entry")
    failed = [row for row in rows if row.contender == OURS and row.median_s is None]
    for row in failed:
        print(f"FAILED {row.entry} {report.params_text(row)} {row.mode}: {row.note}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
