"""Run the benchmarks: ``python -m benchmarks.run [--suite NAME] [--threads N] [--quick] [--only REGEX] [--out FILE]``.

Prints a table, writes the results as JSON and, beside them, a plot of time and memory against N.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.entries import ENTRIES
from benchmarks.harness import FLOOR, OURS, Budget, Entry, MemoryProbe, Row
from mi_estimators import _extension

ROOT = Path(__file__).resolve().parent.parent
FULL = Budget(seconds=3.0)
QUICK = Budget(seconds=0.8, rounds=10, min_rounds=3)
MEMORY_FROM = 512  # smallest N whose memory is taken: below it the process's own noise is as large
MODES = {"forward": "forward", "both": "forward + backward"}

# ----------------------------------------------------------------------------------------------------------- provenance


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(threads: int) -> dict[str, Any]:
    """Machine, versions, commit and date: what the numbers belong to."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "threads": threads,
        "machine": {
            "cpu": _cpu_model(),
            "cores": cores,
            "memory_bytes": _memory_bytes(),
            "system": platform.platform(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "mi_estimators": _extension.info(),
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------------------------------------------------------- table


def _params_text(params: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in params.items())


def _bytes_text(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f}"


def _ratio_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


HEADER = ("case", "contender", "ms", "IQR", "time / ours", "time / products", "extra MB", "error", "note")


def _cells(row: Row) -> tuple[str, ...]:
    time_text = spread_text = "-"
    if row.median_s is not None and row.q1_s is not None and row.q3_s is not None:
        time_text, spread_text = f"{1e3 * row.median_s:.3f}", f"{1e3 * (row.q3_s - row.q1_s):.3f}"
    return (
        _params_text(row.params),
        row.contender,
        time_text,
        spread_text,
        _ratio_text(row.ratio_to_ours),
        _ratio_text(row.ratio_to_floor),
        _bytes_text(row.peak_extra_bytes),
        "" if row.error is None else f"{row.error:.1e}",
        row.note,
    )


def print_tables(rows: Sequence[Row]) -> None:
    """One table an entry and pass; by rich where it is installed, plain text elsewhere."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entry, row.mode].append(row)
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for (entry, mode), members in groups.items():
            lines = [HEADER, *(_cells(row) for row in members)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            print(f"\n{entry}, {MODES[mode]}")
            for line in lines:
                print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    for (entry, mode), members in groups.items():
        table = Table(title=f"{entry}, {MODES[mode]}", title_justify="left")
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="left" if index in (0, 1, 8) else "right", overflow="fold")
        previous = None
        for row in members:
            cells = _cells(row)
            if previous is not None and previous != cells[0]:
                table.add_section()
            table.add_row(*(cells if previous != cells[0] else ("", *cells[1:])))
            previous = cells[0]
        console.print(table)


# ----------------------------------------------------------------------------------------------------------------- plot


def _sizes(panel: Mapping[str, Sequence[Row]]) -> list[int]:
    return sorted({row.params["n"] for members in panel.values() for row in members})


def plot(rows: Sequence[Row], path: Path) -> bool:
    """Time and memory of forward + backward against N, a column an entry and dimension.

    False when nothing was drawn: no matplotlib, or one size of everything.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.mode == "both":
            panels[row.entry, row.params["d"]][row.contender].append(row)
    panels = {key: panel for key, panel in panels.items() if len(_sizes(panel)) > 1}
    if not panels:
        return False
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    figure, axes = plt.subplots(2, len(panels), figsize=(4.2 * len(panels), 7), squeeze=False, layout="constrained")
    for column, ((entry, d), panel) in enumerate(panels.items()):
        top, bottom = axes[0, column], axes[1, column]
        for name, members in panel.items():
            style: dict[str, Any] = {"color": colours[name], "label": name, "marker": "o", "markersize": 4}
            if name == FLOOR:
                style |= {"linestyle": "--", "marker": None, "color": "0.4", "label": "matrix products alone"}
            times = [(r.params["n"], r.median_s, r.q1_s, r.q3_s) for r in members if r.median_s is not None]
            if times:
                n, median, low, high = (list(v) for v in zip(*times, strict=True))
                top.plot(n, [1e3 * t for t in median], **style)
                top.fill_between(n, [1e3 * t for t in low], [1e3 * t for t in high], color=style["color"], alpha=0.2)
            sizes = [(r.params["n"], r.peak_extra_bytes / 1e6) for r in members if r.peak_extra_bytes]
            if sizes:
                bottom.plot(*zip(*sizes, strict=True), **style)
                n, megabytes = sizes[-1]
                if n < _sizes(panel)[-1]:  # too large to measure there
                    growth = [(n, megabytes), (_sizes(panel)[-1], megabytes * (_sizes(panel)[-1] / n) ** 2)]
                    bottom.plot(*zip(*growth, strict=True), ":", color=colours[name], label="not measured: as N²")
        top.set(title=f"{entry}\nd = {d}", xscale="log", yscale="log", ylabel="ms, forward + backward")
        bottom.set(xscale="log", yscale="log", ylabel="peak extra memory, MB", xlabel="N")
        for axis in (top, bottom):
            axis.grid(True, which="both", linewidth=0.3)
            axis.minorticks_off()
            axis.set_xticks(_sizes(panel), [str(n) for n in _sizes(panel)])
    axes[0, 0].legend(fontsize=8)
    dotted = [line for line in axes[1, 0].get_lines() if line.get_linestyle() == ":"]
    axes[1, 0].legend(handles=dotted[:1], fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


# ------------------------------------------------------------------------------------------------------------------ run


def run_entry(entry: Entry, probe: MemoryProbe, *, quick: bool) -> list[Row]:
    """Every case and pass of one entry. Memory is taken for forward + backward, where it is largest.

    A quick run leaves out the forward pass alone and the memory of the others, whose compilation takes longest.
    """
    rows: list[Row] = []
    for params in entry.quick if quick else entry.cases:
        for mode in entry.modes[-1:] if quick else entry.modes:
            start = time.perf_counter()
            measured = harness.measure(entry, params, mode, QUICK if quick else FULL)
            if mode == "both" and params["n"] >= MEMORY_FROM:
                for row in measured:
                    if row.median_s is not None and row.contender != FLOOR and (row.contender == OURS or not quick):
                        probe.take(row, entry)
            rows += measured
            seconds = time.perf_counter() - start
            print(f"{entry.name}: {_params_text(dict(params))}, {MODES[mode]}: {seconds:.0f} s", file=sys.stderr)
    for params in () if quick else entry.memory_cases:
        rows.append(harness.memory_only(entry, params, "both"))
        probe.take(rows[-1], entry)
    return rows


def default_path(suite: str, threads: int, *, partial: bool) -> Path:
    """Whole runs go among the recorded results, under the machine's name; partial ones never replace them."""
    if partial:
        return ROOT / "runs" / "benchmarks" / f"{suite}-partial.json"
    machine = re.sub(r"[^a-z0-9]+", "-", _cpu_model().lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{suite}-{machine}-{threads}t.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    suites = sorted({entry.suite for entry in ENTRIES})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n\n")[1])
    parser.add_argument("--suite", choices=suites, default="core", help="which entries (default: core)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every contender")
    parser.add_argument("--quick", action="store_true", help="a small case of every entry, under a minute")
    parser.add_argument("--only", metavar="REGEX", help="only entries whose name matches")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes; the plot is written beside it")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error(f"--threads: want at least 1, got {arguments.threads}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen entries; 1 when our own contender failed or was wrong anywhere."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    chosen = [e for e in ENTRIES if e.suite == arguments.suite and re.search(arguments.only or "", e.name)]
    if not chosen:
        print(f"--only {arguments.only}: no entry of suite {arguments.suite} matches", file=sys.stderr)
        return 2
    about = provenance(arguments.threads)
    with MemoryProbe(arguments.threads) as probe:
        rows = [row for entry in chosen for row in run_entry(entry, probe, quick=arguments.quick)]

    print_tables(rows)
    machine = about["machine"]
    kernels = "compiled" if about["mi_estimators"]["cpu_kernels"] else "torch reference"
    print(f"{machine['cpu']}, {arguments.threads} threads, torch {torch.__version__}, kernels: {kernels}")
    partial = bool(arguments.quick or arguments.only)
    path = arguments.out or default_path(arguments.suite, arguments.threads, partial=partial)
    document = {
        **about,
        "settings": {
            "suite": arguments.suite,
            "quick": arguments.quick,
            "budget": dataclasses.asdict(QUICK if arguments.quick else FULL),
        },
        "rows": [row.as_dict() for row in rows],
    }
    write_atomically(path, json.dumps(document, indent=1, default=str) + "\n")
    print(f"results: {path}")
    picture = path.with_suffix(".png")
    drawn = plot(rows, picture)
    print(f"plot: {picture}" if drawn else "no plot: it takes matplotlib (extra [bench]) and two sizes of an entry")
    failed = [row for row in rows if row.contender == OURS and row.median_s is None and row.peak_extra_bytes is None]
    for row in failed:
        print(f"FAILED {row.entry} {_params_text(row.params)} {row.mode}: {row.note}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
