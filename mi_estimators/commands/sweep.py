"""``mi-estimators sweep``: runs at several batch sizes, momenta and seeds, and the table of robustness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mi_estimators.commands.options import as_command, parameter, settings_of, split_lists
from mi_estimators.console import print_table, progress_bar


def sweep_command() -> Callable[..., None]:
    """``sweep``: the settings of the grid, read off its configuration class."""
    from mi_estimators._parallel import BACKENDS
    from mi_estimators.ssl.sweep import SweepConfig, run_sweep
    from mi_estimators.ssl.sweep_report import save_sweep, sweep_as_rich

    parameters, lists = settings_of(SweepConfig, defaults=True)
    parameters.append(parameter("out", Path, "folder of runs, cells, table and plot", "runs/sweep"))
    parameters.append(parameter("jobs", int, "runs at the same time; -1 for as many as there are cores", "1"))
    parameters.append(parameter("backend", str, f"where they run: {', '.join(BACKENDS)}", "loky"))

    def body(given: dict[str, Any]) -> None:
        out, jobs, backend = (given.pop(name) for name in ("out", "jobs", "backend"))
        config = SweepConfig(**split_lists(given, lists))
        out = out or Path("runs/sweep")
        with progress_bar("sweep") as report:
            results = run_sweep(
                config, out, jobs=1 if jobs is None else jobs, backend=backend or "loky", progress=report
            )
        paths = save_sweep(results, out)
        print_table(sweep_as_rich(results))
        print(*paths, sep="\n")

    return as_command(
        body,
        parameters,
        "Train methods, native and ER, at several batch sizes, momenta of the teacher and seeds: a table of what each "
        "loses, and entropy and reconstruction over training. A sweep that was stopped goes on where it was.",
    )
